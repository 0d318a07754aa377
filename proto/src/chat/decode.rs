//! Conversations and answers from their wire form. Whatever has no meaning in this release is
//! an error that names its field; ranges and limits are the backend's to judge, which knows
//! its model.

use std::num::NonZeroU32;

use super::{
    AssistantPart, Conversation, Dry, Effort, Embedded, Embedding, Event, Failure, FinishReason,
    Generation, Load, Media, Message, Mirostat, ModelInfo, OutputFormat, Part, Phase, Progress,
    Prompt, RawPrompt, Reasoning, ReplyEvent, Report, Reranked, Reranking, Sampling, Text, Timings,
    TokenLogprob, Tool, ToolCall, ToolChoice, TopLogprob, Usage, Xtc,
};
use crate::wire::inference as pb;

/// Why a message cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct ChatDecodeError {
    /// Where, as the schema calls it.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

fn missing(field: &'static str) -> ChatDecodeError {
    let why = "is missing, or of a newer release";
    ChatDecodeError { field, why }
}

fn unknown(field: &'static str) -> ChatDecodeError {
    let why = "is not known to this release";
    ChatDecodeError { field, why }
}

fn each<T, U>(
    items: Vec<T>,
    one: impl FnMut(T) -> Result<U, ChatDecodeError>,
) -> Result<Vec<U>, ChatDecodeError> {
    items.into_iter().map(one).collect()
}

impl Generation {
    /// Reads the wire form; the inverse of [`Generation::encode`].
    ///
    /// # Errors
    /// Names the field that this release cannot understand.
    pub fn decode(g: pb::Generation) -> Result<Self, ChatDecodeError> {
        Ok(Self {
            prompt: Prompt::decode(g.prompt.ok_or(missing("prompt"))?)?,
            output: output(g.output)?,
            sampling: sampling(g.sampling.unwrap_or_default())?,
            max_output_tokens: g.max_output_tokens,
            stop: g.stop,
            choices: NonZeroU32::new(g.choices).unwrap_or(NonZeroU32::MIN),
            logprobs: g.logprobs,
        })
    }
}

impl Prompt {
    /// Reads the wire form; the inverse of [`Prompt::encode`].
    ///
    /// # Errors
    /// Names the field that this release cannot understand.
    pub fn decode(p: pb::Prompt) -> Result<Self, ChatDecodeError> {
        match p.prompt.ok_or(missing("prompt"))? {
            pb::prompt::Prompt::Conversation(c) => Ok(Self::Conversation(conversation(c)?)),
            pb::prompt::Prompt::Raw(raw) => Ok(Self::Raw(RawPrompt {
                prompt: text("raw.prompt", raw.prompt)?,
                suffix: raw.suffix,
                echo: raw.echo,
            })),
        }
    }
}

impl Embedding {
    /// Reads the wire form; the inverse of [`Embedding::encode`].
    ///
    /// # Errors
    /// Names the field that this release cannot understand.
    pub fn decode(e: pb::Embedding) -> Result<Self, ChatDecodeError> {
        Ok(Self {
            inputs: each(e.inputs, |input| text("inputs", Some(input)))?,
            normalized: e.normalized,
        })
    }
}

impl Embedded {
    /// Reads the wire form; the inverse of [`Embedded::encode`].
    pub fn decode(e: pb::Embedded) -> Self {
        Self {
            vectors: e.vectors.into_iter().map(|v| v.values).collect(),
            prompt_tokens: e.prompt_tokens,
        }
    }
}

impl Reranking {
    /// Reads the wire form; the inverse of [`Reranking::encode`].
    pub fn decode(r: pb::Reranking) -> Self {
        Self {
            query: r.query,
            documents: r.documents,
        }
    }
}

impl Reranked {
    /// Reads the wire form; the inverse of [`Reranked::encode`].
    pub fn decode(r: pb::Reranked) -> Self {
        Self {
            scores: r.scores,
            prompt_tokens: r.prompt_tokens,
        }
    }
}

impl ReplyEvent {
    /// Reads the events of a message; the inverse of [`ReplyEvent::encode_all`].
    ///
    /// # Errors
    /// Names the field that this release cannot understand.
    pub fn decode_all(reply: pb::Reply) -> Result<Vec<Self>, ChatDecodeError> {
        each(reply.events, reply_event)
    }
}

impl Report {
    /// Reads the wire form; the inverse of [`Report::encode`].
    ///
    /// # Errors
    /// When the phase is of a newer release.
    pub fn decode(r: pb::Report) -> Result<Self, ChatDecodeError> {
        use pb::report::Phase as Wire;
        let progress = Progress::new(r.done, r.total);
        let phase = match Wire::try_from(r.phase) {
            Ok(Wire::Downloading) => Phase::Downloading(progress),
            Ok(Wire::Loading) => Phase::Loading(progress),
            Ok(Wire::WarmingUp) => Phase::WarmingUp,
            Ok(Wire::Ready) => Phase::Ready,
            Ok(Wire::Draining) => Phase::Draining,
            Ok(Wire::Failed) => Phase::Failed(Failure {
                reason: r.reason,
                message: r.message,
            }),
            Ok(Wire::Unspecified) | Err(_) => return Err(unknown("phase")),
        };
        Ok(Self {
            phase,
            load: r.load.map(load),
            model: r.model.map(model_info),
        })
    }
}

fn conversation(c: pb::Conversation) -> Result<Conversation, ChatDecodeError> {
    Ok(Conversation {
        messages: each(c.messages, message)?,
        tools: c.tools.into_iter().map(tool).collect(),
        tool_choice: tool_choice(c.tool_choice)?,
        parallel_tool_calls: c.parallel_tool_calls,
        reasoning: reasoning(c.reasoning)?,
        template_arguments: c.template_arguments,
    })
}

fn message(m: pb::Message) -> Result<Message, ChatDecodeError> {
    use pb::message::Role;
    Ok(match Role::try_from(m.role) {
        Ok(Role::System) => Message::System(each(m.content, part)?),
        Ok(Role::User) => Message::User {
            name: m.name,
            content: each(m.content, part)?,
        },
        Ok(Role::Assistant) => Message::Assistant(each(m.content, assistant_part)?),
        Ok(Role::Tool) => Message::Tool {
            call: m.call,
            name: m.name,
            content: each(m.content, part)?,
            failed: m.failed,
        },
        Ok(Role::Unspecified) | Err(_) => return Err(unknown("messages.role")),
    })
}

fn part(part: pb::Part) -> Result<Part, ChatDecodeError> {
    use pb::part::Part as Wire;
    match part.part.ok_or(missing("messages.content"))? {
        Wire::Text(text) => Ok(Part::Text(text)),
        Wire::ImageUrl(url) => Ok(Part::Image(Media::Url(url))),
        Wire::Image(pb::InlineMedia { media_type, data }) => {
            Ok(Part::Image(Media::Inline { media_type, data }))
        }
        Wire::Refusal(_) | Wire::Reasoning(_) | Wire::ToolCall(_) => Err(ChatDecodeError {
            field: "messages.content",
            why: "holds what only the assistant can say",
        }),
    }
}

fn assistant_part(part: pb::Part) -> Result<AssistantPart, ChatDecodeError> {
    use pb::part::Part as Wire;
    match part.part.ok_or(missing("messages.content"))? {
        Wire::Text(text) => Ok(AssistantPart::Text(text)),
        Wire::Refusal(text) => Ok(AssistantPart::Refusal(text)),
        Wire::Reasoning(pb::Thought { text, signature }) => {
            Ok(AssistantPart::Reasoning { text, signature })
        }
        Wire::ToolCall(call) => Ok(AssistantPart::ToolCall(ToolCall {
            id: call.id,
            name: call.name,
            arguments: call.arguments,
        })),
        Wire::ImageUrl(_) | Wire::Image(_) => Err(ChatDecodeError {
            field: "messages.content",
            why: "holds an image said by the assistant",
        }),
    }
}

fn tool(t: pb::Tool) -> Tool {
    Tool {
        name: t.name,
        description: t.description,
        parameters: t.parameters,
        strict: t.strict,
    }
}

fn tool_choice(given: Option<pb::ToolChoice>) -> Result<ToolChoice, ChatDecodeError> {
    use pb::tool_choice::Choice;
    let Some(given) = given else {
        return Ok(ToolChoice::Auto);
    };
    match given.choice {
        Some(Choice::None(true)) => Ok(ToolChoice::None),
        Some(Choice::Required(true)) => Ok(ToolChoice::Required),
        Some(Choice::Named(name)) => Ok(ToolChoice::Named(name)),
        _ => Err(unknown("tool_choice")),
    }
}

fn reasoning(given: Option<pb::Reasoning>) -> Result<Reasoning, ChatDecodeError> {
    use pb::reasoning::{Effort as WireEffort, Reasoning as Wire};
    let Some(given) = given else {
        return Ok(Reasoning::Default);
    };
    let effort = match given.reasoning {
        Some(Wire::Off(true)) => return Ok(Reasoning::Off),
        Some(Wire::Budget(tokens)) => return Ok(Reasoning::Budget(tokens)),
        Some(Wire::Effort(effort)) => effort,
        _ => return Err(unknown("reasoning")),
    };
    match WireEffort::try_from(effort) {
        Ok(WireEffort::Minimal) => Ok(Reasoning::Effort(Effort::Minimal)),
        Ok(WireEffort::Low) => Ok(Reasoning::Effort(Effort::Low)),
        Ok(WireEffort::Medium) => Ok(Reasoning::Effort(Effort::Medium)),
        Ok(WireEffort::High) => Ok(Reasoning::Effort(Effort::High)),
        Ok(WireEffort::Unspecified) | Err(_) => Err(unknown("reasoning.effort")),
    }
}

fn text(field: &'static str, given: Option<pb::Text>) -> Result<Text, ChatDecodeError> {
    match given.and_then(|t| t.text).ok_or(missing(field))? {
        pb::text::Text::Plain(text) => Ok(Text::Plain(text)),
        pb::text::Text::Tokens(pb::Tokens { ids }) => Ok(Text::Tokens(ids)),
    }
}

fn output(given: Option<pb::OutputFormat>) -> Result<OutputFormat, ChatDecodeError> {
    use pb::output_format::Format;
    let Some(given) = given else {
        return Ok(OutputFormat::Text);
    };
    match given.format {
        Some(Format::JsonObject(true)) => Ok(OutputFormat::JsonObject),
        Some(Format::JsonSchema(pb::JsonSchema { name, schema })) => {
            Ok(OutputFormat::JsonSchema { name, schema })
        }
        Some(Format::Grammar(grammar)) => Ok(OutputFormat::Grammar(grammar)),
        _ => Err(unknown("output")),
    }
}

fn sampling(s: pb::Sampling) -> Result<Sampling, ChatDecodeError> {
    Ok(Sampling {
        temperature: s.temperature,
        dynatemp_range: s.dynatemp_range,
        dynatemp_exponent: s.dynatemp_exponent,
        top_p: s.top_p,
        top_k: s.top_k,
        min_p: s.min_p,
        typical_p: s.typical_p,
        top_n_sigma: s.top_n_sigma,
        presence_penalty: s.presence_penalty,
        frequency_penalty: s.frequency_penalty,
        repeat_penalty: s.repeat_penalty,
        repeat_last_n: s.repeat_last_n,
        dry: s.dry.map(dry),
        xtc: s.xtc.map(|x| Xtc {
            probability: x.probability,
            threshold: x.threshold,
        }),
        mirostat: s.mirostat.map(mirostat).transpose()?,
        seed: s.seed,
        logit_bias: s.logit_bias.iter().map(|b| (b.token, b.bias)).collect(),
        ignore_eos: s.ignore_eos,
        min_keep: s.min_keep,
    })
}

fn dry(d: pb::Dry) -> Dry {
    Dry {
        multiplier: d.multiplier,
        base: d.base,
        allowed_length: d.allowed_length,
        penalty_last_n: d.penalty_last_n,
        sequence_breakers: d.sequence_breakers.map(|b| b.texts),
    }
}

fn mirostat(m: pb::Mirostat) -> Result<Mirostat, ChatDecodeError> {
    Ok(Mirostat {
        version: u8::try_from(m.version).map_err(|_| unknown("sampling.mirostat.version"))?,
        tau: m.tau,
        eta: m.eta,
    })
}

fn reply_event(given: pb::ReplyEvent) -> Result<ReplyEvent, ChatDecodeError> {
    use pb::reply_event::Event as Wire;
    let event = match given.event.ok_or(missing("events"))? {
        Wire::End(end) => {
            return Ok(ReplyEvent::End {
                usage: usage(end.usage.unwrap_or_default()),
                timings: end.timings.map(timings),
                load: end.load.map(load),
            });
        }
        Wire::Text(text) => Event::Text(text),
        Wire::Reasoning(text) => Event::Reasoning(text),
        Wire::Refusal(text) => Event::Refusal(text),
        Wire::ToolCallStart(pb::ToolCallStart { index, id, name }) => {
            Event::ToolCallStart { index, id, name }
        }
        Wire::ToolCallArguments(pb::ToolCallArguments { index, text }) => {
            Event::ToolCallArguments { index, text }
        }
        Wire::Logprobs(pb::Logprobs { tokens }) => Event::Logprobs(each(tokens, token_logprob)?),
        Wire::Finish(reason) => Event::Finish(finish_reason(reason)?),
    };
    let choice = given.choice;
    Ok(ReplyEvent::Choice { choice, event })
}

fn token_logprob(t: pb::TokenLogprob) -> Result<TokenLogprob, ChatDecodeError> {
    Ok(TokenLogprob {
        token: top_logprob(t.token.ok_or(missing("logprobs.token"))?),
        top: t.top.into_iter().map(top_logprob).collect(),
    })
}

fn top_logprob(t: pb::TopLogprob) -> TopLogprob {
    TopLogprob {
        bytes: t.bytes,
        id: t.id,
        logprob: t.logprob,
    }
}

fn finish_reason(reason: i32) -> Result<FinishReason, ChatDecodeError> {
    match pb::FinishReason::try_from(reason) {
        Ok(pb::FinishReason::Stop) => Ok(FinishReason::Stop),
        Ok(pb::FinishReason::Length) => Ok(FinishReason::Length),
        Ok(pb::FinishReason::ToolCalls) => Ok(FinishReason::ToolCalls),
        Ok(pb::FinishReason::ContentFilter) => Ok(FinishReason::ContentFilter),
        Ok(pb::FinishReason::Unspecified) | Err(_) => Err(unknown("finish")),
    }
}

fn usage(u: pb::Usage) -> Usage {
    Usage {
        prompt: u.prompt,
        cached: u.cached,
        completion: u.completion,
        reasoning: u.reasoning,
    }
}

fn timings(t: pb::Timings) -> Timings {
    Timings {
        queued_ms: t.queued_ms,
        prompt_ms: t.prompt_ms,
        predicted_ms: t.predicted_ms,
    }
}

fn load(l: pb::Load) -> Load {
    Load {
        slots: l.slots,
        busy: l.busy,
        queued: l.queued,
        kv_used: l.kv_used,
        kv_capacity: l.kv_capacity,
        tokens_per_second: l.tokens_per_second,
    }
}

fn model_info(m: pb::ModelInfo) -> ModelInfo {
    ModelInfo {
        architecture: m.architecture,
        context_length: m.context_length,
        file_bytes: m.file_bytes,
        embedding_length: m.embedding_length,
        sha256: m.sha256,
        parameters: m.parameters,
    }
}
