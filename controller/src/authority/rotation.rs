//! When a root is made, when it begins to sign, when it is no longer believed.
//!
//! Nobody may hold a valid certificate that another holder of one does not believe. Who buys a
//! certificate is told the roots of that moment, and buys the next one within [`LEAF`]. So a new
//! root is believed for longer than that before it signs, and an old one for longer than that
//! after the new one has begun to. Every controller comes to the same plan by its own clock; only
//! making and dropping roots is left to the leader.

/// A leaf is valid for this long, in seconds.
pub(super) const LEAF: i64 = 24 * HOUR;
/// A root is valid for this long.
pub(super) const ROOT: i64 = 365 * DAY;
/// The next root is made when the newest one is valid for no longer than this.
const RENEW: i64 = 60 * DAY;
/// A new root is believed for this long before it signs: everybody has bought a certificate since,
/// and each controller has read the Secret.
const SETTLE: i64 = LEAF + MARGIN;
/// An old root is believed for this long after the next one has begun to sign: all that it signed
/// has expired, whatever the clocks.
const LINGER: i64 = LEAF + MARGIN;
/// For clocks that differ and readers that are late.
const MARGIN: i64 = HOUR;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// When a root was made and how long it is valid, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    /// From then on others may have read of it.
    pub(super) made: i64,
    /// From then on it is no longer valid.
    pub(super) expires: i64,
}

/// What is to be done with some roots at one moment. Indices are of the roots that were given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The one that signs; none if no root is valid.
    pub(super) signer: Option<usize>,
    /// Those that are believed.
    pub(super) trusted: Vec<usize>,
    /// Whether another one has to be made.
    pub(super) make: bool,
    /// When there is another plan, if nobody does anything.
    pub(super) changes: Option<i64>,
}

/// The plan at `now`, in Unix seconds. `roots` are in the order in which they were made.
pub(super) fn plan(roots: &[Life], now: i64) -> Plan {
    let valid = |root: &Life| now < root.expires;
    let signs = |root: &Life| root.made + SETTLE;
    let is_replaced = |index: usize| {
        let newer = roots.iter().skip(index + 1);
        newer
            .filter(|root| valid(root))
            .any(|root| signs(root) + LINGER <= now)
    };
    let usable: Vec<usize> = (0..roots.len()).filter(|i| valid(&roots[*i])).collect();
    let settled = usable.iter().rev().find(|i| signs(&roots[**i]) <= now);
    let newest = usable.last().map(|i| &roots[*i]);
    let moments = roots.iter().flat_map(|root| {
        let signs = signs(root);
        [signs, signs + LINGER, root.expires - RENEW, root.expires]
    });
    Plan {
        signer: settled.or(usable.first()).copied(),
        trusted: usable
            .iter()
            .copied()
            .filter(|i| !is_replaced(*i))
            .collect(),
        make: newest.is_none_or(|root| root.expires - RENEW <= now),
        changes: moments.filter(|at| *at > now).min(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: i64 = 1_790_000_000;

    fn root(made: i64) -> Life {
        Life {
            made,
            expires: made + ROOT,
        }
    }

    #[test]
    fn the_first_root_signs_at_once() {
        assert_eq!(
            plan(&[], START),
            Plan {
                signer: None,
                trusted: vec![],
                make: true,
                changes: None,
            }
        );
        let one = plan(&[root(START)], START);
        assert_eq!(
            (one.signer, one.trusted, one.make),
            (Some(0), vec![0], false)
        );
    }

    #[test]
    fn two_roots_overlap_on_either_side_of_the_change() {
        let mut roots = vec![root(START)];
        let renewal = START + ROOT - RENEW;
        assert!(!plan(&roots, renewal - 1).make);
        assert!(plan(&roots, renewal).make);
        roots.push(root(renewal));
        let at = |now| {
            let plan = plan(&roots, now);
            assert!(!plan.make);
            (plan.signer, plan.trusted, plan.changes)
        };
        let signs = renewal + SETTLE;
        let dropped = signs + LINGER;
        assert_eq!(at(renewal), (Some(0), vec![0, 1], Some(signs)));
        assert_eq!(at(signs - 1), (Some(0), vec![0, 1], Some(signs)));
        assert_eq!(at(signs), (Some(1), vec![0, 1], Some(dropped)));
        assert_eq!(at(dropped - 1), (Some(1), vec![0, 1], Some(dropped)));
        let (signer, trusted, _) = at(dropped);
        assert_eq!((signer, trusted), (Some(1), vec![1]));
    }

    /// Nobody was there for a year: what is left is made the best of.
    #[test]
    fn a_root_that_expired_is_followed_by_one_that_signs_at_once() {
        let late = START + ROOT;
        let before = plan(&[root(START)], late);
        assert_eq!(
            (before.signer, before.trusted, before.make),
            (None, vec![], true)
        );
        let after = plan(&[root(START), root(late)], late);
        assert_eq!((after.signer, after.trusted), (Some(1), vec![1]));
    }

    proptest! {
        /// F22, over six years, with a leader that looks now and then: whoever bought a
        /// certificate less than a leaf's life ago believes whoever did.
        #[test]
        fn holders_of_valid_certificates_believe_one_another(
            pauses in prop::collection::vec(60..7 * DAY, 400), bought in prop::collection::vec(60..LEAF / 3, 6_000),
        ) {
            let (mut roots, mut looks, mut at) = (Vec::new(), Vec::new(), START);
            for pause in pauses {
                looks.push(at);
                at += pause;
            }
            // Each: when, signed by which root, believing which.
            let (mut holders, mut now) = (Vec::<(i64, i64, Vec<i64>)>::new(), START);
            let mut looks = looks.into_iter().peekable();
            for pause in bought {
                while looks.next_if(|at| *at <= now).is_some() {
                    let plan = plan(&roots, now);
                    roots = plan.trusted.iter().map(|i| roots[*i]).collect();
                    if plan.make {
                        roots.push(root(now));
                    }
                }
                let plan = plan(&roots, now);
                let signer = plan.signer.map(|i| roots[i].made);
                let trusted: Vec<_> = plan.trusted.iter().map(|i| roots[*i].made).collect();
                holders.retain(|(at, ..)| *at + LEAF > now);
                let signer = signer.expect("a leader that looks once a week");
                prop_assert!(trusted.contains(&signer) && trusted.len() <= 2);
                for (_, theirs, believed) in &holders {
                    prop_assert!(believed.contains(&signer) && trusted.contains(theirs));
                }
                holders.push((now, signer, trusted));
                now += pause;
            }
        }
    }
}
