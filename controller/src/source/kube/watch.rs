//! One watch: one kind in one namespace, or in all. A list, then its changes, then, after
//! whatever ended them, the changes since; and a list again only where the API server has
//! forgotten them or somebody asked for one.
//!
//! A list is a stream of its own where the server can (WatchList, KEP 3157), else pages. Either
//! way it is read as of now and not from a server's cache of some time ago, so that it never goes
//! back before what was seen.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt as _};
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, sleep, timeout};

use super::known::Known;
use super::object::{Object, name_of, read, resource, selector};
use crate::index::Name;
use crate::source::{Malformed, ResourceKind};
use crate::validate::Validator;

/// The server ends a watch after this long; the next one goes on where it ended.
const WATCH_SECONDS: u32 = 290;
/// A watch that brings nothing for this long, not even the bookmark of each minute, is dead.
const SILENCE: Duration = Duration::from_secs(100);
/// A watch that does not open within this, or a page of a list that does not come, has failed.
const OPENING: Duration = Duration::from_secs(30);
/// One page of a list, where the server cannot stream it.
const PAGE: u32 = 500;
/// Full jitter between these after a failure, doubled each time …
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// … until a watch has lasted for this long.
const STABLE: Duration = Duration::from_secs(60);
/// The annotation of the bookmark after a streamed list's last object.
const LIST_ENDS: &str = "k8s.io/initial-events-end";

/// What a watch found since its last report.
#[derive(Default)]
pub(super) struct Report {
    /// Which watch.
    pub(super) id: usize,
    pub(super) changes: Vec<Change>,
    /// Everything up to this resourceVersion has been reported.
    pub(super) revision: Option<u64>,
    /// The changes are what a complete list differed in, which was made after so many calls for
    /// one.
    pub(super) listed: Option<u64>,
    /// Why it does not work; `Some(None)`: it does again.
    pub(super) trouble: Option<Option<String>>,
}

/// What became of an object.
pub(super) enum Change {
    Put(Object),
    Malformed(Malformed),
    Gone(Name),
}

/// What one task needs.
pub(super) struct Watch {
    pub(super) id: usize,
    pub(super) kind: ResourceKind,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) client: Client,
    pub(super) validator: Arc<Validator>,
    pub(super) report: mpsc::Sender<Report>,
    /// Counts the calls for a new list.
    pub(super) asked: channel::Receiver<u64>,
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&resource(self.kind).plural)?;
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

/// Why a connection ended.
enum End {
    /// The server closed it in good order, or it fell silent.
    Over,
    /// It does not remember so far back.
    Expired,
    /// Somebody asked for a new list.
    Asked,
    /// It has no streamed lists.
    NoStreams,
    /// Anything else.
    Failed(String),
    /// Nobody wants reports any more.
    Unwanted,
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        match &error {
            kube::Error::Api(status) if status.code == 410 => Self::Expired,
            kube::Error::Api(status) => Self::Failed(status.message.clone()),
            other => Self::Failed(other.to_string()),
        }
    }
}

struct Run {
    watch: Watch,
    api: Api<DynamicObject>,
    known: Known,
    /// Where to go on; `None`: with a list.
    from: Option<String>,
    streams: bool,
    /// The calls for a list that the last one answers, or the one under way.
    answering: u64,
}

impl Watch {
    /// Runs until nobody wants reports.
    pub(super) async fn run(self) {
        let resource = resource(self.kind);
        let api = match &self.namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        };
        let run = Run {
            watch: self,
            api,
            known: Known::default(),
            from: None,
            streams: true,
            answering: 0,
        };
        run.run().await;
    }
}

impl Run {
    async fn run(mut self) {
        let mut failures = 0;
        let mut troubled = false;
        loop {
            let began = Instant::now();
            let end = self.connect(&mut troubled).await;
            if began.elapsed() >= STABLE {
                failures = 0;
            }
            match end {
                End::Unwanted => return,
                // Once: there is a list of the older kind.
                End::NoStreams => {
                    self.streams = false;
                    continue;
                }
                End::Asked => continue,
                End::Over => {}
                End::Expired => self.from = None,
                End::Failed(message) => {
                    match troubled {
                        false => {
                            tracing::warn!(watch = %self.watch, error = message, "the watch failed; trying again")
                        }
                        true => {
                            tracing::debug!(watch = %self.watch, error = message, "the watch failed again")
                        }
                    }
                    troubled = true;
                    if self.tell_trouble(Some(message)).await.is_err() {
                        return;
                    }
                }
            }
            let pause = backoff(failures, rand::random());
            failures += 1;
            tokio::select! {
                () = self.watch.report.closed() => return,
                () = sleep(pause) => {}
            }
        }
    }

    /// One connection to its end.
    async fn connect(&mut self, troubled: &mut bool) -> End {
        let asked = *self.watch.asked.borrow_and_update();
        if asked != self.answering {
            self.answering = asked;
            self.from = None;
        }
        let (from, lists) = match self.from.clone() {
            Some(from) => (from, false),
            None => {
                self.known.begin();
                if self.streams {
                    // An empty version asks for the present.
                    (String::new(), true)
                } else {
                    match self.list().await {
                        Ok(from) => (from, false),
                        Err(end) => return end,
                    }
                }
            }
        };
        match self.follow(&from, lists, troubled).await {
            Ok(()) => End::Over,
            Err(end) => end,
        }
    }

    /// A list in pages; the version that watching goes on from.
    async fn list(&mut self) -> Result<String, End> {
        let mut params = ListParams {
            label_selector: selector(self.watch.kind),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut changes = Vec::new();
        loop {
            let page = timeout(OPENING, self.api.list(&params))
                .await
                .map_err(|_| End::Failed("the list did not come".into()))??;
            for object in page.items {
                self.listed(object, &mut changes);
            }
            let version = page.metadata.resource_version.unwrap_or_default();
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    self.end_list(changes, &version).await?;
                    return Ok(version);
                }
            }
        }
    }

    /// Watches from a version on, beginning with a list where `lists`.
    async fn follow(&mut self, from: &str, lists: bool, troubled: &mut bool) -> Result<(), End> {
        let params = WatchParams {
            label_selector: selector(self.watch.kind),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: lists,
            ..WatchParams::default()
        };
        let opened = timeout(OPENING, self.api.watch(&params, from)).await;
        let stream = match opened {
            Err(_) => return Err(End::Failed("the watch did not open".into())),
            // 1.31 and older, or with the feature off: the field is forbidden.
            Ok(Err(kube::Error::Api(status))) if lists && matches!(status.code, 400 | 422) => {
                return Err(End::NoStreams);
            }
            Ok(opened) => opened?,
        };
        let mut stream = stream.boxed();
        let mut listing = lists.then(Vec::new);
        if *troubled && listing.is_none() {
            *troubled = false;
            self.tell_trouble(None).await?;
        }
        loop {
            let event = tokio::select! {
                () = self.watch.report.closed() => return Err(End::Unwanted),
                Ok(()) = self.watch.asked.changed() => return Err(End::Asked),
                event = timeout(SILENCE, stream.next()) => event,
            };
            // Silence and a stream's end both mean to go on from where we are.
            let Ok(Some(event)) = event else {
                return Ok(());
            };
            match (event?, &mut listing) {
                (WatchEvent::Added(object) | WatchEvent::Modified(object), Some(changes)) => {
                    self.listed(object, changes);
                }
                (WatchEvent::Bookmark(mark), Some(changes)) => {
                    if mark.metadata.annotations.contains_key(LIST_ENDS) {
                        let changes = std::mem::take(changes);
                        listing = None;
                        *troubled = false;
                        self.end_list(changes, &mark.metadata.resource_version)
                            .await?;
                    }
                }
                // The protocol has no such thing within a list; a new one will show what is.
                (WatchEvent::Deleted(_), Some(_)) => return Err(End::Expired),
                (WatchEvent::Added(object) | WatchEvent::Modified(object), None) => {
                    let (name, version) = (name_of(&object), version_of(&object)?);
                    self.known.put(name, &version);
                    let changes = self.read(object);
                    self.tell(changes, version).await?;
                }
                (WatchEvent::Deleted(object), None) => {
                    let (name, version) = (name_of(&object), version_of(&object)?);
                    self.known.remove(&name);
                    self.tell(vec![Change::Gone(name)], version).await?;
                }
                (WatchEvent::Bookmark(mark), None) => {
                    self.tell(Vec::new(), mark.metadata.resource_version)
                        .await?;
                }
                (WatchEvent::Error(status), _) => return Err(kube::Error::Api(status).into()),
            }
        }
    }

    fn read(&self, object: DynamicObject) -> Vec<Change> {
        let change = match read(self.watch.kind, object, &self.watch.validator) {
            Some(Ok(object)) => Some(Change::Put(object)),
            Some(Err(malformed)) => Some(Change::Malformed(malformed)),
            None => None,
        };
        change.into_iter().collect()
    }

    /// An object of a list; kept only if it is news.
    fn listed(&mut self, object: DynamicObject, changes: &mut Vec<Change>) {
        let version = object.resource_version().unwrap_or_default();
        if self.known.listed(name_of(&object), &version) {
            changes.extend(self.read(object));
        }
    }

    async fn end_list(&mut self, mut changes: Vec<Change>, version: &str) -> Result<(), End> {
        changes.extend(self.known.end().into_iter().map(Change::Gone));
        self.from = Some(version.to_owned());
        let report = Report {
            id: self.watch.id,
            changes,
            revision: version.parse().ok(),
            listed: Some(self.answering),
            trouble: Some(None),
        };
        self.send(report).await
    }

    async fn tell(&mut self, changes: Vec<Change>, version: String) -> Result<(), End> {
        let report = Report {
            id: self.watch.id,
            changes,
            revision: version.parse().ok(),
            ..Report::default()
        };
        self.from = Some(version);
        self.send(report).await
    }

    async fn tell_trouble(&self, message: Option<String>) -> Result<(), End> {
        let report = Report {
            id: self.watch.id,
            trouble: Some(message),
            ..Report::default()
        };
        self.send(report).await
    }

    async fn send(&self, report: Report) -> Result<(), End> {
        let sent = self.watch.report.send(report).await;
        sent.map_err(|_| End::Unwanted)
    }
}

/// An object without a version says nothing about where to go on.
fn version_of(object: &DynamicObject) -> Result<String, End> {
    object.resource_version().ok_or(End::Expired)
}

/// Full jitter; `chance` is in 0..1.
fn backoff(failures: u32, chance: f64) -> Duration {
    let most = BACKOFF.0.saturating_mul(1 << failures.min(10));
    most.min(BACKOFF.1)
        .mul_f64(chance)
        .max(Duration::from_millis(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f09_an_api_server_that_is_down_is_asked_ever_more_rarely() {
        let longest = [0, 1, 3, 6, 60].map(|failures| backoff(failures, 1.0).as_millis());
        assert_eq!(longest, [200, 400, 1_600, 12_800, 15_000]);
        assert_eq!(backoff(60, 0.5), Duration::from_millis(7_500));
    }
}
