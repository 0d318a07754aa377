//! A controller on one machine: manifests from a folder, its memory in SQLite beside them or in
//! PostgreSQL.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::sync::watch;

use super::glue::{Glue, rescan};
use super::{Controller, make_private, prune};
use crate::admin::{self, AdminState, FileWriter};
use crate::compile::Settings;
use crate::config::Config;
use crate::reconcile::{Parts, Reconciler};
use crate::runtime::Runtime;
use crate::runtime::process::{self, ProcessRuntime};
use crate::source::{FilesConfig, watch_files};
use crate::status::StoreStatuses;
use crate::store::{self, Opened, Store, StoreError};
use crate::sync::{self, Server, StoreOwners};
use crate::validate::Validator;

/// How soon the store is asked again when it does not answer.
const STORE_RETRY: Duration = Duration::from_secs(1);

impl Controller {
    /// Opens the store, reads the manifests and starts to offer them, on this runtime.
    ///
    /// # Errors
    /// A folder, the store or the master key cannot be used; the text says which.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        make_private(&config.data)?;
        let Opened { store, rotation } = store::open(config.store).await?;
        std::fs::create_dir_all(&config.manifests)
            .with_context(|| format!("cannot make {}", config.manifests.display()))?;
        let sync = Server::new(sync::Config {
            name: "standalone".into(),
            owners: Arc::new(StoreOwners(Arc::clone(&store))),
        });
        let runtime = ProcessRuntime::new(process::Config {
            program: config.worker_binary,
            patience: config.worker_patience,
            ..process::Config::new(config.data.join("workers"))
        })?;
        let runtime: Arc<dyn Runtime> = Arc::new(runtime);
        let validator = Arc::new(Validator::new());
        let files = FilesConfig {
            folder: Some(config.manifests.clone()),
            built_in: config.built_in,
            namespace: config.namespace.clone(),
        };
        let (events, files) = watch_files(files, Arc::clone(&validator), Arc::clone(&store))?;
        let (reconciler, world) = Reconciler::start(Parts {
            sync: sync.clone(),
            store: Arc::clone(&store),
            statuses: Box::new(statuses(&store).await?),
            runtime: Arc::clone(&runtime),
            leadership: None,
            source: Arc::new(files.clone()),
            settings: Settings::standalone(&config.namespace),
            policy: watch::channel(Arc::new(config.policy)).1,
            static_tokens: config.static_tokens,
        });
        tokio::spawn(reconciler.run(events));
        tokio::spawn(prune(Arc::clone(&store)));
        let source = files.clone();
        let glue = Arc::new(Glue {
            world: world.clone(),
            sync: sync.clone(),
            source: Arc::new(files.clone()),
        });
        let writer = FileWriter::new(
            Some(config.manifests),
            &config.namespace,
            validator,
            rescan(files, world.clone()),
        );
        let admin = admin::router(AdminState {
            store: Arc::clone(&store),
            rotation,
            resources: glue.clone(),
            writer: Arc::new(writer),
            routing: glue.clone(),
            revocations: glue.clone(),
            health: glue,
            egress: Arc::new(|_| bodhi_proto::snapshot::EgressScope::Standalone),
            clock: Arc::new(|| Timestamp::now().as_second()),
        });
        Ok(Self {
            sync,
            store,
            admin,
            world,
            credentials: None,
            admin_token_file: config.data.join("admin-token"),
            source: Arc::new(source),
            runtime,
            standing: None,
        })
    }
}

/// The statuses that are kept. Without a store there are no objects here, so it is waited for.
async fn statuses(store: &Arc<dyn Store>) -> anyhow::Result<StoreStatuses> {
    loop {
        match StoreStatuses::load(Arc::clone(store)).await {
            Err(StoreError::Unavailable(why)) => {
                tracing::error!(why, "the store does not answer; asking again");
                tokio::time::sleep(STORE_RETRY).await;
            }
            loaded => return Ok(loaded?),
        }
    }
}
