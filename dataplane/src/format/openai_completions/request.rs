//! From a request body to generations.

use bodhi_proto::chat::{Generation, Prompt, RawPrompt, Text};

use crate::format::Fault;
use crate::format::openai::{Delivery, parameters};
use crate::format::read::{self, Node, Object};

/// Most prompts of a request: each takes a place in the worker's queue.
const MAX_PROMPTS: usize = 128;

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// One for each prompt, in order; at least one, alike but for the prompt.
    pub generations: Vec<Generation>,
    /// How the answer is delivered.
    pub delivery: Delivery,
}

impl Request {
    /// Choices of each prompt.
    pub(super) fn choices(&self) -> u32 {
        self.generations
            .first()
            .map_or(1, |first| first.choices.get())
    }
}

/// Reads a body that intake has accepted.
///
/// # Errors
/// The first [`Fault`], in the order: prompt, everything else.
pub fn parse(body: &[u8]) -> Result<Request, Fault> {
    let body = read::body(body)?;
    let mut prompts = prompts(&body.need("prompt")?)?;
    let suffix = body.text("suffix")?;
    let echo = body.flag("echo")?.unwrap_or(false);
    let raw = |prompt| {
        Prompt::Raw(RawPrompt {
            prompt,
            suffix: suffix.clone(),
            echo,
        })
    };
    let last = raw(prompts.pop().expect("there is one prompt at least"));
    let mut last = parameters::generation(&body, last)?;
    // None is allowed: with `echo` and `logprobs` it is how prompts are scored.
    let limit = body.get("max_tokens").map(|limit| limit.count(0));
    last.max_output_tokens = limit.transpose()?;
    last.logprobs = logprobs(&body)?;
    refuse_best_of(&body, &last)?;
    let delivery = parameters::delivery(&body)?;
    let mut generations: Vec<_> = prompts
        .into_iter()
        .map(|prompt| Generation {
            prompt: raw(prompt),
            ..last.clone()
        })
        .collect();
    generations.push(last);
    Ok(Request {
        generations,
        delivery,
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

/// A string, strings, tokens, or several lists of tokens.
fn prompts(prompt: &Node<'_, '_>) -> Result<Vec<Text>, Fault> {
    let texts = parameters::texts(prompt)?;
    match texts.len() {
        0 => Err(prompt.unfit("must not be empty")),
        1..=MAX_PROMPTS => Ok(texts),
        _ => Err(prompt.unfit(format!("must have at most {MAX_PROMPTS} prompts"))),
    }
}
