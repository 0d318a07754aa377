//! The request body: taken in, judged and edited without a DOM.
//!
//! Authorisation and upstream must see one model, so the whole body passes a
//! strict validator as it arrives, and the keys that policy reads are compared
//! as decoders compare them: unescaped, and by some without regard to case.
//! Two that could be taken for one another are refused. What remains has one
//! meaning, and then nothing of it needs to change but the values that policy
//! sets: [`Body::prepare`] puts those between slices of the frames as they
//! were received. Key order, number spelling, escapes and unknown fields
//! survive because nobody touches them.
//!
//! The same rule holds for the nested keys that policy reads: twice, or in
//! another case, is an error. Null stands for absence wherever a value is
//! optional; an edit that sets it replaces the null.

mod error;
mod extra;
mod fields;
mod frames;
mod locate;
mod lookup;
mod plain;
mod scan;
mod splice;
#[cfg(test)]
mod tests;
mod text;
mod utf8;

use std::borrow::Cow;

use bytes::Bytes;

pub use self::error::BodyError;

pub use self::extra::{ExtraBody, ExtraBodyError};
use self::fields::{Fields, Slot, Value};
use self::frames::Frames;
pub(crate) use self::lookup::Lookup;
use self::scan::{Kind, Scanner};
pub use self::splice::Prepared;

/// What a request body is written in. It decides which keys policy reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Chat completions, completions, embeddings, rerank.
    OpenAi,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages and token counting.
    Anthropic,
    /// Gemini's `models/{model}:{action}`.
    Gemini,
}

/// Where a format keeps its output limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputField {
    /// `max_tokens` (OpenAI, Anthropic).
    MaxTokens,
    /// `max_completion_tokens` (OpenAI).
    MaxCompletionTokens,
    /// `max_output_tokens` (Responses).
    MaxOutputTokens,
    /// `generationConfig.maxOutputTokens` (Gemini).
    GenerationConfig,
}

impl OutputField {
    /// The fields of a format, the usual one first.
    #[must_use]
    pub const fn of(dialect: Dialect) -> &'static [Self] {
        match dialect {
            Dialect::OpenAi => &[Self::MaxTokens, Self::MaxCompletionTokens],
            Dialect::Responses => &[Self::MaxOutputTokens],
            Dialect::Anthropic => &[Self::MaxTokens],
            Dialect::Gemini => &[Self::GenerationConfig],
        }
    }

    /// The path as errors name it.
    #[must_use]
    pub const fn param(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::GenerationConfig => "generationConfig.maxOutputTokens",
        }
    }

    const fn path(self) -> &'static [&'static str] {
        match self {
            Self::MaxTokens => &["max_tokens"],
            Self::MaxCompletionTokens => &["max_completion_tokens"],
            Self::MaxOutputTokens => &["max_output_tokens"],
            Self::GenerationConfig => &["generationConfig", "maxOutputTokens"],
        }
    }

    const fn slot(self) -> Slot {
        match self {
            Self::MaxTokens => Slot::MaxTokens,
            Self::MaxCompletionTokens => Slot::MaxCompletionTokens,
            Self::MaxOutputTokens => Slot::MaxOutputTokens,
            Self::GenerationConfig => Slot::ConfigMaxOutputTokens,
        }
    }

    /// The object that the field is in, where that is not the body.
    const fn object(self) -> Option<Slot> {
        match self {
            Self::GenerationConfig => Some(Slot::GenerationConfig),
            _ => None,
        }
    }
}

/// Takes in a body, frame by frame.
#[derive(Debug)]
pub struct Intake {
    dialect: Dialect,
    limit: usize,
    frames: Frames,
    scanner: Scanner,
    fields: Fields,
}

impl Intake {
    /// For a body of at most `limit` bytes.
    #[must_use]
    pub fn new(dialect: Dialect, limit: usize) -> Self {
        Self {
            dialect,
            limit,
            frames: Frames::default(),
            scanner: Scanner::default(),
            fields: Fields::new(dialect),
        }
    }

    /// Takes the next frame. The frame is kept, not copied.
    ///
    /// # Errors
    /// The first fault of the body; no further frame may be pushed then.
    pub fn push(&mut self, frame: Bytes) -> Result<(), BodyError> {
        if frame.is_empty() {
            return Ok(());
        }
        let len = frame.len();
        if len > self.limit - self.frames.len() {
            return Err(BodyError::TooLarge { limit: self.limit });
        }
        self.frames.push(frame);
        let data = self.frames.newest(len);
        self.scanner.feed(data, &self.frames, &mut self.fields)
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether nothing was taken yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The body is not complete.
    pub fn finish(mut self) -> Result<Body, BodyError> {
        self.scanner.finish()?;
        self.frames.seal();
        let top = self.fields.top().ok_or(BodyError::Syntax {
            at: self.frames.len(),
            expected: "an object",
        })?;
        let mut body = Body {
            dialect: self.dialect,
            frames: self.frames,
            fields: self.fields,
            top,
            model: None,
        };
        body.model = body.get_model();
        Ok(body)
    }
}

/// A body that was taken in whole and has one meaning.
#[derive(Debug)]
pub struct Body {
    dialect: Dialect,
    frames: Frames,
    fields: Fields,
    /// The whole object.
    top: Value,
    /// UTF-8, escapes read; a slice of its frame where that was possible.
    model: Option<Bytes>,
}

impl Body {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Never: a body holds at least `{}`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The top-level `model`.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        let text = |model| std::str::from_utf8(model).expect("the scanner has accepted it");
        self.model.as_deref().map(text)
    }

    /// The top-level `model`, for endpoints that need one.
    ///
    /// # Errors
    /// [`BodyError::Missing`] where there is none.
    pub fn require_model(&self) -> Result<&str, BodyError> {
        self.model().ok_or(BodyError::Missing { param: "model" })
    }

    /// Gemini: every model the body names (`model`, `requests[].model`,
    /// `generateContentRequest.model`), each perhaps with `models/` in front.
    pub fn models(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.model_values().map(|value| self.text(value))
    }

    /// Whether the client asked for a stream (not Gemini, whose path says it).
    #[must_use]
    pub fn stream(&self) -> bool {
        self.flag(Slot::Stream) == Some(true)
    }

    /// Responses: `background`.
    #[must_use]
    pub fn background(&self) -> bool {
        self.flag(Slot::Background) == Some(true)
    }

    /// Responses: `store`, where it is said.
    #[must_use]
    pub fn store(&self) -> Option<bool> {
        self.flag(Slot::Store)
    }

    /// The output limits that the client asked for, in tokens. One that does
    /// not fit 64 bits reads as the largest that does.
    pub fn output_limits(&self) -> impl Iterator<Item = (OutputField, u64)> {
        OutputField::of(self.dialect).iter().filter_map(|field| {
            let value = self.fields.get(field.slot())?;
            let count = fields::count(&self.frames.bytes(value.span()))?;
            Some((*field, count))
        })
    }

    /// Responses: `previous_response_id`.
    #[must_use]
    pub fn previous_response_id(&self) -> Option<Cow<'_, str>> {
        self.string(Slot::PreviousResponseId)
    }

    /// Responses: the id of `conversation`, which is a string or `{"id"}`.
    #[must_use]
    pub fn conversation(&self) -> Option<Cow<'_, str>> {
        self.string(Slot::Conversation)
            .or_else(|| self.string(Slot::ConversationId))
    }

    /// The body with `edits` applied; every byte outside them is the client's.
    /// The frames are shared, so a second attempt may prepare again.
    #[must_use]
    pub fn prepare(&self, edits: &Edits<'_>) -> Prepared {
        splice::prepare(self, edits)
    }

    fn model_values(&self) -> impl Iterator<Item = Value> {
        let top = self.fields.all(Slot::Model);
        top.chain(self.fields.all(Slot::NestedModel))
            .filter(|value| value.kind == Kind::String)
    }

    fn get_model(&self) -> Option<Bytes> {
        let value = self.fields.get(Slot::Model)?;
        let text = (value.kind == Kind::String).then(|| self.text(value))?;
        Some(match text {
            Cow::Borrowed(_) => self.frames.share(value.inside()),
            Cow::Owned(text) => text.into(),
        })
    }

    fn flag(&self, slot: Slot) -> Option<bool> {
        match self.fields.get(slot)?.kind {
            Kind::True => Some(true),
            Kind::False => Some(false),
            _ => None,
        }
    }

    fn string(&self, slot: Slot) -> Option<Cow<'_, str>> {
        let value = self.fields.get(slot)?;
        (value.kind == Kind::String).then(|| self.text(value))
    }

    /// A string that policy reads. Intake has refused those that are no text.
    fn text(&self, value: Value) -> Cow<'_, str> {
        let inside = self.frames.bytes(value.inside());
        match (value.note, inside) {
            (scan::Note::Plain, Cow::Borrowed(inside)) => String::from_utf8_lossy(inside),
            (_, inside) => Cow::Owned(text::decode(&inside).unwrap_or_default()),
        }
    }

    /// Whether the client sent null where `object` would be.
    fn holds_null(&self, object: Option<Slot>) -> bool {
        let value = object.and_then(|slot| self.fields.get(slot));
        value.is_some_and(|value| value.kind == Kind::Null)
    }
}

/// The most output that may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputCap {
    /// In tokens.
    pub limit: u32,
    /// Where it is set when nothing was asked; a field that the format does
    /// not have stands for its usual one.
    pub field: OutputField,
}

/// What is to be changed in a body.
#[derive(Debug, Clone, Copy, Default)]
pub struct Edits<'a> {
    /// Replaces the models that the body names; where it names none, none is
    /// added. Gemini's keep their `models/`.
    pub model: Option<&'a str>,
    /// Lowers every output limit that is above it, and sets it where neither
    /// the client nor an extra body asked for one.
    pub cap: Option<OutputCap>,
    /// OpenAI: sets `stream_options.include_usage`. For streams only.
    pub include_usage: bool,
    /// The provider's: fills what neither client nor `defaults` say.
    pub extra_body: Option<&'a ExtraBody>,
    /// The served name's: fills what the client does not say.
    pub defaults: Option<&'a ExtraBody>,
}
