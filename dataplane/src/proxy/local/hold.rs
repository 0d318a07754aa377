//! Requests that wait for a worker, and are judged again while they do.
//!
//! A model may take minutes to load. What was true when a request came need not be true any more:
//! its token may have been revoked, its name may lead elsewhere. So a change of configuration is
//! a reason to look, and before a worker is asked everything is looked at once more.

use std::pin::pin;
use std::sync::Arc;

use bodhi_proto::names::ObjectRef;

use super::{NotRun, Routed};
use crate::api::error::Failure;
use crate::balance::Head;
use crate::proxy::{Proxy, route};
use crate::workers::{NoSeat, Seat};

impl Proxy {
    /// Waits for a place at a worker, as long as the pool says and the request may still have it.
    pub(super) async fn hold(&self, routed: &Routed<'_>, head: Head) -> Result<Seat, NotRun> {
        let mut seat = pin!(routed.pool.wait(head));
        loop {
            // Listens before it looks, so that no change is missed between the two.
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            self.judge_again(routed)?;
            tokio::select! {
                biased;
                () = changed => {}
                seat = &mut seat => {
                    // The wait may have ended by the very change that moves the request, and time
                    // has passed, in which the token may have expired.
                    self.judge_again(routed)?;
                    let object = &routed.pool.pool().object;
                    return seat.map_err(|why| no_seat(object, &why).into());
                }
            }
        }
    }

    /// Asks all that was asked before of the configuration that is served from now.
    fn judge_again(&self, routed: &Routed<'_>) -> Result<(), NotRun> {
        let asking = routed.asking;
        let Some(active) = self.active() else {
            return Ok(());
        };
        let token =
            self.authenticate(&active, asking.call, &asking.head.uri, &asking.head.headers)?;
        if std::ptr::eq(Arc::as_ptr(&active), routed.active) {
            return Ok(());
        }
        let chosen = route::choose(&active, &token, asking.call, asking.asked)?;
        match chosen.is_as(routed.chosen) {
            true => Ok(()),
            false => Err(NotRun::Moved),
        }
    }
}

/// No worker became ready for the request.
fn no_seat(object: &ObjectRef, why: &NoSeat) -> Failure {
    let name = object.short();
    match why {
        NoSeat::Full(_) => Failure::QueueFull(format!("'{name}' is starting, and {why}.")),
        NoSeat::NotInTime(_) => Failure::ModelLoading(format!("'{name}' is starting: {why}.")),
        NoSeat::Failed(_) => Failure::NotReady(format!("'{name}' cannot run: {why}")),
    }
}
