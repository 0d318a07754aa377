//! Whether to try again. The only place that decides it.
//!
//! A request that may have been acted on is never sent twice: a completion costs money, and
//! a response may already have been stored. So a further attempt is made only of what was
//! never written, under one budget, so that retries cannot multiply an outage.

use std::cell::Cell;
use std::num::NonZeroU32;
use std::time::Duration;

use super::Failure;

/// What the attempt that failed went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Connection {
    /// Taken from the pool; the upstream may have closed it while it lay there.
    Pooled,
    /// Made for this attempt.
    Fresh,
}

/// The verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Again on a fresh connection, after this long.
    Again { after: Duration },
    /// The failure is the answer.
    Stop,
}

/// How many retries there may be: one for every five requests, and a few to begin with, so that
/// a gateway with little traffic may retry too.
#[derive(Debug)]
pub(super) struct Budget {
    /// In fifths of a retry.
    fifths: Cell<u32>,
}

impl Budget {
    const FULL: u32 = 50;
    const RETRY: u32 = 5;

    pub(super) fn new() -> Self {
        Self {
            fifths: Cell::new(Self::FULL),
        }
    }

    /// A request came in.
    pub(super) fn earn(&self) {
        self.fifths.set((self.fifths.get() + 1).min(Self::FULL));
    }

    fn spend(&self) -> bool {
        let left = self.fifths.get().checked_sub(Self::RETRY);
        if let Some(left) = left {
            self.fifths.set(left);
        }
        left.is_some()
    }
}

/// Judges the `made`-th attempt, which ended in `failure`. `jitter` is random.
pub(super) fn next(
    made: u32,
    attempts: NonZeroU32,
    failure: &Failure,
    connection: Connection,
    budget: &Budget,
    jitter: u8,
) -> Next {
    if !failure.never_written() {
        return Next::Stop;
    }
    // A connection that died in the pool is our own bookkeeping, not an attempt.
    if connection == Connection::Pooled {
        return Next::Again {
            after: Duration::ZERO,
        };
    }
    // Trying again does not change the policy's or the certificate's mind.
    if matches!(failure, Failure::EgressRefused(_) | Failure::TlsFailed(_)) {
        return Next::Stop;
    }
    if made >= attempts.get() || !budget.spend() {
        return Next::Stop;
    }
    let backoff = Duration::from_millis(50) * 2u32.pow(made.saturating_sub(1).min(4));
    Next::Again {
        // Half of it to one and a half, so that clients of a dead upstream do not return in step.
        after: backoff / 2 + backoff * u32::from(jitter) / 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();
    const AT_ONCE: Next = Next::Again {
        after: Duration::ZERO,
    };

    fn unsent() -> Failure {
        Failure::ConnectTimeout("no connection".into())
    }

    fn sent() -> Failure {
        Failure::FirstByteTimeout(Duration::from_secs(300))
    }

    #[test]
    fn stops_once_anything_may_have_been_acted_on() {
        let budget = Budget::new();
        for connection in [Connection::Pooled, Connection::Fresh] {
            assert_eq!(next(1, TWO, &sent(), connection, &budget, 0), Next::Stop);
        }
    }

    #[test]
    fn a_connection_that_died_in_the_pool_costs_no_attempt() {
        let budget = Budget::new();
        while budget.spend() {}
        let verdict = next(2, TWO, &unsent(), Connection::Pooled, &budget, 0);
        assert_eq!(verdict, AT_ONCE);
    }

    #[test]
    fn unsent_requests_are_retried_up_to_the_attempts_with_growing_pauses() {
        let budget = Budget::new();
        let three = NonZeroU32::new(3).unwrap();
        let verdict = |made| next(made, three, &unsent(), Connection::Fresh, &budget, 0);
        let after = |millis| Next::Again {
            after: Duration::from_millis(millis),
        };
        assert_eq!(
            [verdict(1), verdict(2), verdict(3)],
            [after(25), after(50), Next::Stop]
        );
    }

    #[test]
    fn what_will_not_change_is_not_tried_again() {
        let budget = Budget::new();
        let failure = Failure::TlsFailed("unknown issuer".into());
        assert_eq!(
            next(1, TWO, &failure, Connection::Fresh, &budget, 0),
            Next::Stop
        );
    }

    #[test]
    fn retries_are_at_most_a_fifth_of_requests_in_the_long_run() {
        let budget = Budget::new();
        while budget.spend() {}
        let mut retries = 0;
        for _ in 0..1000 {
            budget.earn();
            if next(1, TWO, &unsent(), Connection::Fresh, &budget, 0) != Next::Stop {
                retries += 1;
            }
        }
        assert_eq!(retries, 200);
    }
}
