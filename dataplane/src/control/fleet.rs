//! What the leader is told: demand, by which it decides how many workers a pool has, and what this
//! data plane holds, whichever controller it has it from.
//!
//! A link of its own beside the configuration's, to the leader only. Where it cannot be held
//! nothing waits for it: it is tried again.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use bodhi_net::backoff::Backoff;
use bodhi_proto::names::ObjectRef;
use bodhi_proto::sync::{Rejection, Report};
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::fleet_client::FleetClient;

use super::connect::{Connect, Which, chain, channel};

/// How often demand is told while there is any.
const EVERY: Duration = Duration::from_secs(1);
/// Data planes turn to a new leader spread over this time.
const TURN: Duration = Duration::from_secs(1);

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

/// Where the link goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum LinkTo {
    /// No controller has been met yet.
    #[default]
    Nobody,
    /// There is one controller.
    TheOnlyOne,
    /// The leader's HOST:PORT.
    At(String),
}

/// What the task needs.
pub(super) struct Link {
    pub(super) node: String,
    pub(super) connect: Connect,
    pub(super) demand: Arc<dyn Demand>,
    pub(super) to: watch::Receiver<LinkTo>,
    pub(super) reports: watch::Receiver<Report>,
}

impl Link {
    /// Links to one leader after the other, until the task is dropped or nobody follows
    /// controllers any more.
    pub(super) async fn run(self) {
        let mut to = self.to.clone();
        let mut backoff = Backoff::default();
        loop {
            let which = to.borrow_and_update().clone();
            let which = match &which {
                LinkTo::Nobody => match to.changed().await {
                    Ok(()) => continue,
                    Err(_) => return,
                },
                LinkTo::TheOnlyOne => Which::AnyBut(None),
                LinkTo::At(address) => Which::At(address),
            };
            let began = Instant::now();
            let wait = tokio::select! {
                ended = self.link(which) => {
                    let wait = backoff.after(began.elapsed(), rand::random());
                    let reason = ended.message();
                    tracing::debug!(controller = ?self.connect, reason, ?wait, "the fleet link ended");
                    wait
                }
                changed = to.changed() => match changed {
                    Ok(()) => {
                        backoff = Backoff::default();
                        TURN.mul_f64(rand::random())
                    }
                    Err(_) => return,
                },
            };
            // A leader that is announced meanwhile is not waited for as long as one that failed.
            if let Ok(changed) = timeout(wait, to.changed()).await {
                if changed.is_err() {
                    return;
                }
                backoff = Backoff::default();
            }
        }
    }

    /// One link, to its end.
    async fn link(&self, which: Which<'_>) -> Status {
        let connected = match self.connect.open(which).await {
            Ok(connected) => connected,
            Err(error) => return Status::unavailable(error.to_string()),
        };
        let channel = match channel(connected).await {
            Ok(channel) => channel,
            Err(error) => return Status::unavailable(chain(&error)),
        };
        let (up, outbound) = mpsc::channel(1);
        let node = pb::from_fleet::Message::Node(self.node.clone());
        // The channel is empty and its other end lives in `outbound`.
        let _ = up.send(message(node)).await;
        let mut inbound = match FleetClient::new(channel)
            .link(ReceiverStream::new(outbound))
            .await
        {
            Ok(response) => response.into_inner(),
            Err(status) => return status,
        };
        let rises = self.demand.rises();
        let mut telling = Telling::default();
        let mut reports = self.reports.clone();
        reports.mark_changed();
        let mut next = pin!(sleep(Duration::ZERO));
        loop {
            let told = tokio::select! {
                changed = reports.changed() => match changed {
                    Ok(()) => {
                        let report = reports.borrow_and_update().clone();
                        Some(telling.report(report))
                    }
                    Err(_) => return Status::cancelled("this data plane stops"),
                },
                () = rises.notified() => telling.demand(&*self.demand),
                () = &mut next => {
                    next.set(sleep(EVERY));
                    telling.demand(&*self.demand)
                }
                ended = inbound.message() => match ended {
                    // Nothing is said in this direction yet.
                    Ok(Some(_)) => None,
                    Ok(None) => return Status::unavailable("closed by the controller"),
                    Err(status) => return status,
                },
            };
            if let Some(told) = told
                && up.send(message(told)).await.is_err()
            {
                return Status::unavailable("the controller stopped listening");
            }
        }
    }
}

/// What was told on a link.
#[derive(Default)]
struct Telling {
    any_demand: bool,
    rejections: Option<Arc<[Rejection]>>,
}

impl Telling {
    /// Demand while there is any, and once when the last has gone.
    fn demand(&mut self, demand: &dyn Demand) -> Option<pb::from_fleet::Message> {
        let now = demand.now();
        if !self.any_demand && now.is_empty() {
            return None;
        }
        self.any_demand = !now.is_empty();
        let pools = now.into_iter().map(|d| pb::PoolDemand {
            pool: d.pool.to_string(),
            in_flight: d.in_flight,
            held: d.held,
        });
        let pools = pools.collect();
        Some(pb::from_fleet::Message::Demand(pb::Demand { pools }))
    }

    /// A report, with rejections only where they are not the ones that were told.
    fn report(&mut self, mut report: Report) -> pb::from_fleet::Message {
        match report.rejections == self.rejections {
            true => report.rejections = None,
            false => self.rejections.clone_from(&report.rejections),
        }
        pb::from_fleet::Message::Report(report.into())
    }
}

fn message(message: pb::from_fleet::Message) -> pb::FromFleet {
    pb::FromFleet {
        message: Some(message),
    }
}
