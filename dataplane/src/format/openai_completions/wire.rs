//! The shapes of answers, members in OpenAI's order.

use std::borrow::Cow;

use bodhi_proto::chat::{TokenLogprob, TopLogprob};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::format::openai::wire::logprob;

/// A whole answer, or a piece of one.
#[derive(Serialize)]
pub(super) struct Choice<'a> {
    pub(super) text: &'a str,
    pub(super) index: u32,
    pub(super) logprobs: Option<Logprobs<'a>>,
    pub(super) finish_reason: Option<&'static str>,
}

/// Of each token: its text, its probability, the likeliest at its place, and its offset in the
/// answer in characters.
#[derive(Serialize)]
pub(super) struct Logprobs<'a> {
    #[serde(serialize_with = "tokens")]
    tokens: &'a [TokenLogprob],
    #[serde(serialize_with = "token_logprobs")]
    token_logprobs: &'a [TokenLogprob],
    #[serde(serialize_with = "top_logprobs")]
    top_logprobs: &'a [TokenLogprob],
    text_offset: Vec<usize>,
}

impl<'a> Logprobs<'a> {
    /// `offset` is the first token's, and becomes that of the token after the last.
    pub(super) fn new(tokens: &'a [TokenLogprob], offset: &mut usize) -> Self {
        let offsets = tokens.iter().map(|token| {
            let at = *offset;
            *offset += characters(&token.token.bytes);
            at
        });
        Self {
            tokens,
            token_logprobs: tokens,
            top_logprobs: tokens,
            text_offset: offsets.collect(),
        }
    }
}

/// Characters that begin in `bytes`.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

/// A token's text. Where it is part of a character only, its bytes, as OpenAI spells them: so
/// that different tokens have different keys.
fn spelled(token: &TopLogprob) -> Cow<'_, str> {
    match std::str::from_utf8(&token.bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let bytes = token.bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            Cow::Owned(std::iter::once("bytes:".to_owned()).chain(bytes).collect())
        }
    }
}

fn tokens<S: Serializer>(tokens: &&[TokenLogprob], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(tokens.iter().map(|token| spelled(&token.token)))
}

fn token_logprobs<S: Serializer>(tokens: &&[TokenLogprob], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(tokens.iter().map(|token| logprob(token.token.logprob)))
}

/// Null where none were asked for.
fn top_logprobs<S: Serializer>(tokens: &&[TokenLogprob], to: S) -> Result<S::Ok, S::Error> {
    match tokens.iter().all(|token| token.top.is_empty()) {
        true => to.serialize_none(),
        false => to.collect_seq(tokens.iter().map(|token| Tops(&token.top))),
    }
}

struct Tops<'a>(&'a [TopLogprob]);

impl Serialize for Tops<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for top in self.0 {
            map.serialize_entry(&spelled(top), &logprob(top.logprob))?;
        }
        map.end()
    }
}
