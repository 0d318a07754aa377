//! The canonical conversation: what every client format is translated into and every backend
//! out of, so that formats need not know one another. It is also what workers are sent.
//!
//! It is the union of what the formats can say, spelled once: content in ordered parts (as
//! Anthropic and Gemini have it), tools by JSON Schema, a stream of events. What a format
//! cannot carry is for its translator to report. JSON of foreign shape (schemas, arguments)
//! stays text, so that key order and numbers survive.
//!
//! References: OpenAI API reference (Chat, Completions), Anthropic Messages API, Gemini API
//! `generateContent`; sampling parameters beyond those are llama.cpp's.

mod decode;
mod encode;
mod event;
mod fault;
mod report;
mod sampling;

pub use decode::ChatDecodeError;
pub use event::{Event, FinishReason, Load, ReplyEvent, Timings, TokenLogprob, TopLogprob, Usage};
pub use fault::{Fault, FaultCode};
pub use report::{Failure, ModelInfo, Phase, Progress, Report};
pub use sampling::{Dry, Mirostat, RANGES, Range, Sampling, Xtc};

use std::num::NonZeroU32;

/// Who says a message, and what only they can say.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// Instructions of the developer or operator (`system`, `developer`).
    System(Vec<Part>),
    /// What the user says.
    User {
        /// The participant's name, where the format has one.
        name: Option<String>,
        /// Text and media.
        content: Vec<Part>,
    },
    /// What the model said, in order.
    Assistant(Vec<AssistantPart>),
    /// What a tool answered.
    Tool {
        /// The id of the call it answers.
        call: String,
        /// The tool's name, where the format repeats it.
        name: Option<String>,
        /// The answer.
        content: Vec<Part>,
        /// Whether the tool failed.
        failed: bool,
    },
}

/// Something said.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// Plain text.
    Text(String),
    /// An image.
    Image(Media),
}

/// A picture by reference or by value.
#[derive(Debug, Clone, PartialEq)]
pub enum Media {
    /// An address to be fetched by whoever serves the model.
    Url(String),
    /// The bytes themselves.
    Inline {
        /// Such as `image/png`.
        media_type: String,
        /// Decoded.
        data: bytes::Bytes,
    },
}

/// Something the model said.
#[derive(Debug, Clone, PartialEq)]
pub enum AssistantPart {
    /// Plain text.
    Text(String),
    /// A refusal, where the format tells it from text.
    Refusal(String),
    /// Reasoning that preceded the answer.
    Reasoning {
        /// The text.
        text: String,
        /// The provider's seal, which must travel back unchanged.
        signature: Option<String>,
    },
    /// A tool the model asked for.
    ToolCall(ToolCall),
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// Unique within the conversation.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// A JSON object, as text. As models write it: it may be invalid.
    pub arguments: String,
}

/// A tool that the model may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// 1 to 64 characters of `[A-Za-z0-9_-]` at most formats.
    pub name: String,
    /// For the model to read.
    pub description: Option<String>,
    /// JSON Schema of the arguments, as text; `None`: none are taken.
    pub parameters: Option<String>,
    /// Whether arguments must follow the schema exactly.
    pub strict: bool,
}

/// Whether tools are called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// No tool is called.
    None,
    /// At least one is called.
    Required,
    /// This one is called.
    Named(String),
}

/// What the output must look like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum OutputFormat {
    /// Anything.
    #[default]
    Text,
    /// Some JSON object.
    JsonObject,
    /// JSON that follows a schema.
    JsonSchema {
        /// The schema's name, for the model to read.
        name: Option<String>,
        /// JSON Schema, as text.
        schema: String,
    },
    /// A GBNF grammar (llama.cpp).
    Grammar(String),
}

/// How much the model thinks before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reasoning {
    /// As the model is made.
    #[default]
    Default,
    /// Not at all, where the model can.
    Off,
    /// With an effort that the format names.
    Effort(Effort),
    /// With at most so many tokens.
    Budget(u32),
}

/// OpenAI's `reasoning_effort`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// `minimal`
    Minimal,
    /// `low`
    Low,
    /// `medium`
    Medium,
    /// `high`
    High,
}

/// A conversation to be continued by the model.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// In order; the last is usually the user's or a tool's.
    pub messages: Vec<Message>,
    /// What may be called.
    pub tools: Vec<Tool>,
    /// Whether something is called.
    pub tool_choice: ToolChoice,
    /// Whether several calls may come in one answer; `None`: as the format's default.
    pub parallel_tool_calls: Option<bool>,
    /// How much thinking.
    pub reasoning: Reasoning,
    /// `chat_template_kwargs` (llama.cpp, vLLM): a JSON object, as text.
    pub template_arguments: Option<String>,
}

/// Text to be continued as it is, without a template.
#[derive(Debug, Clone, PartialEq)]
pub struct RawPrompt {
    /// What comes before.
    pub prompt: Text,
    /// What comes after (`suffix`, fill in the middle).
    pub suffix: Option<String>,
    /// Whether the answer repeats the prompt.
    pub echo: bool,
}

/// Text, or the model's own tokens for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// UTF-8 text.
    Plain(String),
    /// Token ids of the model's vocabulary.
    Tokens(Vec<u32>),
}

/// What is continued.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, rendered by the model's template.
    Conversation(Conversation),
    /// Text as it is.
    Raw(RawPrompt),
}

/// A request for output.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// What is continued.
    pub prompt: Prompt,
    /// What the output must look like.
    pub output: OutputFormat,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// At most so many tokens in each answer; `None`: until the context is full.
    pub max_output_tokens: Option<u32>,
    /// Texts that end an answer and are not part of it.
    pub stop: Vec<String>,
    /// How many answers to the one prompt (`n`).
    pub choices: NonZeroU32,
    /// Log probabilities: `Some(k)` for the chosen token and the `k` likeliest.
    pub logprobs: Option<u32>,
}

/// Texts to be embedded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Embedding {
    /// One vector each.
    pub inputs: Vec<Text>,
    /// Whether vectors are scaled to length one.
    pub normalized: bool,
}

/// One vector for each input.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    /// In the order of the inputs.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all inputs together.
    pub prompt_tokens: u32,
}

/// Documents to be ordered by how well they answer a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reranking {
    /// What is asked.
    pub query: String,
    /// What may answer it.
    pub documents: Vec<String>,
}

/// How well each document answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Reranked {
    /// In the order of the documents; higher is better.
    pub scores: Vec<f32>,
    /// Tokens of all pairs together.
    pub prompt_tokens: u32,
}

impl Generation {
    /// A request for one answer, with every parameter at the model's default.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            output: OutputFormat::Text,
            sampling: Sampling::default(),
            max_output_tokens: None,
            stop: Vec::new(),
            choices: NonZeroU32::MIN,
            logprobs: None,
        }
    }
}
