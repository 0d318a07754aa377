//! `bodhi-controller`: a controller of its own, fed by a folder of manifests or by a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bodhi_controller::admin;
use bodhi_controller::app::{Controller, FirstStart};
use bodhi_controller::authority::ServerNames;
use bodhi_controller::config::{
    AccountFlags, AuthorityConfig, AuthorityFlags, ClusterConfig, ClusterFlags, Config, ListenSync,
    PolicyFlags, StoreFlags, SyncFlags, WorkerFlags,
};
use bodhi_net::identity::{self, Credentials};
use bodhi_net::{drain, logging};
use clap::Parser;
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long requests may run on at workers when the controller stops.
const DRAIN: Duration = Duration::from_secs(30);

/// Bodhi's controller: compiles resources and feeds data planes
#[derive(Parser)]
#[command(name = "bodhi-controller", version)]
struct Cli {
    /// Folder of ApiModels, Aliases and Secrets in YAML, watched for change
    /// [default: `manifests` in the data folder]
    #[arg(long, env = "BODHI_MANIFESTS", value_name = "DIR")]
    manifests: Option<PathBuf>,

    /// Folder of the database, the master key and the admin token
    #[arg(long, env = "BODHI_DATA", value_name = "DIR")]
    data: PathBuf,

    #[command(flatten)]
    store: StoreFlags,

    #[command(flatten)]
    sync: SyncFlags,

    /// Address of the admin API, of /livez, /readyz and /metrics
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:1137")]
    listen: SocketAddr,

    /// Socket of mode 0600 at which whoever runs as the same user is `admin`, without a token:
    /// `bodhi` asks there where BODHI_ADMIN_SOCKET names it
    #[arg(long, value_name = "FILE", env = "BODHI_ADMIN_SOCKET")]
    admin_socket: Option<PathBuf>,

    /// The release's namespace: manifests without one belong there, and in a cluster it is the
    /// operator's own
    #[arg(
        long,
        env = "BODHI_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "bodhi"
    )]
    namespace: String,

    #[command(flatten)]
    cluster: ClusterFlags,

    #[command(flatten)]
    accounts: AccountFlags,

    #[command(flatten)]
    authority: AuthorityFlags,

    #[command(flatten)]
    policy: PolicyFlags,

    #[command(flatten)]
    worker: WorkerFlags,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    logging::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let sync = Sync::bind(cli.sync.clone().judge(&cli.data)?).await?;
    let admin = TcpListener::bind(cli.listen)
        .await
        .with_context(|| format!("cannot listen on {} (admin API)", cli.listen))?;
    let admin_socket = cli.admin_socket.clone();
    let mut controller = match cli.cluster.is_cluster(cli.manifests.is_some()) {
        true => start_in_cluster(cli, &sync).await?,
        false => start(cli).await?,
    };
    let address = admin.local_addr()?;
    tracing::info!(%address, %sync, "listening");
    let api = controller
        .health()
        .fallback_service(controller.admin.clone());
    if let Some(path) = &admin_socket {
        admin::serve_socket(controller.admin.clone(), path).await?;
    }
    tokio::spawn(async move {
        if let Err(error) = axum::serve(admin, api).await {
            tracing::error!(%error, "the admin API ended");
        }
    });
    let shutdown = async {
        if let Err(error) = drain::terminate().await {
            tracing::error!(%error, "signals cannot be watched");
            std::future::pending::<()>().await;
        }
    };
    match sync {
        Sync::Unix(path) => controller.sync.serve_unix(&path, shutdown).await?,
        Sync::Tls(listener, _, credentials) => {
            let identity = identity::Server::new(credentials, ListenSync::CALLERS);
            controller
                .sync
                .serve_tls(listener, identity, shutdown)
                .await?
        }
        Sync::Managed(listener, ..) => {
            let own = controller.credentials.take();
            let own =
                own.context("--sync-names takes the managed authority of a cluster: --kubernetes")?;
            let identity = identity::Server::new(own, ListenSync::CALLERS).with_strangers();
            controller
                .sync
                .serve_tls(listener, identity, shutdown)
                .await?
        }
    }
    controller.stop_workers(DRAIN).await;
    controller.step_down().await;
    Ok(())
}

async fn start(cli: Cli) -> anyhow::Result<Controller> {
    let controller = Controller::start(Config {
        manifests: cli.manifests.unwrap_or_else(|| cli.data.join("manifests")),
        store: cli.store.judge(&cli.data)?,
        data: cli.data,
        built_in: Vec::new(),
        namespace: cli.namespace,
        policy: cli.policy.policy()?,
        static_tokens: cli.policy.static_tokens()?,
        worker_patience: cli.worker.patience(),
        worker_binary: cli.worker.worker_binary,
    })
    .await?;
    if let FirstStart::Token(token) = controller.first_start().await? {
        println!("First token, shown once: {}", token.expose());
    }
    Ok(controller)
}

/// A pod's output is kept and read by others: no token is printed there.
async fn start_in_cluster(cli: Cli, sync: &Sync) -> anyhow::Result<Controller> {
    let authority = match sync {
        Sync::Managed(_, _, names) => Some(AuthorityConfig {
            secret: cli.authority.authority_secret.clone(),
            names: names.clone(),
            data_plane: cli.authority.data_plane(&cli.namespace)?,
        }),
        Sync::Unix(_) | Sync::Tls(..) => None,
    };
    let controller = Controller::start_in_cluster(ClusterConfig {
        store: cli.store.judge(&cli.data)?,
        data: cli.data,
        settings: cli.cluster.settings(&cli.namespace)?,
        lease: cli.cluster.lease(&cli.namespace, sync.address())?,
        identity: sync.identity(),
        policy: cli.policy.policy()?,
        callers: cli.accounts.callers()?,
        authority,
        static_tokens: cli.policy.static_tokens()?,
    })
    .await?;
    if let Err(error) = controller.keep_admin_token().await {
        // A database that is away holds up nothing else.
        tracing::warn!(%error, "there is no admin token for 'bodhi' in this pod yet");
        controller.keep_admin_token_soon();
    }
    Ok(controller)
}

/// Where data planes connect. TCP is bound before anything starts; a socket's path may still be a
/// predecessor's.
enum Sync {
    Unix(PathBuf),
    Tls(TcpListener, SocketAddr, Credentials),
    Managed(TcpListener, SocketAddr, ServerNames),
}

impl Sync {
    /// The address, where it is one of TCP.
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tls(_, address, _) | Self::Managed(_, address, _) => Some(*address),
        }
    }

    /// Who this controller is to others, where it proves that.
    fn identity(&self) -> Option<Arc<identity::Client>> {
        match self {
            // Of the managed authority it is made where that runs.
            Self::Unix(_) | Self::Managed(..) => None,
            Self::Tls(_, _, credentials) => {
                Some(Arc::new(identity::Client::new(credentials.clone())))
            }
        }
    }

    async fn bind(listen: ListenSync) -> anyhow::Result<Self> {
        match listen {
            ListenSync::Unix(path) => Ok(Self::Unix(path)),
            ListenSync::Tls(address, credentials) => {
                let (listener, address) = Self::listen(address).await?;
                Ok(Self::Tls(listener, address, credentials))
            }
            ListenSync::Managed(address, names) => {
                let (listener, address) = Self::listen(address).await?;
                Ok(Self::Managed(listener, address, names))
            }
        }
    }

    async fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} (sync)"))?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }
}

impl std::fmt::Display for Sync {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(_, address, _) | Self::Managed(_, address, _) => {
                write!(f, "https://{address}")
            }
        }
    }
}
