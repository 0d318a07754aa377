//! What comes back: a stream of events, the same for every backend.

/// One thing that happened in an answer. Answers are numbered from 0 (`n`).
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More text of the answer.
    Text(String),
    /// More reasoning.
    Reasoning(String),
    /// More of a refusal.
    Refusal(String),
    /// A tool call begins. Calls are numbered from 0 within the answer.
    ToolCallStart {
        /// Its number.
        index: u32,
        /// Its id.
        id: String,
        /// The tool.
        name: String,
    },
    /// More of a tool call's arguments.
    ToolCallArguments {
        /// The call's number.
        index: u32,
        /// More JSON text.
        text: String,
    },
    /// Of the tokens that the events since the last such event were made of.
    Logprobs(Vec<TokenLogprob>),
    /// The answer is complete.
    Finish(FinishReason),
}

/// What a backend sends.
#[derive(Debug, Clone, PartialEq)]
pub enum ReplyEvent {
    /// Of one answer.
    Choice {
        /// Which.
        choice: u32,
        /// What happened.
        event: Event,
    },
    /// The last event of all answers together.
    End {
        /// Tokens.
        usage: Usage,
        /// Times; of workers only.
        timings: Option<Timings>,
        /// How busy the worker is now; of workers only.
        load: Option<Load>,
    },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// The model was done, or a stop text came.
    Stop,
    /// The output limit or the context's end was reached.
    Length,
    /// The model waits for tools.
    ToolCalls,
    /// The provider withheld the rest.
    ContentFilter,
}

/// Tokens of a request, all answers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Those of the prompt that were cached.
    pub cached: u32,
    /// Tokens of the answers, end tokens included.
    pub completion: u32,
    /// Those of the answers that were reasoning.
    pub reasoning: u32,
}

/// Times of a request at a worker.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Timings {
    /// Milliseconds in the queue.
    pub queued_ms: f64,
    /// Milliseconds from the first prompt token to the first answer token.
    pub prompt_ms: f64,
    /// Milliseconds from then to the last token.
    pub predicted_ms: f64,
}

/// How busy a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Requests it serves at once.
    pub slots: u32,
    /// Slots in use.
    pub busy: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Tokens in the cache that are in use.
    pub kv_used: u32,
    /// Tokens that the cache holds.
    pub kv_capacity: u32,
    /// Tokens per second, of late.
    pub tokens_per_second: f32,
}

/// How likely a token was.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The chosen one.
    pub token: TopLogprob,
    /// The likeliest at its place, in falling order.
    pub top: Vec<TopLogprob>,
}

/// A token and its natural log probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLogprob {
    /// Its bytes; part of a character, perhaps.
    pub bytes: Vec<u8>,
    /// Its id in the model's vocabulary.
    pub id: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}
