//! The resources of one kind as a data plane holds them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::digest::{BucketSet, Sums, Version, bucket};
use crate::names::{ObjectRef, TokenId};
use crate::snapshot::{
    Credential, Map, POLICY_NAME, Policy, Pool, ServedKey, ServedName, Token, Upstream,
    WorkerEndpoint, WorkerId,
};

/// A value that is kept by a key of its own, so that its name is not stored twice.
pub(super) trait Shelved {
    /// What the name says, parsed; shares its text with the value.
    type Key: Eq + Hash + Clone;

    fn key(&self) -> Self::Key;
    fn parse(name: &str) -> Option<Self::Key>;
    fn name(key: &Self::Key) -> Cow<'_, str>;
}

impl Shelved for Upstream {
    type Key = ObjectRef;

    fn key(&self) -> ObjectRef {
        self.object.clone()
    }

    fn parse(name: &str) -> Option<ObjectRef> {
        ObjectRef::parse(name).ok()
    }

    fn name(key: &ObjectRef) -> Cow<'_, str> {
        key.to_string().into()
    }
}

impl Shelved for Credential {
    type Key = ObjectRef;

    fn key(&self) -> ObjectRef {
        self.object.clone()
    }

    fn parse(name: &str) -> Option<ObjectRef> {
        ObjectRef::parse(name).ok()
    }

    fn name(key: &ObjectRef) -> Cow<'_, str> {
        key.to_string().into()
    }
}

impl Shelved for ServedName {
    type Key = ServedKey;

    fn key(&self) -> ServedKey {
        self.key.clone()
    }

    fn parse(name: &str) -> Option<ServedKey> {
        ServedKey::parse(name).ok()
    }

    fn name(key: &ServedKey) -> Cow<'_, str> {
        key.to_string().into()
    }
}

impl Shelved for Token {
    type Key = TokenId;

    fn key(&self) -> TokenId {
        self.id.clone()
    }

    fn parse(name: &str) -> Option<TokenId> {
        TokenId::parse(name).ok()
    }

    fn name(key: &TokenId) -> Cow<'_, str> {
        key.as_str().into()
    }
}

impl Shelved for Policy {
    type Key = ();

    fn key(&self) {}

    fn parse(name: &str) -> Option<()> {
        (name == POLICY_NAME).then_some(())
    }

    fn name((): &()) -> Cow<'_, str> {
        POLICY_NAME.into()
    }
}

impl Shelved for Pool {
    type Key = ObjectRef;

    fn key(&self) -> ObjectRef {
        self.object.clone()
    }

    fn parse(name: &str) -> Option<ObjectRef> {
        ObjectRef::parse(name).ok()
    }

    fn name(key: &ObjectRef) -> Cow<'_, str> {
        key.to_string().into()
    }
}

impl Shelved for WorkerEndpoint {
    type Key = WorkerId;

    fn key(&self) -> WorkerId {
        self.id.clone()
    }

    fn parse(name: &str) -> Option<WorkerId> {
        WorkerId::parse(name).ok()
    }

    fn name(key: &WorkerId) -> Cow<'_, str> {
        key.to_string().into()
    }
}

#[derive(Debug)]
struct Slot<T> {
    version: Version,
    value: Arc<T>,
}

/// A version that was offered and is not accepted. The slot of the same name keeps the one
/// before; without one the name is poison.
#[derive(Debug, Clone)]
pub(super) struct Rejected {
    pub(super) version: Version,
    pub(super) text: Arc<str>,
}

/// Accepted values and rejected versions, with the sums of what was offered, accepted or not.
#[derive(Debug)]
pub(super) struct Shelf<T: Shelved> {
    slots: Map<T::Key, Slot<T>>,
    rejected: BTreeMap<Box<str>, Rejected>,
    sums: Sums,
}

impl<T: Shelved> Default for Shelf<T> {
    fn default() -> Self {
        Self {
            slots: Map::default(),
            rejected: BTreeMap::new(),
            sums: Sums::default(),
        }
    }
}

impl<T: Shelved> Shelf<T> {
    /// The version last offered under a name.
    pub(super) fn offered(&self, name: &str) -> Option<Version> {
        match self.rejected.get(name) {
            Some(rejected) => Some(rejected.version),
            None => Some(self.slots.get(&T::parse(name)?)?.version),
        }
    }

    /// Makes room for so many values more.
    pub(super) fn reserve(&mut self, more: usize) {
        self.slots.reserve(more);
    }

    /// Stores a value; the one it takes the place of.
    pub(super) fn accept(&mut self, value: Arc<T>, version: Version) -> Option<Arc<T>> {
        let key = value.key();
        self.count_out(&T::name(&key));
        self.rejected.remove(&*T::name(&key));
        self.sums.add(&T::name(&key), version);
        let old = self.slots.insert(key, Slot { version, value });
        old.map(|slot| slot.value)
    }

    /// Notes that a version is not accepted.
    pub(super) fn reject(&mut self, name: &str, version: Version, text: Arc<str>) {
        self.count_out(name);
        self.sums.add(name, version);
        self.rejected
            .insert(name.into(), Rejected { version, text });
    }

    /// Drops all there is of a name; the value, if there was one.
    pub(super) fn remove(&mut self, name: &str) -> Option<Arc<T>> {
        self.count_out(name);
        self.rejected.remove(name);
        let slot = self.slots.remove(&T::parse(name)?);
        slot.map(|slot| slot.value)
    }

    /// Drops every name within `buckets` that is not among `kept`; the values.
    pub(super) fn keep_only(
        &mut self,
        buckets: &BucketSet,
        kept: &HashSet<Box<str>>,
    ) -> Vec<Arc<T>> {
        let lost = |name: &str| buckets.contains(bucket(name)) && !kept.contains(name);
        let accepted = self.slots.keys().map(T::name);
        let rejected = self.rejected.keys().map(|name| Cow::Borrowed(&**name));
        let lost: Vec<String> = accepted
            .chain(rejected)
            .filter(|name| lost(name))
            .map(Cow::into_owned)
            .collect();
        lost.iter().filter_map(|name| self.remove(name)).collect()
    }

    fn count_out(&mut self, name: &str) {
        if let Some(version) = self.offered(name) {
            self.sums.subtract(name, version);
        }
    }

    pub(super) fn get(&self, key: &T::Key) -> Option<&Arc<T>> {
        self.slots.get(key).map(|slot| &slot.value)
    }

    /// Accepted values with their versions.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&T::Key, Version, &Arc<T>)> {
        self.slots.iter().map(|(k, s)| (k, s.version, &s.value))
    }

    pub(super) fn rejected(&self) -> impl Iterator<Item = (&str, &Rejected)> {
        self.rejected.iter().map(|(name, r)| (&**name, r))
    }

    /// The rejection of a name.
    pub(super) fn rejection(&self, name: &str) -> Option<&Rejected> {
        self.rejected.get(name)
    }

    /// Names that are rejected and have no earlier value.
    pub(super) fn poison(&self) -> impl Iterator<Item = (T::Key, &Rejected)> {
        self.rejected.iter().filter_map(|(name, rejected)| {
            let key = T::parse(name)?;
            (!self.slots.contains_key(&key)).then_some((key, rejected))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }
}
