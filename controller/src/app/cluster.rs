//! A controller in a cluster: objects from the API server, whose statuses are written back to it by
//! whichever controller leads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bodhi_net::identity::{self, Credentials};
use bodhi_net::service_account::Object;
use bodhi_proto::chat::Failure;
use bodhi_proto::sync::Leader;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::glue::Glue;
use super::{Controller, make_private, prune, random};
use crate::admin::{self, AdminState, ApplyWriter};
use crate::api::Reason;
use crate::authority::{self, Seller, SellerConfig};
use crate::config::ClusterConfig;
use crate::jwks::Jwks;
use crate::leader::{Leadership, stand};
use crate::reconcile::{Parts, Reconciler};
use crate::runtime::{ModelState, Observed, Runtime, Trouble, Wanted};
use crate::source::{KubeConfig, ObjectSource, watch_cluster};
use crate::status::AppliedStatuses;
use crate::store::{self, Opened, RingFrom, StoreConfig, seal};
use crate::sync::{self, Server, StoreOwners};
use crate::validate::Validator;

/// How soon the Secret of the master keys is asked for again.
const SECRET_RETRY: Duration = Duration::from_secs(3);

/// The Lease of a running controller.
pub(super) struct Standing {
    leadership: watch::Receiver<Leadership>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Standing {
    /// Who leads.
    pub(super) fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Lets the Lease go, if it is ours.
    pub(super) async fn end(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the election ended by itself");
        }
    }
}

impl Controller {
    /// Opens the store, watches the cluster, stands for election and offers what is there, on this
    /// runtime.
    ///
    /// # Errors
    /// The store, the master key or the API server's address cannot be used; the text says which.
    /// An API server that does not answer yet is waited for.
    pub async fn start_in_cluster(config: ClusterConfig) -> anyhow::Result<Self> {
        let client = client().await?;
        make_private(&config.data)?;
        let namespace = &config.settings.release_namespace;
        let Opened { store, rotation } =
            store::open(with_master_keys(config.store, &client, namespace).await?).await?;
        let name = Arc::clone(&config.lease.candidate.identity);
        let release = config.lease.namespace.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let (leadership, task) = stand(client.clone(), config.lease, stopped);
        let managed = config.authority.map(|given| {
            let authority = authority::keep(authority::Config {
                client: client.clone(),
                namespace: release,
                secret: given.secret,
                leadership: leadership.clone(),
            });
            let own = Credentials::memory(authority::own(authority.clone(), given.names));
            (authority, given.data_plane, own)
        });
        let credentials = managed.as_ref().map(|(.., own)| own.clone());
        let made = credentials.clone().map(identity::Client::new).map(Arc::new);
        let sync = Server::one_of(
            sync::Config {
                name: name.to_string(),
                owners: Arc::new(StoreOwners(Arc::clone(&store))),
            },
            sync::Peers {
                leader: leader(leadership.clone()),
                client: made.or(config.identity),
            },
        );
        let jwks = Jwks::start(client.clone());
        let sync = match managed {
            None => sync,
            Some((authority, data_plane, _)) => sync.selling(Arc::new(Seller::new(SellerConfig {
                authority,
                jwks: jwks.clone(),
                data_plane,
                // As long as nothing runs workers, no pod is one.
                workers: Arc::new(|_: &str, _: &Object| None),
            }))),
        };
        let policy = jwks.policy(config.policy, config.callers).await;
        let runtime: Arc<dyn Runtime> = Arc::new(NoWorkers::default());
        let (events, source) = watch_cluster(KubeConfig {
            client: client.clone(),
            namespaces: config.settings.namespaces.clone(),
        });
        let source: Arc<dyn ObjectSource> = Arc::new(source);
        let statuses = AppliedStatuses::start(client.clone(), &name, leadership.clone());
        let settings = config.settings;
        let (reconciler, world) = Reconciler::start(Parts {
            sync: sync.clone(),
            store: Arc::clone(&store),
            statuses: Box::new(statuses),
            runtime: Arc::clone(&runtime),
            leadership: Some(leadership.clone()),
            source: Arc::clone(&source),
            settings: settings.clone(),
            policy,
            static_tokens: config.static_tokens,
        });
        tokio::spawn(reconciler.run(events));
        tokio::spawn(prune(Arc::clone(&store)));
        let glue = Arc::new(Glue {
            world: world.clone(),
            sync: sync.clone(),
            source: Arc::clone(&source),
        });
        let writer = ApplyWriter::new(client, Arc::new(Validator::new()), world.clone());
        let admin = admin::router(AdminState {
            store: Arc::clone(&store),
            rotation,
            resources: glue.clone(),
            writer: Arc::new(writer),
            routing: glue.clone(),
            revocations: glue.clone(),
            health: glue,
            egress: Arc::new(move |namespace| settings.egress(namespace)),
            clock: Arc::new(|| Timestamp::now().as_second()),
        });
        Ok(Self {
            sync,
            store,
            admin,
            world,
            credentials,
            admin_token_file: config.data.join("admin-token"),
            source,
            runtime,
            standing: Some(Standing {
                leadership,
                stop,
                task,
            }),
        })
    }
}

/// Who leads, as data planes are told.
fn leader(mut leadership: watch::Receiver<Leadership>) -> watch::Receiver<Option<Leader>> {
    let (tell, told) = watch::channel(None);
    tokio::spawn(async move {
        loop {
            let now = leadership.borrow_and_update().leader.clone();
            let now = now.map(|leader| Leader {
                controller: leader.candidate.identity.to_string(),
                address: bare(&leader.candidate.address).to_owned(),
                epoch: leader.epoch,
            });
            tell.send_if_modified(|before| {
                let differs = *before != now;
                *before = now;
                differs
            });
            if leadership.changed().await.is_err() {
                return;
            }
        }
    });
    told
}

/// `HOST:PORT` of a URL.
fn bare(address: &str) -> &str {
    address.strip_prefix("https://").unwrap_or(address)
}

/// Says of every local model that nothing runs it.
struct NoWorkers {
    show: watch::Sender<Arc<Observed>>,
}

impl Default for NoWorkers {
    fn default() -> Self {
        Self {
            show: watch::channel(Arc::new(Observed {
                // It is known what there is: nothing.
                version: 1,
                ..Observed::default()
            }))
            .0,
        }
    }
}

impl Runtime for NoWorkers {
    fn want(&self, models: Vec<Wanted>) {
        let state = ModelState {
            failure: Some(Trouble {
                failure: Failure {
                    reason: Reason::WorkerNotInstalled.as_str().into(),
                    message: "this controller runs no workers in a cluster".into(),
                },
                times: u32::MAX,
            }),
            ..ModelState::default()
        };
        let models = models
            .into_iter()
            .map(|model| (model.object, state.clone()));
        self.show.send_replace(Arc::new(Observed {
            version: u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0),
            models: models.collect(),
            ..Observed::default()
        }));
    }

    fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.show.subscribe()
    }

    fn acknowledge(&self, _: u64) {}

    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The store's settings with the master keys of their Secret, if it is one that keeps them. An API
/// server that does not answer, or refuses, is asked again: the Secret and the permission to read it
/// are installed together with this controller.
async fn with_master_keys(
    config: StoreConfig,
    client: &Client,
    namespace: &str,
) -> anyhow::Result<StoreConfig> {
    let RingFrom::Secret(name) = config.master_keys else {
        return Ok(config);
    };
    let random = random()?;
    loop {
        match seal::from_secret(client.clone(), namespace, &name, &random).await {
            Ok(ring) => {
                return Ok(StoreConfig {
                    master_keys: RingFrom::Held(ring),
                    ..config
                });
            }
            Err(error) => {
                tracing::error!(%error, "there are no master keys yet; asking again");
                tokio::time::sleep(SECRET_RETRY).await;
            }
        }
    }
}

/// The API server of the cluster that this runs in, or of the kubeconfig.
async fn client() -> anyhow::Result<Client> {
    let config = kube::Config::infer()
        .await
        .context("no API server: neither is this a cluster's pod, nor is there a kubeconfig")?;
    Client::try_from(config).context("the API server's address or credentials cannot be used")
}
