//! How soon a worker that ended by itself is started again. Pure: time and chance are the
//! caller's.

use std::time::Duration;

/// The first wait after the attempt that is made at once.
const FIRST: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST: Duration = Duration::from_secs(60);
/// A worker that was ready for so long is one that works.
const STABLE: Duration = Duration::from_secs(60);

/// One worker's failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt; `ready` is how long the last one took requests, `chance`
    /// is from 0 to 1. A worker that was ready is replaced at once the first time: its crash may
    /// have been one request's.
    pub(super) fn next(&mut self, ready: Option<Duration>, chance: f64) -> Duration {
        if ready.is_some_and(|ready| ready >= STABLE) {
            self.failures = 0;
        }
        let failures = self.failures;
        self.failures = failures.saturating_add(1);
        if failures == 0 && ready.is_some() {
            return Duration::ZERO;
        }
        // Doubled each time; between half of it and all of it.
        let doubled = FIRST.saturating_mul(1 << failures.min(6));
        doubled
            .min(LONGEST)
            .mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
    }

    /// How many in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_working_worker_is_replaced_at_once_and_a_failing_one_ever_later() {
        let mut backoff = Backoff::default();
        let mut seconds = |ready: Option<u64>| {
            let wait = backoff.next(ready.map(Duration::from_secs), 1.0);
            wait.as_secs_f64()
        };
        assert_eq!(seconds(Some(5)), 0.0);
        assert_eq!(
            [(); 7].map(|()| seconds(None)),
            [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
        );
        assert_eq!(seconds(Some(59)), 60.0);
        assert_eq!(seconds(Some(60)), 0.0);
        assert_eq!(seconds(Some(1)), 2.0);
    }

    #[test]
    fn one_that_was_never_ready_waits_from_the_first() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(None, 0.0), Duration::from_millis(500));
        assert_eq!(backoff.next(None, 0.0), Duration::from_secs(1));
        assert_eq!(backoff.failures(), 2);
    }
}
