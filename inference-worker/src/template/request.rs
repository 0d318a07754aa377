//! The canonical conversation in the words of templates: OpenAI's JSON of messages and tools,
//! which every chat template is written for.

use bodhi_proto::chat::{
    AssistantPart, Conversation, Effort, Message, OutputFormat, Part, Reasoning, Tool, ToolChoice,
};
use serde_json::{Map, Value, json};

use super::TemplateError;
use super::limits::{self, check_nesting, check_schema};

/// Tools of one request (OpenAI's limit).
const MAX_TOOLS: usize = 128;

/// Template variables that no request sets: they are the request.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "bos_token",
    "eos_token",
    "add_generation_prompt",
];

/// What a template is rendered with. The members that strangers wrote are kept apart, so that
/// the guard can mark them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    pub(super) messages: Value,
    pub(super) tools: Value,
    /// `chat_template_kwargs`.
    pub(super) arguments: Value,
    pub(super) tool_choice: &'static str,
    pub(super) parallel_tool_calls: bool,
    pub(super) enable_thinking: bool,
    /// Whether the last message is the model's and is to be gone on with.
    pub(super) continues: bool,
    /// JSON Schema of the output, or empty.
    pub(super) json_schema: String,
}

impl Request {
    /// Translates a conversation.
    ///
    /// # Errors
    /// What the conversation asks for and a template cannot give.
    pub(super) fn new(
        conversation: &Conversation,
        output: &OutputFormat,
    ) -> Result<Self, TemplateError> {
        let (tools, tool_choice) = tools(conversation)?;
        let json_schema = json_schema(output)?;
        let callable = !tools.is_empty() && tool_choice != "none";
        // A required call leaves no room for other output, so the format asks for nothing then.
        if callable && tool_choice == "auto" && !matches!(output, OutputFormat::Text) {
            return Err(TemplateError::Unsupported(
                "an output format together with tools that may be called",
            ));
        }
        let (arguments, enable_thinking) = arguments(conversation)?;
        if conversation.messages.is_empty() {
            return Err(TemplateError::NoMessages);
        }
        Ok(Self {
            messages: messages(&conversation.messages)?,
            tools: Value::Array(tools),
            arguments: Value::Object(arguments),
            tool_choice,
            parallel_tool_calls: conversation.parallel_tool_calls.unwrap_or(true),
            enable_thinking,
            continues: continues(&conversation.messages),
            json_schema: if callable { String::new() } else { json_schema },
        })
    }

    /// Whether the answer may hold tool calls.
    pub(super) fn calls_tools(&self) -> bool {
        self.tool_choice != "none" && self.tools.as_array().is_some_and(|tools| !tools.is_empty())
    }
}

fn continues(messages: &[Message]) -> bool {
    let Some(Message::Assistant(parts)) = messages.last() else {
        return false;
    };
    !parts
        .iter()
        .any(|part| matches!(part, AssistantPart::ToolCall(_)))
}

fn messages(messages: &[Message]) -> Result<Value, TemplateError> {
    // Some templates name the tool in its answer, which not every format repeats.
    let mut called: Vec<(&str, &str)> = Vec::new();
    let mut rendered = Vec::with_capacity(messages.len());
    for message in messages {
        rendered.push(match message {
            Message::System(parts) => json!({"role": "system", "content": text(parts)?}),
            Message::User { name, content } => {
                let mut user = json!({"role": "user", "content": text(content)?});
                if let Some(name) = name {
                    user["name"] = json!(name);
                }
                user
            }
            Message::Assistant(parts) => {
                let (mut content, mut reasoning) = (String::new(), String::new());
                let mut calls = Vec::new();
                for part in parts {
                    match part {
                        AssistantPart::Text(text) | AssistantPart::Refusal(text) => {
                            content.push_str(text);
                        }
                        AssistantPart::Reasoning { text, .. } => reasoning.push_str(text),
                        AssistantPart::ToolCall(call) => {
                            called.push((&call.id, &call.name));
                            calls.push(json!({
                                "type": "function",
                                "id": call.id,
                                "function": {
                                    "name": call.name,
                                    "arguments": call_arguments(&call.arguments)?,
                                },
                            }));
                        }
                    }
                }
                let mut assistant = json!({"role": "assistant", "content": content});
                if !reasoning.is_empty() {
                    assistant["reasoning_content"] = json!(reasoning);
                }
                if !calls.is_empty() {
                    assistant["tool_calls"] = Value::Array(calls);
                }
                assistant
            }
            Message::Tool {
                call,
                name,
                content,
                failed,
            } => {
                let mut content = text(content)?;
                // Templates have no place for it, and the model should know.
                if *failed {
                    content.insert_str(0, "Error: ");
                }
                let mut tool = json!({
                    "role": "tool",
                    "tool_call_id": call,
                    "content": content,
                });
                let known = called.iter().rev().find(|(id, _)| id == call);
                if let Some(name) = name.as_deref().or(known.map(|(_, name)| *name)) {
                    tool["name"] = json!(name);
                }
                tool
            }
        });
    }
    Ok(Value::Array(rendered))
}

fn text(parts: &[Part]) -> Result<String, TemplateError> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        match part {
            Part::Text(text) => texts.push(text.as_str()),
            Part::Image(_) => return Err(TemplateError::Unsupported("images")),
        }
    }
    Ok(texts.join("\n"))
}

/// Arguments as JSON. What a model wrote badly stays a text.
fn call_arguments(text: &str) -> Result<Value, TemplateError> {
    if text.trim().is_empty() {
        return Ok(json!({}));
    }
    // serde_json refuses more than 128 levels, which are then a text.
    match serde_json::from_str::<Value>(text) {
        Ok(value @ Value::Object(_)) => {
            check_nesting(&value, "tool_calls/arguments")?;
            Ok(value)
        }
        // Templates read arguments as JSON, so the text becomes a JSON text.
        _ => Ok(Value::String(json!(text).to_string())),
    }
}

fn tools(conversation: &Conversation) -> Result<(Vec<Value>, &'static str), TemplateError> {
    if conversation.tools.len() > MAX_TOOLS {
        return Err(TemplateError::TooManyTools { limit: MAX_TOOLS });
    }
    for (index, tool) in conversation.tools.iter().enumerate() {
        let named = |other: &Tool| other.name == tool.name;
        if !is_tool_name(&tool.name) || conversation.tools[..index].iter().any(named) {
            return Err(TemplateError::ToolName(tool.name.clone()));
        }
    }
    let (chosen, choice): (Vec<&Tool>, _) = match &conversation.tool_choice {
        ToolChoice::Auto => (conversation.tools.iter().collect(), "auto"),
        ToolChoice::None => (conversation.tools.iter().collect(), "none"),
        ToolChoice::Required => (conversation.tools.iter().collect(), "required"),
        // llama.cpp can force some call, not this one; so this one is the only one.
        ToolChoice::Named(name) => {
            let named: Vec<_> = conversation
                .tools
                .iter()
                .filter(|tool| tool.name == *name)
                .collect();
            if named.is_empty() {
                return Err(TemplateError::UnknownTool(name.clone()));
            }
            (named, "required")
        }
    };
    if chosen.is_empty() && choice == "required" {
        return Err(TemplateError::NoTools);
    }
    let rendered = chosen.into_iter().map(function).collect::<Result<_, _>>()?;
    Ok((rendered, choice))
}

fn function(tool: &Tool) -> Result<Value, TemplateError> {
    let path = format!("tools/{}/parameters", tool.name);
    let parameters = match &tool.parameters {
        Some(text) => schema(text, &path)?,
        None => json!({"type": "object", "properties": {}}),
    };
    Ok(json!({
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description.as_deref().unwrap_or_default(),
            "parameters": parameters,
        },
    }))
}

/// What formats allow, and what names of MCP servers hold besides.
fn is_tool_name(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_-.:/".contains(&b))
}

/// The JSON Schema of an output format, or nothing where it has none.
///
/// # Errors
/// The schema is none, or it or the grammar exceeds a limit.
pub(super) fn json_schema(output: &OutputFormat) -> Result<String, TemplateError> {
    match output {
        OutputFormat::Text => Ok(String::new()),
        OutputFormat::Grammar(grammar) => {
            limits::check_grammar(grammar, "grammar")?;
            Ok(String::new())
        }
        OutputFormat::JsonObject => Ok(json!({"type": "object"}).to_string()),
        OutputFormat::JsonSchema { schema: text, .. } => match schema(text, "schema")? {
            // No constraint at all would be no JSON at all, for llama.cpp.
            Value::Object(fields) if fields.is_empty() => Ok(json!({"type": "object"}).to_string()),
            schema @ Value::Object(_) => Ok(schema.to_string()),
            _ => Err(TemplateError::NotJson {
                what: "schema",
                reason: "a schema of output is an object".into(),
            }),
        },
    }
}

fn schema(text: &str, path: &str) -> Result<Value, TemplateError> {
    let schema = serde_json::from_str(text).map_err(|error| TemplateError::NotJson {
        what: "schema",
        reason: format!("{path}: {error}"),
    })?;
    check_schema(&schema, path)?;
    Ok(schema)
}

/// The template's variables, and whether the model thinks.
fn arguments(conversation: &Conversation) -> Result<(Map<String, Value>, bool), TemplateError> {
    const WHAT: &str = "chat_template_kwargs";
    let not_json = |reason: String| TemplateError::NotJson { what: WHAT, reason };
    let mut arguments = match &conversation.template_arguments {
        None => Map::new(),
        Some(text) => match serde_json::from_str(text) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) => return Err(not_json("not an object".into())),
            Err(error) => return Err(not_json(error.to_string())),
        },
    };
    if let Some(name) = RESERVED.iter().find(|name| arguments.contains_key(**name)) {
        return Err(not_json(format!("`{name}` cannot be set")));
    }
    for value in arguments.values() {
        check_nesting(value, WHAT)?;
    }
    let mut thinks = match arguments.remove("enable_thinking") {
        None => true,
        Some(Value::Bool(thinks)) => thinks,
        Some(_) => return Err(not_json("`enable_thinking` is true or false".into())),
    };
    match conversation.reasoning {
        Reasoning::Default => {}
        Reasoning::Off => thinks = false,
        Reasoning::Budget(_) => thinks = true,
        Reasoning::Effort(effort) => {
            thinks = true;
            let effort = match effort {
                Effort::Minimal => "minimal",
                Effort::Low => "low",
                Effort::Medium => "medium",
                Effort::High => "high",
            };
            arguments.insert("reasoning_effort".into(), json!(effort));
        }
    }
    Ok((arguments, thinks))
}
