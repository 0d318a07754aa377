//! From a conversation to a prompt.
//!
//! Each model brings its own chat template, and with it a syntax of tool calls and reasoning.
//! llama.cpp renders the template, derives from it a grammar that holds the model to that
//! syntax and a parser of the answer. What comes out is [`Rendered`]: the prompt for the
//! tokeniser, the grammar for the sampler, the [`Syntax`] for [`crate::text::Reader`].
//!
//! A template is the model's, never a request's. It runs on threads of its own ([`Pool`]),
//! under a deadline, and what a request says cannot become control tokens (`guard`).

#[cfg(feature = "llama")]
mod guard;
mod limits;
#[cfg(feature = "llama")]
mod llama;
mod plain;
mod pool;
mod request;
#[cfg(feature = "llama")]
mod shim;

pub use limits::{Exceeded, Rule};
pub use pool::{Overrun, Pool};

use std::sync::Arc;

use bodhi_proto::chat::{Conversation, OutputFormat};

use crate::sampling::Grammar;
use crate::text::Said;

/// What a model's file says about its template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// `tokenizer.chat_template`
    pub default: Option<String>,
    /// `tokenizer.chat_template.tool_use`: used when there are tools.
    pub tool_use: Option<String>,
    /// The text of the token that begins a prompt, or empty.
    pub bos: String,
    /// The text of the token that ends an answer, or empty.
    pub eos: String,
    /// Whether the tokeniser puts BOS first, so that the prompt must not.
    pub adds_bos: bool,
    /// Whether the tokeniser puts EOS last.
    pub adds_eos: bool,
    /// The texts of all control tokens. No request can spell them.
    pub control: Vec<String>,
}

/// A model's chat template, ready for use by many requests at once.
#[derive(Clone)]
pub struct Template(Kind);

#[derive(Clone)]
enum Kind {
    Plain,
    #[cfg(feature = "llama")]
    Llama(Arc<llama::Templates>),
}

/// A conversation as the model is given it.
#[derive(Clone)]
pub struct Rendered {
    /// The prompt in pieces, whose joined text it is. Each piece is tokenised by itself with
    /// control tokens recognised, and only the first with BOS before it: so nothing that a
    /// request says becomes a control token. Almost always there is one piece.
    pub prompt: Vec<String>,
    /// What the answer is held to.
    pub grammar: Option<Grammar>,
    /// Texts that end the answer, besides the request's.
    pub stops: Vec<String>,
    /// Control tokens that the syntax is made of: they must be written out in the answer.
    pub preserved_tokens: Vec<String>,
    /// How the template marks reasoning, if it does; for a sampler that keeps a budget.
    pub reasoning: Option<ReasoningTags>,
    /// How the answer is read.
    pub syntax: Syntax,
}

/// What begins and ends reasoning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningTags {
    /// Such as `<think>`.
    pub start: String,
    /// Such as `</think>`; any of these.
    pub ends: Vec<String>,
}

/// How an answer is read. Clones read answers to the same prompt.
#[derive(Clone)]
pub struct Syntax {
    parser: Parser,
    /// Texts that may begin something else than the text that runs.
    markers: Arc<[String]>,
    /// Whether nothing but `markers` can, so that text between them needs no parser.
    runs: bool,
    /// Whether the answer goes on with a message that the client has.
    continues: bool,
}

#[derive(Clone)]
enum Parser {
    None,
    Hermes,
    #[cfg(feature = "llama")]
    Llama(Arc<shim::Parser>, Pool),
}

/// Why a conversation has no prompt, or a model no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The model's template cannot be read, or renders not even a greeting.
    #[error("the model's chat template is invalid: {0}")]
    Invalid(String),
    /// This model cannot be given such a thing.
    #[error("this model does not take {0}")]
    Unsupported(&'static str),
    /// A schema or grammar that costs too much.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// Text that should be JSON of some kind.
    #[error("{what}: {reason}")]
    NotJson {
        /// The parameter.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// A grammar that llama.cpp cannot compile, the request's own or a schema's.
    #[error("the grammar cannot be compiled: {0}")]
    Grammar(String),
    /// The template does not take this conversation; these are its words.
    #[error("the chat template refuses the conversation: {0}")]
    Refused(String),
    /// Nothing to go on with.
    #[error("there are no messages")]
    NoMessages,
    /// A call is required, but there are no tools.
    #[error("a tool call is required, but there are no tools")]
    NoTools,
    /// The tool to be called is not among the tools.
    #[error("there is no tool `{0}`")]
    UnknownTool(String),
    /// Not a name of a tool, or a name given twice.
    #[error("`{0}` is not a tool's name, or is given twice")]
    ToolName(String),
    /// More tools than a request may have.
    #[error("there are more than {limit} tools")]
    TooManyTools {
        /// So many it may have.
        limit: usize,
    },
    /// The template took too long.
    #[error(transparent)]
    Overrun(#[from] Overrun),
}

impl Template {
    /// A template without a model: ChatML with Hermes-style tool calls. Grammars and JSON are
    /// beyond it.
    pub fn plain() -> Self {
        Self(Kind::Plain)
    }

    /// Reads a model's template and tries it. A model without one is spoken to in ChatML.
    ///
    /// # Errors
    /// [`TemplateError::Invalid`]
    #[cfg(feature = "llama")]
    pub async fn load(source: Source, pool: Pool) -> Result<Self, TemplateError> {
        let templates = llama::Templates::load(source, pool).await?;
        Ok(Self(Kind::Llama(Arc::new(templates))))
    }

    /// Renders a conversation, for an answer of this format.
    ///
    /// # Errors
    /// What is wrong with the request, or with the template. Must be called within a tokio
    /// runtime.
    pub async fn render(
        &self,
        conversation: &Conversation,
        output: &OutputFormat,
    ) -> Result<Rendered, TemplateError> {
        match &self.0 {
            Kind::Plain => plain::render(conversation, output),
            #[cfg(feature = "llama")]
            Kind::Llama(templates) => templates.render(conversation, output).await,
        }
    }

    /// What an answer to a raw prompt, without a template, is held to.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub async fn grammar(&self, output: &OutputFormat) -> Result<Option<Grammar>, TemplateError> {
        match &self.0 {
            Kind::Plain => plain::grammar(output),
            #[cfg(feature = "llama")]
            Kind::Llama(templates) => templates.grammar(output).await,
        }
    }
}

impl Syntax {
    /// That of an answer to a raw prompt: it is all text.
    pub fn text() -> Self {
        Self {
            parser: Parser::None,
            markers: Arc::default(),
            runs: true,
            continues: false,
        }
    }

    pub(crate) fn markers(&self) -> &[String] {
        &self.markers
    }

    /// Whether text without a marker goes on as what it follows.
    pub(crate) fn runs(&self) -> bool {
        self.runs
    }

    /// Whether the parser's answers begin with what the client already has.
    pub(crate) fn continues(&self) -> bool {
        self.continues
    }

    /// Whether there is nothing to parse.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.parser, Parser::None)
    }

    /// Parses an answer from its beginning on. That it is incomplete is no mistake; `None`: it
    /// is not of the syntax.
    pub(crate) async fn parse(&self, said: &str) -> Result<Option<Said>, Overrun> {
        match &self.parser {
            Parser::None => Ok(Some(Said {
                content: said.to_owned(),
                ..Said::default()
            })),
            Parser::Hermes => Ok(plain::parse(said)),
            #[cfg(feature = "llama")]
            Parser::Llama(parser, pool) => llama::parse(parser, pool, said).await,
        }
    }
}
