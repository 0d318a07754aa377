//! The life of a configuration change: event → index → compile → sync → status.
//!
//! One task owns the index and everything compiled from it. It never waits for a data plane or a
//! worker; what those say comes back and becomes conditions, and workers become endpoints.

mod orphans;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::routing::Table;
use bodhi_proto::snapshot::{
    AllowedOrigins, Credential, Policy, Pool, ServedKey, ServedName, Snapshot, Token,
    WorkerEndpoint,
};
use bodhi_proto::sync::{Revision, Source};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::compile::{Compiled, CompiledCredential, LocalModel, Settings, StoredKeys, compile};
use crate::index::{Index, Resources};
use crate::leader::Leadership;
use crate::pools::{self, Workers};
use crate::runtime::Runtime;
use crate::source::{ObjectSource, ResourceEvent};
use crate::status::{self, StatusWriter, Statuses};
use crate::store::{Actor, Changes, KeyChange, KeyState, ObjectUid, Store, StoredKey};
use crate::sync::{Publication, Server, Tokens};

use self::orphans::Orphans;
use self::stored::Stored;

/// How soon a list that shrank too much is read a second time.
const DOUBT: Duration = Duration::from_secs(1);
/// How soon it is asked for once more, where nobody answers.
const REREAD_AGAIN: Duration = Duration::from_secs(30);
/// How long changes gather before statuses are written, however many more come.
const STATUS_PACE: Duration = Duration::from_millis(250);
/// How often stored keys are looked through for those whose objects are gone.
const SWEEP: Duration = Duration::from_secs(60);

/// Everything known at one moment, for the admin API to read.
#[derive(Clone, Default)]
pub struct World {
    /// The objects.
    pub index: Index,
    /// What they mean.
    pub compiled: Arc<Compiled>,
    /// The same as a data plane holds it, without tokens.
    pub snapshot: Arc<Snapshot>,
    /// What their owners are told, where the objects do not say so themselves.
    pub statuses: Arc<Statuses>,
}

/// What the reconciler works with.
pub struct Parts {
    /// Where data planes are fed.
    pub sync: Server,
    /// Tokens and keys.
    pub store: Arc<dyn Store>,
    /// Who keeps statuses.
    pub statuses: Box<dyn StatusWriter>,
    /// What runs local models.
    pub runtime: Arc<dyn Runtime>,
    /// Where several controllers may lead: whether this one does, and so forgets the keys of objects
    /// that are gone. A folder's source forgets them itself.
    pub leadership: Option<watch::Receiver<Leadership>>,
    /// The source, to be read again when a list is doubted.
    pub source: Arc<dyn ObjectSource>,
    /// The operator's word.
    pub settings: Settings,
    /// Gateway-wide lists and caps, and who may call by a ServiceAccount.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// Tokens that the environment sets and the store does not know.
    pub static_tokens: Vec<Arc<Token>>,
}

/// The task's state.
pub struct Reconciler {
    parts: Parts,
    world: watch::Sender<Arc<World>>,
    resources: Resources,
    /// Of the store; `None` until it was read.
    incarnation: Option<u64>,
    /// What it holds.
    stored: mpsc::Receiver<Stored>,
    keys: BTreeMap<Arc<str>, StoredKey>,
    /// How far the store is contained.
    store_seq: u64,
    /// To whoever sizes local models.
    models: watch::Sender<Option<Arc<Vec<LocalModel>>>>,
    /// Their workers.
    workers: watch::Receiver<Arc<Workers>>,
    /// The names that are offered now.
    offered: BTreeMap<ServedKey, Arc<ServedName>>,
    /// Objects have changed since they were compiled.
    stale: bool,
    /// What was compiled last, as the sync server counts it.
    edition: u64,
    /// The last list lost too much to be believed; when to ask for it (again).
    doubt: Option<Instant>,
    orphans: Orphans,
}

/// What local models add to what is offered.
struct Local {
    served: Vec<Arc<ServedName>>,
    pools: Vec<Arc<Pool>>,
    endpoints: Vec<Arc<WorkerEndpoint>>,
    mark: (Source, Revision),
}

impl Reconciler {
    /// Begins to follow the store, and does not wait for it: until it answers, tokens and keys are
    /// held back, and statuses, which would speak of keys.
    pub fn start(parts: Parts) -> (Self, watch::Receiver<Arc<World>>) {
        let (world, reader) = watch::channel(Arc::new(World::default()));
        let (models, wanted) = watch::channel(None);
        let observed = Arc::clone(&parts.runtime.observed().borrow());
        let (show, workers) = watch::channel(Arc::new(Workers {
            observed,
            ..Workers::default()
        }));
        let (runtime, sync) = (Arc::clone(&parts.runtime), parts.sync.clone());
        tokio::spawn(pools::run(runtime, sync, wanted, show));
        parts.sync.publish(Publication {
            policy: Some(Arc::clone(&parts.policy.borrow())),
            ..Publication::default()
        });
        let reconciler = Self {
            incarnation: None,
            stored: stored::follow(Arc::clone(&parts.store)),
            parts,
            world,
            resources: Resources::default(),
            keys: BTreeMap::new(),
            store_seq: 0,
            models,
            workers,
            offered: BTreeMap::new(),
            stale: false,
            edition: 0,
            doubt: None,
            orphans: Orphans::default(),
        };
        (reconciler, reader)
    }

    /// Runs until the source ends.
    pub async fn run(mut self, mut events: mpsc::Receiver<ResourceEvent>) {
        let mut acks_changed = self.parts.sync.acks_changed();
        let mut status_due: Option<Instant> = None;
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    let settled = match event {
                        ResourceEvent::Settled { reread, .. } => Some(reread),
                        _ => None,
                    };
                    self.stale |= self.resources.apply(event);
                    let Some(reread) = settled else { continue };
                    match self.stale || reread {
                        true => self.publish_resources(reread),
                        false => self.publish_mark(),
                    }
                }
                Some(stored) = self.stored.recv() => {
                    let keys_changed = match stored {
                        Stored::All(changes) => {
                            self.take_all(changes);
                            true
                        }
                        Stored::Changed(changes) => self.take_changes(changes),
                    };
                    match keys_changed {
                        true => self.publish_resources(false),
                        false => continue,
                    }
                }
                Ok(()) = self.workers.changed() => self.publish_workers(),
                Ok(()) = self.parts.policy.changed() => {
                    self.publish_policy();
                    continue;
                }
                Ok(()) = acks_changed.changed() => {}
                () = self.parts.statuses.turned() => {}
                _ = sweep.tick(), if self.parts.leadership.is_some() => {
                    self.sweep_keys().await;
                    continue;
                }
                () = sleep_until(self.doubt.unwrap_or_else(Instant::now)), if self.doubt.is_some() => {
                    self.doubt = Some(Instant::now() + REREAD_AGAIN);
                    self.parts.source.reread();
                    continue;
                }
                () = sleep_until(status_due.unwrap_or_else(Instant::now)), if status_due.is_some() && self.incarnation.is_some() => {
                    // Of a leader that knows its data planes.
                    status_due = self.parts.sync.settles_at();
                    if status_due.is_none() {
                        self.write_statuses().await;
                    }
                    continue;
                }
            }
            status_due.get_or_insert_with(|| Instant::now() + STATUS_PACE);
        }
    }

    fn revision(&self, number: u64) -> Revision {
        Revision {
            // Below every store's: a data plane that has met one waits for it to be read.
            incarnation: self.incarnation.unwrap_or(0),
            number,
        }
    }

    /// Takes in all that the store holds, in place of what was known, and offers the tokens.
    fn take_all(&mut self, changes: Changes) {
        self.incarnation = Some(changes.incarnation);
        self.keys.clear();
        let now = Timestamp::now().as_second();
        let live = |token: &Arc<Token>| token.expires.is_none_or(|at| at > now);
        let tokens = changes
            .tokens
            .into_iter()
            .filter(|record| record.revoked.is_none())
            .map(|record| record.token)
            .filter(live)
            .chain(self.parts.static_tokens.iter().cloned())
            .collect();
        for change in changes.keys {
            self.take_key(change);
        }
        self.store_seq = changes.seq;
        self.parts.sync.publish(Publication {
            tokens: Tokens::All(tokens),
            marks: vec![(Source::Store, self.revision(changes.seq))],
            ..Publication::default()
        });
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.parts.policy.borrow())
    }

    /// Offers other keys of the cluster. No object depends on them.
    fn publish_policy(&mut self) {
        let policy = Arc::clone(&self.parts.policy.borrow_and_update());
        self.parts.sync.publish(Publication {
            policy: Some(Arc::clone(&policy)),
            ..Publication::default()
        });
        self.world.send_modify(|world| {
            let snapshot = Snapshot {
                policy,
                ..Snapshot::clone(&world.snapshot)
            };
            *world = Arc::new(World {
                snapshot: Arc::new(snapshot),
                ..World::clone(world)
            });
        });
    }

    /// Takes in what changed in the store and offers the tokens. Answers whether keys changed.
    fn take_changes(&mut self, changes: Changes) -> bool {
        let keys_changed = !changes.keys.is_empty();
        let mut upserts = Vec::new();
        let mut removals: Vec<(TokenId, Revision)> = Vec::new();
        for record in changes.tokens {
            match record.revoked {
                None => upserts.push(record.token),
                Some(_) => {
                    let revision = self.revision(record.change_seq);
                    removals.push((record.token.id.clone(), revision));
                }
            }
        }
        for change in changes.keys {
            self.take_key(change);
        }
        self.store_seq = self.store_seq.max(changes.seq);
        // With changed keys the mark waits for the credentials that go with it.
        let marks = match keys_changed {
            true => Vec::new(),
            false => vec![(Source::Store, self.revision(self.store_seq))],
        };
        self.parts.sync.publish(Publication {
            tokens: Tokens::Changed { upserts, removals },
            marks,
            ..Publication::default()
        });
        keys_changed
    }

    fn take_key(&mut self, change: KeyChange) {
        let uid = change.uid.as_str().into();
        match change.key {
            KeyState::Set(key) => drop(self.keys.insert(uid, key)),
            KeyState::Removed => drop(self.keys.remove(&uid)),
            // Another key was entered and cannot be read: the one before is not what is meant.
            KeyState::Unreadable(error) => {
                tracing::error!(%uid, %error, "a stored key cannot be read");
                self.keys.remove(&uid);
            }
        }
    }

    /// Nothing differs from what is offered, which contains more of the source now.
    fn publish_mark(&mut self) {
        if let Some(revision) = self.resources.revision()
            && self.resources.synced().is_some()
            && self.doubt.is_none()
        {
            self.parts.sync.publish(Publication {
                marks: vec![(Source::Objects, self.revision(revision))],
                ..Publication::default()
            });
        }
        self.show_objects();
    }

    /// Statuses have changed, at most: they are shown with the objects.
    fn show_objects(&self) {
        let Some(index) = self.resources.synced() else {
            return;
        };
        self.world.send_modify(|world| {
            *world = Arc::new(World {
                index: Index::clone(index),
                ..World::clone(world)
            });
        });
    }

    /// Compiles everything anew and offers it. `reread`: from a list that was made because the one
    /// before was doubted.
    fn publish_resources(&mut self, reread: bool) {
        let (Some(index), Some(objects)) = (self.resources.synced(), self.resources.revision())
        else {
            return;
        };
        self.stale = false;
        let stored: StoredKeys = self
            .keys
            .iter()
            .map(|(uid, key)| (Arc::clone(uid), key.origin.clone()))
            .collect();
        let compiled = compile(index, &stored, &self.parts.settings);
        let index = Index::clone(index);
        let upstreams: Vec<_> = compiled.upstreams.iter().cloned().map(Arc::new).collect();
        self.models.send_if_modified(|models| {
            let differs = models.as_deref() != Some(&compiled.locals);
            if differs {
                *models = Some(Arc::new(compiled.locals.clone()));
            }
            differs
        });
        let local = self.local(&compiled);
        let credentials: Vec<_> = compiled
            .credentials
            .iter()
            .filter_map(|credential| self.attach(credential))
            .map(Arc::new)
            .collect();
        let snapshot = Snapshot {
            upstreams: Arc::new(
                upstreams
                    .iter()
                    .map(|u| (u.object.clone(), Arc::clone(u)))
                    .collect(),
            ),
            credentials: Arc::new(
                credentials
                    .iter()
                    .map(|c| (c.object.clone(), Arc::clone(c)))
                    .collect(),
            ),
            policy: self.policy(),
            ..local.snapshot()
        };
        let published = self.parts.sync.publish(Publication {
            upstreams: Some(upstreams),
            served_names: Some(local.served),
            credentials: Some(credentials),
            pools: Some(local.pools),
            endpoints: Some(local.endpoints),
            marks: vec![
                local.mark,
                (Source::Objects, self.revision(objects)),
                (Source::Store, self.revision(self.store_seq)),
            ],
            reread,
            ..Publication::default()
        });
        self.edition = published.edition;
        self.doubt = match (published.held.is_empty(), self.doubt) {
            (true, _) => None,
            (false, Some(at)) if !reread => Some(at),
            (false, _) => Some(Instant::now() + DOUBT),
        };
        for held in &published.held {
            tracing::warn!(
                kind = ?held.kind, removed = held.removed, of = held.of,
                "a list lost most of its resources: it is read again before that is believed"
            );
        }
        self.world.send_modify(|world| {
            *world = Arc::new(World {
                index,
                compiled: Arc::new(compiled),
                snapshot: Arc::new(snapshot),
                statuses: Arc::clone(&world.statuses),
            });
        });
    }

    /// Offers what workers have changed: themselves, what to expect of their pools, and the names
    /// that waited for them. Names that are doubted are not offered a second time before they were
    /// read a second time.
    fn publish_workers(&mut self) {
        if self.resources.synced().is_none() {
            return;
        }
        let compiled = Arc::clone(&self.world.borrow().compiled);
        let local = self.local(&compiled);
        let snapshot = local.snapshot();
        self.parts.sync.publish(Publication {
            served_names: self.doubt.is_none().then_some(local.served),
            pools: Some(local.pools),
            endpoints: Some(local.endpoints),
            marks: vec![local.mark],
            ..Publication::default()
        });
        self.world.send_modify(|world| {
            let before = &world.snapshot;
            let snapshot = Snapshot {
                table: snapshot.table,
                pools: snapshot.pools,
                workers: snapshot.workers,
                ..Snapshot::clone(before)
            };
            *world = Arc::new(World {
                snapshot: Arc::new(snapshot),
                ..World::clone(world)
            });
        });
    }

    /// What is offered besides upstreams and keys, as workers are now.
    fn local(&mut self, compiled: &Compiled) -> Local {
        let workers = Arc::clone(&self.workers.borrow_and_update());
        let is_upstream = |object: &ObjectRef| {
            let found = compiled
                .upstreams
                .binary_search_by(|u| u.object.cmp(object));
            found.is_ok()
        };
        let served = pools::hold_back(&compiled.served, &self.offered, &workers, is_upstream);
        self.offered = served
            .iter()
            .map(|name| (name.key.clone(), Arc::clone(name)))
            .collect();
        let pools = compiled
            .locals
            .iter()
            .map(|model| Arc::new(workers.pool(model)));
        Local {
            served,
            pools: pools.collect(),
            endpoints: workers.endpoints(),
            mark: (Source::Workers, self.revision(workers.observed.version)),
        }
    }

    /// The key itself: from its Secret, or from the store.
    fn attach(&self, credential: &CompiledCredential) -> Option<Credential> {
        match credential {
            CompiledCredential::Inline(credential) => Some(credential.clone()),
            CompiledCredential::Stored {
                object,
                uid,
                allowed_origins,
            } => self.keys.get(uid).map(|key| Credential {
                object: object.clone(),
                secret: key.secret.clone(),
                allowed_origins: AllowedOrigins::clone(allowed_origins),
            }),
        }
    }

    /// Erases keys of objects that have been gone for a while.
    async fn sweep_keys(&mut self) {
        let leads = self
            .parts
            .leadership
            .as_ref()
            .is_some_and(|l| l.borrow().is_ours());
        let Some(index) = self
            .resources
            .synced()
            .filter(|_| leads && self.doubt.is_none())
        else {
            return;
        };
        let due = self
            .orphans
            .due(&self.keys, index, &self.parts.settings, Instant::now());
        for uid in due {
            // It was parsed when the store read it.
            let Ok(uid) = ObjectUid::parse(&uid) else {
                continue;
            };
            let (by, now) = (
                Actor::program("bodhi-controller"),
                Timestamp::now().as_second(),
            );
            match self.parts.store.remove_key(uid.clone(), by, now).await {
                Ok(_) => tracing::info!(%uid, "the stored key of a deleted object is erased"),
                Err(error) => tracing::warn!(%uid, %error, "a stored key was not erased"),
            }
        }
    }

    /// Has statuses kept as they are now.
    async fn write_statuses(&mut self) {
        let world = Arc::clone(&self.world.borrow());
        let Some(kept) = self.parts.statuses.kept(&world) else {
            self.show_statuses(Arc::default());
            return;
        };
        let objects = self.revision(self.resources.revision().unwrap_or_default());
        let statuses = status::statuses(
            &world.compiled,
            &self.parts.sync.acks(),
            (self.edition, objects),
            &self.workers.borrow(),
            &kept,
            Timestamp::now(),
        );
        let statuses = Arc::new(statuses);
        self.show_statuses(Arc::clone(&statuses));
        self.parts.statuses.keep(&world, statuses).await;
    }

    fn show_statuses(&self, statuses: Arc<Statuses>) {
        self.world.send_if_modified(|world| {
            let differs = *world.statuses != *statuses;
            if differs {
                *world = Arc::new(World {
                    statuses,
                    ..World::clone(world)
                });
            }
            differs
        });
    }
}

impl Local {
    /// The same as a data plane holds it.
    fn snapshot(&self) -> Snapshot {
        let mut workers: BTreeMap<&ObjectRef, Vec<Arc<WorkerEndpoint>>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            let of_pool = workers.entry(&endpoint.id.pool).or_default();
            of_pool.push(Arc::clone(endpoint));
        }
        let workers = workers.into_iter();
        let pools = self.pools.iter();
        Snapshot {
            table: Arc::new(Table::build(self.served.iter().cloned())),
            pools: Arc::new(pools.map(|p| (p.object.clone(), Arc::clone(p))).collect()),
            workers: Arc::new(
                workers
                    .map(|(pool, all)| (pool.clone(), all.into()))
                    .collect(),
            ),
            ..Snapshot::default()
        }
    }
}
