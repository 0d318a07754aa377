//! How long to wait before the next attempt.

use std::time::Duration;

const LEAST: Duration = Duration::from_millis(200);
/// Longest wait of [`Backoff::default`].
const MOST: Duration = Duration::from_secs(15);
/// What lasted this long makes the next wait short again.
const STABLE: Duration = Duration::from_secs(60);

/// Exponential with full jitter: a thousand data planes that lose one controller come back
/// spread over the whole wait.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    most: Duration,
}

impl Default for Backoff {
    /// Waits of up to 15 s.
    fn default() -> Self {
        Self::up_to(MOST)
    }
}

impl Backoff {
    /// Waits of up to `most`.
    pub fn up_to(most: Duration) -> Self {
        Self { next: LEAST, most }
    }

    /// The wait after an attempt, or what it began, that lasted `lasted`, however it ended;
    /// `jitter` is uniform in 0..1.
    pub fn after(&mut self, lasted: Duration, jitter: f64) -> Duration {
        if lasted >= STABLE {
            self.next = LEAST;
        }
        let wait = self.next.mul_f64(jitter.clamp(0.0, 1.0));
        self.next = (self.next * 2).min(self.most);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_fifteen_seconds_and_begin_anew_after_a_stable_minute() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let waits: Vec<_> = (0..9).map(|_| backoff.after(short, 1.0)).collect();
        assert_eq!(waits[..3], [200, 400, 800].map(Duration::from_millis));
        assert_eq!(waits[8], MOST);
        assert_eq!(backoff.after(STABLE, 1.0), LEAST);
        assert_eq!(backoff.after(short, 0.5), LEAST);
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(Backoff::default().after(STABLE, 0.0), Duration::ZERO);
    }
}
