//! One budget for all request bodies in flight in this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::api::error::Failure;

/// Half of what this process may use: the cgroup's limit (v2, then v1), else the machine's memory.
pub fn default_budget() -> usize {
    const FALLBACK: usize = 1 << 30;
    let number = |path: &str| -> Option<usize> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemTotal:"))?;
        let kib: usize = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    });
    [
        number("/sys/fs/cgroup/memory.max"),
        number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        machine,
    ]
    .into_iter()
    .flatten()
    .min()
    .unwrap_or(FALLBACK)
        / 2
}

/// Bytes that bodies may take together.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    held: AtomicUsize,
}

/// Bytes granted to one body; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    granted: usize,
    used: usize,
}

impl Budget {
    /// At most `limit` bytes at a time.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
        })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Room for a body announced to be `announced` bytes long (0: not announced).
    ///
    /// # Errors
    /// [`Failure::MemoryPressure`] when there is no room.
    pub fn reserve(self: &Arc<Self>, announced: usize) -> Result<Reservation, Failure> {
        self.take(announced)?;
        Ok(Reservation {
            budget: Arc::clone(self),
            granted: announced,
            used: 0,
        })
    }

    fn take(&self, bytes: usize) -> Result<(), Failure> {
        let room = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .map(drop)
            .map_err(|_| Failure::MemoryPressure)
    }
}

impl Reservation {
    /// Counts bytes that arrived; beyond what was announced more is asked for.
    ///
    /// # Errors
    /// [`Failure::MemoryPressure`] when there is no room for more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        self.used += bytes;
        if let Some(missing) = self.used.checked_sub(self.granted).filter(|n| *n > 0) {
            self.budget.take(missing)?;
            self.granted = self.used;
        }
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.granted, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_comes_back_whole() {
        let budget = Budget::new(100);
        let mut one = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).err(), Some(Failure::MemoryPressure));
        one.grow(60).unwrap();
        one.grow(40).unwrap();
        assert_eq!(one.grow(1), Err(Failure::MemoryPressure));
        assert_eq!(budget.held(), 100);
        drop(one);
        assert_eq!(budget.held(), 0);
    }
}
