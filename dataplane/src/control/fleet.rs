//! What the leader is told of demand: it decides how many workers a pool has.
//!
//! A link of its own beside the configuration's. Where it cannot be held nothing waits for it:
//! it is tried again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::ReceiverStream;

use bodhi_proto::names::ObjectRef;
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::fleet_client::FleetClient;

use super::backoff::Backoff;
use super::stream::{Connect, lazy_channel};

/// How often demand is told while there is any.
const EVERY: Duration = Duration::from_secs(1);

/// Requests that a pool has at this data plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolDemand {
    /// The Alias.
    pub pool: ObjectRef,
    /// Requests at workers.
    pub in_flight: u32,
    /// Requests that wait for a worker.
    pub held: u32,
}

/// Who knows the demand.
pub trait Demand: Send + Sync {
    /// Of all pools that have any.
    fn now(&self) -> Vec<PoolDemand>;
    /// Told when a pool without any gets some.
    fn rises(&self) -> Arc<Notify>;
}

/// Tells demand until the task is dropped.
pub(super) async fn run(node: String, connect: Connect, demand: Arc<dyn Demand>) {
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let ended = link(&node, &connect, &*demand).await;
        let wait = backoff.after(began.elapsed(), rand::random());
        tracing::debug!(controller = ?connect, reason = ended.message(), ?wait, "the fleet link ended");
        sleep(wait).await;
    }
}

/// One link, to its end.
async fn link(node: &str, connect: &Connect, demand: &dyn Demand) -> tonic::Status {
    let (up, outbound) = mpsc::channel(1);
    let hello = pb::from_fleet::Message::Node(node.to_owned());
    // The channel is empty and its other end lives in `outbound`.
    let _ = up.send(message(hello)).await;
    let mut client = FleetClient::new(lazy_channel(connect));
    let mut inbound = match client.link(ReceiverStream::new(outbound)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    let rises = demand.rises();
    let mut told = false;
    loop {
        let now = demand.now();
        if told || !now.is_empty() {
            told = !now.is_empty();
            let pools = now.into_iter().map(|d| pb::PoolDemand {
                pool: d.pool.to_string(),
                in_flight: d.in_flight,
                held: d.held,
            });
            let demand = pb::Demand {
                pools: pools.collect(),
            };
            let demand = message(pb::from_fleet::Message::Demand(demand));
            if up.send(demand).await.is_err() {
                return tonic::Status::unavailable("the controller stopped listening");
            }
        }
        let mut pause = pin!(sleep(EVERY));
        tokio::select! {
            () = rises.notified() => {}
            () = &mut pause => {}
            ended = inbound.message() => match ended {
                // Nothing is said in this direction yet.
                Ok(Some(_)) => {}
                Ok(None) => return tonic::Status::unavailable("closed by the controller"),
                Err(status) => return status,
            },
        }
    }
}

fn message(message: pb::from_fleet::Message) -> pb::FromFleet {
    pb::FromFleet {
        message: Some(message),
    }
}
