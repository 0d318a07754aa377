//! Which workers to start and which to retire. Pure.

use crate::compile::Rollout;

/// A worker that is not going away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// It runs the spec that is wanted now.
    pub(super) current: bool,
    /// It takes requests.
    pub(super) ready: bool,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Plan {
    /// So many with the wanted spec.
    pub(super) start: usize,
    /// These, by their place among the slots, in ascending order.
    pub(super) retire: Vec<usize>,
}

/// Steps towards `wanted` workers of the current spec. `leaving` are still on their way out.
///
/// With [`Rollout::Surge`] an old worker that takes requests goes when a new one does, and there
/// is one more worker than wanted at most: a machine that holds a model three times need not
/// hold it six times. Who has no room for one more has none for one that is on its way out, so
/// [`Rollout::InPlace`] is like [`Rollout::Recreate`] here.
pub(super) fn plan(slots: &[Slot], leaving: usize, wanted: usize, rollout: Rollout) -> Plan {
    let places = |which: fn(&Slot) -> bool| {
        let all = slots.iter().enumerate();
        all.filter(move |(_, slot)| which(slot))
            .map(|(place, _)| place)
    };
    let current_ready = places(|s| s.current && s.ready).count();
    // Surplus goes youngest first, those that are not ready before those that are.
    let keep_first: Vec<usize> = places(|s| s.current && s.ready)
        .chain(places(|s| s.current && !s.ready))
        .collect();
    let mut retire: Vec<usize> = keep_first.iter().skip(wanted).copied().collect();
    let kept = keep_first.len().min(wanted);
    let keep_old = match rollout {
        Rollout::Surge => wanted.saturating_sub(current_ready),
        Rollout::InPlace | Rollout::Recreate => 0,
    };
    let old_ready: Vec<usize> = places(|s| !s.current && s.ready).collect();
    retire.extend(places(|s| !s.current && !s.ready));
    retire.extend(old_ready.iter().skip(keep_old));
    let old_kept = old_ready.len().min(keep_old);
    retire.sort_unstable();
    let room = match rollout {
        Rollout::Surge if old_kept > 0 => (wanted + 1).saturating_sub(kept + old_kept),
        Rollout::InPlace | Rollout::Recreate
            if leaving > 0 || retire.iter().any(|p| !slots[*p].current) =>
        {
            0
        }
        Rollout::Surge | Rollout::InPlace | Rollout::Recreate => usize::MAX,
    };
    Plan {
        start: (wanted - kept).min(room),
        retire,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Slot = Slot {
        current: false,
        ready: true,
    };
    const OLD_STARTING: Slot = Slot {
        current: false,
        ready: false,
    };
    const NEW: Slot = Slot {
        current: true,
        ready: true,
    };
    const STARTING: Slot = Slot {
        current: true,
        ready: false,
    };

    fn step(
        slots: &[Slot],
        leaving: usize,
        wanted: usize,
        rollout: Rollout,
    ) -> (usize, Vec<usize>) {
        let plan = plan(slots, leaving, wanted, rollout);
        (plan.start, plan.retire)
    }

    #[test]
    fn a_surge_makes_before_it_breaks() {
        let surge = |slots: &[Slot], wanted| step(slots, 0, wanted, Rollout::Surge);
        assert_eq!(surge(&[OLD], 1), (1, vec![]));
        assert_eq!(surge(&[OLD, STARTING], 1), (0, vec![]));
        assert_eq!(surge(&[OLD, NEW], 1), (0, vec![0]));
        // One at a time.
        assert_eq!(surge(&[OLD, OLD, OLD], 3), (1, vec![]));
        assert_eq!(surge(&[OLD, OLD, OLD, NEW], 3), (1, vec![2]));
        // What takes no requests is no loss.
        assert_eq!(surge(&[OLD_STARTING], 1), (1, vec![0]));
        assert_eq!(surge(&[OLD, OLD, OLD, OLD], 1), (1, vec![1, 2, 3]));
    }

    #[test]
    fn recreate_starts_when_the_old_ones_are_gone() {
        let recreate = |slots: &[Slot], leaving| step(slots, leaving, 2, Rollout::Recreate);
        assert_eq!(recreate(&[OLD, OLD], 0), (0, vec![0, 1]));
        assert_eq!(recreate(&[], 1), (0, vec![]));
        assert_eq!(recreate(&[], 0), (2, vec![]));
        assert_eq!(recreate(&[NEW], 0), (1, vec![]));
    }

    #[test]
    fn scaling_touches_no_worker_that_may_stay() {
        for rollout in [Rollout::Surge, Rollout::Recreate] {
            assert_eq!(step(&[NEW], 0, 3, rollout), (2, vec![]));
            assert_eq!(step(&[STARTING, NEW, NEW], 0, 2, rollout), (0, vec![0]));
            assert_eq!(step(&[NEW, NEW, STARTING], 0, 1, rollout), (0, vec![1, 2]));
            assert_eq!(
                step(&[NEW, OLD, STARTING], 0, 0, rollout),
                (0, vec![0, 1, 2])
            );
        }
    }
}
