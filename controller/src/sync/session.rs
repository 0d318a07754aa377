//! One stream: a task between the wire and the hub.

use std::time::Duration;

use bodhi_proto::sync::{Down, Up};
use bodhi_proto::wire::sync as pb;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::hub::{OpenSession, Step};

/// A stream is closed after this long, ± a tenth, so that data planes spread anew.
pub(super) const MAX_AGE: Duration = Duration::from_secs(30 * 60);
/// Shortest wait, for a data plane whose turn has not come.
const TURN: Duration = Duration::from_millis(20);

/// Messages on their way to one data plane. One waits here, the rest in the session.
pub(super) type Outbound = mpsc::Sender<Result<pb::FromController, Status>>;

/// Runs until either side ends the stream.
pub(super) async fn run(
    session: OpenSession,
    mut inbound: impl Stream<Item = Result<pb::FromDataPlane, Status>> + Unpin,
    out: Outbound,
) {
    let age = sleep_until(Instant::now() + max_age());
    tokio::pin!(age);
    let (mut aged, mut closing) = (false, false);
    loop {
        let wake = tokio::select! {
            up = inbound.next() => {
                if !take_in(&session, up, &out).await {
                    return;
                }
                continue;
            }
            () = &mut age, if !aged => {
                aged = true;
                session.goodbye("the stream has reached its age");
                continue;
            }
            permit = out.reserve() => {
                let Ok(permit) = permit else { return };
                match session.step() {
                    Step::Send(down) => {
                        closing = matches!(down, Down::Goodbye(_));
                        permit.send(Ok(down.into()));
                        None
                    }
                    Step::Wait(wake) => Some(wake),
                    Step::Close => return,
                }
            }
        };
        if closing {
            return;
        }
        let Some(wake) = wake else { continue };
        let until = wake.map(|at| session.hub().instant(at).max(Instant::now() + TURN));
        tokio::select! {
            up = inbound.next() => {
                if !take_in(&session, up, &out).await {
                    return;
                }
            }
            () = &mut age, if !aged => {
                aged = true;
                session.goodbye("the stream has reached its age");
            }
            () = session.woken() => {}
            () = async { sleep_until(until.unwrap_or_else(Instant::now)).await }, if until.is_some() => {}
            () = out.closed() => return,
        }
    }
}

/// Whether the stream goes on.
async fn take_in(
    session: &OpenSession,
    up: Option<Result<pb::FromDataPlane, Status>>,
    out: &Outbound,
) -> bool {
    let status = match up {
        None | Some(Err(_)) => return false,
        Some(Ok(message)) => match Up::try_from(message).map(|up| session.receive(up)) {
            Ok(Ok(())) => return true,
            Ok(Err(violation)) => Status::failed_precondition(violation.to_string()),
            Err(unreadable) => Status::invalid_argument(unreadable.to_string()),
        },
    };
    tracing::warn!(%status, "a data plane's stream is closed: it broke the protocol");
    // It may be gone already.
    let _ = out.send(Err(status)).await;
    false
}

fn max_age() -> Duration {
    MAX_AGE.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}
