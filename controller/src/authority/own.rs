//! A controller's own certificate: signed by the authority that it shares, renewed at half life
//! and whenever the roots are others.

use std::sync::Arc;
use std::time::Duration;

use bodhi_net::identity::Bundle;
use jiff::Timestamp;
use tokio::sync::watch;

use super::rotation::LEAF;
use super::{Authority, ServerNames, SignError, Subject};

/// The pause before another attempt.
const RETRY: Duration = Duration::from_secs(5);
/// Longest sleep: timers do not count the time in which a machine is suspended.
const NAP: Duration = Duration::from_secs(300);

/// Sees to it that there is always a valid certificate with these names. The task ends with the
/// last receiver.
pub fn own(authority: Authority, names: ServerNames) -> watch::Receiver<Option<Arc<Bundle>>> {
    let (show, shown) = watch::channel(None);
    tokio::spawn(async move {
        tokio::select! {
            () = renew(authority, Subject::Controller(names), &show) => {}
            () = show.closed() => {}
        }
    });
    shown
}

async fn renew(
    mut authority: Authority,
    subject: Subject,
    show: &watch::Sender<Option<Arc<Bundle>>>,
) {
    let mut failed = false;
    loop {
        authority.0.mark_unchanged();
        let now = Timestamp::now().as_second();
        let due = match authority.issue(&subject, now) {
            Ok(bundle) => {
                failed = false;
                show.send_replace(Some(Arc::new(bundle)));
                let changes = authority.plan(now).changes;
                Some(changes.unwrap_or(i64::MAX).min(now + LEAF / 2))
            }
            // There will be a root.
            Err(SignError::NoRoot) => None,
            Err(error) => {
                if !failed {
                    tracing::error!(%error, "this controller's own certificate was not renewed");
                }
                failed = true;
                None
            }
        };
        loop {
            let wait = match due {
                Some(due) => {
                    let left = due - Timestamp::now().as_second();
                    Duration::from_secs(left.max(0).unsigned_abs()).min(NAP)
                }
                None => RETRY,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                changed = authority.0.changed() => match changed {
                    Ok(()) => break,
                    // Nobody reads the Secret any more; what was read goes on to sign.
                    Err(_) => tokio::time::sleep(wait).await,
                },
            }
            if due.is_none_or(|due| due <= Timestamp::now().as_second()) {
                break;
            }
        }
    }
}
