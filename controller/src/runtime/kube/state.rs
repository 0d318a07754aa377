//! What the parts of the runtime share: what there is, what is wanted, and what is shown.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bodhi_proto::chat::Failure;
use bodhi_proto::names::ObjectRef;
use tokio::sync::watch;

use super::MayWrite;
use super::watch::Report;
use super::world::World;
use crate::runtime::{Observed, Trouble, Wanted};

/// Behind the runtime's handle and its tasks. Locks are held for as long as it takes to compute.
pub(super) struct Shared {
    state: Mutex<State>,
    board: watch::Sender<Arc<Observed>>,
    /// Rises when the keeper should look again.
    changed: watch::Sender<u64>,
    may_write: MayWrite,
}

/// All that is known.
pub(super) struct State {
    pub(super) world: World,
    /// `None` until it is said for the first time.
    pub(super) wanted: Option<BTreeMap<ObjectRef, Arc<Wanted>>>,
    /// No data plane is behind this version of what was shown.
    pub(super) acknowledged: u64,
    /// Deployments that nobody wants, each with the version that was shown when that was found.
    pub(super) unwanted: BTreeMap<ObjectRef, u64>,
    /// Aliases whose objects the API server refused.
    refused: BTreeMap<ObjectRef, Failure>,
}

impl Shared {
    pub(super) fn new(watches: usize, may_write: MayWrite) -> Self {
        Self {
            state: Mutex::new(State {
                world: World::new(watches),
                wanted: None,
                acknowledged: 0,
                unwanted: BTreeMap::new(),
                refused: BTreeMap::new(),
            }),
            board: watch::channel(Arc::default()).0,
            changed: watch::channel(0).0,
            may_write,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.board.subscribe()
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn want(&self, models: Vec<Wanted>) {
        let models = models.into_iter();
        let models = models.map(|wanted| (wanted.object.clone(), Arc::new(wanted)));
        self.update(|state| state.wanted = Some(models.collect()));
    }

    pub(super) fn take_in(&self, reports: impl Iterator<Item = Report>) {
        self.update(|state| reports.for_each(|report| state.world.take_in(report)));
    }

    pub(super) fn acknowledge(&self, version: u64) {
        let mut state = self.lock();
        if version > state.acknowledged {
            state.acknowledged = version;
            if !state.unwanted.is_empty() {
                self.changed.send_modify(|n| *n += 1);
            }
        }
    }

    /// The API server refused an Alias's objects, or takes them now.
    pub(super) fn set_refused(&self, alias: &ObjectRef, failure: Option<Failure>) {
        let mut state = self.lock();
        if state.refused.get(alias) == failure.as_ref() {
            return;
        }
        match failure {
            Some(failure) => drop(state.refused.insert(alias.clone(), failure)),
            None => drop(state.refused.remove(alias)),
        }
        self.show(&state);
    }

    pub(super) fn alias_of_pod(&self, namespace: &str, name: &str, uid: &str) -> Option<ObjectRef> {
        self.lock().world.alias_of_pod(namespace, name, uid)
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        state.find_unwanted();
        self.show(&state);
        self.changed.send_modify(|n| *n += 1);
    }

    /// Who may write has changed: what is shown says so, and the keeper looks again.
    pub(super) fn refresh(&self) {
        self.update(|_| ());
    }

    fn show(&self, state: &State) {
        let observed = Observed {
            follows: !(self.may_write)(),
            ..state.observed()
        };
        self.board.send_if_modified(|shown| {
            let differs = **shown != observed;
            if differs {
                *shown = Arc::new(observed);
            }
            differs
        });
    }
}

impl State {
    fn observed(&self) -> Observed {
        let wanted: Option<BTreeSet<ObjectRef>> = self
            .wanted
            .as_ref()
            .map(|wanted| wanted.keys().cloned().collect());
        self.world.observed(wanted.as_ref(), |alias, model| {
            // Pods that exist say more than that the next ones may not.
            let refused = self.refused.get(alias).filter(|_| model.failure.is_none());
            if let Some(failure) = refused {
                let failure = failure.clone();
                model.failure = Some(Trouble { failure, times: 1 });
            }
        })
    }

    fn find_unwanted(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let deployments = self.world.deployments();
        let is_unwanted = |alias: &ObjectRef| !wanted.contains_key(alias);
        self.unwanted
            .retain(|alias, _| deployments.contains_key(alias) && is_unwanted(alias));
        self.refused.retain(|alias, _| wanted.contains_key(alias));
        let version = self.world.version();
        for alias in deployments.into_keys().filter(is_unwanted) {
            self.unwanted.entry(alias).or_insert(version);
        }
    }
}
