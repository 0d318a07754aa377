//! Conversations, and what is heard of an answer.

use bodhi_proto::chat::{AssistantPart, Conversation, Event, Message, Part, Tool, ToolCall};
use bodhi_worker::template::Rendered;
use bodhi_worker::text::Reader;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// An answer, all events together.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    /// Names and arguments.
    pub(crate) calls: Vec<(String, String)>,
}

pub(crate) async fn heard<'a>(
    rendered: &Rendered,
    pieces: impl Iterator<Item = &'a [u8]>,
) -> Heard {
    let ids = StdRng::seed_from_u64(1);
    let mut reader = Reader::new(rendered.syntax.clone(), &rendered.stops, ids);
    let mut events = Vec::new();
    for piece in pieces {
        events.extend(reader.push(piece).await.expect("read in time"));
    }
    let finished = reader.finish().await.expect("read in time");
    events.extend(finished.events);
    let mut heard = Heard::default();
    for event in events {
        match event {
            Event::Text(text) => heard.text += &text,
            Event::Reasoning(text) => heard.reasoning += &text,
            Event::ToolCallStart { index, id, name } => {
                assert_eq!(index as usize, heard.calls.len());
                assert!(!id.is_empty());
                heard.calls.push((name, String::new()));
            }
            Event::ToolCallArguments { index, text } => heard.calls[index as usize].1 += &text,
            other => panic!("{other:?} is not of a reader"),
        }
    }
    assert_eq!(finished.called_tools, !heard.calls.is_empty());
    heard
}

pub(crate) fn conversation(messages: Vec<Message>) -> Conversation {
    Conversation {
        messages,
        ..Conversation::default()
    }
}

pub(crate) fn system(text: &str) -> Message {
    Message::System(vec![Part::Text(text.into())])
}

pub(crate) fn asks(text: &str) -> Message {
    Message::User {
        name: None,
        content: vec![Part::Text(text.into())],
    }
}

pub(crate) fn says(text: &str) -> Message {
    Message::Assistant(vec![AssistantPart::Text(text.into())])
}

/// Calls with the ids `call_0`, `call_1`, …
pub(crate) fn called(calls: &[(&str, &str)]) -> Message {
    let parts = calls.iter().enumerate().map(|(number, (name, arguments))| {
        AssistantPart::ToolCall(ToolCall {
            id: format!("call_{number}"),
            name: (*name).into(),
            arguments: (*arguments).into(),
        })
    });
    Message::Assistant(parts.collect())
}

pub(crate) fn tool_says(call: &str, text: &str) -> Message {
    Message::Tool {
        call: call.into(),
        name: None,
        content: vec![Part::Text(text.into())],
        failed: false,
    }
}

pub(crate) fn weather() -> Tool {
    Tool {
        name: "get_weather".into(),
        description: Some("The weather of a place.".into()),
        parameters: Some(
            r#"{
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"]
            }"#
            .into(),
        ),
        strict: false,
    }
}
