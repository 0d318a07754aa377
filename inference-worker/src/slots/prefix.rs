//! How much two sequences share.

use crate::engine::Token;

/// How many tokens both begin with.
pub fn shared(one: &[Token], other: &[Token]) -> usize {
    // By blocks first: prompts share thousands of tokens, and slices compare at memory speed.
    const BLOCK: usize = 64;
    let blocks = one
        .chunks_exact(BLOCK)
        .zip(other.chunks_exact(BLOCK))
        .take_while(|(a, b)| a == b)
        .count();
    let start = blocks * BLOCK;
    let rest = one[start..]
        .iter()
        .zip(&other[start..])
        .take_while(|(a, b)| a == b)
        .count();
    start + rest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::shared;

    proptest! {
        #[test]
        fn counts_what_both_begin_with(
            common in prop::collection::vec(0_u32..3, 0..300),
            one in prop::collection::vec(0_u32..3, 0..100),
            other in prop::collection::vec(0_u32..3, 0..100),
        ) {
            let one = [common.clone(), one].concat();
            let other = [common, other].concat();
            let count = shared(&one, &other);
            prop_assert_eq!(&one[..count], &other[..count]);
            prop_assert!(one.get(count).is_none() || one.get(count) != other.get(count));
        }
    }
}
