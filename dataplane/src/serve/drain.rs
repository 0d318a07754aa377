//! A thread's connections, so that all of them can be told to finish.

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use bodhi_net::drain::{Phase, Signal};
use bodhi_proto::snapshot::Map;
use tokio::time::Instant;

use super::state::{Order, State};

/// The connections of one thread.
#[derive(Debug)]
pub(super) struct Connections {
    all: RefCell<Map<u64, Rc<State>>>,
    next: Cell<u64>,
    /// What those that come from now on are told at once.
    order: Cell<Order>,
    /// How many there are, for the acceptor's choice of a thread.
    load: Arc<AtomicUsize>,
    /// Who waits for the last one to go.
    empty: RefCell<Option<Waker>>,
}

/// A connection's entry; gone when dropped.
pub(super) struct Entry {
    connections: Rc<Connections>,
    id: u64,
    pub(super) state: Rc<State>,
}

impl Connections {
    /// None yet. `load` counts from the moment the acceptor chooses this thread.
    pub(super) fn new(load: Arc<AtomicUsize>) -> Rc<Self> {
        Rc::new(Self {
            all: RefCell::default(),
            next: Cell::new(0),
            order: Cell::new(Order::Serve),
            load,
            empty: RefCell::new(None),
        })
    }

    /// Enters a connection that the acceptor has counted already.
    pub(super) fn enter(self: &Rc<Self>) -> Entry {
        let id = self.next.get();
        self.next.set(id + 1);
        let state = State::new(Instant::now(), self.order.get());
        self.all.borrow_mut().insert(id, state.clone());
        Entry {
            connections: self.clone(),
            id,
            state,
        }
    }

    fn tell(&self, order: Order) {
        self.order.set(order);
        for state in self.all.borrow().values() {
            state.give(order);
        }
    }

    /// Passes the shutdown's phases on to the connections, for ever.
    pub(super) async fn follow(&self, mut signal: Signal, farewell: Duration) {
        signal.reached(Phase::Draining).await;
        self.tell(Order::Finish);
        signal.reached(Phase::Closing).await;
        tokio::time::sleep(farewell).await;
        self.tell(Order::Abort);
        pending().await
    }

    /// Waits until none is left.
    pub(super) async fn emptied(&self) {
        poll_fn(|cx| {
            *self.empty.borrow_mut() = Some(cx.waker().clone());
            match self.all.borrow().is_empty() {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let connections = &self.connections;
        connections.load.fetch_sub(1, Ordering::Relaxed);
        let mut all = connections.all.borrow_mut();
        all.remove(&self.id);
        if all.is_empty()
            && let Some(waker) = connections.empty.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
