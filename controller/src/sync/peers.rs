//! Other controllers: who leads, and what the leader answers.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bodhi_net::identity::{self, Expected};
use bodhi_proto::sync::{Leader, Revision};
use bodhi_proto::wire::store_position;
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::fleet_client::FleetClient;
use hyper_util::rt::TokioIo;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::Applied;

/// Data planes have turned to a new leader after this long: they take a second each, and what
/// connecting takes.
const SETTLE: Duration = Duration::from_secs(5);
/// Longer than data planes are waited for, by so much.
const SLACK: Duration = Duration::from_millis(500);

/// A controller among others.
#[derive(Debug, Clone)]
pub struct Peers {
    /// Who leads; data planes are told each time that it changes.
    pub leader: watch::Receiver<Option<Leader>>,
    /// How the leader is called; without it only data planes that are connected here are known to
    /// a controller that does not lead.
    pub client: Option<Arc<identity::Client>>,
}

/// This controller among its peers.
pub(super) struct Standing {
    name: String,
    /// None: it is alone.
    peers: Option<Peers>,
    /// To the leader at this address.
    channel: Mutex<Option<(String, Channel)>>,
    /// When it was first seen to lead, of the present term.
    leads_since: Mutex<Option<Instant>>,
}

impl Standing {
    pub(super) fn new(name: String, peers: Option<Peers>) -> Self {
        Self {
            name,
            peers,
            channel: Mutex::default(),
            leads_since: Mutex::default(),
        }
    }

    /// Until when data planes may be on their way, if it is not yet.
    pub(super) fn settles_at(&self, now: Instant) -> Option<Instant> {
        let mut since = self
            .leads_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if self.peers.is_none() || !self.leads() {
            *since = None;
            return None;
        }
        let settled = *since.get_or_insert(now) + SETTLE;
        (now < settled).then_some(settled)
    }

    pub(super) fn leader(&self) -> Option<Leader> {
        self.peers.as_ref()?.leader.borrow().clone()
    }

    fn is_led_by(&self, leader: Option<&Leader>) -> bool {
        leader.is_some_and(|leader| leader.controller == self.name)
    }

    /// A controller that is alone leads.
    pub(super) fn leads(&self) -> bool {
        match &self.peers {
            None => true,
            Some(peers) => self.is_led_by(peers.leader.borrow().as_ref()),
        }
    }

    /// Why a data plane should turn to another controller, once it should.
    pub(super) async fn refusal(&self) -> Status {
        let Some(peers) = &self.peers else {
            return std::future::pending().await;
        };
        let mut leader = peers.leader.clone();
        let other = leader
            .wait_for(|leader| !self.is_led_by(leader.as_ref()))
            .await;
        let text = match other.as_deref() {
            Ok(Some(leader)) => format!("{} leads, at {}", leader.controller, leader.address),
            Ok(None) => "no controller leads at present".to_owned(),
            Err(_) => "this controller stops".to_owned(),
        };
        Status::failed_precondition(text)
    }

    /// What the leader knows of a revocation, where another one leads and can be asked.
    pub(super) async fn ask_leader(&self, revision: Revision, most: Duration) -> Option<Applied> {
        let client = self.peers.as_ref()?.client.as_ref()?;
        let leader = self
            .leader()
            .filter(|leader| leader.controller != self.name)?;
        let channel = self.channel(client, &leader.address);
        let mut request = Request::new(pb::AppliedRequest {
            position: Some(store_position(revision)),
            wait_ms: u32::try_from(most.as_millis()).unwrap_or(u32::MAX),
        });
        request.set_timeout(most + SLACK);
        let mut fleet = FleetClient::new(channel);
        let asked = fleet.applied(request);
        match tokio::time::timeout(most + SLACK, asked).await {
            Ok(Ok(reply)) => {
                let reply = reply.into_inner();
                Some(Applied {
                    applied: reply.applied,
                    pending: reply.pending,
                })
            }
            Ok(Err(status)) => {
                let error = status.message();
                tracing::warn!(
                    leader = leader.controller,
                    error,
                    "the leader was asked about a revocation"
                );
                None
            }
            Err(_) => {
                tracing::warn!(
                    leader = leader.controller,
                    "the leader did not answer about a revocation"
                );
                None
            }
        }
    }

    /// A channel that connects when it is used, and again when it was lost.
    fn channel(&self, client: &Arc<identity::Client>, address: &str) -> Channel {
        let mut kept = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((to, channel)) = &*kept
            && to == address
        {
            return channel.clone();
        }
        let (client, to) = (Arc::clone(client), address.to_owned());
        let connector = tower::service_fn(move |_| {
            let (client, to) = (Arc::clone(&client), to.clone());
            async move { connect(&client, &to).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://controller")
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .http2_max_local_error_reset_streams(64)
            .connect_with_connector_lazy(connector);
        *kept = Some((address.to_owned(), channel.clone()));
        channel
    }
}

async fn connect(
    client: &identity::Client,
    to: &str,
) -> io::Result<tokio::io::BufReader<bodhi_net::stream::Stream>> {
    let host = to.rsplit_once(':').map_or(to, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let expected = Expected::controller([host]);
    let expected = expected.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for address in lookup_host(to).await? {
        match client.connect(address, &expected).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
