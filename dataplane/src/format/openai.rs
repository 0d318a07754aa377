//! What OpenAI's endpoints have in common: parameters of the choice of tokens, how an answer
//! is delivered, and how usage and probabilities are written.

pub(super) mod parameters;
pub(super) mod wire;

/// How an answer is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivery {
    /// As a stream of events (`stream`).
    pub stream: bool,
    /// The stream tells the usage (`stream_options.include_usage`).
    pub include_usage: bool,
    /// What a tool call is called.
    pub calls: Calls,
}

/// What a tool call is called: as it was asked for, so it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Calls {
    /// `tool_calls`
    #[default]
    Tools,
    /// `function_call`, of requests with the older `functions`. One only.
    Function,
}
