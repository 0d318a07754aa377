//! Which served name answers for a model name: exact first, then the longest prefix.

mod near;

use std::sync::Arc;

use crate::provider::Family;
use crate::snapshot::{Map, Pattern, RouteModel, ServedName, Visibility};

/// All served names, indexed for the request path.
#[derive(Debug, Default)]
pub struct Table {
    general: Names,
    responses: Names,
}

#[derive(Debug, Default)]
struct Names {
    exact: Map<Box<str>, Arc<ServedName>>,
    prefixes: Map<Box<str>, Arc<ServedName>>,
    /// Lengths that occur among the prefixes, longest first.
    lengths: Vec<usize>,
    /// Public exact names, sorted: what a listing walks.
    listed: Vec<Arc<ServedName>>,
}

/// The served name that answers, and what follows the prefix if it is one.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// The claim.
    pub served: &'a Arc<ServedName>,
    /// The part of the name after the prefix; `None` for an exact name. Never empty.
    pub remainder: Option<&'a str>,
}

impl Match<'_> {
    /// The id to ask the upstream for, given the route's rule and the name as asked.
    pub fn upstream_model<'s>(&'s self, rule: &'s RouteModel, asked: &'s str) -> &'s str {
        match rule {
            RouteModel::Named(id) => id,
            RouteModel::Remainder => self.remainder.unwrap_or(asked),
            RouteModel::AsAsked => asked,
        }
    }
}

impl Table {
    /// Indexes `names`; the compiler has left one claim per key.
    pub fn build(names: impl IntoIterator<Item = Arc<ServedName>>) -> Self {
        let mut table = Self::default();
        for served in names {
            let space = match served.key.family {
                Family::General => &mut table.general,
                Family::Responses => &mut table.responses,
            };
            match &served.key.pattern {
                Pattern::Exact(name) => {
                    if served.visibility == Visibility::Public {
                        space.listed.push(Arc::clone(&served));
                    }
                    space.exact.insert(name.as_str().into(), served);
                }
                Pattern::Prefix(prefix) => {
                    space.lengths.push(prefix.as_str().len());
                    space.prefixes.insert(prefix.as_str().into(), served);
                }
            }
        }
        for space in [&mut table.general, &mut table.responses] {
            space.lengths.sort_unstable_by(|a, b| b.cmp(a));
            space.lengths.dedup();
            space.listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        }
        table
    }

    /// The claim that answers for `name`: the exact one, else the longest prefix that leaves
    /// something over.
    pub fn find<'a>(&'a self, family: Family, name: &'a str) -> Option<Match<'a>> {
        let space = self.family(family);
        if let Some(served) = space.exact.get(name) {
            return Some(Match {
                served,
                remainder: None,
            });
        }
        space.lengths.iter().find_map(|length| {
            let (head, rest) = name.split_at_checked(*length)?;
            if rest.is_empty() {
                return None;
            }
            space.prefixes.get(head).map(|served| Match {
                served,
                remainder: Some(rest),
            })
        })
    }

    /// Public exact names of a family, sorted.
    pub fn listed(&self, family: Family) -> &[Arc<ServedName>] {
        &self.family(family).listed
    }

    /// All claims, in no order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<ServedName>> {
        [&self.general, &self.responses]
            .into_iter()
            .flat_map(|space| space.exact.values().chain(space.prefixes.values()))
    }

    /// How many claims there are in both families.
    pub fn len(&self) -> usize {
        [&self.general, &self.responses]
            .map(|n| n.exact.len() + n.prefixes.len())
            .iter()
            .sum()
    }

    /// Whether nothing is claimed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Up to three listed names that look like `name` and that `visible` lets through,
    /// the nearest first.
    pub fn near(
        &self,
        family: Family,
        name: &str,
        visible: impl FnMut(&ServedName) -> bool,
    ) -> Vec<&str> {
        near::nearest(self.listed(family), name, visible)
    }

    fn family(&self, family: Family) -> &Names {
        match family {
            Family::General => &self.general,
            Family::Responses => &self.responses,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::names::{ModelName, ObjectRef, Prefix};
    use crate::snapshot::{Refusal, ServedKey, Serving};

    pub(crate) fn served(family: Family, pattern: Pattern) -> Arc<ServedName> {
        Arc::new(ServedName {
            key: ServedKey { family, pattern },
            owner: ObjectRef::alias("bodhi", "x"),
            created: 0,
            visibility: Visibility::Public,
            serving: Serving::Refused(Refusal {
                reason: "Suspended".into(),
                message: "".into(),
                unsupported: false,
            }),
            max_output_tokens: None,
            defaults: None,
        })
    }

    pub(crate) fn exact(name: &str) -> Arc<ServedName> {
        served(
            Family::General,
            Pattern::Exact(ModelName::parse(name).unwrap()),
        )
    }

    fn prefix(text: &str) -> Arc<ServedName> {
        served(
            Family::General,
            Pattern::Prefix(Prefix::parse(text).unwrap()),
        )
    }

    fn found(table: &Table, name: &str) -> Option<(String, Option<String>)> {
        table
            .find(Family::General, name)
            .map(|m| (m.served.key.to_string(), m.remainder.map(str::to_owned)))
    }

    #[test]
    fn exact_beats_prefix_and_the_longest_prefix_wins() {
        let table = Table::build([exact("a/b/c"), prefix("a/"), prefix("a/b/")]);
        assert_eq!(found(&table, "a/b/c").unwrap().0, "general/exact/a/b/c");
        let longest = ("general/prefix/a/b/".to_owned(), Some("d".to_owned()));
        assert_eq!(found(&table, "a/b/d").unwrap(), longest);
        assert_eq!(found(&table, "a/x").unwrap().1.unwrap(), "x");
        assert_eq!(found(&table, "A/x"), None);
    }

    #[test]
    fn a_prefix_alone_leaves_nothing_to_ask_for() {
        let table = Table::build([prefix("a/"), prefix("a/b/")]);
        assert_eq!(found(&table, "a/"), None);
        // The longer prefix has no remainder, the shorter one has.
        assert_eq!(found(&table, "a/b/").unwrap().1.unwrap(), "b/");
    }

    #[test]
    fn names_that_are_not_ascii_never_split_a_character() {
        let table = Table::build([prefix("ab")]);
        assert_eq!(found(&table, "aé"), None);
    }

    #[test]
    fn families_do_not_see_each_other() {
        let table = Table::build([exact("a")]);
        assert!(table.find(Family::Responses, "a").is_none());
        assert_eq!(table.len(), 1);
    }
}
