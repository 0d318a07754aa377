//! The keys that policy reads, per format, and where a body has them.

use smallvec::SmallVec;

use super::frames::{Frames, Span};
use super::scan::{Inside, Kind, Note, Visitor};
use super::text::{self, Likeness};
use super::{BodyError, Dialect};

/// One value that policy reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Model,
    NestedModel,
    Stream,
    StreamOptions,
    IncludeUsage,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    PreviousResponseId,
    Conversation,
    ConversationId,
    Background,
    Store,
    System,
    Requests,
    GenerateContentRequest,
    GenerationConfig,
    ConfigMaxOutputTokens,
}

/// The keys of one object.
type Shape = &'static [Key];

/// A key, what its value may be, and what is inside that.
#[derive(Debug)]
struct Key {
    /// As the format spells it. Where there are two spellings, protobuf JSON
    /// takes both for one field.
    names: &'static [&'static str],
    /// The path that errors name.
    param: &'static str,
    slot: Slot,
    takes: Takes,
    members: Shape,
}

/// Which values a key may have. Null stands for absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    String,
    StringOrNull,
    BoolOrNull,
    CountOrNull,
    ObjectOrNull,
    StringObjectOrNull,
    StringArrayOrNull,
    /// An array of objects, whose keys are the `members`.
    ObjectsOrNull,
}

impl Takes {
    fn admits(self, kind: Kind) -> bool {
        let null = kind == Kind::Null;
        match self {
            Self::String => kind == Kind::String,
            Self::StringOrNull => null || kind == Kind::String,
            Self::BoolOrNull => null || matches!(kind, Kind::True | Kind::False),
            Self::CountOrNull => null || kind == Kind::Number,
            Self::ObjectOrNull => null || kind == Kind::Object,
            Self::StringObjectOrNull => null || matches!(kind, Kind::String | Kind::Object),
            Self::StringArrayOrNull => null || matches!(kind, Kind::String | Kind::Array),
            Self::ObjectsOrNull => null || kind == Kind::Array,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::String | Self::StringOrNull => "a string",
            Self::BoolOrNull => "true or false",
            Self::CountOrNull => "a non-negative integer",
            Self::ObjectOrNull => "an object",
            Self::StringObjectOrNull => "a string or an object",
            Self::StringArrayOrNull => "a string or an array",
            Self::ObjectsOrNull => "an array of objects",
        }
    }
}

const fn key(name: &'static [&'static str; 1], slot: Slot, takes: Takes) -> Key {
    Key {
        names: name,
        param: name[0],
        slot,
        takes,
        members: &[],
    }
}

static OPENAI: [Key; 5] = [
    key(&["model"], Slot::Model, Takes::String),
    key(&["stream"], Slot::Stream, Takes::BoolOrNull),
    key(&["max_tokens"], Slot::MaxTokens, Takes::CountOrNull),
    key(
        &["max_completion_tokens"],
        Slot::MaxCompletionTokens,
        Takes::CountOrNull,
    ),
    Key {
        members: &[Key {
            names: &["include_usage"],
            param: "stream_options.include_usage",
            slot: Slot::IncludeUsage,
            takes: Takes::BoolOrNull,
            members: &[],
        }],
        ..key(
            &["stream_options"],
            Slot::StreamOptions,
            Takes::ObjectOrNull,
        )
    },
];

static RESPONSES: [Key; 7] = [
    key(&["model"], Slot::Model, Takes::String),
    key(&["stream"], Slot::Stream, Takes::BoolOrNull),
    key(
        &["max_output_tokens"],
        Slot::MaxOutputTokens,
        Takes::CountOrNull,
    ),
    key(
        &["previous_response_id"],
        Slot::PreviousResponseId,
        Takes::StringOrNull,
    ),
    Key {
        members: &[Key {
            names: &["id"],
            param: "conversation.id",
            slot: Slot::ConversationId,
            takes: Takes::String,
            members: &[],
        }],
        ..key(
            &["conversation"],
            Slot::Conversation,
            Takes::StringObjectOrNull,
        )
    },
    key(&["background"], Slot::Background, Takes::BoolOrNull),
    key(&["store"], Slot::Store, Takes::BoolOrNull),
];

static ANTHROPIC: [Key; 4] = [
    key(&["model"], Slot::Model, Takes::String),
    key(&["stream"], Slot::Stream, Takes::BoolOrNull),
    key(&["max_tokens"], Slot::MaxTokens, Takes::CountOrNull),
    key(&["system"], Slot::System, Takes::StringArrayOrNull),
];

static GEMINI: [Key; 4] = [
    key(&["model"], Slot::Model, Takes::StringOrNull),
    Key {
        members: &[Key {
            names: &["model"],
            param: "requests[].model",
            slot: Slot::NestedModel,
            takes: Takes::StringOrNull,
            members: &[],
        }],
        ..key(&["requests"], Slot::Requests, Takes::ObjectsOrNull)
    },
    Key {
        names: &["generateContentRequest", "generate_content_request"],
        param: "generateContentRequest",
        slot: Slot::GenerateContentRequest,
        takes: Takes::ObjectOrNull,
        members: &[Key {
            names: &["model"],
            param: "generateContentRequest.model",
            slot: Slot::NestedModel,
            takes: Takes::StringOrNull,
            members: &[],
        }],
    },
    Key {
        names: &["generationConfig", "generation_config"],
        param: "generationConfig",
        slot: Slot::GenerationConfig,
        takes: Takes::ObjectOrNull,
        members: &[Key {
            names: &["maxOutputTokens", "max_output_tokens"],
            param: "generationConfig.maxOutputTokens",
            slot: Slot::ConfigMaxOutputTokens,
            takes: Takes::CountOrNull,
            members: &[],
        }],
    },
];

fn shape(dialect: Dialect) -> Shape {
    match dialect {
        Dialect::OpenAi => &OPENAI,
        Dialect::Responses => &RESPONSES,
        Dialect::Anthropic => &ANTHROPIC,
        Dialect::Gemini => &GEMINI,
    }
}

/// A value of the body: what it is and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) kind: Kind,
    pub(super) note: Note,
    pub(super) start: usize,
    /// One past its last byte.
    pub(super) end: usize,
}

impl Value {
    pub(super) fn span(&self) -> Span {
        self.start..self.end
    }

    /// What is between the quotes or brackets.
    pub(super) fn inside(&self) -> Span {
        self.start + 1..self.end - 1
    }
}

/// What was found. Fields inside one another are all listed, inner first.
#[derive(Debug)]
pub(super) struct Fields {
    levels: SmallVec<[Level; 4]>,
    found: SmallVec<[(Slot, Value); 6]>,
    /// The whole body, and where it starts.
    top: Option<Value>,
    start: usize,
    shape: Shape,
}

/// A container that is being watched.
#[derive(Debug)]
struct Level {
    form: Form,
    /// The value that is being read, where policy wants it.
    open: Option<Open>,
}

#[derive(Debug)]
enum Form {
    /// `seen` has a bit per key of the shape.
    Object { shape: Shape, seen: u8 },
    /// Elements are objects of this shape.
    Array { shape: Shape, param: &'static str },
}

#[derive(Debug)]
struct Open {
    key: &'static Key,
    kind: Kind,
    start: usize,
}

impl Fields {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self {
            levels: SmallVec::new(),
            found: SmallVec::new(),
            top: None,
            start: 0,
            shape: shape(dialect),
        }
    }

    /// The value in `slot`, null included.
    pub(super) fn get(&self, slot: Slot) -> Option<Value> {
        self.all(slot).next()
    }

    /// All values in `slot`, null included, in the body's order.
    pub(super) fn all(&self, slot: Slot) -> impl Iterator<Item = Value> {
        let of_slot = move |(found, value): &(Slot, Value)| (*found == slot).then_some(*value);
        self.found.iter().filter_map(of_slot)
    }

    /// The top-level object, once it is complete.
    pub(super) fn top(&self) -> Option<Value> {
        self.top
    }

    fn enter(&mut self, form: Form) -> Inside {
        self.levels.push(Level { form, open: None });
        Inside::Watch
    }
}

impl Visitor for Fields {
    fn key(&mut self, at: usize, inside: &[u8]) -> Result<(), BodyError> {
        let Some(Level {
            form: Form::Object { shape, seen },
            open,
        }) = self.levels.last_mut()
        else {
            return Ok(());
        };
        let asked = text::Key::new(inside);
        for (index, key) in shape.iter().enumerate() {
            for name in key.names {
                match asked.likeness(name) {
                    Likeness::Different => continue,
                    _ if *seen & 1 << index != 0 => {
                        return Err(BodyError::Duplicate {
                            param: key.param,
                            at,
                        });
                    }
                    Likeness::OtherCase => {
                        return Err(BodyError::OtherCase {
                            param: key.param,
                            at,
                        });
                    }
                    Likeness::Same => {}
                }
                *seen |= 1 << index;
                *open = Some(Open {
                    key,
                    kind: Kind::Null,
                    start: at,
                });
                return Ok(());
            }
        }
        Ok(())
    }

    fn begin(&mut self, kind: Kind, at: usize) -> Result<Inside, BodyError> {
        let Some(level) = self.levels.last_mut() else {
            if kind != Kind::Object {
                return Err(BodyError::Syntax {
                    at,
                    expected: "an object",
                });
            }
            self.start = at;
            let shape = self.shape;
            return Ok(self.enter(Form::Object { shape, seen: 0 }));
        };
        if let Form::Array { shape, param } = level.form {
            if kind != Kind::Object {
                return Err(BodyError::Type {
                    param,
                    expected: Takes::ObjectsOrNull.expected(),
                    at,
                });
            }
            return Ok(self.enter(Form::Object { shape, seen: 0 }));
        }
        let Some(open) = &mut level.open else {
            return Ok(Inside::Skip);
        };
        let key = open.key;
        if !key.takes.admits(kind) {
            return Err(BodyError::Type {
                param: key.param,
                expected: key.takes.expected(),
                at,
            });
        }
        (open.kind, open.start) = (kind, at);
        let shape = key.members;
        Ok(match kind {
            Kind::Object if !shape.is_empty() => self.enter(Form::Object { shape, seen: 0 }),
            Kind::Array if !shape.is_empty() => self.enter(Form::Array {
                shape,
                param: key.param,
            }),
            _ => Inside::Skip,
        })
    }

    fn leave(&mut self) {
        self.levels.pop();
    }

    fn end(&mut self, frames: &Frames, end: usize, note: Note) -> Result<(), BodyError> {
        let Some(level) = self.levels.last_mut() else {
            self.top = Some(Value {
                kind: Kind::Object,
                note,
                start: self.start,
                end,
            });
            return Ok(());
        };
        let Some(Open { key, kind, start }) = level.open.take() else {
            return Ok(());
        };
        let value = Value {
            kind,
            note,
            start,
            end,
        };
        let readable = match (kind, note) {
            (Kind::Number, _) => count(&frames.bytes(value.span())).is_some(),
            // Spliced around, never read.
            (Kind::String, _) if key.slot == Slot::System => true,
            (Kind::String, Note::Escaped) => text::decode(&frames.bytes(value.inside())).is_ok(),
            _ => true,
        };
        if !readable {
            return Err(BodyError::Type {
                param: key.param,
                expected: match kind {
                    Kind::String => "text: it holds half of a surrogate pair",
                    _ => key.takes.expected(),
                },
                at: start,
            });
        }
        self.found.push((key.slot, value));
        Ok(())
    }
}

/// Reads a non-negative integer; one beyond 64 bits is the largest of them.
pub(super) fn count(number: &[u8]) -> Option<u64> {
    number.iter().try_fold(0_u64, |count, byte| {
        let digit = char::from(*byte).to_digit(10)?;
        Some(count.saturating_mul(10).saturating_add(u64::from(digit)))
    })
}
