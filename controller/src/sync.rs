//! The controller's side of the sync protocol: what is published here reaches every
//! data plane, and what they say about it can be read here.
//!
//! [`Server::publish`] takes whole compiled sets and the tokens' changes, finds what differs
//! and marks it for every stream. A stream is one task that drives an
//! [`Offer`](bodhi_proto::sync::Offer), the machine that decides what to send when. Nothing
//! here waits for a data plane.
//!
//! Of several controllers each offers what it has compiled, and tells data planes who leads. What
//! data planes hold is known to the leader, whichever controller they have it from.

mod acks;
mod callers;
mod guard;
mod hub;
mod identity;
mod link;
mod owners;
mod peers;
mod serve;
mod services;
mod session;

pub use acks::{Acks, Applied, Plane};
pub use guard::Held;
pub use link::{Demand, Demands};
pub use owners::{OwnersError, OwnersFuture, ResponseOwner, ResponseOwners, StoreOwners};
pub use peers::Peers;
pub use serve::{Connector, ServeError};

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::TokenId;
use bodhi_proto::snapshot::{
    Credential, Policy, Pool, ServedName, Token, Upstream, WorkerEndpoint,
};
use bodhi_proto::sync::{Deny, Mark, Revision, Source};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::authority::Seller;

use self::hub::Hub;
use self::link::Links;
use self::peers::Standing;

/// What a server needs to know of its surroundings.
pub struct Config {
    /// This controller's name, for data planes' logs.
    pub name: String,
    /// Where response owners are kept.
    pub owners: Arc<dyn ResponseOwners>,
}

/// One change of what is offered; all of it reaches a data plane at once.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// All upstreams there are; `None`: as they were.
    pub upstreams: Option<Vec<Arc<Upstream>>>,
    /// All claimed names there are.
    pub served_names: Option<Vec<Arc<ServedName>>>,
    /// All keys there are.
    pub credentials: Option<Vec<Arc<Credential>>>,
    /// All local models there are.
    pub pools: Option<Vec<Arc<Pool>>>,
    /// All workers that are ready.
    pub endpoints: Option<Vec<Arc<WorkerEndpoint>>>,
    /// The gateway's rules. Needed once before any data plane becomes ready.
    pub policy: Option<Arc<Policy>>,
    /// Tokens.
    pub tokens: Tokens,
    /// Whether the sets were read again because they had been doubted ([`Published::held`]).
    pub reread: bool,
    /// How far each source is contained once this is published. A kind is offered only when
    /// each of its sources was named once: objects for upstreams and names, the store for
    /// tokens, both for credentials; workers for endpoints, objects and workers for pools.
    pub marks: Vec<(Source, Revision)>,
}

/// What became of the tokens.
#[derive(Debug, Clone, Default)]
pub enum Tokens {
    /// Nothing.
    #[default]
    Unchanged,
    /// These are all there are.
    All(Vec<Arc<Token>>),
    /// These were created or changed, those revoked. A revocation goes out at once,
    /// before everything else.
    Changed {
        /// New and changed ones.
        upserts: Vec<Arc<Token>>,
        /// Each with the `change_seq` that took it away.
        removals: Vec<(TokenId, Revision)>,
    },
}

/// What [`Server::publish`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// How many resources were added, changed or removed.
    pub changed: usize,
    /// Which edition of what is compiled from objects this is: grows with each change of it.
    pub edition: u64,
    /// Sets that shrank so much that their removals wait: list the source again and publish
    /// what it says then, with `reread`. Marks of this publication were not taken.
    pub held: Vec<Held>,
}

/// The sync server. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Server {
    hub: Arc<Hub>,
    links: Arc<Links>,
    standing: Arc<Standing>,
    owners: Arc<dyn ResponseOwners>,
    seller: Option<Arc<Seller>>,
}

impl Server {
    /// A server that offers nothing yet, of a controller that is alone.
    pub fn new(config: Config) -> Self {
        Self::with(config, None)
    }

    /// The same of a controller among others. Needs a tokio runtime, on which data planes are told
    /// of leaders.
    pub fn one_of(config: Config, peers: Peers) -> Self {
        let mut leader = peers.leader.clone();
        let server = Self::with(config, Some(peers));
        leader.mark_changed();
        let hub = Arc::clone(&server.hub);
        tokio::spawn(async move {
            while leader.changed().await.is_ok() {
                let now = leader.borrow_and_update().clone();
                // One that has let go is replaced soon: until then the old word stands.
                if let Some(now) = now {
                    hub.announce(&now);
                }
            }
        });
        server
    }

    fn with(config: Config, peers: Option<Peers>) -> Self {
        let acks = watch::channel(0).0;
        Self {
            hub: Arc::new(Hub::new(config.name.clone(), acks.clone())),
            links: Arc::new(Links::new(acks)),
            standing: Arc::new(Standing::new(config.name, peers)),
            owners: config.owners,
            seller: None,
        }
    }

    /// The same, which also sells certificates (`Identity.SignCertificate`), to whoever connects.
    pub fn selling(self, seller: Arc<Seller>) -> Self {
        Self {
            seller: Some(seller),
            ..self
        }
    }

    /// Offers a new state to every data plane, connected or not. Cheap when nothing differs.
    pub fn publish(&self, publication: Publication) -> Published {
        self.hub.publish(publication)
    }

    /// Denies a token on every connected data plane at once, ahead of the publication that
    /// leaves it out.
    pub fn deny(&self, token: TokenId, revision: Revision) {
        self.hub.deny(&Deny { token, revision });
    }

    /// How far each source is contained in what is offered.
    pub fn mark(&self) -> Mark {
        self.hub.mark()
    }

    /// What data planes hold and reject: those that are connected here, and while this controller
    /// leads all others too.
    pub fn acks(&self) -> Acks {
        let linked = self.links.planes(&self.hub.objects());
        Acks::of(self.hub.planes(), linked)
    }

    /// Until when it is too early to say that a data plane is missing, if it is: a controller that
    /// has just begun to lead does not know those yet that are connected to others.
    pub fn settles_at(&self) -> Option<Instant> {
        self.standing.settles_at(Instant::now())
    }

    /// Wakes whenever [`Server::acks`] may have changed. The value means nothing.
    pub fn acks_changed(&self) -> watch::Receiver<u64> {
        self.hub.acks_changed()
    }

    /// What local models are asked, as data planes tell the leader; to others nothing is told.
    pub fn demands(&self) -> watch::Receiver<Arc<Demands>> {
        self.links.demands()
    }

    /// Which of the data planes that are known here refuse the token that was revoked at `revision`.
    pub fn applied(&self, revision: Revision) -> Applied {
        let (here, linked) = (self.hub.applied(revision), self.links.applied(revision));
        Applied::of(here.into_iter().chain(linked))
    }

    /// As [`Server::applied`], once all have or `most` has passed, and over all data planes: where
    /// another controller leads, it is asked as well.
    pub async fn wait_applied(&self, revision: Revision, most: Duration) -> Applied {
        let here = self.known_applied(revision, most);
        let there = self.standing.ask_leader(revision, most);
        match tokio::join!(here, there) {
            (here, Some(there)) => here.and(there),
            (here, None) => here,
        }
    }

    async fn known_applied(&self, revision: Revision, most: Duration) -> Applied {
        let mut changed = self.acks_changed();
        let all = async {
            while !self.applied(revision).pending.is_empty() {
                if changed.changed().await.is_err() {
                    break;
                }
            }
        };
        // Late or not, the answer is what holds now.
        let _ = tokio::time::timeout(most, all).await;
        self.applied(revision)
    }

    /// Says goodbye on every stream and closes it. To be called before the listeners stop.
    pub fn goodbye(&self, reason: &str) {
        self.hub.goodbye(reason);
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sync::Server({})", self.hub.mark())
    }
}
