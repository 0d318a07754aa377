//! UTF-8 in pieces: runs of a string are checked where they lie, and a
//! character that a frame's end cuts is kept until the rest of it comes.

/// The beginning of a character whose rest is in the next frame.
#[derive(Debug, Default)]
pub(super) struct Partial {
    bytes: [u8; 4],
    have: usize,
    /// How long the character is; 0 while there is none.
    need: usize,
}

impl Partial {
    /// Takes what the cut character lacks from the start of `data` and says
    /// how many bytes that was; all of `data` may not be enough.
    ///
    /// # Errors
    /// No such character: how far before `data` it began.
    pub(super) fn complete(&mut self, data: &[u8]) -> Result<usize, usize> {
        let taken = (self.need - self.have).min(data.len());
        let cut = self.have;
        let rest = &data[..taken];
        if rest.iter().any(|byte| !matches!(byte, 0x80..=0xBF)) {
            return Err(cut);
        }
        self.bytes[cut..cut + taken].copy_from_slice(rest);
        self.have += taken;
        if self.have == self.need {
            if std::str::from_utf8(&self.bytes[..self.need]).is_err() {
                return Err(cut);
            }
            *self = Self::default();
        }
        Ok(taken)
    }

    /// Checks a run of a string. Where the frame ends with the run, it may
    /// end inside a character.
    ///
    /// # Errors
    /// Offset of the first byte that is not UTF-8.
    pub(super) fn check(&mut self, run: &[u8], cut: bool) -> Result<(), usize> {
        let whole = match cut {
            true => run.len() - self.keep(run),
            false => run.len(),
        };
        match simdutf8::compat::from_utf8(&run[..whole]) {
            Ok(_) => Ok(()),
            Err(fault) => Err(fault.valid_up_to()),
        }
    }

    /// Keeps the unfinished character at the end of `run`, if there is one,
    /// and says how long it is so far.
    fn keep(&mut self, run: &[u8]) -> usize {
        for have in 1..=run.len().min(3) {
            let lead = run[run.len() - have];
            let need = match lead {
                0x80..=0xBF => continue,
                0xC2..=0xDF => 2,
                0xE0..=0xEF => 3,
                0xF0..=0xF4 => 4,
                _ => return 0,
            };
            if need <= have {
                return 0;
            }
            self.bytes[..have].copy_from_slice(&run[run.len() - have..]);
            (self.have, self.need) = (have, need);
            return have;
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks `text` as two frames; where it goes wrong if it does.
    fn in_two(text: &[u8], at: usize) -> Result<(), usize> {
        let (first, second) = text.split_at(at);
        let mut partial = Partial::default();
        partial.check(first, true)?;
        let taken = partial.complete(second).map_err(|back| at - back)?;
        partial
            .check(&second[taken..], false)
            .map_err(|offset| at + taken + offset)
    }

    #[test]
    fn a_character_may_be_cut_anywhere() {
        let text = "aé€🦀\u{10FFFF}\u{7FF}\u{FFFF}z".as_bytes();
        for at in 0..=text.len() {
            assert_eq!(in_two(text, at), Ok(()), "cut at {at}");
        }
    }

    #[test]
    fn a_cut_character_is_refused_by_the_first_byte_that_is_no_part_of_it() {
        let mut partial = Partial::default();
        assert_eq!(partial.check(b"a\xF0\x9F", true), Ok(()));
        assert_eq!(partial.complete(b"\""), Err(2));
    }

    #[test]
    fn what_is_not_utf8_is_found_under_every_cut() {
        let faults: [&[u8]; 8] = [
            b"\x80",             // continuation without a lead
            b"\xC0\xAF",         // overlong
            b"\xED\xA0\x80",     // surrogate
            b"\xF4\x90\x80\x80", // beyond U+10FFFF
            b"\xE2\x82",         // unfinished
            b"\xE2\x82a",        // unfinished, then ASCII
            b"\xF0\x9F\xA6\xC3", // unfinished, then another lead
            b"\xFF",
        ];
        for fault in faults {
            let text = [b"ok ", fault, b" more"].concat();
            for at in 0..=text.len() {
                let found = in_two(&text, at);
                assert_eq!(found, Err(3), "{fault:x?} cut at {at}");
            }
        }
    }
}
