//! Which requests hold the most, and the word to one of them that it must give it back.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::LARGE;

/// Requests with large bodies. There are few: entering takes a lock, next to reading a body of
/// such a size nothing.
#[derive(Debug, Default)]
pub(super) struct Largest(Mutex<Vec<Revocation>>);

/// Tells a request that what it was granted is taken back. Clones tell the same.
#[derive(Debug, Clone)]
pub struct Revocation(Arc<State>);

#[derive(Debug)]
struct State {
    bytes: AtomicUsize,
    revoked: AtomicBool,
    task: AtomicWaker,
}

impl Largest {
    pub(super) fn enter(&self, bytes: usize) -> Revocation {
        let entered = Revocation(Arc::new(State {
            bytes: AtomicUsize::new(bytes),
            revoked: AtomicBool::new(false),
            task: AtomicWaker::new(),
        }));
        self.all().push(entered.clone());
        entered
    }

    pub(super) fn leave(&self, left: &Revocation) {
        let mut all = self.all();
        if let Some(at) = all.iter().position(|one| Arc::ptr_eq(&one.0, &left.0)) {
            all.swap_remove(at);
        }
    }

    /// Revokes the largest that is not revoked yet.
    pub(super) fn revoke(&self) -> Option<usize> {
        let all = self.all();
        let large = all
            .iter()
            .filter(|one| !one.is_revoked() && one.bytes() >= LARGE);
        let largest = large.max_by_key(|one| one.bytes())?;
        largest.0.revoked.store(true, Ordering::Release);
        largest.0.task.wake();
        Some(largest.bytes())
    }

    fn all(&self) -> MutexGuard<'_, Vec<Revocation>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Revocation {
    /// Whether it has come to that.
    pub fn is_revoked(&self) -> bool {
        self.0.revoked.load(Ordering::Acquire)
    }

    /// Ready once it has.
    pub fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.task.register(cx.waker());
        match self.is_revoked() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    pub(super) fn grown(&self, bytes: usize) {
        self.0.bytes.store(bytes, Ordering::Relaxed);
    }

    fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}
