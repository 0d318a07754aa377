//! From a request to the engine's tokens.

use bodhi_proto::chat::{Conversation, Fault, FaultCode, Generation, Prompt, RawPrompt, Text};

use super::Serving;
use crate::engine::{Special, Token};
use crate::sampling::Grammar;
use crate::template::Syntax;

/// What the engine is asked, and how its answers are read.
pub(super) struct Prompted {
    pub(super) tokens: Vec<Token>,
    pub(super) grammar: Option<Grammar>,
    /// Texts that end an answer, besides the request's.
    pub(super) stops: Vec<String>,
    pub(super) preserved: Vec<Token>,
    pub(super) syntax: Syntax,
    /// What each answer begins with.
    pub(super) echo: Option<String>,
}

/// The prompt of a request.
///
/// # Errors
/// It cannot be rendered, or this model cannot do what is asked.
pub(super) async fn of(serving: &Serving, generation: &Generation) -> Result<Prompted, Fault> {
    match &generation.prompt {
        Prompt::Conversation(conversation) => rendered(serving, conversation, generation).await,
        Prompt::Raw(raw) => plain(serving, raw, generation).await,
    }
}

async fn rendered(
    serving: &Serving,
    conversation: &Conversation,
    generation: &Generation,
) -> Result<Prompted, Fault> {
    let rendered = serving
        .template
        .render(conversation, &generation.output)
        .await?;
    let mut tokens = Vec::new();
    // Cut where a request's text must not join with what is around it; see `Rendered::prompt`.
    for (i, piece) in rendered.prompt.into_iter().enumerate() {
        let special = match i {
            0 => Special::ParseAndAdd,
            _ => Special::Parse,
        };
        tokens.extend(serving.tokenize(piece, special).await);
    }
    let single = |text: &String| match *serving.model().tokenize(text, Special::Parse) {
        [token] => Some(token),
        _ => None,
    };
    Ok(Prompted {
        tokens,
        grammar: rendered.grammar,
        stops: rendered.stops,
        preserved: rendered
            .preserved_tokens
            .iter()
            .filter_map(single)
            .collect(),
        syntax: rendered.syntax,
        echo: None,
    })
}

async fn plain(
    serving: &Serving,
    raw: &RawPrompt,
    generation: &Generation,
) -> Result<Prompted, Fault> {
    if raw.echo && generation.logprobs.is_some() {
        let message = "log probabilities of the prompt are not computed: send 'echo' or 'logprobs', \
                       not both";
        return Err(Fault::new(FaultCode::InvalidValue, message).of("echo"));
    }
    let tokens = match &raw.suffix {
        Some(suffix) => infill(serving, &raw.prompt, suffix).await?,
        None => serving.tokens(raw.prompt.clone()).await,
    };
    Ok(Prompted {
        tokens,
        grammar: serving.template.grammar(&generation.output).await?,
        stops: Vec::new(),
        preserved: Vec::new(),
        syntax: Syntax::text(),
        echo: raw.echo.then(|| echoed(serving, &raw.prompt)),
    })
}

/// What comes before, what comes after, and the place between them.
async fn infill(serving: &Serving, before: &Text, after: &str) -> Result<Vec<Token>, Fault> {
    let Some(infill) = serving.model().infill() else {
        let message = "this model cannot fill in the middle ('suffix')";
        return Err(Fault::new(FaultCode::Unsupported, message).of("suffix"));
    };
    let before = match before {
        Text::Plain(text) => serving.tokenize(text.clone(), Special::Text).await,
        Text::Tokens(tokens) => tokens.clone(),
    };
    let mut tokens = serving.model().tokenize("", Special::ParseAndAdd);
    tokens.retain(|token| !serving.model().is_end(*token));
    tokens.push(infill.prefix);
    tokens.extend(before);
    tokens.push(infill.suffix);
    tokens.extend(serving.tokenize(after.to_owned(), Special::Text).await);
    tokens.push(infill.middle);
    Ok(tokens)
}

fn echoed(serving: &Serving, prompt: &Text) -> String {
    match prompt {
        Text::Plain(text) => text.clone(),
        Text::Tokens(tokens) => {
            let pieces = tokens
                .iter()
                .flat_map(|token| serving.model().piece(*token));
            String::from_utf8_lossy(&pieces.copied().collect::<Vec<_>>()).into_owned()
        }
    }
}
