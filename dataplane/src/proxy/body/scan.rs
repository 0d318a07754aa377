//! A strict RFC 8259 validator as a push machine.
//!
//! It takes the body in any partition, keeps one bit per open bracket and
//! reports to a [`Visitor`] only what happens at the depth that the visitor
//! watches; everything deeper is validated and skipped. String interiors,
//! most of any large request, are skipped by `plain`'s vector loop.

use super::BodyError;
use super::frames::Frames;
use super::plain;
use super::utf8::Partial;

/// The deepest nesting that is taken.
pub(super) const MAX_DEPTH: usize = 512;

/// What a value is, told by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Number,
    True,
    False,
    Null,
    Object,
    Array,
}

/// What there is to know about a value once it is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Nothing.
    Plain,
    /// A string with escapes.
    Escaped,
    /// An object or array without members.
    Empty,
}

/// Whether the inside of a container is to be reported too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    Watch,
    Skip,
}

/// Told about keys and values at the watched depth, in order: `key` (in
/// objects), `begin`, the inside if `begin` said so, closed by `leave`, `end`.
pub(super) trait Visitor {
    /// A key: what is between its quotes; `at` is the opening one.
    fn key(&mut self, at: usize, inside: &[u8]) -> Result<(), BodyError>;
    /// A value's first byte.
    fn begin(&mut self, kind: Kind, at: usize) -> Result<Inside, BodyError>;
    /// The watched container closes; its own `end` follows.
    fn leave(&mut self);
    /// A value is complete; `end` is one past its last byte.
    fn end(&mut self, frames: &Frames, end: usize, note: Note) -> Result<(), BodyError>;
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Value,
    ValueOrClose,
    KeyOrClose,
    Key,
    Colon,
    CommaOrClose,
    String,
    Escape,
    /// So many hexadecimal digits of an escape.
    Hex(u8),
    Number(Number),
    /// So much of `true`, `false` or `null` was read.
    Literal(Literal, u8),
    /// Only white space: the top-level value is complete.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Literal {
    True,
    False,
    Null,
}

impl Literal {
    fn text(self) -> &'static [u8] {
        match self {
            Self::True => b"true",
            Self::False => b"false",
            Self::Null => b"null",
        }
    }
}

/// How far a number has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    Sign,
    Power,
}

impl Number {
    /// The state after `byte`, or none where it does not belong to the number.
    fn next(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus, b'1'..=b'9') | (Self::Integer, b'0'..=b'9') => Some(Self::Integer),
            (Self::Zero | Self::Integer, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::Sign),
            (Self::Exponent | Self::Sign | Self::Power, b'0'..=b'9') => Some(Self::Power),
            _ => None,
        }
    }

    /// Any number of further digits leaves the state as it is.
    fn repeats(self) -> bool {
        matches!(self, Self::Integer | Self::Fraction | Self::Power)
    }

    fn may_end(self) -> bool {
        matches!(
            self,
            Self::Zero | Self::Integer | Self::Fraction | Self::Power
        )
    }
}

/// The machine. Feed it every frame, then `finish`.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    /// Offset of the next byte.
    at: usize,
    /// Open brackets.
    depth: usize,
    /// The depth that the visitor is told about.
    watched: usize,
    /// One bit per open bracket: set for objects.
    objects: [u64; MAX_DEPTH / 64],
    /// The string being read is a key.
    key: bool,
    escaped: bool,
    /// Offset of the opening quote of the string being read.
    quote: usize,
    /// A character that a frame's end cut.
    partial: Partial,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            state: State::Value,
            at: 0,
            depth: 0,
            watched: 0,
            objects: [0; MAX_DEPTH / 64],
            key: false,
            escaped: false,
            quote: 0,
            partial: Partial::default(),
        }
    }
}

impl Scanner {
    /// Validates the frame that was just pushed onto `frames`.
    ///
    /// # Errors
    /// The first fault; the machine must not be fed again then.
    pub(super) fn feed(
        &mut self,
        data: &[u8],
        frames: &Frames,
        visitor: &mut impl Visitor,
    ) -> Result<(), BodyError> {
        let base = self.at;
        let mut i = match self.partial.complete(data) {
            Ok(taken) => taken,
            Err(cut) => return Err(not_utf8(base - cut)),
        };
        while let Some(&byte) = data.get(i) {
            match self.state {
                State::String => {
                    let run = plain::run(&data[i..]);
                    let text = &data[i..i + run.len];
                    if !run.ascii {
                        let cut = i + run.len == data.len();
                        self.partial
                            .check(text, cut)
                            .map_err(|offset| not_utf8(base + i + offset))?;
                    }
                    i += run.len;
                    match data.get(i) {
                        Some(b'"') => {
                            i += 1;
                            self.string_ends(base + i, frames, visitor)?;
                        }
                        Some(b'\\') => {
                            i += 1;
                            self.escaped = true;
                            self.state = State::Escape;
                        }
                        Some(_) => {
                            return Err(BodyError::Syntax {
                                at: base + i,
                                expected: "control characters in strings to be escaped",
                            });
                        }
                        None => {}
                    }
                }
                State::Escape => {
                    self.state = match byte {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => State::String,
                        b'u' => State::Hex(4),
                        _ => return Err(self.unexpected(base + i)),
                    };
                    i += 1;
                }
                State::Hex(left) => {
                    if !byte.is_ascii_hexdigit() {
                        return Err(self.unexpected(base + i));
                    }
                    self.state = match left {
                        1 => State::String,
                        _ => State::Hex(left - 1),
                    };
                    i += 1;
                }
                State::Number(mut number) => {
                    while let Some(next) = data.get(i).and_then(|byte| number.next(*byte)) {
                        number = next;
                        i += 1;
                        if number.repeats() {
                            i += leading(&data[i..], u8::is_ascii_digit);
                        }
                    }
                    self.state = State::Number(number);
                    if i < data.len() {
                        if !number.may_end() {
                            return Err(self.unexpected(base + i));
                        }
                        self.value_ends(base + i, Note::Plain, frames, visitor)?;
                    }
                }
                State::Literal(literal, read) => {
                    let text = literal.text();
                    if byte != text[usize::from(read)] {
                        return Err(self.unexpected(base + i));
                    }
                    i += 1;
                    self.state = State::Literal(literal, read + 1);
                    if usize::from(read) + 1 == text.len() {
                        self.value_ends(base + i, Note::Plain, frames, visitor)?;
                    }
                }
                _ if is_space(&byte) => i += leading(&data[i..], is_space),
                State::Value | State::ValueOrClose => {
                    if byte == b']' && self.state == State::ValueOrClose {
                        self.close(base + i, Note::Empty, frames, visitor)?;
                    } else {
                        self.value_begins(byte, base + i, visitor)?;
                    }
                    i += 1;
                }
                State::Key | State::KeyOrClose => {
                    match byte {
                        b'"' => self.string_begins(base + i, true),
                        b'}' if self.state == State::KeyOrClose => {
                            self.close(base + i, Note::Empty, frames, visitor)?;
                        }
                        _ => return Err(self.unexpected(base + i)),
                    }
                    i += 1;
                }
                State::Colon => {
                    if byte != b':' {
                        return Err(self.unexpected(base + i));
                    }
                    self.state = State::Value;
                    i += 1;
                }
                State::CommaOrClose => {
                    let object = self.in_object();
                    match byte {
                        b',' if object => self.state = State::Key,
                        b',' => self.state = State::Value,
                        b'}' if object => self.close(base + i, Note::Plain, frames, visitor)?,
                        b']' if !object => self.close(base + i, Note::Plain, frames, visitor)?,
                        _ => return Err(self.unexpected(base + i)),
                    }
                    i += 1;
                }
                State::Done => return Err(self.unexpected(base + i)),
            }
        }
        self.at = base + data.len();
        Ok(())
    }

    /// Whether the body is complete.
    ///
    /// # Errors
    /// What is missing at its end.
    pub(super) fn finish(&self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            _ => Err(self.unexpected(self.at)),
        }
    }

    fn value_begins(
        &mut self,
        byte: u8,
        at: usize,
        visitor: &mut impl Visitor,
    ) -> Result<(), BodyError> {
        let kind = match byte {
            b'"' => Kind::String,
            b'{' => Kind::Object,
            b'[' => Kind::Array,
            b'-' | b'0'..=b'9' => Kind::Number,
            b't' => Kind::True,
            b'f' => Kind::False,
            b'n' => Kind::Null,
            _ => return Err(self.unexpected(at)),
        };
        let inside = match self.depth == self.watched {
            true => visitor.begin(kind, at)?,
            false => Inside::Skip,
        };
        match kind {
            Kind::String => self.string_begins(at, false),
            Kind::Object | Kind::Array => self.open(kind, inside, at)?,
            Kind::Number => {
                self.state = State::Number(match byte {
                    b'-' => Number::Minus,
                    b'0' => Number::Zero,
                    _ => Number::Integer,
                });
            }
            Kind::True => self.state = State::Literal(Literal::True, 1),
            Kind::False => self.state = State::Literal(Literal::False, 1),
            Kind::Null => self.state = State::Literal(Literal::Null, 1),
        }
        Ok(())
    }

    fn string_begins(&mut self, at: usize, key: bool) {
        self.state = State::String;
        self.key = key;
        self.escaped = false;
        self.quote = at;
    }

    fn string_ends(
        &mut self,
        end: usize,
        frames: &Frames,
        visitor: &mut impl Visitor,
    ) -> Result<(), BodyError> {
        if !self.key {
            let note = match self.escaped {
                true => Note::Escaped,
                false => Note::Plain,
            };
            return self.value_ends(end, note, frames, visitor);
        }
        self.state = State::Colon;
        if self.depth == self.watched {
            visitor.key(self.quote, &frames.bytes(self.quote + 1..end - 1))?;
        }
        Ok(())
    }

    fn value_ends(
        &mut self,
        end: usize,
        note: Note,
        frames: &Frames,
        visitor: &mut impl Visitor,
    ) -> Result<(), BodyError> {
        self.state = match self.depth {
            0 => State::Done,
            _ => State::CommaOrClose,
        };
        match self.depth == self.watched {
            true => visitor.end(frames, end, note),
            false => Ok(()),
        }
    }

    fn open(&mut self, kind: Kind, inside: Inside, at: usize) -> Result<(), BodyError> {
        let Some(word) = self.objects.get_mut(self.depth / 64) else {
            return Err(BodyError::TooDeep {
                at,
                limit: MAX_DEPTH,
            });
        };
        let bit = 1 << (self.depth % 64);
        match kind {
            Kind::Object => {
                *word |= bit;
                self.state = State::KeyOrClose;
            }
            _ => {
                *word &= !bit;
                self.state = State::ValueOrClose;
            }
        }
        self.depth += 1;
        if inside == Inside::Watch {
            self.watched = self.depth;
        }
        Ok(())
    }

    fn close(
        &mut self,
        at: usize,
        note: Note,
        frames: &Frames,
        visitor: &mut impl Visitor,
    ) -> Result<(), BodyError> {
        if self.depth == self.watched {
            visitor.leave();
            self.watched -= 1;
        }
        self.depth -= 1;
        self.value_ends(at + 1, note, frames, visitor)
    }

    fn in_object(&self) -> bool {
        let innermost = self.depth - 1;
        self.objects[innermost / 64] >> (innermost % 64) & 1 == 1
    }

    /// What should have been at `at`.
    fn unexpected(&self, at: usize) -> BodyError {
        let expected = match self.state {
            State::Value => "a value",
            State::ValueOrClose => "a value or ']'",
            State::KeyOrClose => "a key in double quotes or '}'",
            State::Key => "a key in double quotes",
            State::Colon => "':'",
            State::CommaOrClose if self.in_object() => "',' or '}'",
            State::CommaOrClose => "',' or ']'",
            State::String => "the string to end with '\"'",
            State::Escape => "one of \" \\ / b f n r t u after '\\'",
            State::Hex(_) => "four hexadecimal digits after '\\u'",
            State::Number(_) => "a digit",
            State::Literal(..) => "true, false or null",
            State::Done => "nothing after the top-level value",
        };
        BodyError::Syntax { at, expected }
    }
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// How many of the first bytes are of a kind.
fn leading(bytes: &[u8], is: impl Fn(&u8) -> bool) -> usize {
    bytes
        .iter()
        .position(|byte| !is(byte))
        .unwrap_or(bytes.len())
}

fn not_utf8(at: usize) -> BodyError {
    BodyError::Syntax {
        at,
        expected: "UTF-8",
    }
}
