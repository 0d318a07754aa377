//! Our Deployments and pods as the watches have told of them. Pure: who is told, and by what,
//! is the caller's.

use std::collections::{BTreeMap, BTreeSet};

use bodhi_proto::names::ObjectRef;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::names::{alias_of, object_name};
use super::observe::{is_over, observe};
use super::watch::{Change, Report, Seen};
use crate::runtime::{ModelState, Observed};

/// A namespace and a name in it.
type Key = (String, String);

/// What is there.
pub(super) struct World {
    watches: Vec<Watched>,
    /// Of the last that was shown: it never goes back.
    version: u64,
}

/// What one watch has told.
#[derive(Default)]
struct Watched {
    /// `None` until it has listed.
    revision: Option<u64>,
    deployments: BTreeMap<Key, Deployment>,
    pods: BTreeMap<Key, Pod>,
}

impl World {
    /// Nothing is known yet by these many watches.
    pub(super) fn new(watches: usize) -> Self {
        Self {
            watches: std::iter::repeat_with(Watched::default)
                .take(watches)
                .collect(),
            version: 0,
        }
    }

    pub(super) fn take_in(&mut self, report: Report) {
        let Some(watched) = self.watches.get_mut(report.watch) else {
            return;
        };
        match report.change {
            Change::Listed(all) => {
                watched.deployments.clear();
                watched.pods.clear();
                all.into_iter().for_each(|seen| watched.put(seen));
            }
            Change::Put(seen) => watched.put(seen),
            Change::Gone(Seen::Deployment(gone)) => drop(watched.deployments.remove(&key(&*gone))),
            Change::Gone(Seen::Pod(gone)) => drop(watched.pods.remove(&key(&*gone))),
            Change::Nothing => {}
        }
        watched.revision = watched.revision.max(Some(report.revision));
        self.version = self.version.max(self.revision().unwrap_or(0));
    }

    /// Everything up to this resourceVersion is known; `None` until every watch has listed.
    pub(super) fn revision(&self) -> Option<u64> {
        let revisions = self.watches.iter().map(|watched| watched.revision);
        revisions.min().flatten()
    }

    /// Of what is shown.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The workers of Aliases that are wanted, or of all where that is not known yet. `told` is
    /// what is known of an Alias besides.
    pub(super) fn observed(
        &self,
        wanted: Option<&BTreeSet<ObjectRef>>,
        told: impl Fn(&ObjectRef, &mut ModelState),
    ) -> Observed {
        if self.revision().is_none() {
            return Observed::default();
        }
        let mut pods: BTreeMap<ObjectRef, Vec<&Pod>> = BTreeMap::new();
        for (alias, pod) in self.pods() {
            pods.entry(alias).or_default().push(pod);
        }
        let deployments = self.deployments();
        let mut aliases: BTreeSet<ObjectRef> = match wanted {
            Some(wanted) => wanted.clone(),
            None => deployments.keys().chain(pods.keys()).cloned().collect(),
        };
        let mut models = BTreeMap::new();
        while let Some(alias) = aliases.pop_first() {
            let pods = pods.remove(&alias).unwrap_or_default();
            let mut state = observe(&alias, pods, deployments.get(&alias).copied());
            told(&alias, &mut state);
            models.insert(alias, state);
        }
        Observed {
            version: self.version,
            models,
            ..Observed::default()
        }
    }

    /// The Deployments of ours, by Alias.
    pub(super) fn deployments(&self) -> BTreeMap<ObjectRef, &Deployment> {
        let all = self.watches.iter().flat_map(|w| w.deployments.values());
        let ours = all.filter_map(|deployment| {
            let alias = alias_of(deployment)?;
            (deployment.name_any() == object_name(&alias.name)).then_some((alias, deployment))
        });
        ours.collect()
    }

    /// The Alias for which this very pod runs.
    pub(super) fn alias_of_pod(&self, namespace: &str, name: &str, uid: &str) -> Option<ObjectRef> {
        let key = (namespace.to_owned(), name.to_owned());
        let pod = self.watches.iter().find_map(|w| w.pods.get(&key))?;
        let alias = alias_of(pod)?;
        let is_it = pod.metadata.uid.as_deref() == Some(uid) && !is_over(pod);
        (is_it && is_made_by_us(pod, &alias)).then_some(alias)
    }

    /// Pods of ours, each with its Alias.
    fn pods(&self) -> impl Iterator<Item = (ObjectRef, &Pod)> {
        let all = self.watches.iter().flat_map(|w| w.pods.values());
        all.filter_map(|pod| {
            let alias = alias_of(pod)?;
            is_made_by_us(pod, &alias).then_some((alias, pod))
        })
    }
}

impl Watched {
    fn put(&mut self, seen: Seen) {
        match seen {
            Seen::Deployment(seen) => drop(self.deployments.insert(key(&*seen), *seen)),
            Seen::Pod(seen) => drop(self.pods.insert(key(&*seen), *seen)),
        }
    }
}

/// Whether a ReplicaSet of the Alias's Deployment made it. Labels alone could be a copy's: a pod
/// that somebody derives from one of ours to look into it is no worker.
fn is_made_by_us(pod: &Pod, alias: &ObjectRef) -> bool {
    let owners = pod.owner_references().iter();
    let deployment = object_name(&alias.name);
    let mut makers = owners.filter(|owner| owner.controller == Some(true));
    makers.any(|owner| {
        let set = owner.name.strip_prefix(&deployment);
        let hash = set.and_then(|rest| rest.strip_prefix('-'));
        // A ReplicaSet's name ends with its template's hash, which has no hyphen.
        owner.kind == "ReplicaSet" && hash.is_some_and(|hash| !hash.contains('-'))
    })
}

fn key(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}
