//! The data plane put together: the only place that constructs its rooms and connects them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use arc_swap::ArcSwapOption;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use bodhi_net::drain::Signal;
use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::snapshot::{Scope, Snapshot, Token, TokenHash, TokenLimits};

use crate::active::Active;
use crate::admin::{Admin, ControlState};
use crate::admission::memory::{self, Budget, Gauge};
use crate::anonymous::Anonymous;
use crate::config::{AccessLogTo, Config};
use crate::control::{self, Control, Demand, PoolDemand};
use crate::fallback::Fallback;
use crate::proxy::{ActiveSlot, Owners, Proxy, Shared};
use crate::serve::{self, Listener};
use crate::telemetry::{AccessLog, Metrics};
use crate::upstream;
use crate::workers::Pool;

/// A data plane that is bound and holds what its file had, but serves nothing yet.
pub struct DataPlane {
    listener: Listener,
    admin: TcpListener,
    shared: Arc<Shared>,
    control: Control,
    reports: JoinHandle<()>,
    gauge: Arc<Gauge>,
}

impl DataPlane {
    /// Binds the addresses and starts the control stream on this runtime.
    ///
    /// # Errors
    /// An address, a certificate or the data folder cannot be used; the text says which.
    pub async fn start(
        config: &Config,
        link: control::Config,
        fallback: Option<Fallback>,
    ) -> anyhow::Result<Self> {
        let listener = serve::bind(serve::Config {
            listen: config.listen,
            tls: config.tls.clone(),
            threads: NonZeroUsize::new(config.threads).unwrap_or(NonZeroUsize::MIN),
            limits: serve::Limits::default(),
        })?;
        let admin = TcpListener::bind(config.admin_listen)
            .await
            .with_context(|| format!("cannot listen on {} (admin)", config.admin_listen))?;
        let runtime = Handle::current();
        let identity = link.connect.identity();
        let control = Control::start(link, &runtime)?;
        let gauge = Arc::<Gauge>::default();
        let shared = Arc::new(Shared {
            active: ActiveSlot::new(ArcSwapOption::empty()),
            limits: config.limits.clone(),
            upstreams: upstream::Shared::default(),
            memory: Budget::new(config.body_memory),
            gauge: Arc::clone(&gauge),
            owners: Owners::new(Arc::new(control.owners()), runtime),
            metrics: Arc::new(Metrics::default()),
            log: match config.access_log {
                AccessLogTo::Stdout => AccessLog::start(std::io::stdout()),
                AccessLogTo::Off => AccessLog::off(),
            },
            anonymous: config.anonymous.then(anonymous),
            fallback,
            changed: Notify::new(),
            demand: Arc::default(),
            identity,
        });
        // What the file held is served from the first moment on.
        let mut snapshots = control.snapshots();
        let first = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = first {
            shared
                .active
                .store(Some(Arc::new(Active::new(snapshot, None, &shared.demand))));
        }
        tokio::spawn(follow(snapshots, Arc::clone(&shared)));
        let reports = control.report(Arc::new(PoolsDemand(Arc::clone(&shared))));
        let budget = Arc::clone(&shared.memory);
        tokio::spawn(memory::watch(
            Arc::clone(&gauge),
            budget,
            config.memory.clone(),
        ));
        Ok(Self {
            listener,
            admin,
            shared,
            control,
            reports,
            gauge,
        })
    }

    /// The public API's address; the port is known even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// The admin port's address.
    pub fn admin_address(&self) -> std::io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Resolves once there is a configuration to serve from.
    pub fn ready(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut snapshots = self.control.snapshots();
        async move {
            // The control task lives as long as the data plane; its end is the process's.
            let _ = snapshots.wait_for(Option::is_some).await;
        }
    }

    /// Serves until the shutdown that `drain` announces is over.
    ///
    /// # Errors
    /// A serving thread cannot be started.
    pub async fn serve(self, drain: Signal) -> anyhow::Result<()> {
        let admin = Admin {
            shared: Arc::clone(&self.shared),
            drain: drain.clone(),
            control: Arc::new(Stream(self.control.status())),
        };
        let admin = tokio::spawn(admin.serve(self.admin));
        let (shared, signal) = (self.shared, drain.clone());
        let served = self.listener.serve(drain, self.gauge, move |_| {
            Rc::new(Proxy::new(
                Arc::clone(&shared),
                signal.clone(),
                rand::random(),
            ))
        });
        served
            .await
            .context("a serving thread could not be started")?;
        admin.abort();
        self.reports.abort();
        self.control.stop().await;
        Ok(())
    }
}

/// Prepares each snapshot and swaps it in. The one before is dropped here, on the control
/// runtime, once no request holds it any more.
async fn follow(mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>, shared: Arc<Shared>) {
    let slot = &shared.active;
    let mut retired: Vec<Arc<Active>> = Vec::new();
    while snapshots.changed().await.is_ok() {
        let Some(snapshot) = snapshots.borrow_and_update().clone() else {
            continue;
        };
        let before = slot.load_full();
        let active = Arc::new(Active::new(snapshot, before.as_deref(), &shared.demand));
        slot.store(Some(Arc::clone(&active)));
        active.settle();
        shared.changed.notify_waiters();
        retired.extend(before);
        retired.retain(|active| Arc::strong_count(active) > 1);
    }
}

/// The demand of every pool, whichever configuration is served from.
struct PoolsDemand(Arc<Shared>);

impl Demand for PoolsDemand {
    fn now(&self) -> Vec<PoolDemand> {
        let Some(active) = self.0.active.load_full() else {
            return Vec::new();
        };
        let of = |(object, pool): (&ObjectRef, &Arc<Pool>)| {
            let (in_flight, held) = pool.demand();
            (in_flight + held > 0).then(|| PoolDemand {
                pool: object.clone(),
                in_flight,
                held,
            })
        };
        active.pools().filter_map(of).collect()
    }

    fn rises(&self) -> Arc<Notify> {
        Arc::clone(&self.0.demand)
    }
}

struct Stream(watch::Receiver<control::Status>);

impl ControlState for Stream {
    fn connected(&self) -> bool {
        self.0.borrow().controller.is_some()
    }

    fn streams(&self) -> u64 {
        self.0.borrow().streams
    }

    fn divergences(&self) -> u64 {
        self.0.borrow().divergences
    }
}

fn anonymous() -> Anonymous {
    Anonymous {
        token: Arc::new(Token {
            id: TokenId::parse("anonymous").expect("a token id"),
            hash: TokenHash::of(b""),
            owner: "anonymous".into(),
            scope: Scope::User,
            expires: None,
            models: None,
            output_caps: Vec::new(),
            limits: TokenLimits::default(),
        }),
    }
}
