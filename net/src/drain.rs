//! Going down without cutting anyone off.
//!
//! [`Phase`]s only move forward. At the signal readiness fails but connections are still accepted, for
//! load balancers learn of it late (lame duck); then no new ones, while streams run
//! on up to the drain time; then what is left is ended.

use std::future::Future;
use std::time::Duration;

use tokio::sync::watch;

/// How far the shutdown is. Ordered in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Phase {
    /// Not shutting down.
    #[default]
    Serving,
    /// Not ready any more, yet still accepting.
    LameDuck,
    /// Accepting nothing new; requests in flight run on.
    Draining,
    /// What still runs says its last word and is aborted.
    Closing,
}

/// How long the phases may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// From the signal to [`Phase::Draining`].
    pub lame_duck: Duration,
    /// From then to [`Phase::Closing`], at most.
    pub drain: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            lame_duck: Duration::from_secs(15),
            drain: Duration::from_secs(600),
        }
    }
}

/// The hand that moves the phase on; there is one.
#[derive(Debug)]
pub struct Drain(watch::Sender<Phase>);

/// An eye on the phase; cheap to clone.
#[derive(Debug, Clone)]
pub struct Signal(watch::Receiver<Phase>);

/// A new drain in [`Phase::Serving`], and an eye on it.
pub fn channel() -> (Drain, Signal) {
    let (sender, receiver) = watch::channel(Phase::Serving);
    (Drain(sender), Signal(receiver))
}

impl Drain {
    /// Goes through the phases. Returns once `finished` does (nothing is left to wait for),
    /// or at [`Phase::Closing`]. `finished` may only become ready from [`Phase::Draining`] on.
    pub async fn begin(&self, times: Times, finished: impl Future<Output = ()>) {
        self.move_to(Phase::LameDuck);
        tokio::time::sleep(times.lame_duck).await;
        self.move_to(Phase::Draining);
        // Either way it is over: the caller need not know which.
        let _ = tokio::time::timeout(times.drain, finished).await;
        self.move_to(Phase::Closing);
    }

    /// Moves on to `phase`; never back.
    pub fn move_to(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }
}

impl Signal {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the phase is `phase` or later. If the [`Drain`] was dropped before, for ever.
    pub async fn reached(&mut self, phase: Phase) {
        if self.0.wait_for(|now| *now >= phase).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Waits for SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
#[cfg(unix)]
pub async fn terminate() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    const TIMES: Times = Times {
        lame_duck: Duration::from_secs(15),
        drain: Duration::from_secs(600),
    };

    #[tokio::test(start_paused = true)]
    async fn phases_last_as_long_as_said_when_streams_run_on() {
        let (drain, mut signal) = channel();
        assert_eq!(signal.phase(), Phase::Serving);
        let start = Instant::now();
        let running = tokio::spawn(async move { drain.begin(TIMES, std::future::pending()).await });
        for (phase, at) in [
            (Phase::LameDuck, 0),
            (Phase::Draining, 15),
            (Phase::Closing, 615),
        ] {
            signal.reached(phase).await;
            assert_eq!(start.elapsed().as_secs(), at, "{phase:?}");
        }
        running.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn draining_ends_when_nothing_is_left() {
        let (drain, mut signal) = channel();
        let start = Instant::now();
        let mut draining = signal.clone();
        let finished = async move {
            draining.reached(Phase::Draining).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        };
        drain.begin(TIMES, finished).await;
        assert_eq!(start.elapsed().as_secs(), 18);
        signal.reached(Phase::Closing).await;
    }

    #[test]
    fn phases_never_go_back() {
        let (drain, signal) = channel();
        drain.move_to(Phase::Draining);
        drain.move_to(Phase::LameDuck);
        assert_eq!(signal.phase(), Phase::Draining);
    }
}
