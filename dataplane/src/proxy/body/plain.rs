//! The inner loop: how much of a string needs no attention.

/// Characters up to the next quote, backslash or control character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) len: usize,
    /// No byte of the run is above 0x7F. May be wrong in one direction only:
    /// an ASCII run can be taken for another.
    pub(super) ascii: bool,
}

/// Bytes per turn of the loop that is compiled to vector instructions.
const BLOCK: usize = 64;
const WORD: usize = 8;
const ONES: u64 = u64::from_ne_bytes([1; WORD]);
const HIGH: u64 = ONES << 7;

/// The longest prefix without quote, backslash and control characters.
pub(super) fn run(bytes: &[u8]) -> Run {
    // Most strings are short: two words before the wide loop pays.
    let mut high = 0;
    let mut at = 0;
    while at < 2 * WORD {
        let Some(word) = bytes[at..].first_chunk::<WORD>() else {
            return by_byte(bytes, at, high);
        };
        let word = u64::from_le_bytes(*word);
        high |= word & HIGH;
        let special = special(word);
        if special != 0 {
            return found(at, special, high);
        }
        at += WORD;
    }
    let mut wide = 0;
    while let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        // Without branches, so that it becomes compares of whole vectors.
        let mut any = 0;
        let mut or = 0;
        for &byte in block {
            any |= u8::from(byte == b'"') | u8::from(byte == b'\\') | u8::from(byte < b' ');
            or |= byte;
        }
        if any != 0 {
            break;
        }
        wide |= or;
        at += BLOCK;
    }
    high |= u64::from(wide) & HIGH;
    while let Some(word) = bytes[at..].first_chunk::<WORD>() {
        let word = u64::from_le_bytes(*word);
        high |= word & HIGH;
        let special = special(word);
        if special != 0 {
            return found(at, special, high);
        }
        at += WORD;
    }
    by_byte(bytes, at, high)
}

/// The high bit of the first special byte, and perhaps bits above it: the
/// borrow of a subtraction only travels upwards.
fn special(word: u64) -> u64 {
    let quote = word ^ (ONES * u64::from(b'"'));
    let backslash = word ^ (ONES * u64::from(b'\\'));
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    (below(quote, 1) | below(backslash, 1) | below(word, b' ')) & HIGH
}

fn found(at: usize, special: u64, high: u64) -> Run {
    Run {
        len: at + special.trailing_zeros() as usize / WORD,
        ascii: high == 0,
    }
}

fn by_byte(bytes: &[u8], from: usize, high: u64) -> Run {
    let rest = &bytes[from..];
    let len = rest
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))
        .unwrap_or(rest.len());
    Run {
        len: from + len,
        ascii: high == 0 && rest[..len].is_ascii(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_each_special_byte_at_each_position() {
        for len in 0..200 {
            let text = vec![b'a'; len];
            assert_eq!(run(&text), Run { len, ascii: true });
            for at in 0..len {
                for special in [b'"', b'\\', 0, 0x1F] {
                    let mut text = text.clone();
                    text[at] = special;
                    text[len - 1] = if at == len - 1 { special } else { b'"' };
                    assert_eq!(run(&text).len, at, "{special} at {at} of {len}");
                    assert!(run(&text).ascii);
                }
            }
        }
    }

    #[test]
    fn notices_bytes_above_ascii_and_never_stops_at_them() {
        for len in 1..200 {
            for at in 0..len {
                for byte in [0x80, 0xA2, 0xDC, 0xFF] {
                    let mut text = vec![b'!'; len];
                    text[at] = byte;
                    assert_eq!(run(&text), Run { len, ascii: false });
                }
            }
        }
    }

    #[test]
    fn agrees_with_the_obvious_loop_on_every_pair_of_bytes() {
        for first in 0..=255 {
            for second in 0..=255 {
                let mut text = [b'x'; 16];
                text[3] = first;
                text[4] = second;
                let stop = |b: &u8| *b == b'"' || *b == b'\\' || *b < 0x20;
                let len = text.iter().position(stop).unwrap_or(16);
                let ran = run(&text);
                assert_eq!(ran.len, len, "{first} {second}");
                assert!(text[..len].is_ascii() || !ran.ascii);
            }
        }
    }
}
