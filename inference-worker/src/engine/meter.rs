//! Tokens per second, of late.

use std::time::{Duration, Instant};

/// What happened so long ago counts for a third.
const MEMORY: Duration = Duration::from_secs(5);

/// A rate that forgets.
#[derive(Debug)]
pub(super) struct Meter {
    rate: f64,
    last: Instant,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            rate: 0.0,
            last: now,
        }
    }

    /// Counts tokens.
    pub(super) fn add(&mut self, tokens: usize, now: Instant) {
        self.rate = self.rate(now) + tokens as f64 / MEMORY.as_secs_f64();
        self.last = now;
    }

    /// Tokens per second.
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let past = now.saturating_duration_since(self.last).as_secs_f64();
        self.rate * (-past / MEMORY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approaches_the_rate_and_forgets_it() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let mut now = start;
        for _ in 0..6000 {
            now += Duration::from_millis(10);
            meter.add(2, now);
        }
        let rate = meter.rate(now);
        assert!((195.0..205.0).contains(&rate), "{rate}");
        assert!(meter.rate(now + Duration::from_secs(60)) < 1.0);
    }
}
