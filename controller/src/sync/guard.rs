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

/// Resources that a set is about to lose.
#[derive(Debug)]
pub(super) struct Loss {
    pub(super) kind: Kind,
    pub(super) removed: BTreeSet<String>,
    /// How many the set had.
    pub(super) of: usize,
    /// Whether the list was made because the one before was doubted. What has merely come again
    /// from the same list proves nothing.
    pub(super) reread: bool,
}

/// Remembers what was not believed.
#[derive(Debug, Default)]
pub(super) struct Guard {
    doubted: HashMap<Kind, BTreeSet<String>>,
}

impl Guard {
    /// Whether these resources may go now.
    pub(super) fn judge(&mut self, loss: Loss) -> Result<(), Held> {
        let Loss {
            kind,
            removed,
            of,
            reread,
        } = loss;
        let guarded = matches!(kind, Kind::Upstream | Kind::ServedName);
        let shrinks = removed.len() > 10 && removed.len() * 2 > of;
        let agrees = reread && self.doubted.get(&kind) == Some(&removed);
        if !guarded || !shrinks || agrees {
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

    fn loss(kind: Kind, range: std::ops::Range<u32>, of: usize, reread: bool) -> Loss {
        Loss {
            kind,
            removed: range.map(|n| n.to_string()).collect(),
            of,
            reread,
        }
    }

    #[test]
    fn a_large_loss_needs_a_second_list_that_agrees() {
        let mut guard = Guard::default();
        let mut judge = |range, reread| guard.judge(loss(Kind::Upstream, range, 100, reread));
        assert!(judge(0..51, false).is_err());
        // Another list, but not the same one.
        assert!(judge(0..52, true).is_err());
        // The same one, but not another list.
        assert!(judge(0..52, false).is_err());
        assert!(judge(0..52, true).is_ok());
        // Agreement is spent.
        assert!(judge(0..52, true).is_err());
    }

    #[test]
    fn a_list_that_recovers_makes_doubt_begin_anew() {
        let mut guard = Guard::default();
        let mut judge = |range, reread| guard.judge(loss(Kind::ServedName, range, 100, reread));
        assert!(judge(0..90, false).is_err());
        assert!(judge(0..1, true).is_ok());
        assert!(judge(0..90, true).is_err());
    }

    #[test]
    fn small_losses_and_other_kinds_pass() {
        let mut guard = Guard::default();
        let mut judge = |kind, range, of| guard.judge(loss(kind, range, of, false));
        assert!(judge(Kind::Upstream, 0..10, 10).is_ok());
        assert!(judge(Kind::Upstream, 0..50, 100).is_ok());
        assert!(judge(Kind::Token, 0..100, 100).is_ok());
    }
}
