//! A controller on one machine: manifests from a folder, its memory in SQLite beside them.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::Scope;
use bodhi_proto::sync::Revision;
use jiff::Timestamp;
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::glue::{Glue, rescan};
use crate::admin::{self, AdminState, FileWriter};
use crate::compile::Settings;
use crate::config::Config;
use crate::reconcile::{Parts, Reconciler, World};
use crate::runtime::Runtime;
use crate::runtime::process::{self, ProcessRuntime};
use crate::source::{FilesConfig, watch_files};
use crate::store::seal::KeyRing;
use crate::store::{Actor, SqliteStore, Store};
use crate::sync::{self, Server, StoreOwners};
use crate::validate::Validator;

/// Responses are forgotten after this long; providers keep them for 30 days.
const RESPONSES_KEPT: Duration = Duration::from_secs(32 * 24 * 3600);
/// How often old records are dropped.
const PRUNE: Duration = Duration::from_secs(6 * 3600);

/// A running controller.
pub struct Controller {
    /// Where data planes connect.
    pub sync: Server,
    /// Tokens, keys, audit.
    pub store: Arc<dyn Store>,
    /// `/bodhi/v1`, `/openapi.json` and `/swagger-ui`.
    pub admin: Router,
    /// What is known at each moment.
    pub world: watch::Receiver<Arc<World>>,
    /// The file that keeps the admin token.
    pub admin_token_file: PathBuf,
    runtime: Arc<dyn Runtime>,
}

/// A token made at the first start; its text is known now and never again.
pub enum FirstStart {
    /// It is shown to the person who started the program.
    Token(Secret),
    /// There are tokens already.
    NotFirst,
}

impl Controller {
    /// Opens the store, reads the manifests and starts to offer them, on this runtime.
    ///
    /// # Errors
    /// A folder, the store or the master key cannot be used; the text says which.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        make_private(&config.data)?;
        std::fs::create_dir_all(&config.manifests)
            .with_context(|| format!("cannot make {}", config.manifests.display()))?;
        let ring = KeyRing::read_or_create(&config.data.join("master.key"), &random()?)?;
        let path = config.data.join("bodhi.db");
        let opened = tokio::task::spawn_blocking(move || SqliteStore::open(&path, Arc::new(ring)));
        let store: Arc<dyn Store> = Arc::new(opened.await??);
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
            runtime: Arc::clone(&runtime),
            files: files.clone(),
            settings: Settings::standalone(&config.namespace),
            policy: config.policy.clone(),
            static_tokens: config.static_tokens,
        })
        .await;
        tokio::spawn(reconciler.run(events));
        tokio::spawn(prune(Arc::clone(&store)));
        let glue = Arc::new(Glue {
            world: world.clone(),
            sync: sync.clone(),
            files: files.clone(),
        });
        let writer = FileWriter::new(
            Some(config.manifests),
            &config.namespace,
            validator,
            rescan(files, world.clone()),
        );
        let admin = admin::router(AdminState {
            store: Arc::clone(&store),
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
            admin_token_file: config.data.join("admin-token"),
            runtime,
        })
    }

    /// Ends every worker in good order: what is in flight runs on, at most for `most`.
    pub async fn stop_workers(&self, most: Duration) {
        if tokio::time::timeout(most, self.runtime.stop())
            .await
            .is_err()
        {
            tracing::warn!("workers were still busy; they end with this process");
        }
    }

    /// Sees to it that the admin token in the data folder works, and makes a first token for the
    /// person who starts a new gateway.
    ///
    /// # Errors
    /// The store does not answer, or the file cannot be written.
    pub async fn first_start(&self) -> anyhow::Result<FirstStart> {
        let kept = std::fs::read_to_string(&self.admin_token_file).map(Zeroizing::new);
        if let Ok(text) = &kept
            && let Ok(hash) = bodhi_proto::token::parse(text.trim().as_bytes())
            && let Some(record) = self.store.find_token(hash).await?
            && record.revoked.is_none()
        {
            return Ok(FirstStart::NotFirst);
        }
        let first = self.store.changes_since(0).await?.tokens.is_empty();
        let admin = self.mint("bodhi up", "admin", Scope::Admin).await?;
        write_private(&self.admin_token_file, &admin)?;
        match first {
            true => self
                .mint("first token", "admin", Scope::User)
                .await
                .map(FirstStart::Token),
            false => Ok(FirstStart::NotFirst),
        }
    }

    /// Waits until every connected data plane holds what the store has now, at most `most`: a
    /// token is shown when it works.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn caught_up(&self, most: Duration) -> anyhow::Result<()> {
        let revision = Revision {
            incarnation: self.store.incarnation().await?,
            number: *self.store.watch().borrow(),
        };
        // Late or not, the caller goes on.
        self.sync.wait_applied(revision, most).await;
        Ok(())
    }

    async fn mint(&self, name: &str, owner: &str, scope: Scope) -> anyhow::Result<Secret> {
        let (text, token) = admin::mint(&random()?, name, owner, scope);
        let (by, now) = (Actor::program("bodhi"), Timestamp::now().as_second());
        self.store.create_token(token, by, now).await?;
        Ok(text)
    }
}

async fn prune(store: Arc<dyn Store>) {
    loop {
        let before = Timestamp::now().as_second() - RESPONSES_KEPT.as_secs().cast_signed();
        if let Err(error) = store.prune_responses(before).await {
            tracing::warn!(%error, "old response records could not be dropped");
        }
        tokio::time::sleep(PRUNE).await;
    }
}

/// A folder for us alone.
fn make_private(folder: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))
}

/// Writes a secret beside and moves it into place, mode 0600.
fn write_private(path: &Path, secret: &Secret) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        file.write_all(secret.expose().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn random<const N: usize>() -> anyhow::Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| anyhow!("the system gives no random bytes: {error}"))?;
    Ok(bytes)
}
