//! What a model "says": decided the same way for every format.
//!
//! Tools that were given are called (the first one; all of them when the user's text contains the
//! word `parallel`), a schema is answered with an instance of it, anything else is echoed.

use serde_json::{Value, json};

use super::sample;

/// A tool the request offers.
#[derive(Debug)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) schema: Value,
}

/// Whether tools may be called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Choice {
    #[default]
    Auto,
    None,
    Named(String),
}

/// The parts of a request, of whichever format, that decide the reply.
#[derive(Debug, Default)]
pub(super) struct Ask {
    /// The last user's text, or the tool's result when `after_tool`.
    pub(super) text: String,
    /// The conversation ends with a tool's result.
    pub(super) after_tool: bool,
    pub(super) tools: Vec<Tool>,
    pub(super) choice: Choice,
    pub(super) parallel: bool,
    /// The schema that the text must follow; `Null` for any JSON object.
    pub(super) schema: Option<Value>,
    /// Output tokens at most.
    pub(super) limit: Option<u64>,
}

/// A tool call with its arguments.
#[derive(Debug, PartialEq)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) arguments: Value,
}

/// The reply: text or calls.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    /// The output limit cut the text.
    pub(super) truncated: bool,
}

impl Reply {
    pub(super) fn to(ask: &Ask) -> Self {
        let tools: Vec<&Tool> = match &ask.choice {
            Choice::None => Vec::new(),
            Choice::Auto if ask.after_tool => Vec::new(),
            Choice::Auto if ask.parallel && ask.text.contains("parallel") => {
                ask.tools.iter().collect()
            }
            Choice::Auto => ask.tools.iter().take(1).collect(),
            Choice::Named(name) => ask.tools.iter().filter(|tool| tool.name == *name).collect(),
        };
        if !tools.is_empty() {
            let call = |tool: &Tool| Call {
                name: tool.name.clone(),
                arguments: sample::instance(&tool.schema, &ask.text),
            };
            return Self {
                calls: tools.into_iter().map(call).collect(),
                ..Self::default()
            };
        }
        let text = match &ask.schema {
            Some(Value::Null) => json!({"answer": ask.text}).to_string(),
            Some(schema) => sample::instance(schema, &ask.text).to_string(),
            None if ask.after_tool => format!("The tool said: {}", ask.text),
            None => format!("You said: {}", ask.text),
        };
        let words = sample::words(&text);
        match ask.limit.and_then(|limit| usize::try_from(limit).ok()) {
            Some(limit) if limit < words.len() => Self {
                text: words[..limit].concat(),
                truncated: true,
                ..Self::default()
            },
            _ => Self {
                text,
                ..Self::default()
            },
        }
    }

    /// Output tokens of the reply.
    pub(super) fn tokens(&self) -> usize {
        let calls: usize = self
            .calls
            .iter()
            .map(|call| sample::tokens(&call.arguments.to_string()) + 1)
            .sum();
        if self.calls.is_empty() {
            sample::tokens(&self.text)
        } else {
            calls
        }
    }
}

/// The text of a message's content: a string, or the joined text of its parts.
pub(super) fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| match &part["text"] {
                Value::String(text) => text.clone(),
                _ => text_of(&part["content"]),
            });
            texts
                .filter(|text| !text.is_empty())
                .collect::<Vec<_>>()
                .join("\n")
        }
        _ => String::new(),
    }
}
