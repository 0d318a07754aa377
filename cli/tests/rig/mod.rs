//! One local model without a controller behind it: a real data plane, real worker processes with
//! the fake engine, and a test that says when which of them is served.

use std::fs::{rename, write};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bodhi_controller::sync::{
    Config, OwnersFuture, Publication, ResponseOwner, ResponseOwners, Server, Tokens,
};
use bodhi_dataplane::admission::memory;
use bodhi_dataplane::app::DataPlane;
use bodhi_dataplane::config::{self, AccessLogTo};
use bodhi_dataplane::control::{self, Connect, Controllers};
use bodhi_net::drain::{self, Drain, Times};
use bodhi_net::identity::{self, Identity, PemFile, Role};
use bodhi_net::places::Places;
use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::provider::Format;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::*;
use bodhi_proto::sync::{Revision, Source};
use bodhi_tests::authority::{Authority, Issued};
use bodhi_tests::gateway::PROMPT;
use bodhi_tests::process::{Process, binary, eventually};
use bodhi_tests::scripted::{self, Scripted};
use bodhi_tests::wire::{self, Response, Wire};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The served name.
pub(crate) const MODEL: &str = "local";
const TOKEN: &str = "token-of-the-rig";
const CHAT: &str = "/v1/chat/completions";
/// What the data plane believes that it may use, in bytes.
const MEMORY: u64 = 1 << 30;

/// A data plane that serves one local model.
pub(crate) struct Rig {
    // First, so that the programs end before their folder goes.
    workers: Mutex<u32>,
    server: Server,
    revision: Mutex<u64>,
    address: SocketAddr,
    admin: SocketAddr,
    _drain: Drain,
    _runtime: Runtime,
    folder: TempDir,
}

/// A worker process.
pub(crate) struct Worker {
    pub(crate) process: Process,
    endpoint: Arc<WorkerEndpoint>,
    admin: SocketAddr,
}

/// Nobody asks for responses here.
struct NoOwners;

impl ResponseOwners for NoOwners {
    fn record(&self, _: String, _: ResponseOwner) -> OwnersFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn find(&self, _: String) -> OwnersFuture<'_, Option<ResponseOwner>> {
        Box::pin(async { Ok(None) })
    }
}

fn alias() -> ObjectRef {
    ObjectRef::alias("bodhi", MODEL)
}

/// A pool that waits for workers as long and with as many requests as it may by default.
pub(crate) fn pool(state: PoolState) -> Pool {
    Pool {
        object: alias(),
        features: LocalFeatures {
            chat: true,
            completions: true,
            ..LocalFeatures::default()
        },
        balancing: Balancing::LeastLoad,
        hold_timeout: Duration::from_secs(300),
        max_held: 64,
        system_prompt: None,
        state,
    }
}

/// The served name, led to this object.
fn served(to: ObjectRef) -> ServedName {
    ServedName {
        key: ServedKey::parse(&format!("general/exact/{MODEL}")).expect("a name"),
        owner: alias(),
        created: 1,
        visibility: Visibility::Public,
        serving: Serving::Routes(vec![Route {
            upstream: to,
            model: RouteModel::AsAsked,
            exposed: None,
            weight: NonZeroU32::MIN,
            priority: 0,
        }]),
        max_output_tokens: None,
        defaults: None,
    }
}

/// The one token of the rig.
pub(crate) fn token() -> Token {
    Token {
        id: TokenId::parse("rig").expect("an id"),
        hash: TokenHash::of(TOKEN.as_bytes()),
        owner: "ann".into(),
        scope: Scope::User,
        expires: None,
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    }
}

fn files(folder: &Path, end: &str) -> Identity {
    let file = |name: String, flag| PemFile {
        path: folder.join(name),
        flag,
    };
    Identity {
        certificate: file(format!("{end}.crt"), "--cert"),
        key: file(format!("{end}.key"), "--key"),
        authorities: file("ca".to_owned(), "--ca"),
    }
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

impl Rig {
    /// Starts the data plane with this pool and no worker.
    pub(crate) fn start(pool: Pool) -> anyhow::Result<Self> {
        Self::connected(pool, |server, _| {
            Ok(Connect::InProcess(server.in_process()))
        })
    }

    /// The same with a controller on another machine, as it were: all ends have certificates of this
    /// authority.
    pub(crate) fn over_tls(pool: Pool, ours: &Authority) -> anyhow::Result<Self> {
        Self::connected(pool, |server, folder| {
            ours.issue(&["bodhi:controller"])?
                .write(folder, "controller")?;
            ours.issue(&["bodhi:dataplane"])?.write(folder, "plane")?;
            std::fs::write(folder.join("ca"), &ours.pem)?;
            let own = identity::Server::load(files(folder, "controller"), &[Role::DataPlane])?;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let server = server.clone();
            tokio::spawn(async move {
                server
                    .serve_tls(listener, own, std::future::pending())
                    .await
            });
            let client = identity::Client::load(files(folder, "plane"))?;
            let place = ("127.0.0.1".to_owned(), port);
            Ok(Connect::Tls(Arc::new(Controllers::new(
                Arc::new(client),
                Places::from_iter([place]),
            )?)))
        })
    }

    fn connected(
        pool: Pool,
        connect: impl FnOnce(&Server, &Path) -> anyhow::Result<Connect>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        write(folder.path().join("memory.max"), MEMORY.to_string())?;
        write(folder.path().join("memory.stat"), "")?;
        write(folder.path().join("memory.current"), "0")?;
        let runtime = Runtime::new()?;
        let entered = runtime.enter();
        let server = Server::new(Config {
            name: "rig".to_owned(),
            owners: Arc::new(NoOwners),
        });
        let config = config::Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            threads: 2,
            limits: bodhi_dataplane::proxy::Limits::default(),
            body_memory: 256 << 20,
            memory: memory::Source::CgroupV2(folder.path().to_owned()),
            access_log: AccessLogTo::Off,
            tls: None,
            drain: Times::default(),
            anonymous: false,
        };
        let link = control::Config {
            node: "plane-0".to_owned(),
            connect: connect(&server, folder.path())?,
            disk: None,
        };
        let (drain, signal) = drain::channel();
        let plane = runtime.block_on(DataPlane::start(&config, link, None))?;
        let (address, admin) = (plane.address(), plane.admin_address()?);
        runtime.spawn(plane.serve(signal));
        drop(entered);
        let rig = Self {
            workers: Mutex::new(0),
            server,
            revision: Mutex::new(0),
            address,
            admin,
            _drain: drain,
            _runtime: runtime,
            folder,
        };
        rig.publish(Publication {
            upstreams: Some(Vec::new()),
            served_names: Some(vec![Arc::new(served(alias()))]),
            credentials: Some(Vec::new()),
            policy: Some(Arc::default()),
            tokens: Tokens::All(vec![Arc::new(token())]),
            pools: Some(vec![Arc::new(pool)]),
            endpoints: Some(Vec::new()),
            marks: vec![
                (Source::Objects, Revision::number(1)),
                (Source::Store, Revision::number(1)),
            ],
            reread: false,
        })?;
        Ok(rig)
    }

    /// Starts a worker, which nobody calls until it is [served](Rig::serve), and waits until it
    /// is ready.
    pub(crate) fn worker(&self, arguments: &[&str]) -> anyhow::Result<Worker> {
        let id = self.next_worker();
        let socket = self.folder.path().join(format!("{}.sock", id.worker));
        let listen = format!("unix:{}", socket.display());
        self.start_worker(id, &listen, arguments)
    }

    /// The same on a TCP address, with the certificate that this makes for it.
    pub(crate) fn tls_worker(
        &self,
        certificate: impl FnOnce(&WorkerId) -> anyhow::Result<Issued>,
        arguments: &[&str],
    ) -> anyhow::Result<Worker> {
        let id = self.next_worker();
        let (folder, name) = (self.folder.path(), format!("worker-{}", id.worker));
        certificate(&id)?.write(folder, &name)?;
        let path = |ending| format!("{}/{name}.{ending}", folder.display());
        let ca = folder.join("ca").display().to_string();
        let (certificate, key) = (path("crt"), path("key"));
        let own = [
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
            "--tls-ca",
            &ca,
        ];
        let arguments = [&own, arguments].concat();
        self.start_worker(id, &free_port()?.to_string(), &arguments)
    }

    fn next_worker(&self) -> WorkerId {
        let mut number = self.workers.lock().expect("no test panicked");
        *number += 1;
        WorkerId {
            pool: alias(),
            worker: number.to_string().into(),
        }
    }

    fn start_worker(
        &self,
        id: WorkerId,
        listen: &str,
        arguments: &[&str],
    ) -> anyhow::Result<Worker> {
        let admin = free_port()?;
        let mut command = Command::new(binary("fake-worker")?);
        command
            .args(["--model", "fake", "--exit-with-parent"])
            .args(["--admin-listen", &admin.to_string()])
            .args(["--listen", listen])
            .args(arguments);
        let mut process = Process::start("fake-worker", command)?;
        process.keep_secret(PROMPT);
        let ready = wire::request("GET", "/readyz", &[], b"");
        eventually("a worker to be ready", || {
            wire::call(admin, &ready).ok().filter(|a| a.status == 200)
        })
        .with_context(|| process.printed())?;
        let slots = arguments.iter().skip_while(|a| **a != "--parallel-slots");
        let slots = slots.skip(1).find_map(|n| n.parse().ok()).unwrap_or(4);
        let address = WorkerAddress::parse(listen).context("no address of a worker")?;
        Ok(Worker {
            process,
            endpoint: Arc::new(WorkerEndpoint { id, address, slots }),
            admin,
        })
    }

    /// Where the files of [`Rig::over_tls`] lie: `plane.crt`, `worker-1.key` and so on.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// From now on these workers are called, and no others.
    pub(crate) fn serve<'a>(
        &self,
        workers: impl IntoIterator<Item = &'a Worker>,
    ) -> anyhow::Result<()> {
        let workers = workers.into_iter().map(|w| Arc::clone(&w.endpoint));
        self.publish(Publication {
            endpoints: Some(workers.collect()),
            ..Publication::default()
        })
    }

    /// From now on the name leads to another object's pool, which has this worker.
    pub(crate) fn move_to(&self, name: &str, worker: &Worker) -> anyhow::Result<()> {
        let object = ObjectRef::alias("bodhi", name);
        let endpoint = WorkerEndpoint {
            id: WorkerId {
                pool: object.clone(),
                worker: Arc::clone(&worker.endpoint.id.worker),
            },
            ..WorkerEndpoint::clone(&worker.endpoint)
        };
        let pool = Pool {
            object: object.clone(),
            ..pool(PoolState::Ready)
        };
        self.publish(Publication {
            served_names: Some(vec![Arc::new(served(object))]),
            pools: Some(vec![Arc::new(pool)]),
            endpoints: Some(vec![Arc::new(endpoint)]),
            ..Publication::default()
        })
    }

    /// From now on the name leads to this provider.
    pub(crate) fn move_to_provider(&self, provider: &Scripted) -> anyhow::Result<()> {
        let object = ObjectRef::api_model("bodhi", "provider");
        let upstream = Upstream {
            object: object.clone(),
            format: Format::OpenAi,
            base_url: BaseUrl::parse(&format!("{}/openai/v1", provider.url()))?,
            auth: Auth::Credential,
            features: Features::ALL,
            output_limit_field: OutputLimitField::MaxTokens,
            extra_headers: Vec::new(),
            extra_body: None,
            timeouts: Timeouts::default(),
            attempts: NonZeroU32::MIN,
            max_in_flight: NonZeroU32::MAX,
            roots: Roots::System,
            egress: EgressScope::Standalone,
        };
        let credential = Credential {
            object: object.clone(),
            secret: Secret::new(scripted::KEY),
            allowed_origins: AllowedOrigins::Any,
        };
        self.publish(Publication {
            upstreams: Some(vec![Arc::new(upstream)]),
            credentials: Some(vec![Arc::new(credential)]),
            served_names: Some(vec![Arc::new(served(object))]),
            pools: Some(Vec::new()),
            endpoints: Some(Vec::new()),
            ..Publication::default()
        })
    }

    /// From now on these are all tokens.
    pub(crate) fn tokens(&self, tokens: Vec<Token>) -> anyhow::Result<()> {
        self.publish(Publication {
            tokens: Tokens::All(tokens.into_iter().map(Arc::new).collect()),
            ..Publication::default()
        })
    }

    /// From now on the data plane believes that it uses this part of its memory.
    pub(crate) fn uses(&self, percent: u64) -> anyhow::Result<()> {
        let used = MEMORY / 100 * percent;
        // Whole at every moment, as the kernel's own.
        let new = self.folder.path().join("memory.new");
        write(&new, used.to_string())?;
        Ok(rename(new, self.folder.path().join("memory.current"))?)
    }

    /// How far the data plane is, as `x-bodhi-mark` says it.
    pub(crate) fn mark(&self) -> String {
        let revision = self.revision.lock().expect("no test panicked");
        format!("workers={revision}")
    }

    /// Publishes and waits until the data plane has it.
    fn publish(&self, mut publication: Publication) -> anyhow::Result<()> {
        let mut revision = self.revision.lock().expect("no test panicked");
        *revision += 1;
        let now = Revision::number(*revision);
        publication.marks.push((Source::Workers, now));
        self.server.publish(publication);
        eventually("the data plane to follow", || {
            (self.server.acks().containing(Source::Workers, now) > 0).then_some(())
        })
    }

    /// The bytes of a chat request that the fake engine answers with `script`.
    pub(crate) fn request(&self, script: &str, stream: bool) -> Vec<u8> {
        self.chat(json!({
            "model": MODEL,
            "stream": stream,
            "messages": [{"role": "user", "content": format!("{PROMPT} {script}")}],
        }))
    }

    fn chat(&self, body: Value) -> Vec<u8> {
        let headers = [
            ("authorization", "Bearer token-of-the-rig"),
            ("content-type", "application/json"),
        ];
        wire::request("POST", CHAT, &headers, body.to_string().as_bytes())
    }

    /// A connection on which nothing was sent.
    pub(crate) fn connect(&self) -> anyhow::Result<Wire> {
        Wire::connect(self.address)
    }

    /// Asks which models there are, which no worker is needed for.
    pub(crate) fn list(&self) -> anyhow::Result<Response> {
        let headers = [("authorization", "Bearer token-of-the-rig")];
        wire::call(
            self.address,
            &wire::request("GET", "/v1/models", &headers, b""),
        )
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(&self, script: &str, stream: bool) -> anyhow::Result<Response> {
        wire::call(self.address, &self.request(script, stream))
    }

    /// Asks without waiting for the answer.
    pub(crate) fn send(&self, script: &str, stream: bool) -> anyhow::Result<Wire> {
        let mut wire = self.connect()?;
        wire.send(&self.request(script, stream))?;
        Ok(wire)
    }

    /// Requests at workers, and requests that wait for one.
    pub(crate) fn demand(&self) -> anyhow::Result<(u64, u64)> {
        let count = |state| {
            let name = format!("bodhi_pool_requests{{alias=\"bodhi/{MODEL}\",state=\"{state}\"}}");
            metric(self.admin, &name)
        };
        Ok((count("running")?, count("held")?))
    }

    /// Waits for that demand.
    pub(crate) fn demands(&self, running: u64, held: u64) -> anyhow::Result<()> {
        eventually(&format!("{running} running and {held} held"), || {
            let now = self.demand().ok()?;
            (now == (running, held)).then_some(())
        })
        .with_context(|| format!("in the end: {:?}", self.demand()))
    }
}

impl Worker {
    /// Its name in configurations.
    pub(crate) fn id(&self) -> &WorkerId {
        &self.endpoint.id
    }

    /// From the next [`Rig::serve`] on it goes by this name.
    pub(crate) fn rename(&mut self, worker: &str) {
        self.endpoint = Arc::new(WorkerEndpoint {
            id: WorkerId {
                worker: worker.into(),
                ..self.endpoint.id.clone()
            },
            ..WorkerEndpoint::clone(&self.endpoint)
        });
    }

    /// Requests in slots, and requests that wait for one.
    pub(crate) fn load(&self) -> anyhow::Result<(u64, u64)> {
        let busy = metric(self.admin, "bodhi_worker_slots_busy")?;
        Ok((busy, metric(self.admin, "bodhi_worker_queued_requests")?))
    }

    /// Waits for that load.
    pub(crate) fn has(&self, busy: u64, queued: u64) -> anyhow::Result<()> {
        eventually(&format!("{busy} slots in use and {queued} queued"), || {
            (self.load().ok()? == (busy, queued)).then_some(())
        })
        .with_context(|| format!("in the end: {:?}", self.load()))
    }
}

/// A number that `/metrics` shows.
fn metric(admin: SocketAddr, name: &str) -> anyhow::Result<u64> {
    let page = wire::call(admin, &wire::request("GET", "/metrics", &[], b""))?;
    ensure!(page.status == 200, "/metrics answered {}", page.status);
    let text = page.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.with_context(|| format!("no {name} in:\n{text}"))?;
    Ok(number.trim().parse()?)
}
