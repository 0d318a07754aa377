//! A request to the engine, checked before it gets there: what llama.cpp does not expect ends the
//! process.

use bodhi_proto::chat::Sampling;

use super::{Model, Token};
use crate::sampling::{Grammar, SamplerError};

/// A prompt to be continued.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// What is continued.
    pub prompt: Vec<Token>,
    /// How tokens are chosen. Answer `i` gets seed + i.
    pub sampling: Sampling,
    /// What the answer must look like.
    pub grammar: Option<Grammar>,
    /// At most so many tokens in each answer; `None`: until the context is full.
    pub max_output_tokens: Option<u32>,
    /// How many answers, 1 to [`MAX_CHOICES`].
    pub choices: u32,
    /// Log probabilities: `Some(k)` for the chosen token and the `k` likeliest.
    pub logprobs: Option<u32>,
    /// Control tokens that are text here, since the answer's parser looks for them.
    pub preserved: Vec<Token>,
}

/// Answers to one prompt at most.
pub const MAX_CHOICES: u32 = 64;

/// Why a request was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// As many wait as may. It may be tried again.
    #[error("the queue is full: {0} requests wait")]
    QueueFull(u32),
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {prompt} tokens, the context holds {context}")]
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that the context holds.
        context: usize,
    },
    /// There is nothing to continue.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token that the vocabulary does not have.
    #[error("there is no token {0} in the vocabulary")]
    UnknownToken(Token),
    /// Too many answers, or none.
    #[error("{0} answers were asked for, of 1 to {MAX_CHOICES}")]
    Choices(u32),
    /// The parameters or the grammar are impossible.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The model is not made for that.
    #[error("the model was not loaded for that")]
    Unsupported,
    /// The worker takes nothing more.
    #[error("the worker is shutting down")]
    Draining,
    /// The engine's thread has ended.
    #[error("the worker has stopped")]
    Stopped,
    /// It began, and failed.
    #[error("the model failed: {0}")]
    Engine(String),
}

impl Job {
    /// A request for one answer with every parameter at its default.
    pub fn new(prompt: Vec<Token>) -> Self {
        Self {
            prompt,
            sampling: Sampling::default(),
            grammar: None,
            max_output_tokens: None,
            choices: 1,
            logprobs: None,
            preserved: Vec::new(),
        }
    }

    pub(super) fn check(&self, model: &dyn Model, context: usize) -> Result<(), SubmitError> {
        check_prompt(&self.prompt, model)?;
        if self.prompt.len() >= context {
            return Err(SubmitError::ContextLength {
                prompt: self.prompt.len(),
                context,
            });
        }
        if !(1..=MAX_CHOICES).contains(&self.choices) {
            return Err(SubmitError::Choices(self.choices));
        }
        let biased = self.sampling.logit_bias.iter().map(|(token, _)| *token);
        check_tokens(biased.chain(self.preserved.iter().copied()), model)
    }
}

pub(super) fn check_prompt(prompt: &[Token], model: &dyn Model) -> Result<(), SubmitError> {
    if prompt.is_empty() {
        return Err(SubmitError::EmptyPrompt);
    }
    check_tokens(prompt.iter().copied(), model)
}

fn check_tokens(
    mut tokens: impl Iterator<Item = Token>,
    model: &dyn Model,
) -> Result<(), SubmitError> {
    match tokens.find(|token| *token >= model.size()) {
        Some(token) => Err(SubmitError::UnknownToken(token)),
        None => Ok(()),
    }
}
