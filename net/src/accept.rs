//! Accepting connections for ever, whatever goes wrong with one of them or with this machine.

use std::io;
use std::time::Duration;

/// The pauses after an accept error that has to do with this machine, not with the one connection.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Accepts until it is dropped. An error concerns either one connection, which is gone, or this
/// machine, which is out of descriptors or memory: then waiting is all that helps.
pub async fn forever<T, F>(mut accept: impl FnMut() -> F, mut take: impl FnMut(T))
where
    F: Future<Output = io::Result<T>>,
{
    let mut pause = PAUSE.0;
    loop {
        match accept().await {
            Ok(accepted) => {
                pause = PAUSE.0;
                take(accepted);
            }
            Err(error) if concerns_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "cannot accept connections");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// accept(2): pending network errors of the new socket are handed to the one who accepts it.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | TimedOut
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn accept_errors_back_off_and_never_end_the_loop() {
        let emfile = || io::Error::from_raw_os_error(24);
        let mut script = vec![Ok(2), Err(emfile())];
        script.extend((0..7).map(|_| Err(emfile())));
        script.extend([Err(io::ErrorKind::ConnectionAborted.into()), Ok(1)]);
        let started = tokio::time::Instant::now();
        let mut taken = Vec::new();
        let accept = || {
            let next = script.pop();
            async {
                match next {
                    Some(next) => next,
                    None => std::future::pending().await,
                }
            }
        };
        let accepting = forever(accept, |n: u32| taken.push((n, started.elapsed())));
        let minute = Duration::from_secs(60);
        tokio::time::timeout(minute, accepting).await.unwrap_err();
        // 50 + 100 + 200 + 400 + 800 + 3 × 1000 ms.
        let after = Duration::from_millis(4550);
        assert_eq!(taken, [(1, Duration::ZERO), (2, after)]);
    }
}
