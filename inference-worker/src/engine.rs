//! What runs the model: one thread owns it, everybody else sends it work.
//!
//! An [`Engine`] is a model with its cache; a [`Model`] is what of it may be used from any thread
//! (vocabulary, samplers). [`Runner::start`] gives an engine its thread, where it works off jobs in
//! the steps that the [scheduler](crate::scheduler) plans. There are two: llama.cpp, and one without a
//! model that answers predictably, for tests.

pub mod fake;
mod job;
#[cfg(feature = "llama")]
pub mod llama;
mod meter;
mod stream;
mod thread;

use std::fmt;
use std::sync::Arc;

use bodhi_proto::chat::Sampling;

use crate::sampling::{Grammar, SamplerError};
use crate::slots::SlotId;

pub use job::{Job, MAX_CHOICES, SubmitError};
pub use stream::{End, JobError, JobStream, Piece, Update};
pub use thread::{Options, Runner, StartError};

/// A token's number in the model's vocabulary.
pub type Token = u32;

/// A token to be read at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The sequence.
    pub slot: SlotId,
    /// What is read.
    pub token: Token,
    /// Where in the sequence; the first is 0.
    pub position: u32,
    /// Whether the next token is chosen after this one.
    pub output: bool,
}

/// What an engine is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Continues text.
    Generate,
    /// Turns text into vectors.
    Embed(Pooling),
    /// Tells how well a document answers a query.
    Rank,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// As the model's file says.
    Model,
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// What an engine can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// What it is made for.
    pub purpose: Purpose,
    /// Sequences at once.
    pub slots: u32,
    /// Tokens in one sequence.
    pub context: usize,
    /// Tokens in one step.
    pub batch: usize,
}

/// A step that could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It failed. What lies in its slots is lost.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// A model with its cache, owned by one thread.
pub trait Engine: Send + 'static {
    /// A sequence's state in host memory.
    type Saved: Send;

    /// What it can hold.
    fn shape(&self) -> Shape;
    /// What of it may be used from any thread.
    fn model(&self) -> Arc<dyn Model>;
    /// Computes something small, so that the first step need not allocate what it can keep. It is the
    /// first call on the thread that all steps are computed on: OpenMP keeps helpers for every thread
    /// that computes, and when it counts more of them than cores, they sleep at every barrier.
    fn warm_up(&mut self) -> Result<(), DecodeError> {
        Ok(())
    }
    /// Reads tokens. They are ordered by slot, and continue what lies there.
    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError>;
    /// The logits after an output row of the last step, one for each token of the vocabulary.
    fn logits(&self, row: usize) -> &[f32];
    /// Drops all but the first `keep` tokens of a slot. Where that cannot be done, all of them. Answers
    /// how many are left.
    fn keep(&mut self, slot: SlotId, keep: usize) -> usize;
    /// Makes a slot begin with the first `keep` tokens of another. Answers how many it has then.
    fn copy(&mut self, from: SlotId, to: SlotId, keep: usize) -> usize;
    /// A slot's state, and its size in bytes; `None`: it is larger than `most`, or cannot be had.
    fn save(&mut self, slot: SlotId, most: usize) -> Option<(Self::Saved, usize)>;
    /// Makes a slot what was saved. Answers whether it is.
    fn restore(&mut self, slot: SlotId, saved: &Self::Saved) -> bool;
    /// The vector of each input, which all fit into one step, with at most one for each slot.
    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, DecodeError>;
}

/// What of a model may be used from any thread.
pub trait Model: Send + Sync + 'static {
    /// Tokens in the vocabulary.
    fn size(&self) -> u32;
    /// The tokens of a text. `special`: control tokens may be spelled out, as templates do.
    fn tokenize(&self, text: &str, special: Special) -> Vec<Token>;
    /// The bytes that a token stands for, control tokens' spelling included; part of a character,
    /// perhaps. Empty for what is not in the vocabulary.
    fn piece(&self, token: Token) -> &[u8];
    /// Whether a token is for the model and not for readers.
    fn is_control(&self, token: Token) -> bool;
    /// Whether a token ends an answer.
    fn is_end(&self, token: Token) -> bool;
    /// A chooser of tokens for one answer to `prompt`. It may take milliseconds where there is a
    /// grammar.
    fn sampler(&self, request: SamplerRequest<'_>) -> Result<Box<dyn Sampler>, SamplerError>;
    /// The tokens around a text with a gap; `None`: the model was not trained to fill gaps.
    fn infill(&self) -> Option<Infill>;
    /// A query and a document as a ranking model reads them.
    fn pair(&self, query: &str, document: &str) -> Vec<Token>;
}

/// What a prompt with a gap is made of: `prefix`, what comes before, `suffix`, what comes after,
/// `middle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Infill {
    /// Before what comes before.
    pub prefix: Token,
    /// Before what comes after.
    pub suffix: Token,
    /// Where the answer begins.
    pub middle: Token,
}

/// How control tokens are treated when text is tokenized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Their spelling is text. For what users write.
    Text,
    /// Their spelling is them.
    Parse,
    /// And what the model wants at the beginning and end is added. For prompts.
    ParseAndAdd,
}

/// What a sampler is made for.
#[derive(Debug, Clone, Copy)]
pub struct SamplerRequest<'a> {
    /// How tokens are chosen.
    pub sampling: &'a Sampling,
    /// What the answer must look like.
    pub grammar: Option<&'a Grammar>,
    /// What comes before.
    pub prompt: &'a [Token],
    /// Which of several answers.
    pub choice: u32,
    /// Tokens in one sequence.
    pub context: usize,
}

/// Chooses the tokens of one answer, one after another.
pub trait Sampler: Send {
    /// The next token, by the logits for it. Errors where nothing may be chosen.
    fn choose(&mut self, logits: &[f32]) -> Result<Token, SamplerError>;
}

impl fmt::Debug for dyn Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").field("size", &self.size()).finish()
    }
}
