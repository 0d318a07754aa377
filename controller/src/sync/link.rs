//! What data planes tell the leader: the requests that wait for local models and those that are
//! at workers, and what each holds, whichever controller it has it from. It lives as long as
//! the stream that brought it: a data plane that is gone asks for nothing and holds nothing.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bodhi_net::identity::Role;
use bodhi_proto::digest::Digests;
use bodhi_proto::names::ObjectRef;
use bodhi_proto::sync::{Rejection, Report, Revision};
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::fleet_server::Fleet;
use bodhi_proto::wire::{WireError, store_revision};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Server;
use super::acks::Plane;
use super::callers::permit;
use super::peers::Standing;

/// Longest name of a data plane, in bytes.
const NODE_MAX: usize = 256;
/// Pools that one data plane may name.
const POOLS_MAX: usize = 10_000;

/// Requests that a pool has, over all data planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Demand {
    /// At workers.
    pub in_flight: u32,
    /// Waiting for a worker.
    pub held: u32,
}

impl Demand {
    /// All requests.
    pub fn requests(self) -> u32 {
        self.in_flight.saturating_add(self.held)
    }

    fn add(&mut self, other: Self) {
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.held = self.held.saturating_add(other.held);
    }
}

/// The demand of every pool that has any.
pub type Demands = BTreeMap<ObjectRef, Demand>;

/// Longest that a question about a revocation may wait.
const WAIT_MOST: Duration = Duration::from_secs(10);

/// What the links say, summed up.
pub(super) struct Links {
    inner: Mutex<Inner>,
    sum: watch::Sender<Arc<Demands>>,
    acks: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    /// By the data plane's name.
    nodes: HashMap<String, Node>,
    next: u64,
}

/// What a data plane said last.
#[derive(Default)]
struct Node {
    /// Of its links, the one that speaks for it.
    link: u64,
    demands: Demands,
    /// None until it has said what it holds.
    report: Option<Report>,
    rejections: Arc<[Rejection]>,
}

impl Links {
    /// `acks` is told whenever what data planes say they hold may have changed.
    pub(super) fn new(acks: watch::Sender<u64>) -> Self {
        Self {
            inner: Mutex::default(),
            sum: watch::channel(Arc::default()).0,
            acks,
        }
    }

    /// The data planes that have said what they hold. One that holds the same as `objects`, wherever
    /// it has that from, contains this edition.
    pub(super) fn planes(&self, (objects, edition): &(Digests, u64)) -> Vec<Plane> {
        let same = |held: &Digests| {
            objects
                .iter()
                .all(|(kind, sum)| held.get(kind) == Some(sum))
        };
        let inner = self.lock();
        let of = |(name, node): (&String, &Node)| {
            let report = node.report.as_ref()?;
            Some(Plane {
                node: name.clone(),
                mark: report.mark,
                edition: same(&report.digests).then_some(*edition),
                rejections: node.rejections.to_vec(),
                divergences: report.divergences,
            })
        };
        inner.nodes.iter().filter_map(of).collect()
    }

    /// Whether each of them refuses the token that was revoked at `revision`.
    pub(super) fn applied(&self, revision: Revision) -> Vec<(String, bool)> {
        let inner = self.lock();
        let of = |(name, node): (&String, &Node)| {
            let applied = node.report.as_ref()?.has_applied(revision);
            Some((name.clone(), applied))
        };
        inner.nodes.iter().filter_map(of).collect()
    }

    pub(super) fn demands(&self) -> watch::Receiver<Arc<Demands>> {
        self.sum.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change is one insertion or removal: a panic leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A newer link of the same data plane replaces the older one.
    fn open(self: &Arc<Self>, node: String) -> OpenLink {
        let mut inner = self.lock();
        let id = inner.next;
        inner.next += 1;
        let silent = Node {
            link: id,
            ..Node::default()
        };
        inner.nodes.insert(node.clone(), silent);
        self.tell(&inner);
        drop(inner);
        OpenLink {
            links: Arc::clone(self),
            node,
            id,
        }
    }

    fn tell(&self, inner: &Inner) {
        let mut sum = Demands::new();
        for (pool, demand) in inner.nodes.values().flat_map(|node| &node.demands) {
            sum.entry(pool.clone()).or_default().add(*demand);
        }
        self.sum.send_if_modified(|before| {
            let differs = **before != sum;
            if differs {
                *before = Arc::new(sum);
            }
            differs
        });
    }
}

/// One data plane's link; what it said is forgotten when it is dropped.
struct OpenLink {
    links: Arc<Links>,
    node: String,
    id: u64,
}

impl OpenLink {
    /// Does it to what is known of the data plane, unless a newer link speaks for it.
    fn note(&self, change: impl FnOnce(&mut Node)) {
        let mut inner = self.links.lock();
        let node = inner.nodes.get_mut(&self.node);
        if let Some(node) = node.filter(|node| node.link == self.id) {
            change(node);
        }
        self.links.tell(&inner);
    }

    fn report(&self, mut report: Report) {
        self.note(|node| {
            if let Some(rejections) = report.rejections.take() {
                node.rejections = rejections;
            }
            node.report = Some(report);
        });
        self.links.acks.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        {
            let mut inner = self.links.lock();
            let node = inner.nodes.get(&self.node);
            if node.is_some_and(|node| node.link == self.id) {
                inner.nodes.remove(&self.node);
            }
            self.links.tell(&inner);
        }
        self.links.acks.send_modify(|n| *n = n.wrapping_add(1));
    }
}

pub(super) struct FleetService(pub(super) Server);

#[tonic::async_trait]
impl Fleet for FleetService {
    type LinkStream = ReceiverStream<Result<pb::ToFleet, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<pb::FromFleet>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        permit(&request, &[Role::DataPlane])?;
        let standing = Arc::clone(&self.0.standing);
        if !standing.leads() {
            return Err(standing.refusal().await);
        }
        // Nothing is sent down yet; the open end tells the data plane that it is heard.
        let (out, outbound) = mpsc::channel(1);
        let links = Arc::clone(&self.0.links);
        tokio::spawn(run(links, standing, request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }

    async fn applied(
        &self,
        request: Request<pb::AppliedRequest>,
    ) -> Result<Response<pb::AppliedReply>, Status> {
        permit(&request, &[Role::Controller])?;
        if !self.0.standing.leads() {
            return Err(self.0.standing.refusal().await);
        }
        let request = request.into_inner();
        let revision = store_revision(request.position).map_err(malformed)?;
        let most = Duration::from_millis(request.wait_ms.into()).min(WAIT_MOST);
        let known = self.0.known_applied(revision, most).await;
        Ok(Response::new(pb::AppliedReply {
            applied: known.applied,
            pending: known.pending,
        }))
    }
}

fn malformed(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// Runs until either side ends the stream, or another controller leads.
async fn run(
    links: Arc<Links>,
    standing: Arc<Standing>,
    mut inbound: impl Stream<Item = Result<pb::FromFleet, Status>> + Unpin,
    out: mpsc::Sender<Result<pb::ToFleet, Status>>,
) {
    use pb::from_fleet::Message;
    let mut link = None;
    let mut refusal = pin!(standing.refusal());
    let why = loop {
        let message = tokio::select! {
            message = inbound.next() => message,
            () = out.closed() => return,
            refusal = &mut refusal => break refusal,
        };
        let Some(Ok(message)) = message else { return };
        match (message.message, &link) {
            (Some(Message::Node(node)), None) if (1..=NODE_MAX).contains(&node.len()) => {
                link = Some(links.open(node));
            }
            (Some(Message::Demand(demand)), Some(link)) => {
                let demands = read(demand);
                link.note(|node| node.demands = demands);
            }
            (Some(Message::Report(report)), Some(link)) => match Report::try_from(report) {
                Ok(report) => link.report(report),
                Err(error) => break malformed(error),
            },
            // Of a later release.
            (None, _) => {}
            (Some(_), _) => {
                tracing::warn!(
                    "a data plane's link is closed: its first message must name it, once"
                );
                break Status::failed_precondition("the first message names the data plane");
            }
        }
    };
    // It may be gone already.
    let _ = out.send(Err(why)).await;
}

/// A pool whose name cannot be read is none of ours.
fn read(demand: pb::Demand) -> Demands {
    let mut demands = Demands::new();
    for pool in demand.pools.into_iter().take(POOLS_MAX) {
        if let Ok(object) = ObjectRef::parse(&pool.pool) {
            demands.entry(object).or_default().add(Demand {
                in_flight: pool.in_flight,
                held: pool.held,
            });
        }
    }
    demands.retain(|_, demand| demand.requests() > 0);
    demands
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodhi_proto::digest::Version;
    use bodhi_proto::snapshot::Kind;
    use bodhi_proto::sync::Leader;

    fn message(message: pb::from_fleet::Message) -> Result<pb::FromFleet, Status> {
        Ok(pb::FromFleet {
            message: Some(message),
        })
    }

    fn named(node: &str) -> Result<pb::FromFleet, Status> {
        message(pb::from_fleet::Message::Node(node.into()))
    }

    fn demand(pools: &[(&str, u32, u32)]) -> Result<pb::FromFleet, Status> {
        let pools = pools.iter().map(|(pool, in_flight, held)| pb::PoolDemand {
            pool: (*pool).into(),
            in_flight: *in_flight,
            held: *held,
        });
        let pools = pools.collect();
        message(pb::from_fleet::Message::Demand(pb::Demand { pools }))
    }

    /// A link and what it answers.
    struct Link {
        up: mpsc::Sender<Result<pb::FromFleet, Status>>,
        down: mpsc::Receiver<Result<pb::ToFleet, Status>>,
    }

    fn link(links: &Arc<Links>) -> Link {
        link_while(links, Standing::new("alone".into(), None))
    }

    fn link_while(links: &Arc<Links>, standing: Standing) -> Link {
        let ((up, inbound), (out, down)) = (mpsc::channel(8), mpsc::channel(1));
        let (links, inbound) = (Arc::clone(links), ReceiverStream::new(inbound));
        tokio::spawn(run(links, Arc::new(standing), inbound, out));
        Link { up, down }
    }

    fn links() -> Arc<Links> {
        Arc::new(Links::new(watch::channel(0).0))
    }

    fn report(report: Report) -> Result<pb::FromFleet, Status> {
        message(pb::from_fleet::Message::Report(report.into()))
    }

    async fn planes(links: &Links, fits: impl Fn(&[Plane]) -> bool) -> Vec<Plane> {
        let mut acks = links.acks.subscribe();
        loop {
            let planes = links.planes(&Default::default());
            if fits(&planes) {
                return planes;
            }
            acks.changed().await.unwrap();
        }
    }

    async fn until(links: &Links, requests: u32) {
        let mut demands = links.demands();
        let sum = |demands: &Demands| demands.values().map(|d| d.requests()).sum::<u32>();
        demands.wait_for(|d| sum(d) == requests).await.unwrap();
    }

    #[tokio::test]
    async fn demand_is_summed_over_links_and_forgotten_with_them() {
        let links = links();
        let (one, two) = (link(&links), link(&links));
        one.up.send(named("one")).await.unwrap();
        one.up
            .send(demand(&[("Alias/a/q", 2, 1), ("no name", 9, 9)]))
            .await
            .unwrap();
        two.up.send(named("two")).await.unwrap();
        two.up.send(demand(&[("Alias/a/q", 4, 0)])).await.unwrap();
        until(&links, 7).await;
        let sum = links.demands().borrow()[&ObjectRef::alias("a", "q")];
        assert_eq!((sum.in_flight, sum.held), (6, 1));
        drop(one);
        until(&links, 4).await;
        two.up.send(demand(&[])).await.unwrap();
        until(&links, 0).await;
    }

    #[tokio::test]
    async fn the_newest_link_of_a_data_plane_speaks_for_it() {
        let links = links();
        let (old, new) = (link(&links), link(&links));
        old.up.send(named("one")).await.unwrap();
        old.up.send(demand(&[("Alias/a/q", 2, 0)])).await.unwrap();
        until(&links, 2).await;
        new.up.send(named("one")).await.unwrap();
        until(&links, 0).await;
        new.up.send(demand(&[("Alias/a/q", 0, 1)])).await.unwrap();
        until(&links, 1).await;
        drop(old);
        tokio::task::yield_now().await;
        assert_eq!(links.demands().borrow().len(), 1);
    }

    #[tokio::test]
    async fn a_link_that_does_not_name_itself_is_closed() {
        let links = links();
        let mut nameless = link(&links);
        nameless
            .up
            .send(demand(&[("Alias/a/q", 2, 0)]))
            .await
            .unwrap();
        assert!(nameless.down.recv().await.unwrap().is_err());
        assert!(links.demands().borrow().is_empty());
    }

    #[tokio::test]
    async fn what_is_held_is_known_while_the_link_lasts() {
        let links = links();
        let one = link(&links);
        one.up.send(named("one")).await.unwrap();
        let rejection = Rejection {
            kind: Kind::Upstream,
            name: "ApiModel/a/b".into(),
            version: Version(7),
            text: "no".into(),
        };
        let mut said = Report {
            tokens: Some(Revision::number(4)),
            denied: vec![Revision::number(6)],
            rejections: Some([rejection.clone()].into()),
            ..Report::default()
        };
        one.up.send(report(said.clone())).await.unwrap();
        planes(&links, |p| p.len() == 1).await;
        let applied = |revision| links.applied(Revision::number(revision))[0].1;
        assert_eq!([3, 4, 5, 6].map(applied), [true, true, false, true]);
        // Rejections that are not told again are still there.
        said.divergences = 1;
        said.rejections = None;
        one.up.send(report(said.clone())).await.unwrap();
        let known = planes(&links, |p| p[0].divergences == 1).await;
        assert_eq!(known[0].rejections, [rejection]);
        said.rejections = Some([].into());
        one.up.send(report(said)).await.unwrap();
        planes(&links, |p| p[0].rejections.is_empty()).await;
        drop(one);
        planes(&links, <[_]>::is_empty).await;
    }

    #[tokio::test]
    async fn links_end_when_another_controller_leads() {
        let leader = |controller: &str| {
            Some(Leader {
                controller: controller.into(),
                address: format!("{controller}:1138"),
                epoch: 1,
            })
        };
        let (lead, leading) = watch::channel(leader("me"));
        let links = links();
        let peers = super::super::Peers {
            leader: leading,
            client: None,
        };
        let mut one = link_while(&links, Standing::new("me".into(), Some(peers)));
        one.up.send(named("one")).await.unwrap();
        one.up.send(report(Report::default())).await.unwrap();
        planes(&links, |p| p.len() == 1).await;
        lead.send_replace(leader("other"));
        let told = one.down.recv().await.unwrap().unwrap_err();
        assert_eq!(told.message(), "other leads, at other:1138");
        planes(&links, <[_]>::is_empty).await;
    }
}
