//! JSON strings: reading escapes, comparing keys as decoders do, quoting.
//!
//! Everything here takes the inside of a string that the scanner has accepted
//! (UTF-8, whole escapes), without its quotes.

use std::fmt::Write as _;
use std::str::Chars;

/// A `\u` escape that names half of a surrogate pair and stands alone: valid
/// JSON that is no text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

/// How a key of the client compares to one of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Likeness {
    /// Another key for every decoder.
    Different,
    /// The same key for decoders that fold case.
    OtherCase,
    /// The same key for all.
    Same,
}

/// The characters of a string, escapes read.
pub(super) fn characters(inside: &[u8]) -> Characters<'_> {
    let inside = std::str::from_utf8(inside).unwrap_or_default();
    Characters(inside.chars())
}

/// See [`characters`].
pub(super) struct Characters<'a>(Chars<'a>);

impl Characters<'_> {
    fn unit(chars: &mut Chars<'_>) -> u32 {
        let mut unit = 0;
        for _ in 0..4 {
            let digit = chars.next().and_then(|c| c.to_digit(16));
            unit = unit << 4 | digit.unwrap_or_default();
        }
        unit
    }

    fn escape(&mut self) -> Result<char, LoneSurrogate> {
        match self.0.next() {
            Some('b') => Ok('\u{8}'),
            Some('f') => Ok('\u{c}'),
            Some('n') => Ok('\n'),
            Some('r') => Ok('\r'),
            Some('t') => Ok('\t'),
            Some('u') => self.code_point(),
            other => Ok(other.unwrap_or_default()),
        }
    }

    /// `XXXX`, or `XXXX\uXXXX` for a pair.
    fn code_point(&mut self) -> Result<char, LoneSurrogate> {
        let first = Self::unit(&mut self.0);
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        let mut ahead = self.0.clone();
        if first >= 0xDC00 || ahead.next() != Some('\\') || ahead.next() != Some('u') {
            return Err(LoneSurrogate);
        }
        let second = Self::unit(&mut ahead);
        if !(0xDC00..0xE000).contains(&second) {
            return Err(LoneSurrogate);
        }
        self.0 = ahead;
        let pair = 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00);
        char::from_u32(pair).ok_or(LoneSurrogate)
    }
}

impl Iterator for Characters<'_> {
    type Item = Result<char, LoneSurrogate>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.next()? {
            '\\' => Some(self.escape()),
            c => Some(Ok(c)),
        }
    }
}

/// The text of a string.
pub(super) fn decode(inside: &[u8]) -> Result<String, LoneSurrogate> {
    characters(inside).collect()
}

/// A key of the client, to be compared with keys of the format.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    inside: &'a [u8],
    /// ASCII without escapes: its bytes are its characters.
    simple: bool,
}

impl<'a> Key<'a> {
    pub(super) fn new(inside: &'a [u8]) -> Self {
        let simple = inside.iter().all(|byte| byte.is_ascii() && *byte != b'\\');
        Self { inside, simple }
    }

    /// Compares with `name` (ASCII) as decoders would: some fold case, by
    /// Unicode's simple folding (Go's `encoding/json`), and there two letters
    /// beyond ASCII fold into it.
    pub(super) fn likeness(self, name: &str) -> Likeness {
        let name = name.as_bytes();
        if !self.simple {
            return self.by_character(name);
        }
        match self.inside.eq_ignore_ascii_case(name) {
            false => Likeness::Different,
            true if self.inside == name => Likeness::Same,
            true => Likeness::OtherCase,
        }
    }

    fn by_character(self, name: &[u8]) -> Likeness {
        let mut characters = characters(self.inside);
        let mut same = true;
        for byte in name {
            let Some(Ok(c)) = characters.next() else {
                return Likeness::Different;
            };
            let letter = char::from(*byte);
            if fold(c) != letter.to_ascii_lowercase() {
                return Likeness::Different;
            }
            same &= c == letter;
        }
        match (characters.next(), same) {
            (Some(_), _) => Likeness::Different,
            (None, false) => Likeness::OtherCase,
            (None, true) => Likeness::Same,
        }
    }
}

fn fold(c: char) -> char {
    match c {
        '\u{17F}' => 's',  // ſ, the long s
        '\u{212A}' => 'k', // K, the Kelvin sign
        c => c.to_ascii_lowercase(),
    }
}

/// Writes `text` as a JSON string, with quotes.
pub(super) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c < ' ' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a String takes every write");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
