//! One lazily re-armed timer.
//!
//! A deadline that moves on with every chunk would cost a timer registration per chunk. This one
//! stays registered at the earliest time ever asked of it and looks again when
//! it goes off: a connection that is never late registers about one timer per timeout.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that may be asked about a later time at no cost.
#[derive(Debug)]
pub struct Deadline {
    sleep: Pin<Box<Sleep>>,
}

impl Deadline {
    /// Registered nowhere until polled.
    pub fn new(due: Instant) -> Self {
        Self {
            sleep: Box::pin(sleep_until(due)),
        }
    }

    /// Ready once `due` has passed; until then the task is woken in time to ask again.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, due: Instant) -> Poll<()> {
        if due < self.sleep.deadline() {
            self.sleep.as_mut().reset(due);
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.sleep.deadline() >= due || Instant::now() >= due {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(due);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn fires_at_the_time_last_asked_for() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut deadline = Deadline::new(after(300));
        // Moved nearer, then twice further away while registered.
        for due in [after(10), after(60), after(120)] {
            let pending = poll_fn(|cx| Poll::Ready(deadline.poll_until(cx, due))).await;
            assert!(pending.is_pending());
        }
        poll_fn(|cx| deadline.poll_until(cx, after(120))).await;
        assert_eq!(start.elapsed(), Duration::from_secs(120));
    }

    #[tokio::test(start_paused = true)]
    async fn serves_again_after_it_has_fired() {
        let start = Instant::now();
        let mut deadline = Deadline::new(start);
        poll_fn(|cx| deadline.poll_until(cx, start)).await;
        let due = start + Duration::from_secs(5);
        poll_fn(|cx| deadline.poll_until(cx, due)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
    }
}
