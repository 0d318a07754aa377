//! Conversations and answers to their wire form. Nothing is copied: the values are used up.

use crate::wire::inference as pb;

use super::{
    AssistantPart, Conversation, Dry, Effort, Embedded, Embedding, Event, FinishReason, Generation,
    Load, Media, Message, ModelInfo, OutputFormat, Part, Phase, Progress, Prompt, RawPrompt,
    Reasoning, ReplyEvent, Report, Reranked, Reranking, Sampling, Text, Timings, TokenLogprob,
    Tool, ToolCall, ToolChoice, TopLogprob, Usage,
};

impl Generation {
    /// The wire form, from which [`Generation::decode`] makes it again.
    pub fn encode(self) -> pb::Generation {
        pb::Generation {
            prompt: Some(self.prompt.encode()),
            output: output(self.output),
            sampling: Some(sampling(self.sampling)),
            max_output_tokens: self.max_output_tokens,
            stop: self.stop,
            choices: self.choices.get(),
            logprobs: self.logprobs,
        }
    }
}

impl Prompt {
    /// The wire form, from which [`Prompt::decode`] makes it again.
    pub fn encode(self) -> pb::Prompt {
        let prompt = match self {
            Self::Conversation(c) => pb::prompt::Prompt::Conversation(conversation(c)),
            Self::Raw(raw) => pb::prompt::Prompt::Raw(raw_prompt(raw)),
        };
        pb::Prompt {
            prompt: Some(prompt),
        }
    }
}

impl Embedding {
    /// The wire form, from which [`Embedding::decode`] makes it again.
    pub fn encode(self) -> pb::Embedding {
        pb::Embedding {
            inputs: self.inputs.into_iter().map(text).collect(),
            normalized: self.normalized,
        }
    }
}

impl Embedded {
    /// The wire form, from which [`Embedded::decode`] makes it again.
    pub fn encode(self) -> pb::Embedded {
        let vector = |values| pb::Vector { values };
        pb::Embedded {
            vectors: self.vectors.into_iter().map(vector).collect(),
            prompt_tokens: self.prompt_tokens,
        }
    }
}

impl Reranking {
    /// The wire form, from which [`Reranking::decode`] makes it again.
    pub fn encode(self) -> pb::Reranking {
        pb::Reranking {
            query: self.query,
            documents: self.documents,
        }
    }
}

impl Reranked {
    /// The wire form, from which [`Reranked::decode`] makes it again.
    pub fn encode(self) -> pb::Reranked {
        pb::Reranked {
            scores: self.scores,
            prompt_tokens: self.prompt_tokens,
        }
    }
}

impl ReplyEvent {
    /// The wire form of events that travel together; the inverse of [`ReplyEvent::decode_all`].
    pub fn encode_all(events: impl IntoIterator<Item = Self>) -> pb::Reply {
        pb::Reply {
            events: events.into_iter().map(reply_event).collect(),
        }
    }
}

impl Report {
    /// The wire form, from which [`Report::decode`] makes it again.
    pub fn encode(self) -> pb::Report {
        use pb::report::Phase as Wire;
        let none = Progress::default();
        let (phase, progress, failure) = match self.phase {
            Phase::Downloading(progress) => (Wire::Downloading, progress, None),
            Phase::Loading(progress) => (Wire::Loading, progress, None),
            Phase::WarmingUp => (Wire::WarmingUp, none, None),
            Phase::Ready => (Wire::Ready, none, None),
            Phase::Draining => (Wire::Draining, none, None),
            Phase::Failed(failure) => (Wire::Failed, none, Some(failure)),
        };
        let (reason, message) = failure.map(|f| (f.reason, f.message)).unwrap_or_default();
        pb::Report {
            phase: phase.into(),
            done: progress.done,
            total: progress.total.map_or(0, |total| total.get()),
            reason,
            message,
            load: self.load.map(load),
            model: self.model.map(model_info),
        }
    }
}

fn conversation(c: Conversation) -> pb::Conversation {
    pb::Conversation {
        messages: c.messages.into_iter().map(message).collect(),
        tools: c.tools.into_iter().map(tool).collect(),
        tool_choice: tool_choice(c.tool_choice),
        parallel_tool_calls: c.parallel_tool_calls,
        reasoning: reasoning(c.reasoning),
        template_arguments: c.template_arguments,
    }
}

fn message(m: Message) -> pb::Message {
    use pb::message::Role;
    let plain = |role: Role, content: Vec<Part>| pb::Message {
        role: role.into(),
        content: content.into_iter().map(part).collect(),
        ..pb::Message::default()
    };
    match m {
        Message::System(content) => plain(Role::System, content),
        Message::User { name, content } => pb::Message {
            name,
            ..plain(Role::User, content)
        },
        Message::Assistant(content) => pb::Message {
            role: Role::Assistant.into(),
            content: content.into_iter().map(assistant_part).collect(),
            ..pb::Message::default()
        },
        Message::Tool {
            call,
            name,
            content,
            failed,
        } => pb::Message {
            call,
            name,
            failed,
            ..plain(Role::Tool, content)
        },
    }
}

fn part(part: Part) -> pb::Part {
    use pb::part::Part as Wire;
    let part = match part {
        Part::Text(text) => Wire::Text(text),
        Part::Image(Media::Url(url)) => Wire::ImageUrl(url),
        Part::Image(Media::Inline { media_type, data }) => {
            Wire::Image(pb::InlineMedia { media_type, data })
        }
    };
    pb::Part { part: Some(part) }
}

fn assistant_part(part: AssistantPart) -> pb::Part {
    use pb::part::Part as Wire;
    let part = match part {
        AssistantPart::Text(text) => Wire::Text(text),
        AssistantPart::Refusal(text) => Wire::Refusal(text),
        AssistantPart::Reasoning { text, signature } => {
            Wire::Reasoning(pb::Thought { text, signature })
        }
        AssistantPart::ToolCall(ToolCall {
            id,
            name,
            arguments,
        }) => Wire::ToolCall(pb::ToolCall {
            id,
            name,
            arguments,
        }),
    };
    pb::Part { part: Some(part) }
}

fn tool(t: Tool) -> pb::Tool {
    pb::Tool {
        name: t.name,
        description: t.description,
        parameters: t.parameters,
        strict: t.strict,
    }
}

fn tool_choice(choice: ToolChoice) -> Option<pb::ToolChoice> {
    use pb::tool_choice::Choice;
    let choice = match choice {
        ToolChoice::Auto => return None,
        ToolChoice::None => Choice::None(true),
        ToolChoice::Required => Choice::Required(true),
        ToolChoice::Named(name) => Choice::Named(name),
    };
    Some(pb::ToolChoice {
        choice: Some(choice),
    })
}

fn reasoning(reasoning: Reasoning) -> Option<pb::Reasoning> {
    use pb::reasoning::{Effort as WireEffort, Reasoning as Wire};
    let reasoning = match reasoning {
        Reasoning::Default => return None,
        Reasoning::Off => Wire::Off(true),
        Reasoning::Effort(effort) => {
            let effort = match effort {
                Effort::Minimal => WireEffort::Minimal,
                Effort::Low => WireEffort::Low,
                Effort::Medium => WireEffort::Medium,
                Effort::High => WireEffort::High,
            };
            Wire::Effort(effort.into())
        }
        Reasoning::Budget(tokens) => Wire::Budget(tokens),
    };
    Some(pb::Reasoning {
        reasoning: Some(reasoning),
    })
}

fn raw_prompt(raw: RawPrompt) -> pb::RawPrompt {
    pb::RawPrompt {
        prompt: Some(text(raw.prompt)),
        suffix: raw.suffix,
        echo: raw.echo,
    }
}

fn text(text: Text) -> pb::Text {
    let text = match text {
        Text::Plain(text) => pb::text::Text::Plain(text),
        Text::Tokens(ids) => pb::text::Text::Tokens(pb::Tokens { ids }),
    };
    pb::Text { text: Some(text) }
}

fn output(output: OutputFormat) -> Option<pb::OutputFormat> {
    use pb::output_format::Format;
    let format = match output {
        OutputFormat::Text => return None,
        OutputFormat::JsonObject => Format::JsonObject(true),
        OutputFormat::JsonSchema { name, schema } => {
            Format::JsonSchema(pb::JsonSchema { name, schema })
        }
        OutputFormat::Grammar(grammar) => Format::Grammar(grammar),
    };
    Some(pb::OutputFormat {
        format: Some(format),
    })
}

fn sampling(s: Sampling) -> pb::Sampling {
    let bias = |(token, bias)| pb::LogitBias { token, bias };
    pb::Sampling {
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
        xtc: s.xtc.map(|x| pb::Xtc {
            probability: x.probability,
            threshold: x.threshold,
        }),
        mirostat: s.mirostat.map(|m| pb::Mirostat {
            version: m.version.into(),
            tau: m.tau,
            eta: m.eta,
        }),
        seed: s.seed,
        logit_bias: s.logit_bias.into_iter().map(bias).collect(),
        ignore_eos: s.ignore_eos,
        min_keep: s.min_keep,
    }
}

fn dry(d: Dry) -> pb::Dry {
    pb::Dry {
        multiplier: d.multiplier,
        base: d.base,
        allowed_length: d.allowed_length,
        penalty_last_n: d.penalty_last_n,
        sequence_breakers: d.sequence_breakers.map(|texts| pb::Breakers { texts }),
    }
}

fn reply_event(event: ReplyEvent) -> pb::ReplyEvent {
    use pb::reply_event::Event as Wire;
    let (choice, event) = match event {
        ReplyEvent::Choice { choice, event } => (choice, event),
        ReplyEvent::End {
            usage: u,
            timings: t,
            load: l,
        } => {
            let end = pb::End {
                usage: Some(usage(u)),
                timings: t.map(timings),
                load: l.map(load),
            };
            return pb::ReplyEvent {
                choice: 0,
                event: Some(Wire::End(end)),
            };
        }
    };
    let event = match event {
        Event::Text(text) => Wire::Text(text),
        Event::Reasoning(text) => Wire::Reasoning(text),
        Event::Refusal(text) => Wire::Refusal(text),
        Event::ToolCallStart { index, id, name } => {
            Wire::ToolCallStart(pb::ToolCallStart { index, id, name })
        }
        Event::ToolCallArguments { index, text } => {
            Wire::ToolCallArguments(pb::ToolCallArguments { index, text })
        }
        Event::Logprobs(tokens) => Wire::Logprobs(pb::Logprobs {
            tokens: tokens.into_iter().map(token_logprob).collect(),
        }),
        Event::Finish(reason) => Wire::Finish(finish_reason(reason).into()),
    };
    pb::ReplyEvent {
        choice,
        event: Some(event),
    }
}

fn token_logprob(t: TokenLogprob) -> pb::TokenLogprob {
    pb::TokenLogprob {
        token: Some(top_logprob(t.token)),
        top: t.top.into_iter().map(top_logprob).collect(),
    }
}

fn top_logprob(t: TopLogprob) -> pb::TopLogprob {
    pb::TopLogprob {
        bytes: t.bytes,
        id: t.id,
        logprob: t.logprob,
    }
}

fn finish_reason(reason: FinishReason) -> pb::FinishReason {
    match reason {
        FinishReason::Stop => pb::FinishReason::Stop,
        FinishReason::Length => pb::FinishReason::Length,
        FinishReason::ToolCalls => pb::FinishReason::ToolCalls,
        FinishReason::ContentFilter => pb::FinishReason::ContentFilter,
    }
}

fn usage(u: Usage) -> pb::Usage {
    pb::Usage {
        prompt: u.prompt,
        cached: u.cached,
        completion: u.completion,
        reasoning: u.reasoning,
    }
}

fn timings(t: Timings) -> pb::Timings {
    pb::Timings {
        queued_ms: t.queued_ms,
        prompt_ms: t.prompt_ms,
        predicted_ms: t.predicted_ms,
    }
}

fn load(l: Load) -> pb::Load {
    pb::Load {
        slots: l.slots,
        busy: l.busy,
        queued: l.queued,
        kv_used: l.kv_used,
        kv_capacity: l.kv_capacity,
        tokens_per_second: l.tokens_per_second,
    }
}

fn model_info(m: ModelInfo) -> pb::ModelInfo {
    pb::ModelInfo {
        architecture: m.architecture,
        context_length: m.context_length,
        file_bytes: m.file_bytes,
        embedding_length: m.embedding_length,
        sha256: m.sha256,
        parameters: m.parameters,
    }
}
