//! What data planes tell of the requests that wait for local models, and of those that are at
//! workers. Demand lives as long as the stream that brought it: a data plane that is gone asks
//! for nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bodhi_proto::names::ObjectRef;
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::fleet_server::Fleet;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

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

/// What the links say, summed up.
pub(super) struct Links {
    inner: Mutex<Inner>,
    sum: watch::Sender<Arc<Demands>>,
}

#[derive(Default)]
struct Inner {
    /// By the data plane's name: the link that speaks for it, and what it said last.
    nodes: HashMap<String, (u64, Demands)>,
    next: u64,
}

impl Links {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::default(),
            sum: watch::channel(Arc::default()).0,
        }
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
        inner.nodes.insert(node.clone(), (id, Demands::new()));
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
        for (pool, demand) in inner.nodes.values().flat_map(|(_, demands)| demands) {
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

/// One data plane's link; its demand is forgotten when it is dropped.
struct OpenLink {
    links: Arc<Links>,
    node: String,
    id: u64,
}

impl OpenLink {
    fn demands(&self, demands: Demands) {
        let mut inner = self.links.lock();
        if let Some((id, current)) = inner.nodes.get_mut(&self.node)
            && *id == self.id
        {
            *current = demands;
        }
        self.links.tell(&inner);
    }
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        let mut inner = self.links.lock();
        if inner
            .nodes
            .get(&self.node)
            .is_some_and(|(id, _)| *id == self.id)
        {
            inner.nodes.remove(&self.node);
        }
        self.links.tell(&inner);
    }
}

pub(super) struct FleetService(pub(super) Arc<Links>);

#[tonic::async_trait]
impl Fleet for FleetService {
    type LinkStream = ReceiverStream<Result<pb::ToFleet, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<pb::FromFleet>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        // Nothing is sent down yet; the open end tells the data plane that it is heard.
        let (out, outbound) = mpsc::channel(1);
        tokio::spawn(run(Arc::clone(&self.0), request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

/// Runs until either side ends the stream.
async fn run(
    links: Arc<Links>,
    mut inbound: impl Stream<Item = Result<pb::FromFleet, Status>> + Unpin,
    out: mpsc::Sender<Result<pb::ToFleet, Status>>,
) {
    let mut link = None;
    loop {
        let message = tokio::select! {
            message = inbound.next() => message,
            () = out.closed() => return,
        };
        let Some(Ok(message)) = message else { return };
        match (message.message, &link) {
            (Some(pb::from_fleet::Message::Node(node)), None)
                if (1..=NODE_MAX).contains(&node.len()) =>
            {
                link = Some(links.open(node));
            }
            (Some(pb::from_fleet::Message::Demand(demand)), Some(link)) => {
                link.demands(read(demand));
            }
            // Of a later release.
            (None, _) => {}
            (Some(_), _) => {
                tracing::warn!(
                    "a data plane's link is closed: its first message must name it, once"
                );
                let status = Status::failed_precondition("the first message names the data plane");
                // It may be gone already.
                let _ = out.send(Err(status)).await;
                return;
            }
        }
    }
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
        let ((up, inbound), (out, down)) = (mpsc::channel(8), mpsc::channel(1));
        tokio::spawn(run(Arc::clone(links), ReceiverStream::new(inbound), out));
        Link { up, down }
    }

    async fn until(links: &Links, requests: u32) {
        let mut demands = links.demands();
        let sum = |demands: &Demands| demands.values().map(|d| d.requests()).sum::<u32>();
        demands.wait_for(|d| sum(d) == requests).await.unwrap();
    }

    #[tokio::test]
    async fn demand_is_summed_over_links_and_forgotten_with_them() {
        let links = Arc::new(Links::new());
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
        let links = Arc::new(Links::new());
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
        let links = Arc::new(Links::new());
        let mut nameless = link(&links);
        nameless
            .up
            .send(demand(&[("Alias/a/q", 2, 0)]))
            .await
            .unwrap();
        assert!(nameless.down.recv().await.unwrap().is_err());
        assert!(links.demands().borrow().is_empty());
    }
}
