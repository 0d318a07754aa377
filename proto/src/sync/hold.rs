//! The data plane's side: what it holds, and the snapshot it serves from.

mod tokens;
mod view;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use self::tokens::TokenChanges;
use super::mark::{Mark, Revision, Source, sources};
use super::message::{Ack, Chunk, Commit, Deny, Down, Hello, Leader, Put, Rejection, Up, Welcome};
use super::offer::Violation;
use super::shelf::Shelf;
use crate::digest::{Digests, Sums, Version};
use crate::names::TokenId;
use crate::snapshot::{
    Credential, Kind, KindSet, Policy, Pool, Resource, ServedName, Snapshot, Token, Upstream,
    WorkerEndpoint,
};

/// Most changes in one transaction; the largest gateway has a third of it.
const STAGED_MAX: usize = 1 << 20;
/// Most rejections that a Hello lists.
const HELLO_REJECTIONS: usize = 1024;

/// What is to be done, in this order, before the next message is taken in.
#[derive(Debug, Clone)]
pub enum Effect {
    /// To be sent.
    Send(Box<Up>),
    /// To be written down before anything is sent.
    Journal(Deny),
    /// To be served from, from now on.
    Publish(Arc<Snapshot>),
    /// A controller confirmed what is held; `changed` when it is not what it was.
    Confirmed {
        /// Whether a kept copy is out of date.
        changed: bool,
        /// Whether tokens went that no denial had named: a kept copy must not bring them back,
        /// so it is written before the acknowledgement is sent.
        revoked: bool,
    },
    /// After a transaction that was to make both sides equal in this kind they were not: its buckets
    /// are compared and replaced. Something is wrong with one of the programs.
    Diverged(Kind),
    /// Who the controller is.
    Welcome(Welcome),
    /// Who leads now.
    Leader(Leader),
    /// The controller is about to close the stream.
    Goodbye(String),
}

impl Effect {
    fn send(up: Up) -> Self {
        Self::Send(Box::new(up))
    }
}

/// All that a data plane holds. It outlives streams; what was staged does not.
#[derive(Debug, Default)]
pub struct Hold {
    pub(super) shelves: Shelves,
    /// Nothing older may be applied.
    pub(super) floor: Mark,
    /// What is fully contained.
    pub(super) mark: Mark,
    pub(super) complete: KindSet,
    pub(super) denies: HashMap<TokenId, Revision>,
    /// The store's revision that the token table is a picture of.
    pub(super) tokens_at: Option<Revision>,
    pub(super) view: Snapshot,
    staged: Option<Staged>,
    /// Kinds that this stream has brought level with the controller.
    level: KindSet,
}

/// A shelf per kind.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    pub(super) upstreams: Shelf<Upstream>,
    pub(super) credentials: Shelf<Credential>,
    pub(super) served_names: Shelf<ServedName>,
    pub(super) tokens: Shelf<Token>,
    pub(super) policy: Shelf<Policy>,
    pub(super) pools: Shelf<Pool>,
    pub(super) endpoints: Shelf<WorkerEndpoint>,
}

/// Runs the same expression on the shelf of a kind.
macro_rules! on_shelf {
    ($shelves:expr, $kind:expr, $shelf:ident => $do:expr) => {
        match $kind {
            Kind::Upstream => {
                let $shelf = &$shelves.upstreams;
                $do
            }
            Kind::Credential => {
                let $shelf = &$shelves.credentials;
                $do
            }
            Kind::ServedName => {
                let $shelf = &$shelves.served_names;
                $do
            }
            Kind::Token => {
                let $shelf = &$shelves.tokens;
                $do
            }
            Kind::Policy => {
                let $shelf = &$shelves.policy;
                $do
            }
            Kind::Pool => {
                let $shelf = &$shelves.pools;
                $do
            }
            Kind::Endpoint => {
                let $shelf = &$shelves.endpoints;
                $do
            }
        }
    };
}

impl Shelves {
    fn offered(&self, kind: Kind, name: &str) -> Option<Version> {
        on_shelf!(self, kind, shelf => shelf.offered(name))
    }

    fn sums(&self, kind: Kind) -> &Sums {
        on_shelf!(self, kind, shelf => shelf.sums())
    }

    fn is_empty(&self, kind: Kind) -> bool {
        on_shelf!(self, kind, shelf => shelf.len() == 0 && shelf.rejected().next().is_none())
    }

    pub(super) fn rejection(&self, kind: Kind, name: &str) -> Option<Rejection> {
        on_shelf!(self, kind, shelf => shelf.rejection(name).map(|r| Rejection {
            kind,
            name: name.to_owned(),
            version: r.version,
            text: r.text.to_string(),
        }))
    }

    pub(super) fn rejections(&self) -> impl Iterator<Item = Rejection> {
        Kind::ALL.into_iter().flat_map(|kind| {
            on_shelf!(self, kind, shelf => shelf
                .rejected()
                .map(|(name, r)| Rejection {
                    kind,
                    name: name.to_owned(),
                    version: r.version,
                    text: r.text.to_string(),
                })
                .collect::<Vec<_>>())
        })
    }

    pub(super) fn reject(&mut self, rejection: &Rejection) {
        let (name, version) = (&*rejection.name, rejection.version);
        let text = Arc::from(&*rejection.text);
        match rejection.kind {
            Kind::Upstream => self.upstreams.reject(name, version, text),
            Kind::Credential => self.credentials.reject(name, version, text),
            Kind::ServedName => self.served_names.reject(name, version, text),
            Kind::Token => self.tokens.reject(name, version, text),
            Kind::Policy => self.policy.reject(name, version, text),
            Kind::Pool => self.pools.reject(name, version, text),
            Kind::Endpoint => self.endpoints.reject(name, version, text),
        }
    }

    /// Stores a value; a token whose place it takes.
    pub(super) fn accept(&mut self, resource: Resource, version: Version) -> Option<Arc<Token>> {
        match resource {
            Resource::Upstream(v) => drop(self.upstreams.accept(v, version)),
            Resource::Credential(v) => drop(self.credentials.accept(v, version)),
            Resource::ServedName(v) => drop(self.served_names.accept(v, version)),
            Resource::Token(v) => return self.tokens.accept(v, version),
            Resource::Policy(v) => drop(self.policy.accept(v, version)),
            Resource::Pool(v) => drop(self.pools.accept(v, version)),
            Resource::Endpoint(v) => drop(self.endpoints.accept(v, version)),
        }
        None
    }

    /// Drops a name; the token, if it was one.
    fn remove(&mut self, kind: Kind, name: &str) -> Option<Arc<Token>> {
        match kind {
            Kind::Upstream => drop(self.upstreams.remove(name)),
            Kind::Credential => drop(self.credentials.remove(name)),
            Kind::ServedName => drop(self.served_names.remove(name)),
            Kind::Token => return self.tokens.remove(name),
            Kind::Policy => drop(self.policy.remove(name)),
            Kind::Pool => drop(self.pools.remove(name)),
            Kind::Endpoint => drop(self.endpoints.remove(name)),
        }
        None
    }
}

/// A transaction of which the commit has not come yet.
#[derive(Debug)]
struct Staged {
    transaction: u64,
    changes: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Put(Resource, Version),
    /// The version that was offered last, accepted or not.
    Same(Kind, Box<str>),
    Reject(Box<Rejection>),
    Remove(Kind, Box<str>),
}

impl Change {
    fn kind(&self) -> Kind {
        match self {
            Self::Put(resource, _) => resource.kind(),
            Self::Same(kind, _) | Self::Remove(kind, _) => *kind,
            Self::Reject(rejection) => rejection.kind,
        }
    }
}

impl Hold {
    /// Nothing held yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first message of a new stream. What an earlier stream left unfinished is dropped.
    pub fn hello(&mut self, node: &str, version: &str) -> Up {
        self.begin();
        self.greeting(node, version)
    }

    /// A new stream takes the place of the one before, of which whatever is unfinished is dropped.
    pub fn begin(&mut self) {
        self.staged = None;
        self.level = KindSet::NONE;
    }

    /// The first message of a stream that is to take the present one's place, if it is answered.
    /// Until it has ([`Hold::begin`]) nothing more of the present one may be taken in.
    pub fn greeting(&self, node: &str, version: &str) -> Up {
        Up::Hello(Hello {
            node: node.to_owned(),
            version: version.to_owned(),
            floor: self.floor,
            digests: self.digests(),
            rejections: self.shelves.rejections().take(HELLO_REJECTIONS).collect(),
            kinds: Kind::ALL.into_iter().collect(),
        })
    }

    /// What is served from; `None` until names, upstreams and policy are known.
    pub fn snapshot(&self) -> Option<Arc<Snapshot>> {
        let needed = [Kind::Upstream, Kind::ServedName, Kind::Policy];
        let ready = needed.iter().all(|kind| self.complete.contains(*kind));
        ready.then(|| Arc::new(self.view.clone()))
    }

    /// How much of each source is fully contained.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// Nothing older than this may be applied.
    pub fn floor(&self) -> &Mark {
        &self.floor
    }

    /// The store's revision that the token table is a picture of.
    pub fn tokens_at(&self) -> Option<Revision> {
        self.tokens_at
    }

    /// Denials that the token table does not contain yet.
    pub fn denied(&self) -> impl Iterator<Item = Revision> {
        self.denies.values().copied()
    }

    /// Of the kinds that are held completely.
    pub fn digests(&self) -> Digests {
        let mut digests = Digests::default();
        for kind in self.complete.iter() {
            digests.set(kind, self.shelves.sums(kind).total());
        }
        digests
    }

    /// What is not accepted.
    pub fn rejections(&self) -> impl Iterator<Item = Rejection> {
        self.shelves.rejections()
    }

    /// Takes in what a controller says.
    ///
    /// # Errors
    /// The controller broke the protocol; the stream must end. Nothing was changed.
    pub fn receive(&mut self, down: Down) -> Result<Vec<Effect>, Violation> {
        Ok(match down {
            Down::Chunk(chunk) => return self.chunk(chunk),
            Down::ShowBuckets(kind) => {
                let sums = self.shelves.sums(kind).clone();
                let diverged = self.level.contains(kind).then_some(Effect::Diverged(kind));
                self.level.remove(kind);
                let answer = Effect::send(Up::Buckets(kind, sums));
                diverged.into_iter().chain([answer]).collect()
            }
            Down::Deny(deny) => self.deny(deny),
            Down::Welcome(welcome) => vec![Effect::Welcome(welcome)],
            Down::Leader(leader) => vec![Effect::Leader(leader)],
            Down::Goodbye(reason) => vec![Effect::Goodbye(reason)],
        })
    }

    /// Applies a denial from the journal, or one that just came.
    pub fn deny(&mut self, deny: Deny) -> Vec<Effect> {
        let revision = deny.revision;
        let mut effects = Vec::new();
        // A table that is a picture of that revision or a later one knows already.
        if self.tokens_at < Some(revision) {
            effects.push(Effect::Journal(deny.clone()));
            let known = self.denies.entry(deny.token.clone()).or_default();
            *known = revision.max(*known);
            if let Some(token) = self.shelves.tokens.get(&deny.token)
                && let Some(table) = &self.view.tokens
                && table.get(&token.hash).is_some()
            {
                self.view.tokens = Some(table.changed(&[], &[token.hash]));
                effects.extend(self.snapshot().map(Effect::Publish));
            }
        }
        effects.push(Effect::send(Up::Denied(revision)));
        effects
    }

    fn chunk(&mut self, chunk: Chunk) -> Result<Vec<Effect>, Violation> {
        let mut staged = match self.staged.take() {
            Some(staged) if staged.transaction == chunk.transaction => staged,
            Some(_) => return Err(Violation::Interleaved),
            None => Staged {
                transaction: chunk.transaction,
                changes: Vec::new(),
            },
        };
        if staged.changes.len() + chunk.puts.len() + chunk.removals.len() > STAGED_MAX {
            return Err(Violation::TooLarge);
        }
        for put in chunk.puts {
            staged.changes.push(self.judge(put));
        }
        let removals = chunk.removals.into_iter();
        staged
            .changes
            .extend(removals.map(|(kind, name)| Change::Remove(kind, name.into())));
        match chunk.commit {
            Some(commit) => Ok(self.commit(staged, commit)),
            None => {
                self.staged = Some(staged);
                Ok(Vec::new())
            }
        }
    }

    fn judge(&self, put: Put) -> Change {
        if self.shelves.offered(put.kind, &put.name) == Some(put.version) {
            return Change::Same(put.kind, put.name.into());
        }
        match Resource::decode(put.kind, &put.name, &put.body) {
            Ok(resource) => Change::Put(resource, put.version),
            Err(why) => Change::Reject(Box::new(Rejection {
                kind: put.kind,
                name: put.name,
                version: put.version,
                text: why.to_string(),
            })),
        }
    }

    /// Applies a whole transaction, or nothing of it.
    fn commit(&mut self, staged: Staged, commit: Commit) -> Vec<Effect> {
        let named: KindSet = staged
            .changes
            .iter()
            .map(Change::kind)
            .chain(commit.replacements.iter().map(|(kind, _)| *kind))
            .collect();
        let mut ack = Ack {
            transaction: staged.transaction,
            ..Ack::default()
        };
        if let Err(why) = self.permits(&staged, &commit) {
            ack.digests = self.digests();
            ack.refused = Some(why);
            // All of it is compared afresh.
            self.level = KindSet::NONE;
            ack.floor = self.floor;
            return vec![Effect::send(Up::Ack(ack))];
        }

        let (mut changed, mut tokens) = (KindSet::NONE, TokenChanges::default());
        self.replace(&staged.changes, &commit, &mut changed, &mut tokens);
        if self.shelves.is_empty(Kind::Token) {
            let puts = staged.changes.iter();
            let puts = puts.filter(|c| matches!(c, Change::Put(Resource::Token(_), _)));
            self.shelves.tokens.reserve(puts.count());
        }
        for change in staged.changes {
            let kind = change.kind();
            match change {
                Change::Put(resource, version) => {
                    changed.insert(kind);
                    if let Resource::Token(token) = &resource {
                        tokens.added(Arc::clone(token));
                    }
                    tokens.replaced(self.shelves.accept(resource, version));
                }
                Change::Same(kind, name) => {
                    ack.rejections.extend(self.shelves.rejection(kind, &name));
                }
                Change::Reject(rejection) => {
                    changed.insert(kind);
                    self.shelves.reject(&rejection);
                    ack.rejections.push(*rejection);
                }
                Change::Remove(kind, name) => {
                    changed.insert(kind);
                    tokens.removed(self.shelves.remove(kind, &name));
                }
            }
        }
        let revoked = tokens.any_removed(|id| !self.denies.contains_key(id));
        let advanced = self.advance(&commit, &mut changed);
        self.prune_denies(&mut tokens);
        self.look_again(changed, tokens);

        for kind in named.iter() {
            ack.digests.set(kind, self.shelves.sums(kind).total());
        }
        let mut effects = Vec::new();
        if advanced || !changed.is_empty() {
            effects.extend(self.snapshot().map(Effect::Publish));
        }
        effects.push(Effect::Confirmed {
            changed: advanced || !changed.is_empty(),
            revoked,
        });
        effects.push(Effect::send(Up::Ack(ack)));
        effects
    }

    /// Whether a transaction may be applied: it is about what it says, and not older than what
    /// has been seen.
    fn permits(&self, staged: &Staged, commit: &Commit) -> Result<(), String> {
        let changed = staged.changes.iter().map(Change::kind);
        let replaced = commit.replacements.iter().map(|(kind, _)| *kind);
        if let Some(kind) = changed
            .chain(replaced)
            .find(|kind| !commit.complete.contains(*kind))
        {
            return Err(format!(
                "the transaction changes {kind} resources without being complete for them"
            ));
        }
        match commit
            .complete
            .iter()
            .find(|kind| !commit.mark.reaches(&self.floor, *kind))
        {
            Some(kind) => Err(format!(
                "{kind} resources of {} are older than what is held: {}",
                commit.mark, self.floor
            )),
            None => Ok(()),
        }
    }

    /// Drops what replaced buckets do not hold any more.
    fn replace(
        &mut self,
        changes: &[Change],
        commit: &Commit,
        changed: &mut KindSet,
        tokens: &mut TokenChanges,
    ) {
        for (kind, buckets) in &commit.replacements {
            if self.shelves.is_empty(*kind) {
                continue;
            }
            let kept: HashSet<Box<str>> = changes
                .iter()
                .filter_map(|change| match change {
                    Change::Put(resource, _) => {
                        (resource.kind() == *kind).then(|| resource.name().into_boxed_str())
                    }
                    Change::Same(of, name) => (of == kind).then(|| name.clone()),
                    Change::Reject(r) => (r.kind == *kind).then(|| (*r.name).into()),
                    Change::Remove(..) => None,
                })
                .collect();
            let shelves = &mut self.shelves;
            match kind {
                Kind::Upstream => drop(shelves.upstreams.keep_only(buckets, &kept)),
                Kind::Credential => drop(shelves.credentials.keep_only(buckets, &kept)),
                Kind::ServedName => drop(shelves.served_names.keep_only(buckets, &kept)),
                Kind::Token => {
                    for token in shelves.tokens.keep_only(buckets, &kept) {
                        tokens.removed(Some(token));
                    }
                }
                Kind::Policy => drop(shelves.policy.keep_only(buckets, &kept)),
                Kind::Pool => drop(shelves.pools.keep_only(buckets, &kept)),
                Kind::Endpoint => drop(shelves.endpoints.keep_only(buckets, &kept)),
            }
            changed.insert(*kind);
        }
    }

    /// Moves marks and completeness forward; whether any did.
    fn advance(&mut self, commit: &Commit, changed: &mut KindSet) -> bool {
        let before = (self.floor, self.mark, self.complete);
        for kind in commit.complete.iter() {
            self.level.insert(kind);
            if !self.complete.contains(kind) {
                self.complete.insert(kind);
                changed.insert(kind);
            }
            for source in sources(kind) {
                if let Some(revision) = commit.mark.at(*source) {
                    self.floor.raise(*source, revision);
                }
            }
        }
        if commit.complete.contains(Kind::Token) {
            self.tokens_at = self.tokens_at.max(commit.mark.at(Source::Store));
        }
        for source in Source::ALL {
            if source.kinds().iter().all(|k| commit.complete.contains(k))
                && let Some(revision) = commit.mark.at(source)
            {
                self.mark.raise(source, revision);
            }
        }
        before != (self.floor, self.mark, self.complete)
    }
}
