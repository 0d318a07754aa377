//! The last word: when the drain time is over, every stream that still runs is told to end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use bodhi_net::drain::{Phase, Signal};
use bodhi_proto::snapshot::Map;

/// One thread's streams that wait for their upstream.
#[derive(Debug, Default)]
pub(super) struct Farewell {
    closing: Cell<bool>,
    waiting: RefCell<Map<u64, Waker>>,
    next: Cell<u64>,
}

/// A stream's place among them; gone when dropped.
#[derive(Debug)]
pub(super) struct Place {
    farewell: Rc<Farewell>,
    id: Option<u64>,
}

impl Farewell {
    /// Waits for [`Phase::Closing`] and then wakes every stream.
    pub(super) async fn follow(self: Rc<Self>, mut signal: Signal) {
        signal.reached(Phase::Closing).await;
        self.closing.set(true);
        for (_, waker) in self.waiting.take() {
            waker.wake();
        }
    }

    pub(super) fn place(self: &Rc<Self>) -> Place {
        Place {
            farewell: Rc::clone(self),
            id: None,
        }
    }
}

impl Place {
    /// Whether the stream is to end now.
    pub(super) fn is_closing(&self) -> bool {
        self.farewell.closing.get()
    }

    /// Sees to it that the stream is polled when the time comes.
    pub(super) fn wait(&mut self, waker: &Waker) {
        let next = &self.farewell.next;
        let id = *self.id.get_or_insert_with(|| next.replace(next.get() + 1));
        let mut waiting = self.farewell.waiting.borrow_mut();
        match waiting.get_mut(&id) {
            Some(known) => known.clone_from(waker),
            None => drop(waiting.insert(id, waker.clone())),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.farewell.waiting.borrow_mut().remove(&id);
        }
    }
}
