//! The least busy worker, relative to what it can serve at once.

use super::Candidate;

pub(super) fn choose(candidates: &[Candidate<'_>]) -> Option<usize> {
    let busier = |a: &Candidate<'_>, b: &Candidate<'_>| {
        // load ÷ slots without a division: a/b < c/d is a·d < c·b.
        let of = |load: u32, slots: u32| u64::from(load) * u64::from(slots.max(1));
        of(a.load, b.slots).cmp(&of(b.load, a.slots))
    };
    (0..candidates.len()).min_by(|a, b| busier(&candidates[*a], &candidates[*b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(load: u32, slots: u32) -> Candidate<'static> {
        Candidate {
            id: "w",
            load,
            slots,
        }
    }

    #[test]
    fn larger_workers_take_more() {
        assert_eq!(choose(&[worker(2, 4), worker(3, 8)]), Some(1));
        assert_eq!(choose(&[worker(1, 4), worker(3, 8)]), Some(0));
        assert_eq!(choose(&[worker(0, 1), worker(0, 8)]), Some(0));
        assert_eq!(choose(&[]), None);
    }
}
