//! The life of a configuration change: event → index → compile → sync → status.
//!
//! One task owns the index and everything compiled from it. It never waits for a data plane or a
//! worker; what those say comes back and becomes conditions, and workers become endpoints.

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
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::compile::{Compiled, CompiledCredential, LocalModel, Settings, StoredKeys, compile};
use crate::index::{Index, Resources};
use crate::pools::{self, Workers};
use crate::runtime::Runtime;
use crate::source::{FilesHandle, ResourceEvent};
use crate::status;
use crate::store::{Changes, Store, StoreError, StoredKey};
use crate::sync::{Publication, Server, Tokens};

/// How soon the store is asked again when it does not answer.
const STORE_RETRY: Duration = Duration::from_secs(2);
/// How soon a list that shrank too much is read a second time.
const DOUBT: Duration = Duration::from_secs(1);
/// How long changes gather before statuses are written, however many more come.
const STATUS_PACE: Duration = Duration::from_millis(250);

/// Everything known at one moment, for the admin API to read.
#[derive(Clone, Default)]
pub struct World {
    /// The objects.
    pub index: Index,
    /// What they mean.
    pub compiled: Arc<Compiled>,
    /// The same as a data plane holds it, without tokens.
    pub snapshot: Arc<Snapshot>,
    /// What their owners are told.
    pub statuses: Arc<BTreeMap<ObjectRef, Value>>,
}

/// What the reconciler works with.
pub struct Parts {
    /// Where data planes are fed.
    pub sync: Server,
    /// Tokens, keys and statuses.
    pub store: Arc<dyn Store>,
    /// What runs local models.
    pub runtime: Arc<dyn Runtime>,
    /// The source, to be read again when a list is doubted.
    pub files: FilesHandle,
    /// The operator's word.
    pub settings: Settings,
    /// Gateway-wide lists and caps.
    pub policy: Policy,
    /// Tokens that the environment sets and the store does not know.
    pub static_tokens: Vec<Arc<Token>>,
}

/// The task's state.
pub struct Reconciler {
    parts: Parts,
    world: watch::Sender<Arc<World>>,
    resources: Resources,
    incarnation: u64,
    keys: BTreeMap<Arc<str>, StoredKey>,
    /// How far the store is contained.
    store_seq: u64,
    /// To whoever sizes local models.
    models: watch::Sender<Arc<Vec<LocalModel>>>,
    /// Their workers.
    workers: watch::Receiver<Arc<Workers>>,
    /// The names that are offered now.
    offered: BTreeMap<ServedKey, Arc<ServedName>>,
}

/// What local models add to what is offered.
struct Local {
    served: Vec<Arc<ServedName>>,
    pools: Vec<Arc<Pool>>,
    endpoints: Vec<Arc<WorkerEndpoint>>,
    mark: (Source, Revision),
}

impl Reconciler {
    /// Loads tokens and keys; until the store answers nothing is offered.
    pub async fn start(parts: Parts) -> (Self, watch::Receiver<Arc<World>>) {
        let statuses = persist(|| parts.store.statuses()).await;
        let world = World {
            statuses: Arc::new(statuses.into_iter().collect()),
            ..World::default()
        };
        let (world, reader) = watch::channel(Arc::new(world));
        let (models, wanted) = watch::channel(Arc::default());
        let observed = Arc::clone(&parts.runtime.observed().borrow());
        let (show, workers) = watch::channel(Arc::new(Workers {
            observed,
            ..Workers::default()
        }));
        let (runtime, sync) = (Arc::clone(&parts.runtime), parts.sync.clone());
        tokio::spawn(pools::run(runtime, sync, wanted, show));
        let mut reconciler = Self {
            incarnation: persist(|| parts.store.incarnation()).await,
            parts,
            world,
            resources: Resources::default(),
            keys: BTreeMap::new(),
            store_seq: 0,
            models,
            workers,
            offered: BTreeMap::new(),
        };
        let changes = persist(|| reconciler.parts.store.changes_since(0)).await;
        reconciler.publish_first_tokens(changes);
        (reconciler, reader)
    }

    /// Runs until the source ends.
    pub async fn run(mut self, mut events: mpsc::Receiver<ResourceEvent>) {
        let mut store_changed = self.parts.store.watch();
        // What changed between the first reading and now has no other herald.
        store_changed.mark_changed();
        let mut acks_changed = self.parts.sync.acks_changed();
        let mut doubted = false;
        let mut status_due: Option<Instant> = None;
        loop {
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    let settled = matches!(event, ResourceEvent::Settled { .. });
                    self.resources.apply(event);
                    if settled {
                        doubted = self.publish_resources();
                        status_due.get_or_insert_with(|| Instant::now() + STATUS_PACE);
                    }
                }
                Ok(()) = store_changed.changed() => {
                    let since = self.store_seq;
                    let changes = persist(|| self.parts.store.changes_since(since)).await;
                    if self.take_changes(changes) {
                        doubted = self.publish_resources();
                        status_due.get_or_insert_with(|| Instant::now() + STATUS_PACE);
                    }
                }
                Ok(()) = self.workers.changed() => {
                    self.publish_workers(doubted);
                    status_due.get_or_insert_with(|| Instant::now() + STATUS_PACE);
                }
                Ok(()) = acks_changed.changed() => {
                    status_due.get_or_insert_with(|| Instant::now() + STATUS_PACE);
                }
                () = tokio::time::sleep(DOUBT), if doubted => {
                    self.parts.files.rescan().await;
                    doubted = self.publish_resources();
                }
                () = tokio::time::sleep_until(status_due.unwrap_or_else(Instant::now)), if status_due.is_some() => {
                    status_due = None;
                    self.write_statuses().await;
                }
            }
        }
    }

    fn revision(&self, number: u64) -> Revision {
        Revision {
            incarnation: self.incarnation,
            number,
        }
    }

    fn publish_first_tokens(&mut self, changes: Changes) {
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
            self.take_key(change.uid.as_str().into(), change.key);
        }
        self.store_seq = changes.seq;
        self.parts.sync.publish(Publication {
            policy: Some(Arc::new(self.parts.policy.clone())),
            tokens: Tokens::All(tokens),
            marks: vec![(Source::Store, self.revision(changes.seq))],
            ..Publication::default()
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
            self.take_key(change.uid.as_str().into(), change.key);
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

    fn take_key(&mut self, uid: Arc<str>, key: Option<StoredKey>) {
        match key {
            Some(key) => drop(self.keys.insert(uid, key)),
            None => drop(self.keys.remove(&uid)),
        }
    }

    /// Compiles everything anew and offers it. Answers whether a list was doubted.
    fn publish_resources(&mut self) -> bool {
        let (Some(index), Some(files)) = (self.resources.synced(), self.resources.revision())
        else {
            return false;
        };
        let stored: StoredKeys = self
            .keys
            .iter()
            .map(|(uid, key)| (Arc::clone(uid), key.origin.clone()))
            .collect();
        let compiled = compile(index, &stored, &self.parts.settings);
        let index = Index::clone(index);
        let upstreams: Vec<_> = compiled.upstreams.iter().cloned().map(Arc::new).collect();
        self.models.send_if_modified(|models| {
            let differs = **models != compiled.locals;
            if differs {
                *models = Arc::new(compiled.locals.clone());
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
            policy: Arc::new(self.parts.policy.clone()),
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
                (Source::Objects, self.revision(files)),
                (Source::Store, self.revision(self.store_seq)),
            ],
            ..Publication::default()
        });
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
        !published.held.is_empty()
    }

    /// Offers what workers have changed: themselves, what to expect of their pools, and the names
    /// that waited for them. Names that are doubted are not offered a second time before they were
    /// read a second time.
    fn publish_workers(&mut self, doubted: bool) {
        if self.resources.synced().is_none() {
            return;
        }
        let compiled = Arc::clone(&self.world.borrow().compiled);
        let local = self.local(&compiled);
        let snapshot = local.snapshot();
        self.parts.sync.publish(Publication {
            served_names: (!doubted).then_some(local.served),
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

    /// Writes the statuses that differ from what was written.
    async fn write_statuses(&mut self) {
        let Some(files) = self.resources.revision() else {
            return;
        };
        let world = Arc::clone(&self.world.borrow());
        let statuses = status::statuses(
            &world.compiled,
            &self.parts.sync.acks(),
            self.revision(files),
            &self.workers.borrow(),
            &world.statuses,
            Timestamp::now(),
        );
        let changed: Vec<(ObjectRef, Value)> = statuses
            .iter()
            .filter(|(object, status)| world.statuses.get(*object) != Some(*status))
            .map(|(object, status)| (object.clone(), status.clone()))
            .collect();
        if changed.is_empty() && statuses.len() == world.statuses.len() {
            return;
        }
        if let Err(error) = self.parts.store.put_statuses(changed).await {
            tracing::warn!(%error, "statuses could not be kept; they are written with the next change");
        }
        self.world.send_modify(|world| {
            *world = Arc::new(World {
                statuses: Arc::new(statuses),
                ..World::clone(world)
            });
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

/// Asks the store until it answers.
async fn persist<'a, T, F>(mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>> + 'a,
{
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                tracing::error!(%error, "the store does not answer; asking again");
                tokio::time::sleep(STORE_RETRY).await;
            }
        }
    }
}
