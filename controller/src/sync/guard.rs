//! The shrink guard: a list that suddenly lacks most of what it had is believed only when
//! it says so twice.

use std::collections::{BTreeSet, HashMap};

use bodhi_proto::snapshot::Kind;

/// A set of which the removals wait for a second list that agrees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which set.
    pub kind: Kind,
    /// How many resources it would have lost …
    pub removed: usize,
    /// … of so many.
    pub of: usize,
}

/// Remembers what was not believed.
#[derive(Debug, Default)]
pub(super) struct Guard {
    doubted: HashMap<Kind, BTreeSet<String>>,
}

impl Guard {
    /// Whether `removed` out of `of` resources may go now.
    pub(super) fn judge(
        &mut self,
        kind: Kind,
        removed: BTreeSet<String>,
        of: usize,
    ) -> Result<(), Held> {
        let guarded = matches!(kind, Kind::Upstream | Kind::ServedName);
        let shrinks = removed.len() > 10 && removed.len() * 2 > of;
        if !guarded || !shrinks || self.doubted.get(&kind) == Some(&removed) {
            self.doubted.remove(&kind);
            return Ok(());
        }
        let held = Held {
            kind,
            removed: removed.len(),
            of,
        };
        self.doubted.insert(kind, removed);
        Err(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u32>) -> BTreeSet<String> {
        range.map(|n| n.to_string()).collect()
    }

    #[test]
    fn a_large_loss_needs_a_second_list_that_agrees() {
        let mut guard = Guard::default();
        let kind = Kind::Upstream;
        assert!(guard.judge(kind, names(0..51), 100).is_err());
        // Another list, but not the same one.
        assert!(guard.judge(kind, names(0..52), 100).is_err());
        assert!(guard.judge(kind, names(0..52), 100).is_ok());
        // Agreement is spent.
        assert!(guard.judge(kind, names(0..52), 100).is_err());
    }

    #[test]
    fn a_list_that_recovers_makes_doubt_begin_anew() {
        let mut guard = Guard::default();
        let kind = Kind::ServedName;
        assert!(guard.judge(kind, names(0..90), 100).is_err());
        assert!(guard.judge(kind, names(0..1), 100).is_ok());
        assert!(guard.judge(kind, names(0..90), 100).is_err());
    }

    #[test]
    fn small_losses_and_other_kinds_pass() {
        let mut guard = Guard::default();
        assert!(guard.judge(Kind::Upstream, names(0..10), 10).is_ok());
        assert!(guard.judge(Kind::Upstream, names(0..50), 100).is_ok());
        assert!(guard.judge(Kind::Token, names(0..100), 100).is_ok());
    }
}
