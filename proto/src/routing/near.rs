//! Names that look like one that was not found, for the error's text.

use std::sync::Arc;

use crate::snapshot::{Pattern, ServedName};

/// Most names compared for one error, so that a client's typing errors stay cheap.
const COMPARED: usize = 512;
/// Most names suggested.
const SUGGESTED: usize = 3;

/// The nearest of `listed` (sorted names), by edit distance without regard to case.
pub(super) fn nearest<'a>(
    listed: &'a [Arc<ServedName>],
    asked: &str,
    mut visible: impl FnMut(&ServedName) -> bool,
) -> Vec<&'a str> {
    let asked = asked.to_lowercase();
    if asked.len() > 128 {
        return Vec::new();
    }
    // A third of the characters may differ: beyond that a suggestion is noise.
    let limit = (asked.chars().count() / 3).max(1);
    let mut near: Vec<(usize, &str)> = listed
        .iter()
        .filter_map(|served| match &served.key.pattern {
            Pattern::Exact(name) => Some((served, name.as_str())),
            Pattern::Prefix(_) => None,
        })
        .filter(|(_, name)| name.len().abs_diff(asked.len()) <= limit || name.contains(&asked))
        .take(COMPARED)
        .filter_map(|(served, name)| {
            let lower = name.to_lowercase();
            let edits = strsim::osa_distance(&lower, &asked);
            let distance = match asked.len() >= 3 && lower.contains(&asked) {
                true => edits.min(1),
                false => edits,
            };
            (distance <= limit && visible(served)).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().take(SUGGESTED).map(|(_, n)| n).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Table;
    use super::super::tests::exact;
    use crate::provider::Family;

    #[test]
    fn suggests_at_most_three_and_only_what_may_be_seen() {
        let names = [
            "gpt-4o",
            "gpt-4o-mini",
            "gpt-4.1",
            "gpt-4",
            "claude-sonnet",
            "secret-4o",
        ];
        let table = Table::build(names.map(exact));
        let near = table.near(Family::General, "GPT-4O", |_| true);
        assert_eq!(near.len(), 3);
        assert_eq!(near[0], "gpt-4o");
        assert!(!near.contains(&"claude-sonnet"));
        assert!(table.near(Family::General, "gpt-4o", |_| false).is_empty());
    }
}
