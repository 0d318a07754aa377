//! One watch of our Deployments or pods, in one namespace or in all: a list, then its changes,
//! and after whatever ended them the changes since.
//!
//! kube's own `watcher` keeps bookmarks to itself. They are what says how far the world is known
//! while nothing happens in it, which is what a data plane's mark is compared with.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// The server ends a watch after this long; the next one goes on where it ended.
const WATCH_SECONDS: u32 = 290;
/// A watch that brings nothing for this long, not even the bookmark of each minute, is dead.
const SILENCE: Duration = Duration::from_secs(100);
/// A page of a list comes, and a watch opens, within this.
const OPENING: Duration = Duration::from_secs(30);
/// Objects in one page of a list.
const PAGE: u32 = 500;
/// Full jitter up to these after a failure, doubled each time …
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// … until a watch has lasted for this long.
const STABLE: Duration = Duration::from_secs(60);

/// What one watch tells.
#[derive(Debug)]
pub(super) struct Report {
    /// Which watch.
    pub(super) watch: usize,
    pub(super) change: Change,
    /// The resourceVersion that is known now.
    pub(super) revision: u64,
}

/// What became of objects.
#[derive(Debug)]
pub(super) enum Change {
    /// These are all there are.
    Listed(Vec<Seen>),
    Put(Seen),
    Gone(Seen),
    /// None changed up to the revision.
    Nothing,
}

/// An object as it was seen.
#[derive(Debug)]
pub(super) enum Seen {
    Deployment(Box<Deployment>),
    Pod(Box<Pod>),
}

impl From<Deployment> for Seen {
    fn from(deployment: Deployment) -> Self {
        Self::Deployment(Box::new(deployment))
    }
}

impl From<Pod> for Seen {
    fn from(pod: Pod) -> Self {
        Self::Pod(Box::new(pod))
    }
}

/// Why a connection ended.
enum End {
    /// In good order.
    Over,
    /// The server does not remember so far back.
    Expired,
    Failed(String),
    /// Nobody listens any more.
    Unwanted,
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            other => Self::Failed(other.to_string()),
        }
    }
}

/// Watches until nobody listens.
pub(super) async fn watch<K>(id: usize, api: Api<K>, labels: String, tell: mpsc::Sender<Report>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Into<Seen>,
{
    let mut run = Run {
        id,
        api,
        labels,
        tell,
        from: None,
    };
    let (mut failures, mut troubled) = (0, false);
    loop {
        let began = Instant::now();
        let end = run.connect().await;
        if began.elapsed() >= STABLE {
            (failures, troubled) = (0, false);
        }
        match end {
            End::Unwanted => return,
            End::Over => {}
            End::Expired => run.from = None,
            End::Failed(error) => {
                let path = run.api.resource_url();
                match troubled {
                    false => tracing::warn!(path, error, "a watch of workers failed; trying again"),
                    true => tracing::debug!(path, error, "a watch of workers failed again"),
                }
                troubled = true;
            }
        }
        let pause = backoff(failures, rand::random());
        failures += 1;
        tokio::select! {
            () = run.tell.closed() => return,
            () = sleep(pause) => {}
        }
    }
}

struct Run<K> {
    id: usize,
    api: Api<K>,
    labels: String,
    tell: mpsc::Sender<Report>,
    /// Where to go on; `None`: with a list.
    from: Option<String>,
}

impl<K> Run<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Into<Seen>,
{
    /// One connection to its end.
    async fn connect(&mut self) -> End {
        let outcome = async {
            let from = match self.from.clone() {
                Some(from) => from,
                None => self.list().await?,
            };
            self.follow(&from).await
        };
        outcome.await.err().unwrap_or(End::Over)
    }

    /// A list as of now; the version that watching goes on from.
    async fn list(&mut self) -> Result<String, End> {
        let mut params = ListParams::default().labels(&self.labels).limit(PAGE);
        let mut all = Vec::new();
        loop {
            let page = timeout(OPENING, self.api.list(&params)).await;
            let page = page.map_err(|_| End::Failed("the list did not come".into()))??;
            all.extend(page.items.into_iter().map(plain));
            let version = page.metadata.resource_version.unwrap_or_default();
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    self.send(Change::Listed(all), version.clone()).await?;
                    return Ok(version);
                }
            }
        }
    }

    async fn follow(&mut self, from: &str) -> Result<(), End> {
        let params = WatchParams {
            label_selector: Some(self.labels.clone()),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            ..WatchParams::default()
        };
        let opened = timeout(OPENING, self.api.watch(&params, from)).await;
        let opened = opened.map_err(|_| End::Failed("the watch did not open".into()))??;
        let mut events = opened.boxed();
        loop {
            let event = tokio::select! {
                () = self.tell.closed() => return Err(End::Unwanted),
                event = timeout(SILENCE, events.try_next()) => event,
            };
            // Silence and the stream's end both mean to go on from where we are.
            let event = match event {
                Ok(Ok(Some(event))) => event,
                Ok(Ok(None)) | Err(_) => return Ok(()),
                Ok(Err(error)) => return Err(error.into()),
            };
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let version = object.resource_version().ok_or(End::Expired)?;
                    self.send(Change::Put(plain(object)), version).await?;
                }
                WatchEvent::Deleted(object) => {
                    let version = object.resource_version().ok_or(End::Expired)?;
                    self.send(Change::Gone(plain(object)), version).await?;
                }
                WatchEvent::Bookmark(mark) => {
                    self.send(Change::Nothing, mark.metadata.resource_version)
                        .await?;
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
            }
        }
    }

    async fn send(&mut self, change: Change, version: String) -> Result<(), End> {
        // Comparable as a number: KEP 5504.
        let revision = version.parse();
        let revision = revision.map_err(|_| End::Failed(format!("resourceVersion '{version}'")))?;
        self.from = Some(version);
        let report = Report {
            watch: self.id,
            change,
            revision,
        };
        self.tell.send(report).await.map_err(|_| End::Unwanted)
    }
}

/// Without what nobody here reads and every object has much of.
fn plain<K: Resource + Into<Seen>>(mut object: K) -> Seen {
    object.meta_mut().managed_fields = None;
    object.into()
}

/// Full jitter; `chance` is in 0..1.
fn backoff(failures: u32, chance: f64) -> Duration {
    let most = BACKOFF.0.saturating_mul(1 << failures.min(10));
    most.min(BACKOFF.1)
        .mul_f64(chance)
        .max(Duration::from_millis(20))
}
