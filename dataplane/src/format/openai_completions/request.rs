//! From a request body to generations.

use bodhi_proto::chat::{Generation, Prompt, RawPrompt, Text};

use crate::format::Fault;
use crate::format::openai::{Delivery, parameters};
use crate::format::read::{self, Object};

/// Most prompts of a request: each takes a place in the worker's queue.
const MAX_PROMPTS: usize = 128;

/// What was asked for: one generation for each prompt, alike but for that.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// At least one.
    prompts: Vec<Text>,
    /// With no text in its prompt.
    common: Generation,
    /// How the answer is delivered.
    pub delivery: Delivery,
}

impl Request {
    /// How many prompts there are: at least one.
    #[must_use]
    pub fn prompts(&self) -> usize {
        self.prompts.len()
    }

    /// The generation for a prompt; `None`: there is no such prompt. It has a copy of all that
    /// prompts have in common, which may be long: make it when it is its turn.
    #[must_use]
    pub fn generation(&self, prompt: usize) -> Option<Generation> {
        let text = self.prompts.get(prompt)?;
        let mut generation = self.common.clone();
        if let Prompt::Raw(raw) = &mut generation.prompt {
            raw.prompt = text.clone();
        }
        Some(generation)
    }

    /// Choices of each prompt.
    pub(super) fn choices(&self) -> u32 {
        self.common.choices.get()
    }

    pub(super) fn has_logprobs(&self) -> bool {
        self.common.logprobs.is_some()
    }
}

/// Reads a body that intake has accepted.
///
/// # Errors
/// The first [`Fault`], in the order: prompt, everything else.
pub fn parse(body: &[u8]) -> Result<Request, Fault> {
    let body = read::body(body)?;
    let prompts = parameters::texts(&body.need("prompt")?, MAX_PROMPTS)?;
    let raw = RawPrompt {
        prompt: Text::Plain(String::new()),
        suffix: body.text("suffix")?,
        echo: body.flag("echo")?.unwrap_or(false),
    };
    let mut common = parameters::generation(&body, Prompt::Raw(raw))?;
    // None is allowed: with `echo` and `logprobs` it is how prompts are scored.
    let limit = body.get("max_tokens").map(|limit| limit.count(0));
    common.max_output_tokens = limit.transpose()?;
    common.logprobs = logprobs(&body)?;
    refuse_best_of(&body, &common)?;
    Ok(Request {
        prompts,
        common,
        delivery: parameters::delivery(&body)?,
    })
}

/// As many as chat completions may ask for, though OpenAI stops at 5 here.
fn logprobs(body: &Object<'_, '_>) -> Result<Option<u32>, Fault> {
    let node = body.get("logprobs");
    node.map(|node| node.ranged_count("top_logprobs"))
        .transpose()
}

fn refuse_best_of(body: &Object<'_, '_>, generation: &Generation) -> Result<(), Fault> {
    match body.get("best_of") {
        Some(node) if node.count(1)? != generation.choices.get() => {
            Err(node.unfit("must be the same as 'n': answers are not chosen among"))
        }
        _ => Ok(()),
    }
}
