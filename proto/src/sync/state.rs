//! What a controller offers to every data plane.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::mark::{Mark, Revision, Source};
use super::message::Deny;
use crate::digest::{Sums, Version};
use crate::snapshot::{Kind, Resource};

/// How many denials are told again to a data plane that connects.
const DENIES_KEPT: usize = 1024;

/// Names a resource among all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Arc<str>,
}

/// A resource and its version.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The version of the value.
    pub version: Version,
    /// The value.
    pub resource: Resource,
}

/// Everything offered, and how much of each source it contains.
#[derive(Debug, Default)]
pub struct State {
    sets: [Set; Kind::ALL.len()],
    mark: Mark,
    edition: u64,
    denies: VecDeque<Deny>,
}

#[derive(Debug, Default)]
struct Set {
    entries: HashMap<Arc<str>, Entry>,
    sums: Sums,
}

impl Set {
    fn put(&mut self, name: Arc<str>, entry: Entry) -> bool {
        if let Some(old) = self.entries.get(&name) {
            if old.version == entry.version {
                return false;
            }
            self.sums.subtract(&name, old.version);
        }
        self.sums.add(&name, entry.version);
        self.entries.insert(name, entry);
        true
    }

    fn remove(&mut self, name: &str) -> bool {
        match self.entries.remove(name) {
            Some(old) => {
                self.sums.subtract(name, old.version);
                true
            }
            None => false,
        }
    }
}

impl State {
    /// Adds or changes a resource; its key if that made a difference.
    pub fn put(&mut self, resource: Resource) -> Option<Key> {
        let (kind, name) = resource.key();
        // A compiler that starts from scratch offers mostly what there is: comparing values
        // is cheaper than encoding and hashing them.
        if self
            .get(kind, &name)
            .is_some_and(|e| e.resource == resource)
        {
            return None;
        }
        let version = Version::of(kind, &name, &resource.encode());
        let name = Arc::<str>::from(name);
        self.sets[kind.index()]
            .put(Arc::clone(&name), Entry { version, resource })
            .then_some(Key { kind, name })
    }

    /// Takes a resource away; its key if it was there.
    pub fn remove(&mut self, kind: Kind, name: &str) -> Option<Key> {
        self.sets[kind.index()].remove(name).then(|| Key {
            kind,
            name: name.into(),
        })
    }

    /// Makes `resources` all there is of `kind`; the keys of what changed. Resources of other
    /// kinds are put beside.
    pub fn replace(
        &mut self,
        kind: Kind,
        resources: impl IntoIterator<Item = Resource>,
    ) -> Vec<Key> {
        let entries = &self.sets[kind.index()].entries;
        let mut gone: HashSet<Arc<str>> = entries.keys().cloned().collect();
        let mut changed = Vec::new();
        for resource in resources {
            gone.remove(&*resource.name());
            changed.extend(self.put(resource));
        }
        for name in gone {
            changed.extend(self.remove(kind, &name));
        }
        changed
    }

    /// Remembers a denial for data planes that connect later.
    pub fn deny(&mut self, deny: Deny) {
        if self.denies.len() == DENIES_KEPT {
            self.denies.pop_front();
        }
        self.denies.push_back(deny);
    }

    /// Denials newer than `floor`.
    pub fn denies_since(&self, floor: Option<Revision>) -> impl Iterator<Item = &Deny> {
        self.denies.iter().filter(move |d| Some(d.revision) > floor)
    }

    /// Says that everything of `source` up to `revision` is contained. The first call opens
    /// the gate of its kinds.
    pub fn raise(&mut self, source: Source, revision: Revision) {
        self.mark.raise(source, revision);
    }

    /// How much of each source is contained.
    pub fn mark(&self) -> &Mark {
        &self.mark
    }

    /// What is compiled from objects has changed: from now on the state is another edition.
    pub fn begin_edition(&mut self) {
        self.edition += 1;
    }

    /// Counts the changes of what is compiled from objects, since this process began. Unlike a
    /// mark, which may stand still while another watch of its source lags, it tells any two states
    /// apart.
    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// The sums of a kind.
    pub fn sums(&self, kind: Kind) -> &Sums {
        &self.sets[kind.index()].sums
    }

    /// A resource by its name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Entry> {
        self.sets[kind.index()].entries.get(name)
    }

    /// All resources of a kind, in no order.
    pub fn iter(&self, kind: Kind) -> impl Iterator<Item = (&Arc<str>, &Entry)> {
        self.sets[kind.index()].entries.iter()
    }

    /// How many resources there are of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.sets[kind.index()].entries.len()
    }
}
