//! Controllers that share an authority, and data planes that know them all.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bodhi_controller::sync::{
    Config, OwnersFuture, Peers, Publication, ResponseOwner, ResponseOwners, Server, Tokens,
};
use bodhi_dataplane::control::{self, Connect, Control, Controllers, Demand, PoolDemand};
use bodhi_net::identity::{self, Identity, PemFile, Role};
use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::provider::{Family, Format};
use bodhi_proto::snapshot::*;
use bodhi_proto::sync::{Leader, Revision, Source};
use bodhi_tests::authority::Authority;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Nothing here takes longer.
pub(crate) const SOON: Duration = Duration::from_secs(30);

struct NoOwners;

impl ResponseOwners for NoOwners {
    fn record(&self, _: String, _: ResponseOwner) -> OwnersFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn find(&self, _: String) -> OwnersFuture<'_, Option<ResponseOwner>> {
        Box::pin(async { Ok(None) })
    }
}

/// A controller behind an address of its own.
pub(crate) struct Member {
    pub(crate) server: Server,
    address: SocketAddr,
    leader: watch::Sender<Option<Leader>>,
    accepted: Arc<Mutex<Vec<Instant>>>,
    /// Server and the way to it; connections end with them.
    tasks: Vec<JoinHandle<()>>,
}

pub(crate) struct Several {
    pub(crate) controllers: Vec<Member>,
    folder: TempDir,
}

fn identity(folder: &Path, end: &str) -> Identity {
    let file = |name: &str, flag| PemFile {
        path: folder.join(name),
        flag,
    };
    Identity {
        certificate: file(&format!("{end}.crt"), "--cert"),
        key: file(&format!("{end}.key"), "--key"),
        authorities: file("ca", "--ca"),
    }
}

impl Member {
    async fn start(n: usize, folder: &Path) -> Self {
        let (leader, leads) = watch::channel(None);
        let client = identity::Client::load(identity(folder, "controller")).unwrap();
        let server = Server::one_of(
            Config {
                name: format!("controller-{n}"),
                owners: Arc::new(NoOwners),
            },
            Peers {
                leader: leads,
                client: Some(Arc::new(client)),
            },
        );
        let roles = &[Role::DataPlane, Role::Controller];
        let own = identity::Server::load(identity(folder, "controller"), roles).unwrap();
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = inner.local_addr().unwrap();
        let serving = server.clone();
        let served = tokio::spawn(async move {
            let ended = serving.serve_tls(inner, own, std::future::pending()).await;
            ended.unwrap();
        });
        // In front of it, so that every connection can be cut at once, as when a machine dies.
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = front.local_addr().unwrap();
        let accepted = Arc::<Mutex<Vec<Instant>>>::default();
        let times = Arc::clone(&accepted);
        let forward = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = front.accept().await {
                times.lock().unwrap().push(Instant::now());
                open.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(behind).await {
                        // Either end went: that is how it ends.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self {
            server,
            address,
            leader,
            accepted,
            tasks: vec![forward, served],
        }
    }

    /// This controller alone says so.
    pub(crate) fn announce(&self, leader: Leader) {
        self.leader.send_replace(Some(leader));
    }

    /// When connections came.
    pub(crate) fn accepted(&self) -> Vec<Instant> {
        self.accepted.lock().unwrap().clone()
    }
}

impl Several {
    pub(crate) async fn start(count: usize) -> Self {
        let (folder, ours) = (
            tempfile::tempdir().unwrap(),
            Authority::new("ours").unwrap(),
        );
        let controller = ours.issue(&["bodhi:controller"]).unwrap();
        controller.write(folder.path(), "controller").unwrap();
        let plane = ours.issue(&["bodhi:dataplane"]).unwrap();
        plane.write(folder.path(), "plane").unwrap();
        std::fs::write(folder.path().join("ca"), &ours.pem).unwrap();
        let mut controllers = Vec::new();
        for n in 0..count {
            controllers.push(Member::start(n, folder.path()).await);
        }
        Self {
            controllers,
            folder,
        }
    }

    pub(crate) fn publish(&self, publication: &Publication) {
        for member in &self.controllers {
            member.server.publish(publication.clone());
        }
    }

    pub(crate) fn leader(&self, n: usize, epoch: u64) -> Leader {
        Leader {
            controller: format!("controller-{n}"),
            address: self.controllers[n].address.to_string(),
            epoch,
        }
    }

    /// All of them hear that this one leads.
    pub(crate) fn lead(&self, n: usize, epoch: u64) {
        for member in &self.controllers {
            member.announce(self.leader(n, epoch));
        }
    }

    /// Cuts every connection and accepts none.
    pub(crate) async fn kill(&mut self, n: usize) {
        for task in self.controllers[n].tasks.drain(..) {
            task.abort();
            // It was cancelled: that is the error.
            let _ = task.await;
        }
    }

    /// The way of a data plane that knows these.
    pub(crate) fn connect(&self, known: &[usize]) -> Connect {
        let client = identity::Client::load(identity(self.folder.path(), "plane")).unwrap();
        let places = known.iter().map(|n| {
            let address = self.controllers[*n].address;
            (address.ip().to_string(), address.port())
        });
        let controllers = Controllers::new(Arc::new(client), places.collect());
        Connect::Tls(Arc::new(controllers.unwrap()))
    }

    /// Waits until the data plane is with this one.
    pub(crate) async fn connected(&self, control: &Control, n: usize) {
        let name = format!("controller-{n}");
        let mut status = control.status();
        let there = status.wait_for(|s| s.controller.as_deref() == Some(&*name));
        let there = timeout(SOON, there).await;
        assert!(
            there.is_ok(),
            "not with {name}: {:?}",
            control.status().borrow()
        );
    }

    /// Waits until this one knows what the data plane holds.
    pub(crate) async fn holds(&self, n: usize, node: &str) {
        self.knows(n, node, true).await;
    }

    /// Waits until this one knows nothing of it.
    pub(crate) async fn lets_go(&self, n: usize, node: &str) {
        self.knows(n, node, false).await;
    }

    async fn knows(&self, n: usize, node: &str, expected: bool) {
        let server = &self.controllers[n].server;
        let mut changed = server.acks_changed();
        let contains = || {
            let planes = server.acks().planes;
            let plane = planes.iter().find(|plane| plane.node == node);
            plane.is_some_and(|p| p.mark.at(Source::Objects).is_some())
        };
        let waited = timeout(SOON, async {
            while contains() != expected {
                changed.changed().await.unwrap();
            }
        });
        assert!(
            waited.await.is_ok(),
            "controller-{n} and {node}: {:?}",
            server.acks()
        );
    }
}

pub(crate) fn plane(node: &str, connect: Connect) -> Control {
    let config = control::Config {
        node: node.to_owned(),
        connect,
        disk: None,
    };
    Control::start(config, &Handle::current()).unwrap()
}

struct NoDemand(Arc<Notify>);

impl Demand for NoDemand {
    fn now(&self) -> Vec<PoolDemand> {
        Vec::new()
    }

    fn rises(&self) -> Arc<Notify> {
        Arc::clone(&self.0)
    }
}

/// Of a data plane that nobody asks for anything.
pub(crate) fn no_demand() -> Arc<dyn Demand> {
    Arc::new(NoDemand(Arc::default()))
}

/// The first snapshot that fits.
pub(crate) async fn snapshot(control: &Control, fits: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshots = control.snapshots();
    let found = snapshots.wait_for(|s| s.as_ref().is_some_and(|s| fits(s)));
    let found = timeout(SOON, found).await.expect("it comes soon").unwrap();
    found.clone().unwrap()
}

pub(crate) fn serves(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.table.find(Family::General, name).is_some()
}

pub(crate) fn knows(snapshot: &Snapshot, id: &str) -> bool {
    let table = snapshot.tokens.as_ref();
    table.is_some_and(|t| t.get(&TokenHash::of(id.as_bytes())).is_some())
}

/// `m0`, `m1` and so on.
pub(crate) fn names(count: u64) -> Vec<String> {
    (0..count).map(|n| format!("m{n}")).collect()
}

pub(crate) fn served(name: &str) -> Arc<ServedName> {
    Arc::new(ServedName {
        key: ServedKey::parse(&format!("general/exact/{name}")).unwrap(),
        owner: ObjectRef::alias("bodhi", "alias"),
        created: 1,
        visibility: Visibility::Public,
        serving: Serving::Routes(vec![Route {
            upstream: ObjectRef::api_model("bodhi", "openai"),
            model: RouteModel::AsAsked,
            exposed: None,
            weight: NonZeroU32::MIN,
            priority: 0,
        }]),
        max_output_tokens: None,
        defaults: None,
    })
}

fn upstream(name: &str) -> Arc<Upstream> {
    Arc::new(Upstream {
        object: ObjectRef::api_model("bodhi", name),
        format: Format::OpenAi,
        base_url: BaseUrl::parse("https://api.example.com/v1").unwrap(),
        auth: Auth::None,
        features: Features::ALL,
        output_limit_field: OutputLimitField::MaxTokens,
        extra_headers: Vec::new(),
        extra_body: None,
        timeouts: Timeouts::default(),
        attempts: NonZeroU32::MIN,
        max_in_flight: NonZeroU32::new(500).unwrap(),
        roots: Roots::System,
        egress: EgressScope::Standalone,
    })
}

fn token(id: &str) -> Arc<Token> {
    Arc::new(Token {
        id: TokenId::parse(id).unwrap(),
        hash: TokenHash::of(id.as_bytes()),
        owner: "ann".into(),
        scope: Scope::User,
        expires: None,
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    })
}

/// Everything once: these names, and tokens `a` and `b`.
pub(crate) fn everything(names: &[&str]) -> Publication {
    Publication {
        upstreams: Some(vec![upstream("openai")]),
        served_names: Some(names.iter().map(|n| served(n)).collect()),
        credentials: Some(Vec::new()),
        policy: Some(Arc::default()),
        tokens: Tokens::All(vec![token("a"), token("b")]),
        marks: vec![
            (Source::Objects, Revision::number(1)),
            (Source::Store, Revision::number(10)),
            (Source::Workers, Revision::number(1)),
        ],
        pools: Some(Vec::new()),
        endpoints: Some(Vec::new()),
        reread: false,
    }
}
