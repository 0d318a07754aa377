//! What data planes say about what they were sent.

use std::collections::BTreeMap;

use bodhi_proto::sync::{Mark, Rejection, Revision, Source};

/// All data planes that are known: those that are connected, and to the leader also those that
/// are connected to other controllers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acks {
    /// In order of their names.
    pub planes: Vec<Plane>,
}

/// One data plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Plane {
    /// Its own name.
    pub node: String,
    /// What it contains of each source, by its last word.
    pub mark: Mark,
    /// What it contains of this controller's [`Published::edition`]s; `None` for one that has
    /// acknowledged nothing to it and does not hold the same either.
    ///
    /// [`Published::edition`]: super::Published::edition
    pub edition: Option<u64>,
    /// What it does not accept.
    pub rejections: Vec<Rejection>,
    /// How often it held something else than it had been sent.
    pub divergences: u64,
}

impl Acks {
    /// Of those that are connected and those that were reported, which may be the same: who is
    /// connected is better known.
    pub(super) fn of(connected: Vec<Plane>, reported: Vec<Plane>) -> Self {
        let all = reported.into_iter().chain(connected);
        let planes: BTreeMap<_, _> = all.map(|plane| (plane.node.clone(), plane)).collect();
        Self {
            planes: planes.into_values().collect(),
        }
    }

    /// How many data planes contain `source` up to `revision`.
    pub fn containing(&self, source: Source, revision: Revision) -> usize {
        let contains = |plane: &&Plane| plane.mark.at(source) >= Some(revision);
        self.planes.iter().filter(contains).count()
    }

    /// How many data planes contain what was published as `edition`, when objects were read up to
    /// `objects`: one that has its configuration from another controller is known by its mark only.
    pub fn holding(&self, edition: u64, objects: Revision) -> usize {
        let holds = |plane: &&Plane| match plane.edition {
            Some(held) => held >= edition,
            None => plane.mark.at(Source::Objects) >= Some(objects),
        };
        self.planes.iter().filter(holds).count()
    }

    /// Every rejection, with the data plane that says so.
    pub fn rejections(&self) -> impl Iterator<Item = (&str, &Rejection)> {
        let planes = self.planes.iter();
        planes.flat_map(|plane| plane.rejections.iter().map(|r| (&*plane.node, r)))
    }
}

/// How far a revocation has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The data planes that refuse the token.
    pub applied: Vec<String>,
    /// Those that have not said so yet.
    pub pending: Vec<String>,
}

impl Applied {
    /// A data plane that one source calls applied has applied it.
    pub(super) fn of(told: impl IntoIterator<Item = (String, bool)>) -> Self {
        let mut planes: BTreeMap<String, bool> = BTreeMap::new();
        for (node, applied) in told {
            *planes.entry(node).or_default() |= applied;
        }
        let mut answer = Self::default();
        for (node, applied) in planes {
            match applied {
                true => answer.applied.push(node),
                false => answer.pending.push(node),
            }
        }
        answer
    }

    /// What another controller knows besides.
    pub(super) fn and(self, other: Self) -> Self {
        let told = |of: Self| {
            let applied = of.applied.into_iter().map(|node| (node, true));
            applied.chain(of.pending.into_iter().map(|node| (node, false)))
        };
        Self::of(told(self).chain(told(other)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(applied: &[&str], pending: &[&str]) -> Applied {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        Applied {
            applied: names(applied),
            pending: names(pending),
        }
    }

    #[test]
    fn one_word_that_it_is_applied_is_enough() {
        let here = applied(&["b"], &["c", "a"]);
        let leader = applied(&["a"], &["b", "d"]);
        assert_eq!(here.and(leader), applied(&["a", "b"], &["c", "d"]));
    }
}
