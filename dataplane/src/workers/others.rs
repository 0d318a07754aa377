//! What others than this data plane ask of a worker, as it last said.
//!
//! A report is true of one moment, and comes only while this data plane asks that worker. One
//! that never aged would keep requests away from a worker that nobody else has used for hours, and
//! no request would go there to learn better.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a report counts.
pub(super) const AGE: Duration = Duration::from_secs(1);

/// Requests of others, and when the worker said so: both in one word, so that no thread sees
/// the one without the other.
#[derive(Debug)]
pub(super) struct Others {
    /// Times are counted from here.
    since: Instant,
    /// Milliseconds in the upper half, requests in the lower; before any report all zero.
    said: AtomicU64,
}

impl Others {
    /// Nothing was said.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            said: AtomicU64::new(0),
        }
    }

    /// The worker says it has so many.
    pub(super) fn say(&self, requests: u32, now: Instant) {
        let said = u64::from(self.millis(now)) << 32 | u64::from(requests);
        self.said.store(said, Ordering::Relaxed);
    }

    /// How many there are, as far as is known at `now`.
    pub(super) fn at(&self, now: Instant) -> u32 {
        let said = self.said.load(Ordering::Relaxed);
        let [at, requests] = [(said >> 32) as u32, said as u32];
        // Threads read the clock one after the other: a report may be a moment ahead.
        let age = self.millis(now).wrapping_sub(at) as i32;
        match u128::try_from(age) {
            Ok(age) if age >= AGE.as_millis() => 0,
            _ => requests,
        }
    }

    /// Goes round in 49 days, as ages do not.
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.since).as_millis() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_for_a_second() {
        let begin = Instant::now();
        let others = Others::new(begin);
        assert_eq!(others.at(begin), 0);
        // Also where the count of milliseconds has gone round.
        for at in [Duration::ZERO, Duration::from_millis(u64::from(u32::MAX))] {
            let now = begin + at;
            others.say(7, now);
            assert_eq!(others.at(now), 7);
            assert_eq!(others.at(now + AGE - Duration::from_millis(1)), 7);
            assert_eq!(others.at(now + AGE), 0);
            assert_eq!(others.at(now + AGE * 1000), 0);
        }
        let now = begin + AGE;
        others.say(u32::MAX, now);
        assert_eq!(others.at(now - Duration::from_millis(1)), u32::MAX);
    }
}
