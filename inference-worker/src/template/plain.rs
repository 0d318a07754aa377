//! ChatML and Hermes-style tool calls, without llama.cpp: the template of the fake engine.

use std::fmt::Write as _;
use std::sync::Arc;

use bodhi_proto::chat::{Conversation, OutputFormat};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::request::Request;
use super::{Parser, Rendered, Syntax, TemplateError};
use crate::sampling::Grammar;
use crate::text::{Call, Said};

const OPEN: &str = "<tool_call>";
const CLOSE: &str = "</tool_call>";
const END: &str = "<|im_end|>";

pub(super) fn render(
    conversation: &Conversation,
    output: &OutputFormat,
) -> Result<Rendered, TemplateError> {
    let grammar = grammar(output)?;
    let request = Request::new(conversation, output)?;
    let calls = request.calls_tools();
    Ok(Rendered {
        prompt: vec![prompt(&request)],
        grammar,
        stops: vec![END.into()],
        preserved_tokens: Vec::new(),
        reasoning: None,
        syntax: Syntax {
            parser: if calls { Parser::Hermes } else { Parser::None },
            markers: if calls {
                [OPEN.into()].into()
            } else {
                Arc::default()
            },
            runs: true,
            continues: false,
        },
    })
}

pub(super) fn grammar(output: &OutputFormat) -> Result<Option<Grammar>, TemplateError> {
    match output {
        OutputFormat::Text => Ok(None),
        _ => Err(TemplateError::Unsupported("an output format")),
    }
}

fn prompt(request: &Request) -> String {
    let mut prompt = String::new();
    if request.calls_tools() {
        prompt += "<|im_start|>system\nTools:\n";
        for tool in request.tools.as_array().into_iter().flatten() {
            let _ = writeln!(prompt, "{}", tool["function"]);
        }
        let _ = writeln!(
            prompt,
            "To call one, write {OPEN}{{\"name\": …, \"arguments\": …}}{CLOSE}.{END}"
        );
    }
    for message in request.messages.as_array().into_iter().flatten() {
        let part = |name: &str| message[name].as_str().unwrap_or_default();
        let _ = write!(prompt, "<|im_start|>{}\n{}", part("role"), part("content"));
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let _ = write!(prompt, "{OPEN}{}{CLOSE}", call["function"]);
        }
        let _ = writeln!(prompt, "{END}");
    }
    if request.continues {
        prompt.truncate(prompt.len() - END.len() - 1);
    } else {
        prompt += "<|im_start|>assistant\n";
    }
    prompt
}

/// Reads text and the calls that are complete; `None`: a call is none.
pub(super) fn parse(said: &str) -> Option<Said> {
    let (content, mut rest) = said.split_once(OPEN).unwrap_or((said, ""));
    let mut read = Said {
        content: content.to_owned(),
        ..Said::default()
    };
    while let Some((call, after)) = rest.split_once(CLOSE) {
        let call = serde_json::from_str::<Written>(call).ok()?;
        read.calls.push(Call {
            id: String::new(),
            name: call.name,
            arguments: call.arguments.get().to_owned(),
        });
        rest = match after.split_once(OPEN) {
            Some((space, next)) if space.trim().is_empty() => next,
            None if OPEN.starts_with(after.trim()) => "",
            _ => return None,
        };
    }
    Some(read)
}

#[derive(Deserialize)]
struct Written {
    name: String,
    arguments: Box<RawValue>,
}

#[cfg(test)]
mod tests {
    use bodhi_proto::chat::{Message, Part, Tool};

    use super::*;

    fn conversation() -> Conversation {
        Conversation {
            messages: vec![Message::User {
                name: None,
                content: vec![Part::Text("Hello".into())],
            }],
            ..Conversation::default()
        }
    }

    #[test]
    fn renders_chatml() {
        let rendered = render(&conversation(), &OutputFormat::Text).expect("renders");
        assert_eq!(
            rendered.prompt.concat(),
            "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn names_the_tools() {
        let mut conversation = conversation();
        conversation.tools = vec![Tool {
            name: "add".into(),
            description: None,
            parameters: None,
            strict: false,
        }];
        let rendered = render(&conversation, &OutputFormat::Text).expect("renders");
        assert!(rendered.prompt.concat().contains("\"name\":\"add\""));
    }

    #[test]
    fn refuses_output_that_it_cannot_hold_a_model_to() {
        assert_eq!(
            render(&conversation(), &OutputFormat::JsonObject).err(),
            Some(TemplateError::Unsupported("an output format"))
        );
    }

    #[test]
    fn reads_text_and_calls() {
        let said = parse(
            "Let me see.\n<tool_call>{\"name\": \"a\", \"arguments\": {\"x\": 1.0}}</tool_call>\n\
             <tool_call>{\"name\": \"b\", \"arguments\": {}}</tool_call>",
        )
        .expect("of the syntax");
        assert_eq!(said.content, "Let me see.\n");
        let calls: Vec<_> = said
            .calls
            .iter()
            .map(|call| (call.name.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(calls, [("a", "{\"x\": 1.0}"), ("b", "{}")]);
    }

    #[test]
    fn waits_for_a_call_to_be_complete() {
        let said = parse("<tool_call>{\"name\"").expect("of the syntax");
        assert_eq!(said, Said::default());
    }

    #[test]
    fn knows_a_call_that_is_none() {
        assert_eq!(parse("<tool_call>nothing</tool_call>"), None);
    }
}
