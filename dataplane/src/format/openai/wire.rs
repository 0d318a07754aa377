//! What OpenAI's endpoints write alike
//! (<https://platform.openai.com/docs/api-reference/chat/object>).

use std::borrow::Cow;

use bodhi_proto::chat::{self, FinishReason, TokenLogprob, TopLogprob};
use bytes::BytesMut;
use serde::{Serialize, Serializer};

use super::Calls;
use crate::format::{Head, sse};

/// The object's members before the choices, the opening brace first.
#[derive(Serialize)]
struct Beginning<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a str>,
}

/// The JSON of an object up to where its choices begin.
pub(in crate::format) fn beginning(head: &Head, prefix: &str, object: &'static str) -> String {
    let beginning = Beginning {
        id: &[prefix, &head.id].concat(),
        object,
        created: head.created,
        model: &head.model,
        system_fingerprint: head.fingerprint.as_deref(),
    };
    let mut json = serde_json::to_string(&beginning).expect("our shapes have string keys");
    json.pop();
    json.push_str(",\"choices\":[");
    json
}

pub(in crate::format) fn finish_reason(reason: FinishReason, calls: Calls) -> &'static str {
    match (reason, calls) {
        (FinishReason::Stop, _) => "stop",
        (FinishReason::Length, _) => "length",
        (FinishReason::ToolCalls, Calls::Tools) => "tool_calls",
        (FinishReason::ToolCalls, Calls::Function) => "function_call",
        (FinishReason::ContentFilter, _) => "content_filter",
    }
}

/// What all answers took together.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::format) struct Totals {
    usage: chat::Usage,
    timings: Option<chat::Timings>,
}

impl Totals {
    pub(in crate::format) fn new(usage: chat::Usage, timings: Option<chat::Timings>) -> Self {
        Self { usage, timings }
    }

    /// Adds those of another prompt, whose times overlap: there is then no telling of times.
    pub(in crate::format) fn add(&mut self, usage: chat::Usage) {
        let sum = &mut self.usage;
        sum.prompt = sum.prompt.saturating_add(usage.prompt);
        sum.cached = sum.cached.saturating_add(usage.cached);
        sum.completion = sum.completion.saturating_add(usage.completion);
        sum.reasoning = sum.reasoning.saturating_add(usage.reasoning);
        self.timings = None;
    }

    /// The members after the choices' closing bracket, without the closing brace.
    pub(in crate::format) fn write(&self, out: &mut BytesMut) {
        out.extend_from_slice(b",\"usage\":");
        sse::json(&Usage::from(self.usage), out);
        if let Some(timings) = self.timings {
            out.extend_from_slice(b",\"timings\":");
            sse::json(&Timings::of(self.usage, timings), out);
        }
    }
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u64,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u32,
}

impl From<chat::Usage> for Usage {
    fn from(usage: chat::Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            total_tokens: u64::from(usage.prompt) + u64::from(usage.completion),
            prompt_tokens_details: PromptDetails {
                cached_tokens: usage.cached,
            },
            completion_tokens_details: CompletionDetails {
                reasoning_tokens: usage.reasoning,
            },
        }
    }
}

/// The usage of what has no answer in tokens: of embeddings, and of rerank, which has the same.
#[derive(Serialize)]
pub(in crate::format) struct PromptUsage {
    prompt_tokens: u32,
    total_tokens: u32,
}

impl PromptUsage {
    pub(in crate::format) fn new(prompt_tokens: u32) -> Self {
        Self {
            prompt_tokens,
            total_tokens: prompt_tokens,
        }
    }
}

/// llama.cpp's `timings`, and the time in the queue.
#[derive(Serialize)]
struct Timings {
    cache_n: u32,
    prompt_n: u32,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    predicted_n: u32,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
    queued_ms: f64,
}

impl Timings {
    /// Of no tokens or no time there is no rate: JSON writes it as null.
    fn of(usage: chat::Usage, timings: chat::Timings) -> Self {
        let prompt_n = usage.prompt.saturating_sub(usage.cached);
        let (prompt, predicted) = (f64::from(prompt_n), f64::from(usage.completion));
        Self {
            cache_n: usage.cached,
            prompt_n,
            prompt_ms: timings.prompt_ms,
            prompt_per_token_ms: timings.prompt_ms / prompt,
            prompt_per_second: prompt / timings.prompt_ms * 1e3,
            predicted_n: usage.completion,
            predicted_ms: timings.predicted_ms,
            predicted_per_token_ms: timings.predicted_ms / predicted,
            predicted_per_second: predicted / timings.predicted_ms * 1e3,
            queued_ms: timings.queued_ms,
        }
    }
}

/// A logarithm of zero is written as OpenAI does; one that is not known, as null.
pub(in crate::format) fn logprob(logprob: f32) -> f32 {
    match logprob.is_nan() {
        true => logprob,
        false => logprob.max(-9999.0),
    }
}

/// A token's text. One that is part of a character has none of its own.
pub(in crate::format) fn token(token: &TopLogprob) -> Cow<'_, str> {
    String::from_utf8_lossy(&token.bytes)
}

/// `logprobs` of chat completions.
#[derive(Serialize)]
pub(in crate::format) struct Logprobs<'a> {
    #[serde(serialize_with = "tokens")]
    content: &'a [TokenLogprob],
    /// Of refusals, which workers do not tell apart.
    refusal: Option<()>,
}

impl<'a> Logprobs<'a> {
    pub(in crate::format) fn new(content: &'a [TokenLogprob]) -> Self {
        Self {
            content,
            refusal: None,
        }
    }
}

#[derive(Serialize)]
struct Top<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
}

#[derive(Serialize)]
struct Chosen<'a> {
    token: Cow<'a, str>,
    logprob: f32,
    bytes: &'a [u8],
    #[serde(serialize_with = "tops")]
    top_logprobs: &'a [TopLogprob],
}

fn top(of: &TopLogprob) -> Top<'_> {
    Top {
        token: token(of),
        logprob: logprob(of.logprob),
        bytes: &of.bytes,
    }
}

fn tops<S: Serializer>(tops: &&[TopLogprob], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(tops.iter().map(top))
}

fn tokens<S: Serializer>(tokens: &&[TokenLogprob], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(tokens.iter().map(|chosen| Chosen {
        token: token(&chosen.token),
        logprob: logprob(chosen.token.logprob),
        bytes: &chosen.token.bytes,
        top_logprobs: &chosen.top,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithm_of_nothing_is_a_number() {
        assert_eq!(logprob(-0.5), -0.5);
        assert_eq!(logprob(f32::NEG_INFINITY), -9999.0);
        assert!(logprob(f32::NAN).is_nan());
    }

    #[test]
    fn no_tokens_in_no_time_are_at_no_rate() {
        let mut out = BytesMut::new();
        Totals::new(chat::Usage::default(), Some(chat::Timings::default())).write(&mut out);
        let json = ["{\"choices\":[]", std::str::from_utf8(&out).unwrap(), "}"].concat();
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            value["timings"]["prompt_per_second"],
            serde_json::Value::Null
        );
    }
}
