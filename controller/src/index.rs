//! All resources as they are now: a plain struct with apply and delete. It stores, it never
//! computes.
//!
//! Every kind has its own first list to finish; until then [`Resources::synced`] answers
//! `None`, and since `compile` takes a [`Synced`] index only, nothing is compiled from half
//! a world. A later list replaces its kind at once when it is complete, so an object that was
//! deleted while nobody watched disappears then.

mod references;

use std::collections::BTreeMap;
use std::sync::Arc;

use bodhi_proto::names::ObjectRef;
use k8s_openapi::api::core::v1::Secret;
use kube::Resource;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;

use crate::api::{Alias, ApiModel};
use crate::source::{Malformed, ResourceEvent, ResourceKind};

pub use references::{users_of_api_model, users_of_secret};

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The namespace.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl Name {
    /// Of these texts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// Something of which every source has finished its first list.
pub struct Synced<T>(T);

impl<T> std::ops::Deref for Synced<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The resources of each kind, by name.
#[derive(Clone, Default)]
pub struct Index {
    api_models: BTreeMap<Name, Arc<ApiModel>>,
    aliases: BTreeMap<Name, Arc<Alias>>,
    secrets: BTreeMap<Name, Arc<Secret>>,
    malformed: BTreeMap<ObjectRef, Malformed>,
}

impl Index {
    /// All ApiModels, in order of namespace and name.
    pub fn api_models(&self) -> impl Iterator<Item = (&Name, &Arc<ApiModel>)> {
        self.api_models.iter()
    }

    /// All Aliases, in order of namespace and name.
    pub fn aliases(&self) -> impl Iterator<Item = (&Name, &Arc<Alias>)> {
        self.aliases.iter()
    }

    /// One ApiModel.
    pub fn api_model(&self, name: &Name) -> Option<&Arc<ApiModel>> {
        self.api_models.get(name)
    }

    /// One Alias.
    pub fn alias(&self, name: &Name) -> Option<&Arc<Alias>> {
        self.aliases.get(name)
    }

    /// One Secret. Of a cluster only those with the credential label are here.
    pub fn secret(&self, name: &Name) -> Option<&Arc<Secret>> {
        self.secrets.get(name)
    }

    /// An object that is there and cannot be read.
    pub fn malformed_object(&self, object: &ObjectRef) -> Option<&Malformed> {
        self.malformed.get(object)
    }

    /// Objects that are there and cannot be read, in order of kind, namespace and name.
    pub fn malformed(&self) -> impl Iterator<Item = &Malformed> {
        self.malformed.values()
    }
}

/// An index that is being filled by a source.
pub struct Resources {
    index: Synced<Index>,
    api_models: Listing<ApiModel>,
    aliases: Listing<Alias>,
    secrets: Listing<Secret>,
    revision: Option<u64>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            index: Synced(Index::default()),
            api_models: Listing::Never,
            aliases: Listing::Never,
            secrets: Listing::Never,
            revision: None,
        }
    }
}

impl Resources {
    /// Takes in one change. Answers whether anything but objects' statuses may differ now.
    pub fn apply(&mut self, event: ResourceEvent) -> bool {
        let index = &mut self.index.0;
        let healed = event
            .heals()
            .is_some_and(|object| index.malformed.remove(&object).is_some());
        let differs = match event {
            ResourceEvent::ApiModel(e) => self.api_models.apply(&mut index.api_models, e),
            ResourceEvent::Alias(e) => self.aliases.apply(&mut index.aliases, e),
            ResourceEvent::Secret(e) => self.secrets.apply(&mut index.secrets, e),
            ResourceEvent::Malformed(malformed) => {
                let object = &malformed.object;
                self.remove(
                    object.kind.into(),
                    &Name::new(&object.namespace, &object.name),
                );
                let malformed_before = &mut self.index.0.malformed;
                malformed_before.insert(malformed.object.clone(), malformed);
                true
            }
            ResourceEvent::Gone(kind, name) => {
                self.remove(kind, &name);
                true
            }
            ResourceEvent::Settled { revision, .. } => {
                self.revision = Some(revision);
                false
            }
        };
        healed || differs
    }

    fn remove(&mut self, kind: ResourceKind, name: &Name) {
        let index = &mut self.index.0;
        match kind {
            ResourceKind::ApiModel => self.api_models.remove(&mut index.api_models, name),
            ResourceKind::Alias => self.aliases.remove(&mut index.aliases, name),
            ResourceKind::Secret => self.secrets.remove(&mut index.secrets, name),
        }
    }

    /// The index, once each kind has finished its first list.
    pub fn synced(&self) -> Option<&Synced<Index>> {
        let listed = self.api_models.listed() && self.aliases.listed() && self.secrets.listed();
        listed.then_some(&self.index)
    }

    /// The last revision that is fully contained.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }
}

/// How far the list of one kind has come.
enum Listing<K> {
    /// No list yet.
    Never,
    /// The first list is coming in.
    First(BTreeMap<Name, Arc<K>>),
    /// Listed; changes apply one by one.
    Listed,
    /// A later list is coming in; until it is complete the old objects stay.
    Again(BTreeMap<Name, Arc<K>>),
}

impl<K: Resource> Listing<K> {
    fn listed(&self) -> bool {
        matches!(self, Self::Listed | Self::Again(_))
    }

    fn remove(&mut self, objects: &mut BTreeMap<Name, Arc<K>>, name: &Name) {
        objects.remove(name);
        if let Self::First(incoming) | Self::Again(incoming) = self {
            incoming.remove(name);
        }
    }

    fn apply(&mut self, objects: &mut BTreeMap<Name, Arc<K>>, event: Event<K>) -> bool {
        match event {
            Event::Apply(object) => {
                let (name, object) = (name_of(&object), Arc::new(object));
                let before = objects.insert(name, Arc::clone(&object));
                return before.is_none_or(|before| is_another(before.meta(), object.meta()));
            }
            Event::Delete(object) => self.remove(objects, &name_of(&object)),
            Event::Init => {
                *self = match self.listed() {
                    false => Self::First(BTreeMap::new()),
                    true => Self::Again(BTreeMap::new()),
                };
            }
            Event::InitApply(object) => {
                if let Self::First(incoming) | Self::Again(incoming) = self {
                    incoming.insert(name_of(&object), Arc::new(object));
                }
            }
            Event::InitDone => {
                let done = std::mem::replace(self, Self::Listed);
                if let Self::First(incoming) | Self::Again(incoming) = done {
                    *objects = incoming;
                }
            }
        }
        true
    }
}

/// Whether more than the status may differ. Only kinds with a status subresource have a
/// generation, which their status leaves as it is.
fn is_another(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    let rest = |metadata: &ObjectMeta| ObjectMeta {
        resource_version: None,
        managed_fields: None,
        ..metadata.clone()
    };
    new.generation.is_none() || rest(old) != rest(new)
}

fn name_of<K: Resource>(object: &K) -> Name {
    let metadata = object.meta();
    Name::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        &metadata.name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str) -> Secret {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.into());
        secret.metadata.namespace = Some("bodhi".into());
        secret
    }

    fn list(resources: &mut Resources, names: &[&str]) {
        resources.apply(ResourceEvent::Secret(Event::Init));
        for name in names {
            resources.apply(ResourceEvent::Secret(Event::InitApply(secret(name))));
        }
        resources.apply(ResourceEvent::Secret(Event::InitDone));
    }

    fn empty_lists(resources: &mut Resources) {
        for event in [Event::Init, Event::InitDone] {
            resources.apply(ResourceEvent::ApiModel(event));
        }
        for event in [Event::Init, Event::InitDone] {
            resources.apply(ResourceEvent::Alias(event));
        }
    }

    #[test]
    fn nothing_is_synced_before_each_kind_was_listed_once() {
        let mut resources = Resources::default();
        assert!(resources.synced().is_none());
        empty_lists(&mut resources);
        assert!(resources.synced().is_none());
        resources.apply(ResourceEvent::Secret(Event::Init));
        resources.apply(ResourceEvent::Secret(Event::InitApply(secret("a"))));
        assert!(resources.synced().is_none());
        resources.apply(ResourceEvent::Secret(Event::InitDone));
        let index = resources.synced().unwrap();
        assert!(index.secret(&Name::new("bodhi", "a")).is_some());
    }

    #[test]
    fn a_later_list_replaces_everything_at_once_when_it_is_complete() {
        let mut resources = Resources::default();
        empty_lists(&mut resources);
        list(&mut resources, &["a", "b"]);
        let has = |resources: &Resources, name: &str| {
            let index = resources.synced().unwrap();
            index.secret(&Name::new("bodhi", name)).is_some()
        };
        resources.apply(ResourceEvent::Secret(Event::Init));
        resources.apply(ResourceEvent::Secret(Event::InitApply(secret("b"))));
        assert!(
            has(&resources, "a"),
            "the old list stays while the new one comes in"
        );
        resources.apply(ResourceEvent::Secret(Event::InitDone));
        assert!(!has(&resources, "a") && has(&resources, "b"));
    }

    #[test]
    fn a_change_of_a_status_alone_is_told_from_others() {
        let object = |version: &str, generation: Option<i64>, uid: &str| {
            let mut object = secret("a");
            object.metadata.resource_version = Some(version.into());
            object.metadata.generation = generation;
            object.metadata.uid = Some(uid.into());
            ResourceEvent::Secret(Event::Apply(object))
        };
        let mut resources = Resources::default();
        assert!(resources.apply(object("1", Some(1), "u")));
        assert!(!resources.apply(object("2", Some(1), "u")));
        assert!(resources.apply(object("3", Some(2), "u")));
        assert!(resources.apply(object("4", Some(2), "v")));
        // Of a kind that has no generation anything may have changed.
        assert!(resources.apply(object("5", None, "v")));
        assert!(resources.apply(object("6", None, "v")));
    }

    #[test]
    fn a_malformed_object_takes_the_place_of_the_one_that_could_be_read() {
        let mut resources = Resources::default();
        empty_lists(&mut resources);
        list(&mut resources, &[]);
        let text = r#"{"metadata": {"name": "a", "namespace": "bodhi"},
            "spec": {"format": "openai", "auth": {"type": "None"}, "models": ["m"]}}"#;
        let model: ApiModel = serde_json::from_str(text).unwrap();
        let name = Name::new("bodhi", "a");
        let held = |resources: &Resources| {
            let index = resources.synced().unwrap();
            (index.api_model(&name).is_some(), index.malformed().count())
        };
        resources.apply(ResourceEvent::ApiModel(Event::Apply(model.clone())));
        assert_eq!(held(&resources), (true, 0));
        resources.apply(ResourceEvent::Malformed(Malformed {
            object: ObjectRef::api_model("bodhi", "a"),
            uid: "u".into(),
            generation: 2,
            message: "spec.models: must be of type array".into(),
            status: None,
        }));
        assert_eq!(held(&resources), (false, 1));
        resources.apply(ResourceEvent::ApiModel(Event::Apply(model)));
        assert_eq!(held(&resources), (true, 0));
        resources.apply(ResourceEvent::Gone(ResourceKind::ApiModel, name.clone()));
        assert_eq!(held(&resources), (false, 0));
    }

    #[test]
    fn changes_apply_one_by_one() {
        let mut resources = Resources::default();
        empty_lists(&mut resources);
        list(&mut resources, &[]);
        resources.apply(ResourceEvent::Secret(Event::Apply(secret("a"))));
        let name = Name::new("bodhi", "a");
        assert!(resources.synced().unwrap().secret(&name).is_some());
        resources.apply(ResourceEvent::Secret(Event::Delete(secret("a"))));
        assert!(resources.synced().unwrap().secret(&name).is_none());
    }
}
