//! From a request body to a conversation.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bodhi_proto::chat::{
    AssistantPart, Conversation, Effort, Generation, Media, Message, Part, Prompt, Reasoning, Tool,
    ToolCall, ToolChoice,
};

use crate::format::Fault;
use crate::format::openai::{Calls, Delivery, parameters};
use crate::format::read::{self, Node, Object};

/// Reads a body that intake has accepted.
///
/// # Errors
/// The first [`Fault`], in the order: messages, tools, everything else.
pub fn parse(body: &[u8]) -> Result<(Generation, Delivery), Fault> {
    let body = read::body(body)?;
    let messages = messages(&body)?;
    let (tools, calls) = tools(&body)?;
    let tool_choice = tool_choice(&body, &tools)?;
    refuse_audio(&body)?;
    let conversation = Conversation {
        messages,
        tools,
        tool_choice,
        parallel_tool_calls: match calls {
            Calls::Tools => body.flag("parallel_tool_calls")?,
            // An answer has room for one.
            Calls::Function => Some(false),
        },
        reasoning: reasoning(&body)?,
        template_arguments: template_arguments(&body)?,
    };
    let mut generation = parameters::generation(&body, Prompt::Conversation(conversation))?;
    generation.max_output_tokens = output_limit(&body)?;
    generation.logprobs = logprobs(&body)?;
    let delivery = Delivery {
        calls,
        ..parameters::delivery(&body)?
    };
    Ok((generation, delivery))
}

/// Where both are said, the lesser.
fn output_limit(body: &Object<'_, '_>) -> Result<Option<u32>, Fault> {
    let limit = |name| body.get(name).map(|limit| limit.count(1)).transpose();
    let limits = [limit("max_tokens")?, limit("max_completion_tokens")?];
    Ok(limits.into_iter().flatten().min())
}

fn logprobs(body: &Object<'_, '_>) -> Result<Option<u32>, Fault> {
    let wanted = body.flag("logprobs")?.unwrap_or(false);
    let top = body.ranged_count("top_logprobs")?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(body
            .need("top_logprobs")?
            .unfit("needs 'logprobs' to be true")),
    }
}

fn reasoning(body: &Object<'_, '_>) -> Result<Reasoning, Fault> {
    let Some(effort) = body.get("reasoning_effort") else {
        return Ok(Reasoning::Default);
    };
    effort.word(&[
        ("none", Reasoning::Off),
        ("minimal", Reasoning::Effort(Effort::Minimal)),
        ("low", Reasoning::Effort(Effort::Low)),
        ("medium", Reasoning::Effort(Effort::Medium)),
        ("high", Reasoning::Effort(Effort::High)),
        // More than the most that a conversation can ask for is the most.
        ("xhigh", Reasoning::Effort(Effort::High)),
    ])
}

fn template_arguments(body: &Object<'_, '_>) -> Result<Option<String>, Fault> {
    let arguments = body.get("chat_template_kwargs");
    arguments.map(|node| node.raw_object()).transpose()
}

fn refuse_audio(body: &Object<'_, '_>) -> Result<(), Fault> {
    let Some(modalities) = body.get("modalities") else {
        return Ok(());
    };
    let text_only = modalities.each(|modality| match &*modality.text()? {
        "text" => Ok(()),
        _ => Err(modality.unsupported("cannot be had here: answers are text")),
    });
    text_only.map(drop)
}

fn messages(body: &Object<'_, '_>) -> Result<Vec<Message>, Fault> {
    let node = body.need("messages")?;
    let mut functions = Functions::default();
    let messages = node.each(|item| message(&item.object()?, &mut functions))?;
    match messages.is_empty() {
        true => Err(node.unfit("must have at least one message")),
        false => Ok(messages),
    }
}

/// Calls of the older kind have no ids, and their results follow at once: they are numbered.
#[derive(Default)]
struct Functions(usize);

impl Functions {
    fn next(&mut self) -> String {
        self.0 += 1;
        self.last()
    }

    fn last(&self) -> String {
        format!("function_{}", self.0)
    }
}

#[derive(Clone, Copy)]
enum Role {
    System,
    User,
    Assistant,
    Tool,
    Function,
}

fn message(message: &Object<'_, '_>, functions: &mut Functions) -> Result<Message, Fault> {
    let role = message.need("role")?.word(&[
        ("developer", Role::System),
        ("system", Role::System),
        ("user", Role::User),
        ("assistant", Role::Assistant),
        ("tool", Role::Tool),
        ("function", Role::Function),
    ])?;
    Ok(match role {
        Role::System => Message::System(text_only(message.need("content")?)?),
        Role::User => Message::User {
            name: message.text("name")?,
            content: content(message.need("content")?, user_part)?,
        },
        Role::Assistant => Message::Assistant(assistant(message, functions)?),
        Role::Tool => Message::Tool {
            call: message.need("tool_call_id")?.text()?,
            name: message.text("name")?,
            content: text_only(message.need("content")?)?,
            failed: false,
        },
        Role::Function => Message::Tool {
            call: functions.last(),
            name: Some(message.need("name")?.text()?),
            content: text_only(message.need("content")?)?,
            failed: false,
        },
    })
}

/// A string, or an array of parts that `read` understands.
fn content<T: From<Plain>>(
    content: Node<'_, '_>,
    read: impl Fn(&str, &Object<'_, '_>) -> Option<Result<T, Fault>>,
) -> Result<Vec<T>, Fault> {
    if content.is_string() {
        return Ok(vec![Plain(content.text()?).into()]);
    }
    content.each_of("a string or an array of parts", |node| {
        let part = node.object()?;
        let kind = part.need("type")?;
        let name = kind.text()?;
        if name == "text" {
            return Ok(Plain(part.need("text")?.text()?).into());
        }
        read(&name, &part).unwrap_or_else(|| {
            Err(kind.unsupported("is a kind of content that cannot be carried in such a message"))
        })
    })
}

/// Text, of which both kinds of part are made.
struct Plain(String);

impl From<Plain> for Part {
    fn from(text: Plain) -> Self {
        Self::Text(text.0)
    }
}

impl From<Plain> for AssistantPart {
    fn from(text: Plain) -> Self {
        Self::Text(text.0)
    }
}

fn text_only(node: Node<'_, '_>) -> Result<Vec<Part>, Fault> {
    content(node, |_, _| None)
}

fn user_part(kind: &str, part: &Object<'_, '_>) -> Option<Result<Part, Fault>> {
    (kind == "image_url").then(|| {
        let image = part.need("image_url")?.object()?;
        Ok(Part::Image(media(&image.need("url")?)?))
    })
}

/// An address, or the bytes themselves in a `data:` one
/// (<https://datatracker.ietf.org/doc/html/rfc2397>).
fn media(node: &Node<'_, '_>) -> Result<Media, Fault> {
    let url = node.text()?;
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => Ok(Media::Url(url)),
        "data" => inline(&url["data:".len()..])
            .ok_or_else(|| node.unfit("must be 'data:image/TYPE;base64,' and base64")),
        _ => Err(node.unfit("must be an http, https or data URL")),
    }
}

fn inline(url: &str) -> Option<Media> {
    let (kind, data) = url.split_once(',')?;
    let media_type = kind.strip_suffix(";base64")?.to_ascii_lowercase();
    media_type.starts_with("image/").then_some(())?;
    let data = STANDARD.decode(data).ok()?.into();
    Some(Media::Inline { media_type, data })
}

/// In the order in which models speak: reasoning, text, calls.
fn assistant(
    message: &Object<'_, '_>,
    functions: &mut Functions,
) -> Result<Vec<AssistantPart>, Fault> {
    let mut parts = Vec::new();
    if let Some(text) = message.text("reasoning_content")? {
        parts.push(AssistantPart::Reasoning {
            text,
            signature: None,
        });
    }
    if let Some(node) = message.get("content") {
        parts.extend(content(node, assistant_part)?);
    }
    parts.extend(message.text("refusal")?.map(AssistantPart::Refusal));
    if let Some(audio) = message.get("audio") {
        return Err(audio.unsupported("cannot be carried: send the transcript as 'content'"));
    }
    if let Some(calls) = message.get("tool_calls") {
        let calls = calls.each(|call| tool_call(&call.object()?))?;
        parts.extend(calls.into_iter().map(AssistantPart::ToolCall));
    }
    if let Some(call) = message.get("function_call") {
        let call = function_call(&call.object()?, functions.next())?;
        parts.push(AssistantPart::ToolCall(call));
    }
    if parts.is_empty() {
        return Err(message.missing("content"));
    }
    // Beside calls, OpenAI's own answers have empty content.
    parts.retain(|part| !matches!(part, AssistantPart::Text(text) if text.is_empty()));
    Ok(parts)
}

fn assistant_part(kind: &str, part: &Object<'_, '_>) -> Option<Result<AssistantPart, Fault>> {
    (kind == "refusal").then(|| Ok(AssistantPart::Refusal(part.need("refusal")?.text()?)))
}

fn tool_call(call: &Object<'_, '_>) -> Result<ToolCall, Fault> {
    only_functions(call)?;
    let id = call.need("id")?.text()?;
    function_call(&call.need("function")?.object()?, id)
}

fn function_call(function: &Object<'_, '_>, id: String) -> Result<ToolCall, Fault> {
    Ok(ToolCall {
        id,
        name: function.need("name")?.text()?,
        arguments: function.need("arguments")?.text()?,
    })
}

/// Of calls, tools and choices of one: no `type` is taken for the usual one.
fn only_functions(typed: &Object<'_, '_>) -> Result<(), Fault> {
    match typed.get("type") {
        Some(kind) if kind.text()? != "function" => {
            Err(kind.unsupported("must be 'function': there are no other tools here"))
        }
        _ => Ok(()),
    }
}

/// `tools`, or the older `functions`, which are answered in their own way.
fn tools(body: &Object<'_, '_>) -> Result<(Vec<Tool>, Calls), Fault> {
    if let Some(tools) = body.get("tools") {
        if let Some(functions) = body.get("functions") {
            return Err(functions.unfit("cannot be combined with 'tools'"));
        }
        let tools = tools.each(|tool| {
            let tool = tool.object()?;
            only_functions(&tool)?;
            function(&tool.need("function")?.object()?)
        });
        return Ok((tools?, Calls::Tools));
    }
    match body.get("functions") {
        Some(functions) => {
            let tools = functions.each(|node| function(&node.object()?))?;
            Ok((tools, Calls::Function))
        }
        None => Ok((Vec::new(), Calls::Tools)),
    }
}

fn function(function: &Object<'_, '_>) -> Result<Tool, Fault> {
    let name = function.need("name")?;
    let parameters = function.get("parameters");
    let tool = Tool {
        name: name.text()?,
        description: function.text("description")?,
        parameters: parameters.map(|node| node.raw_object()).transpose()?,
        strict: function.flag("strict")?.unwrap_or(false),
    };
    match tool.name.is_empty() {
        true => Err(name.unfit("must not be empty")),
        false => Ok(tool),
    }
}

/// `tool_choice`, or the older `function_call`.
fn tool_choice(body: &Object<'_, '_>, tools: &[Tool]) -> Result<ToolChoice, Fault> {
    let (node, calls) = match (body.get("tool_choice"), body.get("function_call")) {
        (Some(node), _) => (node, Calls::Tools),
        (None, Some(node)) => (node, Calls::Function),
        (None, None) => return Ok(ToolChoice::Auto),
    };
    if node.is_string() {
        return match node.word(&[
            ("none", Word::None),
            ("auto", Word::Auto),
            ("required", Word::Required),
        ])? {
            Word::None => Ok(ToolChoice::None),
            Word::Auto => Ok(ToolChoice::Auto),
            Word::Required if tools.is_empty() => Err(node.unfit("needs 'tools' to choose from")),
            Word::Required => Ok(ToolChoice::Required),
        };
    }
    if !node.is_object() {
        return Err(node.mistyped("a string or an object"));
    }
    let choice = node.object()?;
    match calls {
        Calls::Tools => {
            only_functions(&choice)?;
            named(&choice.need("function")?.object()?, tools)
        }
        Calls::Function => named(&choice, tools),
    }
}

#[derive(Clone, Copy)]
enum Word {
    None,
    Auto,
    Required,
}

fn named(function: &Object<'_, '_>, tools: &[Tool]) -> Result<ToolChoice, Fault> {
    let node = function.need("name")?;
    let name = node.text()?;
    match tools.iter().any(|tool| tool.name == name) {
        true => Ok(ToolChoice::Named(name)),
        false => Err(node.unfit("must be the name of one of the tools")),
    }
}
