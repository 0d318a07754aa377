//! The controller put together: the only place that constructs its rooms and connects them.
//!
//! On one machine ([`standalone`]) and in a cluster ([`cluster`]) the source of objects, what runs
//! workers and who keeps statuses differ; the rest is the same, and is here.

mod cluster;
mod glue;
mod standalone;

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use bodhi_net::identity::Credentials;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::Scope;
use bodhi_proto::sync::Revision;
use jiff::Timestamp;
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::cluster::Standing;
use crate::admin;
use crate::health::{self, Health};
use crate::reconcile::World;
use crate::runtime::Runtime;
use crate::source::ObjectSource;
use crate::store::{Actor, Store};
use crate::sync::Server;

/// Responses are forgotten after this long; providers keep them for 30 days.
const RESPONSES_KEPT: Duration = Duration::from_secs(32 * 24 * 3600);
/// How soon the admin token is asked for again.
const ADMIN_TOKEN_RETRY: Duration = Duration::from_secs(2);
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
    /// This controller's certificate, where the managed authority makes it.
    pub credentials: Option<Credentials>,
    /// The file that keeps the admin token.
    pub admin_token_file: PathBuf,
    source: Arc<dyn ObjectSource>,
    runtime: Arc<dyn Runtime>,
    /// In a cluster.
    standing: Option<Standing>,
}

/// A token made at the first start; its text is known now and never again.
pub enum FirstStart {
    /// It is shown to the person who started the program.
    Token(Secret),
    /// There are tokens already.
    NotFirst,
}

impl Controller {
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
        let first = self.store.changes_since(0).await?.tokens.is_empty();
        self.keep_admin_token().await?;
        match first {
            true => mint(&*self.store, "first token", "admin", Scope::User)
                .await
                .map(FirstStart::Token),
            false => Ok(FirstStart::NotFirst),
        }
    }

    /// Sees to it that the admin token in the data folder works: what `bodhi` uses beside this
    /// controller.
    ///
    /// # Errors
    /// The store does not answer, or the file cannot be written.
    pub async fn keep_admin_token(&self) -> anyhow::Result<()> {
        keep_admin_token(&*self.store, &self.admin_token_file).await
    }

    /// Likewise, in the background and until it works.
    pub fn keep_admin_token_soon(&self) {
        let (store, file) = (Arc::clone(&self.store), self.admin_token_file.clone());
        tokio::spawn(async move {
            while let Err(error) = keep_admin_token(&*store, &file).await {
                tracing::debug!(%error, "the admin token has to wait");
                tokio::time::sleep(ADMIN_TOKEN_RETRY).await;
            }
        });
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

    /// `/livez`, `/readyz` and `/metrics`.
    pub fn health(&self) -> Router {
        health::router(Health {
            sync: self.sync.clone(),
            world: self.world.clone(),
            source: Arc::clone(&self.source),
            leadership: self.standing.as_ref().map(Standing::leadership),
        })
    }

    /// Lets another controller lead at once.
    pub async fn step_down(&mut self) {
        if let Some(standing) = self.standing.take() {
            standing.end().await;
        }
    }
}

async fn keep_admin_token(store: &dyn Store, file: &Path) -> anyhow::Result<()> {
    let kept = std::fs::read_to_string(file).map(Zeroizing::new);
    if let Ok(text) = &kept
        && let Ok(hash) = bodhi_proto::token::parse(text.trim().as_bytes())
        && let Some(record) = store.find_token(hash).await?
        && record.revoked.is_none()
    {
        return Ok(());
    }
    let admin = mint(store, "bodhi up", "admin", Scope::Admin).await?;
    write_private(file, &admin)
}

async fn mint(store: &dyn Store, name: &str, owner: &str, scope: Scope) -> anyhow::Result<Secret> {
    let (text, token) = admin::mint(&random()?, name, owner, scope);
    let (by, now) = (Actor::program("bodhi"), Timestamp::now().as_second());
    store.create_token(token, by, now).await?;
    Ok(text)
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
