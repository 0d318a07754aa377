//! From logits to the next token.
//!
//! Filters, their order and their defaults are llama-server's, so that the same request with the same
//! seed gets the same answer from both. Clients of OpenAI's API that send none of the parameters get
//! llama.cpp's defaults (top-k 40, top-p 0.95, min-p 0.05, temperature 0.8), not OpenAI's.

#[cfg(feature = "llama")]
mod chain;
mod grammar;
mod logprobs;
mod params;

#[cfg(feature = "llama")]
pub(crate) use chain::ChainSampler;
pub use grammar::{Grammar, Trigger};
pub use logprobs::{argmax, likeliest, logprobs};
pub use params::Params;

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    /// The grammar cannot be used.
    #[error("the grammar cannot be used: {0}")]
    Grammar(String),
    /// A parameter is impossible.
    #[error("{name} is {value}, which cannot be used")]
    Parameter {
        /// As clients spell it.
        name: &'static str,
        /// What was sent.
        value: String,
    },
    /// The grammar allows no token of the vocabulary.
    #[error("the grammar allows no token of the model's vocabulary here")]
    DeadEnd,
    /// The model answers something that is not a number.
    #[error("the model's output is not a number")]
    NotANumber,
}
