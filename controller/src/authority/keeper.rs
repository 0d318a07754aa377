//! The Secret that holds the roots: read by every controller, written by the leader.
//!
//! It is read again every few minutes, not watched: a root is known a day before it signs, and so
//! `get` and `update` on this one name are all that a controller has to be granted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use tokio::sync::watch;

use super::leaf::MakeError;
use super::root::{self, Root, SecretError};
use super::{Authority, lives, rotation};
use crate::leader::{Fenced, Leadership};

/// Between two looks once there is a root.
const PERIOD: Duration = Duration::from_secs(300);
/// Before that, and after a failure.
const HURRY: Duration = Duration::from_secs(2);

/// Where the roots are kept.
pub struct Config {
    /// With `get` and `update` on the Secret.
    pub client: kube::Client,
    /// The release's.
    pub namespace: String,
    /// `bodhi-ca`, which has to exist.
    pub secret: String,
    /// Who writes.
    pub leadership: watch::Receiver<Leadership>,
}

/// Why the Secret was not read or not written.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("it does not exist; the chart brings it along, empty")]
    Missing,
    #[error(transparent)]
    Content(#[from] SecretError),
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("it was not written: {0}")]
    Fenced(#[from] Fenced),
    #[error(transparent)]
    Make(#[from] MakeError),
}

/// Reads the Secret and, while this controller leads, writes it, for as long as the authority is
/// in use.
pub fn keep(config: Config) -> Authority {
    let (show, shown) = watch::channel(Arc::default());
    tokio::spawn(async move {
        let keeper = Keeper {
            secrets: Api::namespaced(config.client.clone(), &config.namespace),
            leadership: config.leadership.clone(),
            name: config.secret.clone(),
            show,
        };
        tokio::select! {
            () = keeper.run() => {}
            () = keeper.show.closed() => {}
        }
    });
    Authority::new(shown)
}

struct Keeper {
    secrets: Api<Secret>,
    name: String,
    leadership: watch::Receiver<Leadership>,
    show: watch::Sender<Arc<Vec<Root>>>,
}

impl Keeper {
    async fn run(&self) {
        let mut leadership = self.leadership.clone();
        let mut failing = None;
        loop {
            let looked = self.look().await;
            match &looked {
                Ok(()) => failing = None,
                Err(error) => {
                    let text = error.to_string();
                    if failing.as_ref() != Some(&text) {
                        tracing::warn!(secret = %self.name, error = text, "the authority's Secret is of no use now");
                    }
                    failing = Some(text);
                }
            }
            let pause = match looked.is_ok() && !self.show.borrow().is_empty() {
                true => PERIOD.mul_f64(0.8 + 0.4 * rand::random::<f64>()),
                false => HURRY,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // A new leader has its first look at once.
                Ok(()) = leadership.changed() => {}
            }
        }
    }

    /// Reads, and does what a leader has to. What was read before stays in use whatever happens.
    async fn look(&self) -> Result<(), KeepError> {
        let secret = self.secrets.get_opt(&self.name).await?;
        let secret = secret.ok_or(KeepError::Missing)?;
        let empty = BTreeMap::new();
        let roots = root::read(secret.data.as_ref().unwrap_or(&empty))?;
        let now = Timestamp::now().as_second();
        let fence = self.leadership.borrow().fence.clone();
        let written = match (next(&roots, now)?, fence) {
            (Some(data), Some(fence)) => {
                let write = self.replace(secret, data);
                Some(fence.write(write).await??)
            }
            _ => None,
        };
        match written {
            Some(secret) => {
                tracing::info!(secret = %self.name, "the authority's roots were renewed");
                self.take(root::read(secret.data.as_ref().unwrap_or(&empty))?);
            }
            None => self.take(roots),
        }
        Ok(())
    }

    /// By compare-and-swap: the Secret still holds the resourceVersion that was read.
    async fn replace(
        &self,
        secret: Secret,
        data: BTreeMap<String, ByteString>,
    ) -> Result<Secret, kube::Error> {
        let secret = Secret {
            data: Some(data),
            ..secret
        };
        let params = PostParams::default();
        self.secrets.replace(&self.name, &params, &secret).await
    }

    fn take(&self, roots: Vec<Root>) {
        self.show.send_if_modified(|shown| {
            let differs = !roots
                .iter()
                .map(Root::certificate)
                .eq(shown.iter().map(Root::certificate));
            if differs {
                *shown = Arc::new(roots);
            }
            differs
        });
    }
}

/// What the Secret has to hold from now on; `None`: what it holds.
fn next(roots: &[Root], now: i64) -> Result<Option<BTreeMap<String, ByteString>>, MakeError> {
    let plan = rotation::plan(&lives(roots), now);
    if !plan.make && plan.trusted.len() == roots.len() {
        return Ok(None);
    }
    let new = plan.make.then(|| Root::make(now)).transpose()?;
    let kept = plan.trusted.iter().map(|index| &roots[*index]);
    Ok(Some(root::write(kept.chain(&new))))
}
