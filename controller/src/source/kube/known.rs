//! What one watch has seen: names and versions, and what a new list means in their light. Pure.

use std::collections::BTreeMap;

use crate::index::Name;

/// Names and resourceVersions, of which only equality is asked.
type Versions = BTreeMap<Name, String>;

/// The objects that a watch has reported.
#[derive(Debug, Default)]
pub(super) struct Known {
    objects: Versions,
    /// The list that is coming in.
    incoming: Option<Versions>,
}

impl Known {
    /// A list begins. One that had begun and did not end is forgotten.
    pub(super) fn begin(&mut self) {
        self.incoming = Some(Versions::new());
    }

    /// The list holds this object. Answers whether that is news.
    pub(super) fn listed(&mut self, name: Name, version: &str) -> bool {
        let is_news = self.objects.get(&name).is_none_or(|old| old != version);
        if let Some(incoming) = &mut self.incoming {
            incoming.insert(name, version.to_owned());
        }
        is_news
    }

    /// The list is complete: the objects that are no more.
    pub(super) fn end(&mut self) -> Vec<Name> {
        let Some(incoming) = self.incoming.take() else {
            return Vec::new();
        };
        let gone = self
            .objects
            .keys()
            .filter(|name| !incoming.contains_key(name));
        let gone = gone.cloned().collect();
        self.objects = incoming;
        gone
    }

    /// An object was created or changed.
    pub(super) fn put(&mut self, name: Name, version: &str) {
        self.objects.insert(name, version.to_owned());
    }

    /// An object was deleted.
    pub(super) fn remove(&mut self, name: &Name) {
        self.objects.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::new("bodhi", text)
    }

    fn list(known: &mut Known, objects: &[(&str, &str)]) -> (Vec<String>, Vec<Name>) {
        known.begin();
        let news = objects.iter().filter(|(n, v)| known.listed(name(n), v));
        let news = news.map(|(n, _)| (*n).to_owned()).collect();
        (news, known.end())
    }

    #[test]
    fn f02_a_list_finds_what_was_deleted_while_nobody_watched() {
        let mut known = Known::default();
        list(&mut known, &[("a", "1"), ("b", "2")]);
        known.put(name("c"), "3");
        let (news, gone) = list(&mut known, &[("b", "2")]);
        assert!(news.is_empty(), "b is as it was");
        assert_eq!(gone, [name("a"), name("c")]);
        let (_, gone) = list(&mut known, &[]);
        assert_eq!(gone, [name("b")]);
    }

    #[test]
    fn f28_a_list_of_what_is_known_brings_nothing() {
        let mut known = Known::default();
        let (news, _) = list(&mut known, &[("a", "1"), ("b", "2")]);
        assert_eq!(news, ["a", "b"]);
        let (news, gone) = list(&mut known, &[("a", "1"), ("b", "5")]);
        assert_eq!((news, gone), (vec!["b".to_owned()], vec![]));
    }

    #[test]
    fn a_list_that_breaks_off_changes_nothing() {
        let mut known = Known::default();
        list(&mut known, &[("a", "1"), ("b", "2")]);
        known.begin();
        known.listed(name("a"), "1");
        let (_, gone) = list(&mut known, &[("a", "1"), ("b", "2")]);
        assert!(gone.is_empty());
    }

    #[test]
    fn an_object_that_was_deleted_and_made_again_is_news() {
        let mut known = Known::default();
        list(&mut known, &[("a", "1")]);
        known.remove(&name("a"));
        let (news, gone) = list(&mut known, &[("a", "1")]);
        assert_eq!((news.len(), gone.len()), (1, 0));
    }
}
