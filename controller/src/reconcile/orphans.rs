//! Stored keys whose objects are gone. A folder's source forgets an object with its key; of a
//! cluster nobody tells the store that an object was deleted, so the leader looks now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::compile::Settings;
use crate::index::{Index, Name};
use crate::store::StoredKey;

/// A key is erased when its object was gone for this long: an erased key must be typed in again.
const GRACE: Duration = Duration::from_secs(600);

/// The keys without an object, and since when.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    since: BTreeMap<Arc<str>, Instant>,
}

impl Orphans {
    /// The keys to erase now, by their objects' uids. What other namespaces hold is not known.
    pub(super) fn due(
        &mut self,
        keys: &BTreeMap<Arc<str>, StoredKey>,
        index: &Index,
        settings: &Settings,
        now: Instant,
    ) -> Vec<Arc<str>> {
        let is_orphan = |(uid, key): &(&Arc<str>, &StoredKey)| {
            let name = Name::new(&key.object.namespace, &key.object.name);
            let object = index.api_model(&name);
            let alive = object.is_some_and(|o| o.metadata.uid.as_deref() == Some(uid));
            let unread = index.malformed_object(&key.object);
            let alive = alive || unread.is_some_and(|malformed| malformed.uid == **uid);
            !alive && settings.serves(&key.object.namespace)
        };
        let orphans = keys.iter().filter(is_orphan);
        self.since = orphans
            .map(|(uid, _)| {
                let since = self.since.get(uid).copied();
                (Arc::clone(uid), since.unwrap_or(now))
            })
            .collect();
        let due = self
            .since
            .iter()
            .filter(|(_, since)| now - **since >= GRACE);
        due.map(|(uid, _)| Arc::clone(uid)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ApiModel;
    use crate::compile::Deployment;
    use crate::index::Resources;
    use crate::source::ResourceEvent;
    use crate::store::ObjectUid;
    use bodhi_proto::names::ObjectRef;
    use bodhi_proto::secret::Secret;
    use bodhi_proto::snapshot::BaseUrl;
    use kube::runtime::watcher::Event;

    fn model(name: &str, uid: &str) -> ApiModel {
        let text = format!(
            r#"{{"metadata": {{"name": "{name}", "namespace": "a", "uid": "{uid}"}},
                "spec": {{"format": "openai", "auth": {{"type": "Stored"}}, "models": ["m"]}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn index(models: &[(&str, &str)]) -> Resources {
        let mut resources = Resources::default();
        resources.apply(ResourceEvent::ApiModel(Event::Init));
        for (name, uid) in models {
            resources.apply(ResourceEvent::ApiModel(Event::InitApply(model(name, uid))));
        }
        resources.apply(ResourceEvent::ApiModel(Event::InitDone));
        for event in [Event::Init, Event::InitDone] {
            resources.apply(ResourceEvent::Alias(event));
        }
        for event in [Event::Init, Event::InitDone] {
            resources.apply(ResourceEvent::Secret(event));
        }
        resources
    }

    fn key(namespace: &str, name: &str, uid: &str) -> (Arc<str>, StoredKey) {
        let key = StoredKey {
            uid: ObjectUid::parse(uid).unwrap(),
            object: ObjectRef::api_model(namespace, name),
            origin: BaseUrl::parse("https://api.example.com").unwrap().origin,
            secret: Secret::new("k"),
        };
        (uid.into(), key)
    }

    #[test]
    fn a_key_goes_some_time_after_its_object_and_not_with_a_namesake() {
        let keys = BTreeMap::from([
            key("a", "alive", "u1"),
            key("a", "deleted", "u2"),
            key("a", "made-again", "u3"),
            key("elsewhere", "unknown", "u4"),
        ]);
        let settings = Settings {
            deployment: Deployment::Cluster,
            namespaces: Some([Arc::from("a")].into()),
            ..Settings::standalone("bodhi")
        };
        let now = Instant::now();
        let resources = index(&[("alive", "u1"), ("made-again", "u5")]);
        let index = resources.synced().unwrap();
        let mut orphans = Orphans::default();
        let mut due = |after: u64| {
            let now = now + Duration::from_secs(after);
            let due = orphans.due(&keys, index, &settings, now);
            due.iter().map(|uid| uid.to_string()).collect::<Vec<_>>()
        };
        assert!(due(0).is_empty() && due(599).is_empty());
        assert_eq!(due(600), ["u2", "u3"]);
    }

    #[test]
    fn an_object_that_comes_back_keeps_its_key() {
        let keys = BTreeMap::from([key("a", "m", "u1")]);
        let settings = Settings::standalone("bodhi");
        let (with, without) = (index(&[("m", "u1")]), index(&[]));
        let (with, without) = (with.synced().unwrap(), without.synced().unwrap());
        let now = Instant::now();
        let mut orphans = Orphans::default();
        assert!(orphans.due(&keys, without, &settings, now).is_empty());
        assert!(
            orphans
                .due(&keys, with, &settings, now + GRACE / 2)
                .is_empty()
        );
        assert!(
            orphans
                .due(&keys, without, &settings, now + GRACE)
                .is_empty()
        );
    }
}
