//! Rendering and parsing by llama.cpp.

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::{Conversation, Message, OutputFormat, Part};
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::Guard;
use super::request::{self, Request};
use super::{Overrun, Parser, Pool, ReasoningTags, Rendered, Source, Syntax, TemplateError, shim};
use crate::sampling::{Grammar, Trigger};
use crate::text::Said;

/// A rendering that takes longer is given up.
const RENDER: Duration = Duration::from_secs(2);

/// A parse of so many bytes may take a millisecond, besides [`PARSE`].
const PARSED_PER_MS: usize = 1 << 10;
const PARSE: Duration = Duration::from_millis(500);

/// Brackets that are open at once. The parser recurses along them, so a model that writes
/// nothing but brackets must not exhaust its stack.
const MAX_OPEN: usize = 512;

/// What models without a template are spoken to in.
const CHATML: &str = "\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";

/// A model's templates.
pub(super) struct Templates {
    default: Arc<shim::Template>,
    tool_use: Option<Arc<shim::Template>>,
    guard: Guard,
    source: Source,
    pool: Pool,
}

/// What `shim/chat.cpp` says of a rendering.
#[derive(Deserialize)]
struct Answer {
    prompt: String,
    grammar: String,
    grammar_lazy: bool,
    trigger_words: Vec<String>,
    trigger_patterns: Vec<String>,
    generation_prompt: String,
    preserved_tokens: Vec<String>,
    stops: Vec<String>,
    thinks: bool,
    thinking_start: String,
    thinking_ends: Vec<String>,
}

impl Templates {
    pub(super) async fn load(source: Source, pool: Pool) -> Result<Self, TemplateError> {
        let default = match (&source.default, &source.tool_use) {
            (Some(default), _) => default.clone(),
            (None, Some(tool_use)) => tool_use.clone(),
            (None, None) => {
                tracing::warn!("the model has no chat template; it is spoken to in ChatML");
                CHATML.to_owned()
            }
        };
        let read = |text: String| {
            let (bos, eos) = (source.bos.clone(), source.eos.clone());
            let pool = pool.clone();
            async move {
                pool.run(RENDER, move || shim::Template::new(&text, &bos, &eos))
                    .await
                    .map_err(|overrun| TemplateError::Invalid(overrun.to_string()))?
                    .map(Arc::new)
                    .map_err(|error| TemplateError::Invalid(words(&error)))
            }
        };
        let default = read(default).await?;
        let tool_use = match source.tool_use.clone() {
            Some(text) => Some(read(text).await?),
            None => None,
        };
        let templates = Self {
            default,
            tool_use,
            guard: Guard::new(&source.control),
            source,
            pool,
        };
        let greeting = Conversation {
            messages: vec![Message::User {
                name: None,
                content: vec![Part::Text("Hello".into())],
            }],
            ..Conversation::default()
        };
        templates
            .render(&greeting, &OutputFormat::Text)
            .await
            .map_err(|error| TemplateError::Invalid(error.to_string()))?;
        Ok(templates)
    }

    pub(super) async fn render(
        &self,
        conversation: &Conversation,
        output: &OutputFormat,
    ) -> Result<Rendered, TemplateError> {
        let mut request = Request::new(conversation, output)?;
        let rendered = self.rendered(request.clone(), output).await;
        // Mistral's templates take ids of nine letters and digits only, others any.
        if matches!(rendered, Err(TemplateError::Refused(_))) && shorten_ids(&mut request.messages)
        {
            return self.rendered(request, output).await;
        }
        rendered
    }

    async fn rendered(
        &self,
        mut request: Request,
        output: &OutputFormat,
    ) -> Result<Rendered, TemplateError> {
        let tools = request.calls_tools();
        let continues = request.continues;
        let mark = self.guard.protect(&mut [
            &mut request.messages,
            &mut request.tools,
            &mut request.arguments,
        ]);
        let with = match &self.tool_use {
            Some(tool_use) if tools => Arc::clone(tool_use),
            _ => Arc::clone(&self.default),
        };
        let (answer, parser) = self
            .pool
            .run(RENDER, move || with.render(&json_of(&request, mark)))
            .await?
            .map_err(|error| TemplateError::Refused(words(&error)))?;
        let answer: Answer = serde_json::from_str(&answer)
            .map_err(|error| TemplateError::Refused(error.to_string()))?;

        let grammar = grammar(&answer, output);
        if let Some(grammar) = &grammar {
            self.check(grammar).await?;
        }
        Ok(Rendered {
            prompt: self.pieces(&answer.prompt, mark),
            grammar,
            syntax: Syntax {
                markers: markers(&answer, output),
                runs: answer.trigger_patterns.is_empty()
                    && !(tools && answer.trigger_words.is_empty()),
                continues,
                parser: Parser::Llama(Arc::new(parser), self.pool.clone()),
            },
            stops: answer.stops,
            preserved_tokens: answer.preserved_tokens,
            reasoning: (answer.thinks && !answer.thinking_ends.is_empty()).then_some(
                ReasoningTags {
                    start: answer.thinking_start,
                    ends: answer.thinking_ends,
                },
            ),
        })
    }

    pub(super) async fn grammar(
        &self,
        output: &OutputFormat,
    ) -> Result<Option<Grammar>, TemplateError> {
        let schema = request::json_schema(output)?;
        let gbnf = match output {
            OutputFormat::Text => return Ok(None),
            OutputFormat::Grammar(gbnf) => gbnf.clone(),
            OutputFormat::JsonObject | OutputFormat::JsonSchema { .. } => self
                .pool
                .run(RENDER, move || shim::schema_to_grammar(&schema))
                .await?
                .map_err(TemplateError::Grammar)?,
        };
        let grammar = Grammar::new(gbnf);
        self.check(&grammar).await?;
        Ok(Some(grammar))
    }

    async fn check(&self, grammar: &Grammar) -> Result<(), TemplateError> {
        let gbnf = grammar.gbnf.clone();
        self.pool
            .run(RENDER, move || shim::check_grammar(&gbnf))
            .await?
            .map_err(TemplateError::Grammar)
    }

    /// The prompt, cut at the guard's marks and without what the tokeniser adds.
    fn pieces(&self, prompt: &str, mark: char) -> Vec<String> {
        let source = &self.source;
        let mut prompt = prompt;
        if source.adds_bos && !source.bos.is_empty() {
            prompt = prompt.strip_prefix(&source.bos).unwrap_or(prompt);
        }
        if source.adds_eos && !source.eos.is_empty() {
            prompt = prompt.strip_suffix(&source.eos).unwrap_or(prompt);
        }
        prompt
            .split(mark)
            .filter(|piece| !piece.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

/// Parses an answer on the pool.
pub(super) async fn parse(
    parser: &Arc<shim::Parser>,
    pool: &Pool,
    said: &str,
) -> Result<Option<Said>, Overrun> {
    if most_open(said) > MAX_OPEN {
        return Ok(None);
    }
    let limit = PARSE + Duration::from_millis((said.len() / PARSED_PER_MS) as u64);
    let parser = Arc::clone(parser);
    let said = said.to_owned();
    let answer = pool.run(limit, move || parser.parse(&said)).await?;
    Ok(answer
        .ok()
        .and_then(|answer| serde_json::from_str(&answer).ok()))
}

/// What `shim/chat.cpp` reads.
fn json_of(request: &Request, mark: char) -> String {
    json!({
        "messages": request.messages,
        "tools": request.tools,
        "arguments": request.arguments,
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "enable_thinking": request.enable_thinking,
        "continue": request.continues,
        "json_schema": request.json_schema,
        "mark": mark,
        // Tests compare what was derived at load with what llama.cpp derives anew.
        "analyze": false,
    })
    .to_string()
}

fn grammar(answer: &Answer, output: &OutputFormat) -> Option<Grammar> {
    if let OutputFormat::Grammar(gbnf) = output {
        return Some(Grammar::new(gbnf.as_str()));
    }
    if answer.grammar.is_empty() {
        return None;
    }
    let words = answer.trigger_words.iter().cloned().map(Trigger::Word);
    let patterns = answer.trigger_patterns.iter().cloned();
    let triggers = words.chain(patterns.map(Trigger::Pattern));
    Some(Grammar {
        gbnf: answer.grammar.clone(),
        triggers: triggers.filter(|_| answer.grammar_lazy).collect(),
        generation_prompt: answer.generation_prompt.clone(),
    })
}

/// What llama.cpp lets models put around JSON, and its parsers take away.
const FENCE: &str = "```";

fn markers(answer: &Answer, output: &OutputFormat) -> Arc<[String]> {
    let fence = match output {
        OutputFormat::JsonObject | OutputFormat::JsonSchema { .. } => Some(FENCE.to_owned()),
        OutputFormat::Text | OutputFormat::Grammar(_) => None,
    };
    let mut markers: Vec<String> = answer
        .trigger_words
        .iter()
        .chain(&fence)
        .chain(&answer.preserved_tokens)
        .chain(&answer.thinking_ends)
        .chain([&answer.thinking_start])
        .map(|marker| marker.trim().to_owned())
        .filter(|marker| !marker.is_empty())
        .collect();
    markers.sort_unstable();
    markers.dedup();
    markers.into()
}

/// Gives tool calls ids of nine letters and digits; `false`: there are none.
fn shorten_ids(messages: &mut Value) -> bool {
    let mut any = false;
    let mut shorten = |id: Option<&mut Value>| {
        if let Some(Value::String(id)) = id {
            *id = nine(id);
            any = true;
        }
    };
    for message in messages.as_array_mut().into_iter().flatten() {
        shorten(message.get_mut("tool_call_id"));
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            shorten(call.get_mut("id"));
        }
    }
    any
}

/// Always the same for one id: FNV-1a, in base 36.
fn nine(id: &str) -> String {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..9)
        .map(|_| {
            let digit = DIGITS[(hash % 36) as usize];
            hash /= 36;
            char::from(digit)
        })
        .collect()
}

/// An error of llama.cpp without the excerpt of the template that it quotes first.
fn words(error: &str) -> String {
    let said = error.rsplit("\nError: ").next().unwrap_or(error);
    let said = said.strip_prefix("Jinja Exception: ").unwrap_or(said);
    said.trim().to_owned()
}

/// How many brackets are open at once at most, in strings too.
fn most_open(text: &str) -> usize {
    let (mut open, mut most) = (0usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => {
                open += 1;
                most = most.max(open);
            }
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use bodhi_proto::chat::{AssistantPart, Reasoning, Tool, ToolCall, ToolChoice};

    use super::*;

    fn text(text: &str) -> Vec<Part> {
        vec![Part::Text(text.into())]
    }

    fn conversations() -> Vec<(Conversation, OutputFormat)> {
        let user = |words: &str| Message::User {
            name: None,
            content: text(words),
        };
        let model = |words: &str| Message::Assistant(vec![AssistantPart::Text(words.into())]);
        let schema = r#"{"type": "object", "properties": {"city": {"type": "string"}}}"#;
        let greeting = Conversation {
            messages: vec![user("Hello")],
            ..Conversation::default()
        };
        let tools = Conversation {
            tools: vec![Tool {
                name: "weather".into(),
                description: None,
                parameters: Some(schema.into()),
                strict: false,
            }],
            ..greeting.clone()
        };
        let call = AssistantPart::ToolCall(ToolCall {
            id: "abcdefghi".into(),
            name: "weather".into(),
            arguments: r#"{"city":"Zürich"}"#.into(),
        });
        let thought = AssistantPart::Reasoning {
            text: "Hm.".into(),
            signature: None,
        };
        let long = Conversation {
            messages: vec![
                Message::System(text("Be brief.")),
                user("How is it?"),
                Message::Assistant(vec![thought, call]),
                Message::Tool {
                    call: "abcdefghi".into(),
                    name: None,
                    content: text("sunny"),
                    failed: false,
                },
                model("Sunny."),
                user("Thanks"),
            ],
            template_arguments: Some(r#"{"persona": "pirate"}"#.into()),
            ..tools.clone()
        };
        let required = Conversation {
            tool_choice: ToolChoice::Required,
            parallel_tool_calls: Some(false),
            ..tools.clone()
        };
        let continued = Conversation {
            messages: vec![user("Count."), model("One,")],
            reasoning: Reasoning::Off,
            ..Conversation::default()
        };
        let json = OutputFormat::JsonSchema {
            name: None,
            schema: schema.into(),
        };
        vec![
            (greeting.clone(), OutputFormat::Text),
            (greeting, json),
            (tools, OutputFormat::Text),
            (long, OutputFormat::Text),
            (required, OutputFormat::Text),
            (continued, OutputFormat::Text),
        ]
    }

    /// What is derived once from a template serves each request as well as deriving it anew.
    #[test]
    #[ignore = "needs the templates: scripts/chat-templates.sh"]
    fn renders_as_llama_cpp_does() {
        let folder = std::env::var_os("BODHI_CHAT_TEMPLATES").expect("a folder is named");
        let mut compared = 0;
        for entry in std::fs::read_dir(folder).expect("the folder can be read") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|ending| ending != "jinja") {
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a template is text");
            let template = shim::Template::new(&source, "", "").expect("valid");
            for (conversation, output) in conversations() {
                let request = Request::new(&conversation, &output).expect("a request");
                let known = json_of(&request, '\u{fdd0}');
                let anew = known.replace("\"analyze\":false", "\"analyze\":true");
                assert_ne!(known, anew);
                let answers = [known, anew].map(|request| {
                    template
                        .render(&request)
                        .map(|(answer, _)| answer)
                        .map_err(|error| words(&error))
                });
                assert_eq!(answers[0], answers[1], "{}", path.display());
                compared += usize::from(answers[0].is_ok());
            }
        }
        assert!(compared > 300, "only {compared} compared");
    }
}
