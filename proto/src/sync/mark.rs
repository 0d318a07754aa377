//! How much of each source a state contains.

use std::fmt;

use crate::snapshot::{Kind, KindSet};

/// Where configuration comes from. Each has a clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Source {
    /// The declared objects: manifests by a counter that the controller keeps, an API server by
    /// its resourceVersion.
    Objects = 1,
    /// The store, by its `change_seq`.
    Store = 2,
    /// The workers that run: child processes by a counter that begins with the time of the
    /// controller's start, pods by the API server's resourceVersion.
    Workers = 3,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 3] = [Self::Objects, Self::Store, Self::Workers];

    fn index(self) -> usize {
        self as usize - 1
    }

    /// The word in headers and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Store => "store",
            Self::Workers => "workers",
        }
    }

    /// The kinds that are compiled from it.
    pub fn kinds(self) -> KindSet {
        Kind::ALL
            .into_iter()
            .filter(|kind| sources(*kind).contains(&self))
            .collect()
    }
}

/// The sources that a kind is compiled from. The policy is the operator's flags: it has none.
pub fn sources(kind: Kind) -> &'static [Source] {
    match kind {
        Kind::Upstream | Kind::ServedName => &[Source::Objects],
        // Keys come from Secrets and from the store, and are compiled together.
        Kind::Credential => &[Source::Objects, Source::Store],
        Kind::Token => &[Source::Store],
        Kind::Policy => &[],
        // What a pool can expect is what its workers say.
        Kind::Pool => &[Source::Objects, Source::Workers],
        Kind::Endpoint => &[Source::Workers],
    }
}

/// A moment of one source. An incarnation (raised by the operator after a restore from a
/// backup) outranks every number of the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Revision {
    /// How often the source has been restored.
    pub incarnation: u64,
    /// Grows with each change.
    pub number: u64,
}

impl Revision {
    /// A revision of a source that was never restored.
    pub fn number(number: u64) -> Self {
        Self {
            incarnation: 0,
            number,
        }
    }
}

/// Per source, the revision that is contained; none where the source was never read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark([Option<Revision>; Source::ALL.len()]);

impl Mark {
    /// How far `source` is contained.
    pub fn at(&self, source: Source) -> Option<Revision> {
        self.0[source.index()]
    }

    /// Moves `source` forward; a lower revision changes nothing.
    pub fn raise(&mut self, source: Source, revision: Revision) {
        let own = &mut self.0[source.index()];
        *own = (*own).max(Some(revision));
    }

    /// Moves every source forward to where `other` is.
    pub fn raise_all(&mut self, other: &Self) {
        for (source, revision) in other.iter() {
            self.raise(source, revision);
        }
    }

    /// Whether everything that `kind` is compiled from has been read, and at least up to `floor`.
    pub fn reaches(&self, floor: &Self, kind: Kind) -> bool {
        sources(kind)
            .iter()
            .all(|s| self.at(*s).is_some() && self.at(*s) >= floor.at(*s))
    }

    /// The sources that have been read.
    pub fn iter(&self) -> impl Iterator<Item = (Source, Revision)> {
        Source::ALL
            .into_iter()
            .filter_map(|source| Some((source, self.at(source)?)))
    }
}

/// `objects=12;store=40`, with `incarnation.number` after a restore.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (source, revision)) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { ";" };
            write!(f, "{separator}{}=", source.as_str())?;
            if revision.incarnation > 0 {
                write!(f, "{}.", revision.incarnation)?;
            }
            write!(f, "{}", revision.number)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_only_grow_and_incarnations_outrank() {
        let mut mark = Mark::default();
        mark.raise(Source::Objects, Revision::number(7));
        mark.raise(Source::Objects, Revision::number(3));
        assert_eq!(mark.to_string(), "objects=7");
        let restored = Revision {
            incarnation: 1,
            number: 2,
        };
        mark.raise(Source::Objects, restored);
        mark.raise(Source::Store, Revision::number(9));
        assert_eq!(mark.to_string(), "objects=1.2;store=9");
    }

    #[test]
    fn a_kind_waits_for_its_own_sources_only() {
        let (mut own, mut floor) = (Mark::default(), Mark::default());
        own.raise(Source::Objects, Revision::number(5));
        assert!(own.reaches(&floor, Kind::Upstream));
        assert!(own.reaches(&floor, Kind::Policy));
        assert!(!own.reaches(&floor, Kind::Token));
        assert!(!own.reaches(&floor, Kind::Credential));
        floor.raise(Source::Objects, Revision::number(6));
        assert!(!own.reaches(&floor, Kind::ServedName));
    }
}
