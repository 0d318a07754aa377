//! A loaded model at work: a request becomes a prompt, the prompt a job of the engine, and
//! what the engine chooses becomes events.

mod answers;
mod fault;
mod prompt;

use std::sync::Arc;

use bodhi_proto::chat::{
    Embedded, Embedding, Fault, Generation, Load, ModelInfo, Prompt, Reranked, Reranking, Text,
};

use crate::config::Feature;
use crate::engine::{Job, Model, Runner, Special, Token};
use crate::template::{Pool, Template};

pub use answers::Answers;

/// Texts up to here, in bytes, are tokenized in microseconds.
const TEXT_SHORT: usize = 16 << 10;

/// A model and all that is needed to ask it.
pub struct Serving {
    /// What it is.
    pub info: ModelInfo,
    /// The engine's thread.
    pub runner: Runner,
    /// Its chat template.
    pub template: Template,
    /// Where templates and parsers run, if they run on threads of their own.
    pub pool: Option<Pool>,
    /// What is served of what it can.
    pub features: Vec<Feature>,
}

impl Serving {
    /// How many tokens there are.
    pub fn vocabulary(&self) -> u32 {
        self.model().size()
    }

    /// Whether this is served.
    pub fn serves(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        self.runner.load()
    }

    /// Begins the answers to a request.
    ///
    /// # Errors
    /// What is wrong with the request, or that the queue is full.
    pub async fn generate(&self, generation: Generation) -> Result<Answers, Fault> {
        let prompt = prompt::of(self, &generation).await?;
        let choices = generation.choices.get();
        let job = self.runner.submit(Job {
            prompt: prompt.tokens,
            sampling: generation.sampling,
            grammar: prompt.grammar,
            max_output_tokens: generation.max_output_tokens,
            choices,
            logprobs: generation.logprobs,
            preserved: prompt.preserved,
        })?;
        let stops = [generation.stop, prompt.stops].concat();
        let mut answers = Answers::new(job, self.runner.clone(), choices, &prompt.syntax, &stops);
        if let Some(echo) = prompt.echo {
            answers.begin_with(&echo);
        }
        Ok(answers)
    }

    /// A vector for each input.
    ///
    /// # Errors
    /// An input is too long, the queue is full, or the engine failed.
    pub async fn embed(&self, embedding: Embedding) -> Result<Embedded, Fault> {
        let mut inputs = Vec::with_capacity(embedding.inputs.len());
        for input in embedding.inputs {
            inputs.push(self.tokens(input).await);
        }
        let prompt_tokens = count(&inputs);
        Ok(Embedded {
            vectors: self.runner.embed(inputs, embedding.normalized).await?,
            prompt_tokens,
        })
    }

    /// A score for each document.
    ///
    /// # Errors
    /// As [`Serving::embed`].
    pub async fn rerank(&self, reranking: Reranking) -> Result<Reranked, Fault> {
        let model = Arc::clone(self.model());
        let Reranking { query, documents } = reranking;
        let paired = tokio::task::spawn_blocking(move || {
            let pair = |document: &String| model.pair(&query, document);
            documents.iter().map(pair).collect::<Vec<_>>()
        });
        // It neither panics nor is aborted; and no pairs are refused.
        let pairs = paired.await.unwrap_or_default();
        let prompt_tokens = count(&pairs);
        Ok(Reranked {
            scores: self.runner.rank(pairs).await?,
            prompt_tokens,
        })
    }

    /// How many tokens a prompt has, template included.
    ///
    /// # Errors
    /// The prompt cannot be rendered.
    pub async fn count(&self, prompt: Prompt) -> Result<u32, Fault> {
        let prompt = prompt::of(self, &Generation::new(prompt)).await?;
        Ok(count(&[prompt.tokens]))
    }

    fn model(&self) -> &Arc<dyn Model> {
        self.runner.model()
    }

    /// The tokens of text that stands for itself, with what the model wants around it.
    async fn tokens(&self, text: Text) -> Vec<Token> {
        match text {
            Text::Plain(text) => self.tokenize(text, Special::ParseAndAdd).await,
            Text::Tokens(tokens) => tokens,
        }
    }

    /// Long texts take their time, which the threads of the edge do not have.
    async fn tokenize(&self, text: String, special: Special) -> Vec<Token> {
        if text.len() <= TEXT_SHORT {
            return self.model().tokenize(&text, special);
        }
        let model = Arc::clone(self.model());
        let tokenized = tokio::task::spawn_blocking(move || model.tokenize(&text, special));
        // It neither panics nor is aborted; and an empty prompt is refused.
        tokenized.await.unwrap_or_default()
    }
}

fn count(inputs: &[Vec<Token>]) -> u32 {
    let all: usize = inputs.iter().map(Vec::len).sum();
    u32::try_from(all).unwrap_or(u32::MAX)
}
