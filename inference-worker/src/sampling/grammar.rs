//! What an answer must look like.

use crate::engine::Token;

/// A GBNF grammar; its start symbol is `root`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grammar {
    /// The rules.
    pub gbnf: String,
    /// Empty: it holds from the first token on. Else it waits for one of these.
    pub triggers: Vec<Trigger>,
    /// The end of the prompt that the rules begin with, as templates prefill it. It is passed through the
    /// grammar first; empty for grammars that users wrote.
    pub generation_prompt: String,
}

/// What makes a waiting grammar hold, from the trigger on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// This text.
    Word(String),
    /// A regular expression (ECMAScript), searched for; the first group is where the grammar begins.
    Pattern(String),
    /// A regular expression that the whole answer so far must match.
    Whole(String),
    /// This token.
    Token(Token),
}

impl Grammar {
    /// A grammar that holds from the first token on.
    pub fn new(gbnf: impl Into<String>) -> Self {
        Self {
            gbnf: gbnf.into(),
            triggers: Vec::new(),
            generation_prompt: String::new(),
        }
    }
}
