//! A waker that wakes its task only while the task waits.
//!
//! The task that drives a connection also takes what it brings. Taking makes room, and hyper tells the
//! connection's side of that by waking it: the very task that is running. Without a gate every piece of a
//! response would cost one more turn, in which nothing is left to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use futures_util::task::AtomicWaker;

/// One connection's waker. Open while its task waits.
#[derive(Debug)]
pub(super) struct Gate {
    state: Arc<State>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct State {
    open: AtomicBool,
    /// Somebody woke it while it was closed.
    missed: AtomicBool,
    task: AtomicWaker,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.open.load(Ordering::SeqCst) {
            true => self.task.wake(),
            false => self.missed.store(true, Ordering::SeqCst),
        }
    }
}

impl Gate {
    /// Closed.
    pub(super) fn new() -> Self {
        let state = Arc::<State>::default();
        Self {
            waker: Waker::from(state.clone()),
            state,
        }
    }

    /// Closes it and forgets what it missed: everything is going to be looked at.
    pub(super) fn close(&self) -> &Waker {
        self.state.open.store(false, Ordering::SeqCst);
        self.state.missed.store(false, Ordering::SeqCst);
        &self.waker
    }

    /// The task of `cx` is about to wait: opens it. What it missed wakes the task again.
    pub(super) fn open(&self, cx: &Context<'_>) {
        self.state.task.register(cx.waker());
        self.state.open.store(true, Ordering::SeqCst);
        if self.state.missed.swap(false, Ordering::SeqCst) {
            self.state.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn wakes_while_open_and_when_it_opens_after_a_miss() {
        let count = Arc::<Count>::default();
        let task = Waker::from(count.clone());
        let cx = Context::from_waker(&task);
        let gate = Gate::new();
        let woken = || count.0.load(Ordering::SeqCst);
        // While the task runs and then looks at everything again.
        let waker = gate.close().clone();
        waker.wake_by_ref();
        gate.close();
        gate.open(&cx);
        assert_eq!(woken(), 0);
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        // While the task runs, after it has looked.
        gate.close();
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        gate.open(&cx);
        assert_eq!(woken(), 2);
    }
}
