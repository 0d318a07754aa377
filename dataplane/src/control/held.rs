//! What is held, in memory and on disk, and the edge where the machine's wishes become deeds.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bodhi_proto::snapshot::Snapshot;
use bodhi_proto::sync::{
    Deny, Down, Effect, Hold, Leader, Rejection, Report, Revision, Up, Violation,
};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Status;
use super::disk::{Disk, DiskError, Folder};

/// This release, as a Hello and the kept file say it.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The file is written at most this often.
const SAVE_PERIOD: Duration = Duration::from_secs(5);

/// Most rejections that are reported.
const REJECTIONS: usize = 1024;

/// What is left for the stream to do.
pub(super) enum Do {
    Send(Box<Up>),
    Note(Note),
    Leader(Leader),
    Goodbye(String),
}

/// Something to be shown.
pub(super) enum Note {
    Connected(String),
    Confirmed(SystemTime),
    Diverged,
}

impl Note {
    pub(super) fn apply(self, status: &mut Status) {
        match self {
            Self::Connected(name) => {
                status.controller = Some(name);
                status.streams += 1;
            }
            Self::Confirmed(at) => status.confirmed = Some(at),
            Self::Diverged => status.divergences += 1,
        }
    }
}

/// The hold, where it is kept, and who is told.
pub(super) struct Held {
    hold: Hold,
    folder: Option<Folder>,
    publish: watch::Sender<Option<Arc<Snapshot>>>,
    report: watch::Sender<Report>,
    /// Denials in force that a restart would forget.
    unjournalled: HashSet<Revision>,
    divergences: u64,
    /// When the file may be written; none while it is up to date.
    save_at: Option<Instant>,
    saved: Option<Instant>,
}

impl Held {
    /// Reads what was kept and publishes it.
    pub(super) fn load(
        disk: Option<Disk>,
        publish: watch::Sender<Option<Arc<Snapshot>>>,
        now: SystemTime,
    ) -> Result<Self, DiskError> {
        let folder = disk.map(|disk| Folder::open(&disk)).transpose()?;
        let hold = match &folder {
            Some(folder) => {
                let (hold, denies) = folder.load(VERSION, now);
                let mut hold = hold.unwrap_or_default();
                for deny in denies {
                    // Nobody is connected yet: there is nothing to answer.
                    hold.deny(deny);
                }
                hold
            }
            None => Hold::new(),
        };
        publish.send_replace(hold.snapshot());
        let held = Self {
            hold,
            folder,
            publish,
            report: watch::channel(Report::default()).0,
            unjournalled: HashSet::new(),
            divergences: 0,
            save_at: None,
            saved: None,
        };
        held.report();
        Ok(held)
    }

    /// The first message of a stream that may take the present one's place.
    pub(super) fn greeting(&self, node: &str) -> Up {
        self.hold.greeting(node, VERSION)
    }

    /// The stream that was greeted last takes the place of the one before.
    pub(super) fn begin(&mut self) {
        self.hold.begin();
    }

    /// What is held, for the leader. Denials count once they are journalled.
    pub(super) fn reports(&self) -> watch::Receiver<Report> {
        self.report.subscribe()
    }

    fn report(&self) {
        let rejections: Arc<[Rejection]> = self.hold.rejections().take(REJECTIONS).collect();
        let denied = self.hold.denied();
        let report = Report {
            mark: *self.hold.mark(),
            digests: self.hold.digests(),
            tokens: self.hold.tokens_at(),
            denied: denied.filter(|r| !self.unjournalled.contains(r)).collect(),
            rejections: Some(rejections),
            divergences: self.divergences,
        };
        self.report.send_if_modified(|before| {
            let differs = *before != report;
            *before = report;
            differs
        });
    }

    /// Takes a message in and does what it asks for; what the stream has to do is left over.
    pub(super) fn receive(&mut self, down: Down) -> Result<Vec<Do>, Violation> {
        let mut rest = Vec::new();
        let (mut journalled, mut told) = (true, matches!(down, Down::Deny(_)));
        for effect in self.hold.receive(down)? {
            match effect {
                Effect::Publish(snapshot) => {
                    self.publish.send_replace(Some(snapshot));
                }
                Effect::Journal(deny) => {
                    journalled = self.journal(&deny);
                    if !journalled {
                        self.unjournalled.insert(deny.revision);
                    }
                }
                // A denial that a restart would forget must not pass for applied.
                Effect::Send(up) if !journalled && matches!(*up, Up::Denied(_)) => {}
                Effect::Send(up) => rest.push(Do::Send(up)),
                Effect::Confirmed { changed, revoked } => {
                    self.confirmed(changed);
                    if revoked && self.folder.is_some() {
                        self.save();
                    }
                    told = true;
                    rest.push(Do::Note(Note::Confirmed(SystemTime::now())));
                }
                Effect::Diverged(kind) => {
                    tracing::warn!(%kind, "held something else than was sent; it is compared and repaired");
                    self.divergences += 1;
                    told = true;
                    rest.push(Do::Note(Note::Diverged));
                }
                Effect::Welcome(welcome) => {
                    rest.push(Do::Note(Note::Connected(welcome.controller)));
                    rest.extend(welcome.leader.map(Do::Leader));
                }
                Effect::Leader(leader) => rest.push(Do::Leader(leader)),
                Effect::Goodbye(reason) => rest.push(Do::Goodbye(reason)),
            }
        }
        if told {
            self.report();
        }
        Ok(rest)
    }

    fn journal(&mut self, deny: &Deny) -> bool {
        let Some(folder) = &mut self.folder else {
            return true;
        };
        match folder.journal(deny) {
            Ok(()) => true,
            Err(error) => {
                tracing::error!(%error, "a denial is in force but could not be journalled");
                false
            }
        }
    }

    fn confirmed(&mut self, changed: bool) {
        if self.folder.is_none() {
            return;
        }
        // A file that makes nobody ready is worse than none: it would only be written over
        // five seconds later.
        let complete = self.publish.borrow().is_some();
        if changed && complete && self.save_at.is_none() {
            let now = Instant::now();
            let earliest = self.saved.map(|at| at + SAVE_PERIOD);
            self.save_at = Some(earliest.unwrap_or(now).max(now));
        }
        if !changed {
            self.confirm_again();
        }
    }

    /// A controller is there and has nothing to change.
    pub(super) fn confirm_again(&self) {
        if let Some(folder) = &self.folder {
            folder.touch(SystemTime::now());
        }
    }

    /// Resolves when the file is to be written; never while it need not be.
    pub(super) async fn save_due(&self) {
        match self.save_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Writes the file.
    pub(super) fn save(&mut self) {
        self.save_at = None;
        self.saved = Some(Instant::now());
        let Some(folder) = &mut self.folder else {
            return;
        };
        match folder.save(&self.hold, VERSION) {
            // Denials are in it.
            Ok(()) => self.unjournalled.clear(),
            Err(error) => {
                tracing::error!(%error, "the snapshot could not be kept");
                self.save_at = Some(Instant::now() + SAVE_PERIOD);
            }
        }
    }

    /// Writes the file if it is out of date.
    pub(super) fn save_if_changed(&mut self) {
        if self.save_at.is_some() {
            self.save();
        }
    }
}
