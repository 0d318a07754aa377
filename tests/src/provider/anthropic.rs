//! Anthropic: messages, their streams, token counts, the paged list of models.
//! Wire shapes: <https://docs.anthropic.com/en/api/messages>.

use serde_json::{Value, json};

use super::answer::Answer;
use super::reply::{Ask, Choice, Reply, Tool, text_of};
use super::sample;
use super::vendor::{self, Refusal};

pub(super) const MODELS: [&str; 5] = [
    "claude-opus-4-5",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
    "claude-opus-4-1",
    "claude-sonnet-4-0",
];

/// A page of models after `after_id`, `limit` (default 2, so that small lists are paged too) long.
pub(super) fn models(after: Option<&str>, limit: Option<usize>) -> Result<Answer, Refusal> {
    let from = match after {
        None => 0,
        Some(id) => {
            MODELS
                .iter()
                .position(|known| *known == id)
                .ok_or_else(|| Refusal::not_found("model", id))?
                + 1
        }
    };
    let page: Vec<&str> = MODELS[from..]
        .iter()
        .take(limit.unwrap_or(2).max(1))
        .copied()
        .collect();
    Ok(Answer::json(&json!({
        "data": page.iter().map(|id| model(id)).collect::<Vec<_>>(),
        "has_more": from + page.len() < MODELS.len(),
        "first_id": page.first(), "last_id": page.last(),
    })))
}

fn model(id: &str) -> Value {
    json!({"type": "model", "id": id, "display_name": id.replace('-', " "), "created_at": "2023-11-14T22:13:20Z", "lifecycle": "active"})
}

pub(super) fn model_by_id(id: &str) -> Result<Answer, Refusal> {
    let known = MODELS.iter().find(|known| **known == id);
    known
        .map(|id| Answer::json(&model(id)))
        .ok_or_else(|| Refusal::not_found("model", id))
}

fn prompt_tokens(body: &Value, messages: &[Value]) -> usize {
    let system = text_of(&body["system"]);
    let system = if system.is_empty() {
        0
    } else {
        sample::tokens(&system)
    };
    messages
        .iter()
        .map(|message| sample::tokens(&text_of(&message["content"])))
        .sum::<usize>()
        + system
}

pub(super) fn count_tokens(body: &Value) -> Result<Answer, Refusal> {
    let messages = vendor::list(body, "messages")?;
    Ok(Answer::json(
        &json!({"input_tokens": prompt_tokens(body, messages)}),
    ))
}

pub(super) fn messages(body: &Value) -> Result<Answer, Refusal> {
    let messages = vendor::list(body, "messages")?;
    let limit = body["max_tokens"]
        .as_u64()
        .ok_or_else(|| Refusal::missing("max_tokens"))?;
    let last = messages.last().unwrap_or(&Value::Null);
    let tools = body["tools"].as_array().into_iter().flatten();
    let format = [&body["output_config"]["format"], &body["output_format"]]
        .into_iter()
        .find(|format| format.is_object());
    let ask = Ask {
        text: text_of(&last["content"]),
        after_tool: last["content"]
            .as_array()
            .is_some_and(|parts| parts.iter().any(|part| part["type"] == "tool_result")),
        tools: tools
            .map(|tool| Tool {
                name: tool["name"].as_str().unwrap_or_default().to_owned(),
                schema: tool["input_schema"].clone(),
            })
            .collect(),
        choice: match body["tool_choice"]["type"].as_str() {
            Some("none") => Choice::None,
            Some("tool") => Choice::Named(
                body["tool_choice"]["name"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned(),
            ),
            _ => Choice::Auto,
        },
        parallel: body["tool_choice"]["disable_parallel_tool_use"] != true,
        schema: format.map(|format| format["schema"].clone()),
        limit: Some(limit),
    };
    let reply = Reply::to(&ask);
    let id = sample::id(
        "msg_",
        &[&ask.text, body["model"].as_str().unwrap_or_default()],
    );
    let mut content = Vec::new();
    if matches!(
        body["thinking"]["type"].as_str(),
        Some("enabled" | "adaptive")
    ) {
        content.push(json!({"type": "thinking", "thinking": "Let me repeat that.", "signature": "c2NyaXB0ZWQ="}));
    }
    if reply.calls.is_empty() {
        content.push(json!({"type": "text", "text": reply.text}));
    }
    for (index, call) in reply.calls.iter().enumerate() {
        let id = sample::id("toolu_", &[&id, &index.to_string()]);
        content.push(
            json!({"type": "tool_use", "id": id, "name": call.name, "input": call.arguments}),
        );
    }
    let stop = match &reply {
        reply if !reply.calls.is_empty() => "tool_use",
        reply if reply.truncated => "max_tokens",
        _ => "end_turn",
    };
    let usage = |output: usize| {
        json!({
            "input_tokens": prompt_tokens(body, messages), "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output, "service_tier": "standard",
        })
    };
    let message = json!({
        "id": id, "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": stop, "stop_sequence": null, "usage": usage(reply.tokens()),
    });
    if body["stream"] != true {
        return Ok(Answer::json(&message));
    }
    let mut started = message.clone();
    started["content"] = json!([]);
    started["stop_reason"] = Value::Null;
    started["usage"] = usage(1);
    Ok(Answer::events(events(&message, &started)))
}

fn events(message: &Value, started: &Value) -> Vec<String> {
    let mut events = Vec::new();
    let mut event = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        events.push(format!("event: {kind}\ndata: {data}\n\n"));
    };
    event("message_start", json!({"message": started}));
    for (index, block) in message["content"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let kind = block["type"].as_str().unwrap_or_default();
        let mut empty = block.clone();
        let deltas: Vec<Value> = match kind {
            "tool_use" => {
                empty["input"] = json!({});
                let pieces = sample::pieces(&block["input"].to_string());
                let delta =
                    |piece: String| json!({"type": "input_json_delta", "partial_json": piece});
                [String::new()]
                    .into_iter()
                    .chain(pieces)
                    .map(delta)
                    .collect()
            }
            "thinking" => {
                empty["thinking"] = json!("");
                empty["signature"] = json!("");
                let words = sample::words(block["thinking"].as_str().unwrap_or_default());
                let words = words
                    .into_iter()
                    .map(|word| json!({"type": "thinking_delta", "thinking": word}));
                words
                    .chain([json!({"type": "signature_delta", "signature": block["signature"]})])
                    .collect()
            }
            _ => {
                empty["text"] = json!("");
                let words = sample::words(block["text"].as_str().unwrap_or_default());
                words
                    .into_iter()
                    .map(|word| json!({"type": "text_delta", "text": word}))
                    .collect()
            }
        };
        event(
            "content_block_start",
            json!({"index": index, "content_block": empty}),
        );
        if index == 0 {
            event("ping", json!({}));
        }
        for delta in deltas {
            event(
                "content_block_delta",
                json!({"index": index, "delta": delta}),
            );
        }
        event("content_block_stop", json!({"index": index}));
    }
    let usage = json!({"output_tokens": message["usage"]["output_tokens"]});
    event(
        "message_delta",
        json!({"delta": {"stop_reason": message["stop_reason"], "stop_sequence": null}, "usage": usage}),
    );
    event("message_stop", json!({}));
    events
}
