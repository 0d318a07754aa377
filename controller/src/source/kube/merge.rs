//! What all watches report as one stream of events, and how far it has come.

use std::collections::BTreeMap;
use std::time::Duration;

use bodhi_proto::names::ObjectRef;
use kube::runtime::watcher::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::Troubles;
use super::object::Object;
use super::watch::{Change, Report};
use crate::source::{Malformed, ResourceEvent, ResourceKind};

/// Changes that follow one another so closely are compiled together …
const QUIET: Duration = Duration::from_millis(10);
/// … if they do not go on for longer than this.
const QUIET_MAX: Duration = Duration::from_millis(100);

/// How one watch stands.
struct Standing {
    kind: ResourceKind,
    name: String,
    /// Everything up to it has been sent.
    revision: u64,
    /// The number of calls for a new list that it has answered; `None` before the first list.
    answered: Option<u64>,
    trouble: Option<String>,
}

/// The task.
pub(super) struct Merge {
    watches: Vec<Standing>,
    events: mpsc::Sender<ResourceEvent>,
    tell: watch::Sender<Troubles>,
    malformed: BTreeMap<ObjectRef, Malformed>,
    /// What was said last: the revision, and the calls that were answered.
    settled: Option<(u64, u64)>,
}

/// Nobody wants events any more.
struct Closed;

impl Merge {
    /// `watches` are named by their places.
    pub(super) fn new(
        watches: Vec<(ResourceKind, String)>,
        events: mpsc::Sender<ResourceEvent>,
        tell: watch::Sender<Troubles>,
    ) -> Self {
        let standing = |(kind, name)| Standing {
            kind,
            name,
            revision: 0,
            answered: None,
            trouble: None,
        };
        Self {
            watches: watches.into_iter().map(standing).collect(),
            events,
            tell,
            malformed: BTreeMap::new(),
            settled: None,
        }
    }

    /// Runs until the watches end or nobody wants events.
    pub(super) async fn run(mut self, mut reports: mpsc::Receiver<Report>) {
        // The error means that nobody is left to tell.
        let _ = self.forward(&mut reports).await;
    }

    async fn forward(&mut self, reports: &mut mpsc::Receiver<Report>) -> Result<(), Closed> {
        for kind in ResourceKind::ALL {
            self.mark(kind, Mark::Init).await?;
        }
        while let Some(report) = reports.recv().await {
            let mut changed = self.take(report).await?;
            let latest = Instant::now() + QUIET_MAX;
            while changed {
                let quiet = latest.min(Instant::now() + QUIET);
                match timeout_at(quiet, reports.recv()).await {
                    Ok(Some(report)) => changed |= self.take(report).await?,
                    Ok(None) | Err(_) => break,
                }
            }
            self.show();
            self.settle(changed).await?;
        }
        Ok(())
    }

    /// Sends what a watch reports. Answers whether objects have changed.
    async fn take(&mut self, report: Report) -> Result<bool, Closed> {
        let kind = self.watches[report.id].kind;
        let first = !self.is_listed(kind);
        let changed = !report.changes.is_empty();
        for change in report.changes {
            self.send(change, kind, first).await?;
        }
        let watch = &mut self.watches[report.id];
        if let Some(revision) = report.revision {
            watch.revision = revision;
        }
        watch.answered = report.listed.or(watch.answered);
        if let Some(trouble) = report.trouble {
            watch.trouble = trouble;
        }
        if first && self.is_listed(kind) {
            self.mark(kind, Mark::InitDone).await?;
        }
        Ok(changed)
    }

    /// Whether each watch of a kind has listed once.
    fn is_listed(&self, kind: ResourceKind) -> bool {
        let mut watches = self.watches.iter().filter(|watch| watch.kind == kind);
        watches.all(|watch| watch.answered.is_some())
    }

    async fn send(
        &mut self,
        change: Change,
        kind: ResourceKind,
        first: bool,
    ) -> Result<(), Closed> {
        let event = match change {
            Change::Put(Object::ApiModel(object)) => ResourceEvent::ApiModel(put(*object, first)),
            Change::Put(Object::Alias(object)) => ResourceEvent::Alias(put(*object, first)),
            Change::Put(Object::Secret(object)) => ResourceEvent::Secret(put(*object, first)),
            Change::Malformed(malformed) => {
                let known = self
                    .malformed
                    .insert(malformed.object.clone(), malformed.clone());
                if known.as_ref() != Some(&malformed) {
                    let (object, message) = (&malformed.object, &malformed.message);
                    tracing::warn!(%object, message, "an object is left out");
                }
                ResourceEvent::Malformed(malformed)
            }
            Change::Gone(name) => ResourceEvent::Gone(kind, name),
        };
        if let Some(object) = event.heals() {
            self.malformed.remove(&object);
        }
        self.events.send(event).await.map_err(|_| Closed)
    }

    async fn mark(&self, kind: ResourceKind, mark: Mark) -> Result<(), Closed> {
        fn event<K>(mark: Mark) -> Event<K> {
            match mark {
                Mark::Init => Event::Init,
                Mark::InitDone => Event::InitDone,
            }
        }
        let event = match kind {
            ResourceKind::ApiModel => ResourceEvent::ApiModel(event(mark)),
            ResourceKind::Alias => ResourceEvent::Alias(event(mark)),
            ResourceKind::Secret => ResourceEvent::Secret(event(mark)),
        };
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// Says how far everything has come, if that is news.
    async fn settle(&mut self, changed: bool) -> Result<(), Closed> {
        let answered = self.watches.iter().map(|watch| watch.answered).min();
        // `None` is the least: one has not listed yet.
        let Some(Some(answered)) = answered else {
            return Ok(());
        };
        let revisions = self.watches.iter().map(|watch| watch.revision);
        let now = (revisions.min().unwrap_or(0), answered);
        if !changed && self.settled == Some(now) {
            return Ok(());
        }
        let reread = self.settled.is_some_and(|(_, before)| before < answered);
        self.settled = Some(now);
        let event = ResourceEvent::Settled {
            revision: now.0,
            reread,
        };
        self.events.send(event).await.map_err(|_| Closed)
    }

    fn show(&self) {
        let trouble = |watch: &Standing| Some((watch.name.clone(), watch.trouble.clone()?));
        let waiting = |watch: &Standing| {
            let waits = watch.answered.is_none() && watch.trouble.is_none();
            waits.then(|| (watch.name.clone(), "has not been listed yet".to_owned()))
        };
        let now = Troubles {
            watches: self
                .watches
                .iter()
                .filter_map(|watch| trouble(watch).or_else(|| waiting(watch)))
                .collect(),
            objects: self.malformed.values().cloned().collect(),
        };
        self.tell.send_if_modified(|told| {
            let differs = *told != now;
            *told = now;
            differs
        });
    }
}

/// The marks around a first list.
#[derive(Clone, Copy)]
enum Mark {
    Init,
    InitDone,
}

fn put<K>(object: K, first: bool) -> Event<K> {
    match first {
        true => Event::InitApply(object),
        false => Event::Apply(object),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Name;

    /// A merge of two namespaces' watches per kind, and what it sends.
    struct Rig {
        reports: mpsc::Sender<Report>,
        events: mpsc::Receiver<ResourceEvent>,
        troubles: watch::Receiver<Troubles>,
    }

    fn rig() -> Rig {
        let watches = ResourceKind::ALL.into_iter().flat_map(|kind| {
            [
                (kind, format!("{kind:?} in a")),
                (kind, format!("{kind:?} in b")),
            ]
        });
        let (events, received) = mpsc::channel(64);
        let (tell, troubles) = watch::channel(Troubles::default());
        let (report, reports) = mpsc::channel(64);
        let merge = Merge::new(watches.collect(), events, tell);
        tokio::spawn(merge.run(reports));
        Rig {
            reports: report,
            events: received,
            troubles,
        }
    }

    impl Rig {
        async fn report(&self, report: Report) {
            self.reports
                .send(report)
                .await
                .unwrap_or_else(|_| panic!("ended"));
        }

        async fn list(&self, id: usize, revision: u64, asked: u64) {
            let report = Report {
                id,
                revision: Some(revision),
                listed: Some(asked),
                ..Report::default()
            };
            self.report(report).await;
        }

        async fn settled(&mut self) -> (u64, bool) {
            loop {
                if let ResourceEvent::Settled { revision, reread } =
                    self.events.recv().await.unwrap()
                {
                    return (revision, reread);
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_revision_is_the_least_of_all_watches_and_moves_with_bookmarks() {
        let mut rig = rig();
        for id in 0..6 {
            rig.list(id, 100 + id as u64, 0).await;
        }
        assert_eq!(rig.settled().await, (100, false));
        let bookmark = |id, revision| Report {
            id,
            revision: Some(revision),
            ..Report::default()
        };
        rig.report(bookmark(0, 200)).await;
        assert_eq!(rig.settled().await, (101, false));
        rig.report(bookmark(5, 300)).await;
        rig.report(bookmark(1, 300)).await;
        assert_eq!(
            rig.settled().await,
            (102, false),
            "the fifth was not the least"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_settled_before_each_watch_has_listed() {
        let mut rig = rig();
        for id in 0..5 {
            rig.list(id, 7, 0).await;
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        while let Ok(event) = rig.events.try_recv() {
            assert!(!matches!(event, ResourceEvent::Settled { .. }));
        }
        let (waiting, _) = rig.troubles.borrow().watches[0].clone();
        assert_eq!(waiting, "Secret in b");
        rig.list(5, 7, 0).await;
        assert_eq!(rig.settled().await, (7, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_that_was_asked_for_is_told_when_every_watch_has_made_it() {
        let mut rig = rig();
        for id in 0..6 {
            rig.list(id, 7, 0).await;
        }
        rig.settled().await;
        for id in 0..5 {
            rig.list(id, 8, 1).await;
        }
        rig.list(5, 9, 1).await;
        assert_eq!(rig.settled().await, (8, true));
        let gone = Report {
            id: 0,
            changes: vec![Change::Gone(Name::new("a", "x"))],
            ..Report::default()
        };
        rig.report(gone).await;
        assert_eq!(
            rig.settled().await,
            (8, false),
            "a change is settled at any revision"
        );
    }
}
