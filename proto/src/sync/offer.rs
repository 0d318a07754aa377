//! The controller's side of one stream: what a data plane lacks, and when to tell it.

mod dirty;
mod flight;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::dirty::Dirty;
use self::flight::Flight;
use super::mark::{Mark, Revision, Source};
use super::message::{Ack, Deny, Down, Hello, Leader, Rejection, Up, Welcome};
use super::state::{Key, State};
use crate::digest::{BucketSet, Digests, Version};
use crate::snapshot::{Kind, KindSet};

/// Changes are sent once nothing has changed for this long …
const QUIET: Duration = Duration::from_millis(100);
/// … or once the oldest has waited for this long.
const MOST: Duration = Duration::from_secs(1);
/// A mark that moved without any change is told after this long.
const MARK_PERIOD: Duration = Duration::from_secs(1);
/// After something that should not happen (a refusal, a second divergence) the next
/// attempt waits, twice as long each time.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The other side did what the protocol does not allow; the stream must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something before the first Hello, or a second one.
    #[error("a stream begins with exactly one Hello")]
    Hello,
    /// An answer to what was not asked.
    #[error("an answer to a question that was not asked")]
    Answer,
    /// A transaction began before the last one's commit.
    #[error("a transaction began before the one before it ended")]
    Interleaved,
    /// More than any gateway has.
    #[error("a transaction with more changes than can be")]
    TooLarge,
}

/// How a kind stands on this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Its sources have not been read, or not as far as the data plane has seen already.
    Withheld,
    /// To be compared; the data plane's digest, if it ever held the kind completely.
    Unequal(Option<u128>),
    /// The data plane was asked for its bucket sums.
    Asked,
    /// Equal, once what is dirty has been sent.
    Level,
}

/// One stream's session. Bounded memory: one transaction under way and a set of keys behind it.
#[derive(Debug)]
pub struct Offer {
    name: Welcome,
    peer: Option<Hello>,
    standing: [Standing; Kind::ALL.len()],
    /// What the data plane last said it holds.
    known: Digests,
    dirty: Dirty,
    flight: Option<Flight>,
    transactions: u64,
    /// Goes out before anything else.
    prompt: VecDeque<Down>,
    /// The mark and the kinds of the last transaction that was sent, and when.
    told: Option<(Mark, KindSet, Duration)>,
    /// Contained according to the last transaction that was acknowledged.
    mark: Mark,
    /// The edition that is contained likewise, of the kinds that are compiled from objects.
    edition: Option<u64>,
    complete: KindSet,
    denied: Vec<Revision>,
    rejections: BTreeMap<(Kind, String), Rejection>,
    trouble: Option<Trouble>,
    divergences: u64,
}

#[derive(Debug, Clone, Copy)]
struct Trouble {
    wait: Duration,
    until: Duration,
}

impl Offer {
    /// A session that waits for its Hello. `name` is this controller.
    pub fn new(name: Welcome) -> Self {
        Self {
            name,
            peer: None,
            standing: [Standing::Withheld; Kind::ALL.len()],
            known: Digests::default(),
            dirty: Dirty::default(),
            flight: None,
            transactions: 0,
            prompt: VecDeque::new(),
            told: None,
            mark: Mark::default(),
            edition: None,
            complete: KindSet::NONE,
            denied: Vec::new(),
            rejections: BTreeMap::new(),
            trouble: None,
            divergences: 0,
        }
    }

    /// The name of the data plane, once it has said Hello.
    pub fn node(&self) -> Option<&str> {
        self.peer.as_ref().map(|hello| &*hello.node)
    }

    /// What the data plane is known to contain of each source.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The edition of what is compiled from objects that the data plane is known to contain.
    pub fn edition(&self) -> Option<u64> {
        self.edition
    }

    /// The kinds that are compiled from objects, as far as the data plane understands them.
    fn of_objects(&self) -> impl Iterator<Item = Kind> {
        let understood = self.peer.as_ref().map_or(KindSet::NONE, |p| p.kinds);
        let kinds = Source::Objects.kinds();
        Kind::ALL
            .into_iter()
            .filter(move |k| kinds.contains(*k) && understood.contains(*k))
    }

    /// What the data plane does not accept.
    pub fn rejections(&self) -> impl Iterator<Item = &Rejection> {
        self.rejections.values()
    }

    /// How often the data plane held something else than it had been sent.
    pub fn divergences(&self) -> u64 {
        self.divergences
    }

    /// Whether the data plane refuses the token that was revoked at `revision`.
    pub fn has_applied(&self, revision: Revision) -> bool {
        let contained =
            self.complete.contains(Kind::Token) && self.mark.at(Source::Store) >= Some(revision);
        contained || self.denied.contains(&revision)
    }

    /// The state has changed in these places.
    pub fn changed(&mut self, keys: &[Key], state: &State, now: Duration) {
        // What is not level will be compared as a whole.
        let level = self.level();
        let keys = keys.iter().filter(|key| level.contains(key.kind));
        self.dirty.add(keys, state, now);
    }

    fn level(&self) -> KindSet {
        Kind::ALL
            .into_iter()
            .filter(|k| self.standing[k.index()] == Standing::Level)
            .collect()
    }

    /// What is dirty waits for no more changes.
    pub fn hasten(&mut self) {
        self.dirty.hasten();
    }

    /// A token was revoked.
    pub fn deny(&mut self, deny: &Deny) {
        if self.peer.is_some() {
            self.prompt.push_back(Down::Deny(deny.clone()));
        }
    }

    /// Somebody else leads now.
    pub fn announce(&mut self, leader: Leader) {
        self.name.leader = Some(leader.clone());
        if self.peer.is_some() {
            self.prompt.push_back(Down::Leader(leader));
        }
    }

    /// The stream is about to be closed from this side.
    pub fn goodbye(&mut self, reason: &str) {
        self.prompt.push_back(Down::Goodbye(reason.to_owned()));
    }

    /// Takes in what the data plane says.
    pub fn receive(&mut self, up: Up, state: &State, now: Duration) -> Result<(), Violation> {
        match (up, &self.peer) {
            (Up::Hello(hello), None) => self.hello(hello, state),
            (Up::Hello(_), Some(_)) | (_, None) => return Err(Violation::Hello),
            (Up::Ack(ack), Some(_)) => self.ack(ack, now)?,
            (Up::Buckets(kind, sums), Some(_)) => {
                let standing = &mut self.standing[kind.index()];
                if *standing != Standing::Asked {
                    return Err(Violation::Answer);
                }
                *standing = Standing::Level;
                self.dirty
                    .replace(kind, state.sums(kind).differing(&sums), now);
            }
            (Up::Denied(revision), Some(_)) => self.denied.push(revision),
        }
        Ok(())
    }

    fn hello(&mut self, hello: Hello, state: &State) {
        self.prompt.push_back(Down::Welcome(self.name.clone()));
        let since = hello.floor.at(Source::Store);
        let denies = state.denies_since(since).cloned().map(Down::Deny);
        self.prompt.extend(denies);
        self.known = hello.digests;
        self.remember(&hello.rejections);
        self.peer = Some(hello);
    }

    fn remember(&mut self, rejections: &[Rejection]) {
        for rejection in rejections {
            let key = (rejection.kind, rejection.name.clone());
            self.rejections.insert(key, rejection.clone());
        }
    }

    fn ack(&mut self, ack: Ack, now: Duration) -> Result<(), Violation> {
        let flight = match self.flight.take() {
            Some(flight) if flight.is_sent() && flight.transaction == ack.transaction => flight,
            _ => return Err(Violation::Answer),
        };
        for (kind, digest) in ack.digests.iter() {
            self.known.set(kind, digest);
        }
        if ack.refused.is_some() {
            self.refused(&flight, &ack, now);
            return Ok(());
        }
        self.rejections
            .retain(|(kind, name), _| !flight.replaces(*kind, name));
        for (kind, name) in flight.keys() {
            self.rejections.remove(&(kind, name.to_string()));
        }
        self.remember(&ack.rejections);
        self.complete = flight.complete;
        let understood = self.peer.as_ref().map_or(KindSet::NONE, |p| p.kinds);
        for source in Source::ALL {
            let mut needed = source.kinds().iter().filter(|k| understood.contains(*k));
            if needed.all(|k| flight.complete.contains(k))
                && let Some(revision) = flight.mark.at(source)
            {
                self.mark.raise(source, revision);
            }
        }
        if self.of_objects().all(|k| flight.complete.contains(k)) {
            self.edition = self.edition.max(Some(flight.edition));
        }
        let contained = self.mark.at(Source::Store);
        self.denied.retain(|revision| Some(*revision) > contained);
        let mut diverged = false;
        for (kind, expected) in flight.expected.iter() {
            if self.known.get(kind) != Some(expected) {
                self.standing[kind.index()] = Standing::Unequal(self.known.get(kind));
                self.dirty.forget(kind);
                diverged = true;
            }
        }
        match diverged {
            true => {
                self.divergences += 1;
                self.back_off(now);
            }
            false => self.trouble = None,
        }
        Ok(())
    }

    /// Nothing of the transaction was applied: its kinds are compared afresh, later.
    fn refused(&mut self, flight: &Flight, ack: &Ack, now: Duration) {
        if let Some(peer) = &mut self.peer {
            peer.floor.raise_all(&ack.floor);
        }
        for kind in flight.complete.iter() {
            self.standing[kind.index()] = Standing::Withheld;
            self.dirty.forget(kind);
        }
        self.told = None;
        self.back_off(now);
    }

    fn back_off(&mut self, now: Duration) {
        let wait = match self.trouble {
            Some(trouble) => (trouble.wait * 2).min(BACKOFF.1),
            None => BACKOFF.0,
        };
        let until = now + wait;
        self.trouble = Some(Trouble { wait, until });
    }

    /// The next message to send, if there is one now. To be called when the last one was taken by
    /// the transport, so that a slow reader holds back the rest. `large` allows a transaction
    /// of more than [`Offer::LARGE`] resources to begin: what paces many data planes that connect at once.
    pub fn next(&mut self, state: &State, now: Duration, large: bool) -> Option<Down> {
        if let Some(prompt) = self.prompt.pop_front() {
            return Some(prompt);
        }
        if let Some(flight) = &mut self.flight {
            return flight.next_chunk().map(Down::Chunk);
        }
        if self.peer.is_none() || self.trouble.is_some_and(|t| now < t.until) {
            return None;
        }
        if let Some(kind) = self.compare(state, now) {
            return Some(Down::ShowBuckets(kind));
        }
        self.begin(state, now, large)?;
        self.flight.as_mut()?.next_chunk().map(Down::Chunk)
    }

    /// A transaction above this many resources counts as large.
    pub const LARGE: usize = 5_000;

    /// Whether a large transaction is under way.
    pub fn is_large(&self) -> bool {
        self.flight.as_ref().is_some_and(|f| f.len() > Self::LARGE)
    }

    /// When [`Offer::next`] may have something although nothing happens until then.
    pub fn wake(&self, state: &State, now: Duration) -> Option<Duration> {
        if self.peer.is_none() || self.flight.is_some() {
            return None;
        }
        if let Some(trouble) = self.trouble
            && now < trouble.until
        {
            return Some(trouble.until);
        }
        let mark = self
            .told
            .filter(|(mark, ..)| mark != state.mark())
            .map(|(.., at)| at + MARK_PERIOD);
        [mark, self.dirty.due()].into_iter().flatten().min()
    }

    /// Opens gates and finds out what is equal; a kind whose bucket sums are needed, if any.
    fn compare(&mut self, state: &State, now: Duration) -> Option<Kind> {
        let (floor, understood) = self.peer.as_ref().map(|p| (p.floor, p.kinds))?;
        for kind in understood.iter() {
            let standing = &mut self.standing[kind.index()];
            if *standing == Standing::Withheld && state.mark().reaches(&floor, kind) {
                *standing = Standing::Unequal(self.known.get(kind));
            }
            let Standing::Unequal(known) = *standing else {
                continue;
            };
            match known {
                Some(known) if known == state.sums(kind).total() => {
                    *standing = Standing::Level;
                }
                Some(_) => {
                    *standing = Standing::Asked;
                    return Some(kind);
                }
                None => {
                    *standing = Standing::Level;
                    self.dirty.replace(kind, BucketSet::ALL, now);
                }
            }
        }
        None
    }

    /// Makes a transaction of all that is dirty, if it is time.
    fn begin(&mut self, state: &State, now: Duration, large: bool) -> Option<()> {
        let level = self.level();
        let due = match self.told {
            None => !level.is_empty(),
            Some((_, complete, _)) if !level.iter().all(|k| complete.contains(k)) => true,
            Some((mark, _, at)) => {
                let moved = mark != *state.mark() && now >= at + MARK_PERIOD;
                moved || self.dirty.due().is_some_and(|due| now >= due)
            }
        };
        if !due || (!large && self.dirty.len(state) > Self::LARGE) {
            return None;
        }
        let rejections = &self.rejections;
        let is_rejected = |key: &Key, version: Version| {
            rejections
                .get(&(key.kind, key.name.to_string()))
                .is_some_and(|r| r.version == version)
        };
        self.transactions += 1;
        let changes = self.dirty.take();
        self.flight = Some(Flight::new(
            self.transactions,
            changes,
            level,
            state,
            is_rejected,
        ));
        self.told = Some((*state.mark(), level, now));
        Some(())
    }

    /// When changes are sent: after [`QUIET`] or [`MOST`].
    fn due(first: Duration, last: Duration) -> Duration {
        (last + QUIET).min(first + MOST)
    }
}
