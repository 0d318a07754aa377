//! Characters whose bytes come in several tokens.

/// Assembles characters. Bytes that are none become U+FFFD.
#[derive(Debug, Default)]
pub struct Utf8 {
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
}

impl Utf8 {
    /// The characters that are complete now.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::with_capacity(self.pending.len());
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(invalid) = error.error_len() else {
                        rest = after;
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &after[invalid..];
                }
            }
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
        text
    }

    /// What is left once nothing more comes: U+FFFD for a character that stayed incomplete.
    pub fn finish(&mut self) -> String {
        let left = !self.pending.is_empty();
        self.pending.clear();
        if left {
            char::REPLACEMENT_CHARACTER.into()
        } else {
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assembled<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let mut utf8 = Utf8::default();
        let mut text: String = pieces.into_iter().map(|piece| utf8.push(piece)).collect();
        text += &utf8.finish();
        text
    }

    #[test]
    fn waits_for_the_rest_of_a_character() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(&[b'a', 0xf0, 0x9f]), "a");
        assert_eq!(utf8.push(&[0x98]), "");
        assert_eq!(utf8.push(&[0x80, b'b']), "😀b");
        assert_eq!(utf8.finish(), "");
    }

    #[test]
    fn replaces_what_is_no_character() {
        assert_eq!(assembled([&[b'a', 0xff, b'b'][..]]), "a\u{fffd}b");
        assert_eq!(assembled([&[0xe2, 0x82][..]]), "\u{fffd}");
    }

    proptest! {
        /// As the standard library, however bytes are cut.
        #[test]
        fn agrees_with_lossy_decoding(bytes: Vec<u8>, text: String) {
            for bytes in [&bytes[..], text.as_bytes()] {
                let lossy = String::from_utf8_lossy(bytes);
                prop_assert_eq!(assembled([bytes]), lossy.as_ref());
                prop_assert_eq!(assembled(bytes.chunks(1)), lossy.as_ref());
            }
        }
    }
}
