//! OpenAI Responses: create (also streamed and in the background), get, cancel, delete, input items.
//! Wire shapes: <https://platform.openai.com/docs/api-reference/responses>.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::answer::Answer;
use super::reply::{Ask, Choice, Reply, Tool, text_of};
use super::sample::{self, CREATED};
use super::vendor::Refusal;

/// The responses that were created and not deleted.
#[derive(Debug, Default)]
pub(super) struct Responses {
    stored: HashMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    /// The finished response.
    response: Value,
    input: Vec<Value>,
    /// The states a poll still has to see before the finished one, last first.
    ahead: Vec<&'static str>,
}

impl Stored {
    fn poll(&mut self) -> Value {
        match self.ahead.pop() {
            Some(status) => unfinished(&self.response, status),
            None => self.response.clone(),
        }
    }
}

fn unfinished(response: &Value, status: &str) -> Value {
    let mut response = response.clone();
    response["status"] = json!(status);
    response["output"] = json!([]);
    response["usage"] = Value::Null;
    response
}

impl Responses {
    pub(super) fn create(&mut self, body: &Value) -> Result<Answer, Refusal> {
        let input = match &body["input"] {
            Value::String(text) => {
                vec![json!({"role": "user", "content": [{"type": "input_text", "text": text}]})]
            }
            Value::Array(items) => items.clone(),
            _ => return Err(Refusal::missing("input")),
        };
        if let Some(previous) = body["previous_response_id"].as_str()
            && !self.stored.contains_key(previous)
        {
            return Err(Refusal {
                param: Some("previous_response_id".to_owned()),
                code: Some("previous_response_not_found"),
                ..Refusal::new(
                    400,
                    format!("Previous response with id '{previous}' not found."),
                )
            });
        }
        let ask = ask(body, &input);
        let response = finished(body, &ask, &Reply::to(&ask), &input);
        let id = response["id"].as_str().unwrap_or_default().to_owned();
        let background = body["background"] == true;
        if body["store"] != false {
            let input = input.into_iter().enumerate().map(|(index, mut item)| {
                item["id"] = json!(sample::id("msg_", &[&id, "input", &index.to_string()]));
                if item["type"].is_null() {
                    item["type"] = json!("message");
                }
                item["status"] = json!("completed");
                item
            });
            let ahead = if background {
                vec!["in_progress"]
            } else {
                Vec::new()
            };
            let stored = Stored {
                response: response.clone(),
                input: input.collect(),
                ahead,
            };
            self.stored.insert(id, stored);
        }
        Ok(match (body["stream"] == true, background) {
            (true, _) => Answer::events(events(&response)),
            (false, true) => Answer::pretty(&unfinished(&response, "queued")),
            (false, false) => Answer::pretty(&response),
        })
    }

    pub(super) fn get(&mut self, id: &str, stream: bool) -> Result<Answer, Refusal> {
        let stored = self.stored(id)?;
        Ok(if stream {
            Answer::events(events(&stored.response))
        } else {
            Answer::pretty(&stored.poll())
        })
    }

    pub(super) fn cancel(&mut self, id: &str) -> Result<Answer, Refusal> {
        let stored = self.stored(id)?;
        if stored.response["background"] != true {
            return Err(Refusal::new(
                400,
                "Cannot cancel a synchronous response.".to_owned(),
            ));
        }
        if stored.ahead.pop().is_some() {
            stored.response = unfinished(&stored.response, "cancelled");
        }
        Ok(Answer::pretty(&stored.response))
    }

    pub(super) fn delete(&mut self, id: &str) -> Result<Answer, Refusal> {
        self.stored(id)?;
        self.stored.remove(id);
        Ok(Answer::pretty(
            &json!({"id": id, "object": "response", "deleted": true}),
        ))
    }

    pub(super) fn input_items(&mut self, id: &str) -> Result<Answer, Refusal> {
        let input = &self.stored(id)?.input;
        let edge = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
        Ok(Answer::pretty(&json!({
            "object": "list", "data": input, "has_more": false,
            "first_id": edge(input.first()), "last_id": edge(input.last()),
        })))
    }

    fn stored(&mut self, id: &str) -> Result<&mut Stored, Refusal> {
        self.stored
            .get_mut(id)
            .ok_or_else(|| Refusal::new(404, format!("Response with id '{id}' not found.")))
    }
}

fn ask(body: &Value, input: &[Value]) -> Ask {
    let last = input.last().unwrap_or(&Value::Null);
    let after_tool = last["type"] == "function_call_output";
    let tools = body["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|tool| tool["type"] == "function");
    Ask {
        text: text_of(if after_tool {
            &last["output"]
        } else {
            &last["content"]
        }),
        after_tool,
        tools: tools
            .map(|tool| Tool {
                name: tool["name"].as_str().unwrap_or_default().to_owned(),
                schema: tool["parameters"].clone(),
            })
            .collect(),
        choice: match &body["tool_choice"] {
            Value::String(word) if word == "none" => Choice::None,
            Value::Object(named) => {
                Choice::Named(named["name"].as_str().unwrap_or_default().to_owned())
            }
            _ => Choice::Auto,
        },
        parallel: body["parallel_tool_calls"] != false,
        schema: match body["text"]["format"]["type"].as_str() {
            Some("json_schema") => Some(body["text"]["format"]["schema"].clone()),
            Some("json_object") => Some(Value::Null),
            _ => None,
        },
        limit: body["max_output_tokens"].as_u64(),
    }
}

fn finished(body: &Value, ask: &Ask, reply: &Reply, input: &[Value]) -> Value {
    let id = sample::id(
        "resp_",
        &[&ask.text, body["model"].as_str().unwrap_or_default()],
    );
    let output = if reply.calls.is_empty() {
        vec![json!({
            "id": sample::id("msg_", &[&id]), "type": "message", "role": "assistant",
            "status": if reply.truncated { "incomplete" } else { "completed" },
            "content": [{"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}],
        })]
    } else {
        reply.calls.iter().enumerate().map(|(index, call)| {
            let index = index.to_string();
            json!({
                "id": sample::id("fc_", &[&id, &index]), "type": "function_call", "status": "completed",
                "call_id": sample::id("call_", &[&id, &index]), "name": call.name, "arguments": call.arguments.to_string(),
            })
        }).collect()
    };
    let prompt: usize = input
        .iter()
        .map(|item| sample::tokens(&text_of(&item["content"])))
        .sum();
    let or = |key: &str, default: Value| {
        if body[key].is_null() {
            default
        } else {
            body[key].clone()
        }
    };
    json!({
        "id": id, "object": "response", "created_at": CREATED,
        "status": if reply.truncated { "incomplete" } else { "completed" },
        "background": body["background"] == true, "error": null,
        "incomplete_details": if reply.truncated { json!({"reason": "max_output_tokens"}) } else { Value::Null },
        "instructions": body["instructions"], "max_output_tokens": body["max_output_tokens"],
        "model": body["model"], "output": output, "parallel_tool_calls": or("parallel_tool_calls", json!(true)),
        "previous_response_id": body["previous_response_id"], "reasoning": {"effort": null, "summary": null},
        "store": or("store", json!(true)), "temperature": or("temperature", json!(1.0)),
        "text": or("text", json!({"format": {"type": "text"}})), "tool_choice": or("tool_choice", json!("auto")),
        "tools": or("tools", json!([])), "top_p": or("top_p", json!(1.0)), "truncation": "disabled",
        "usage": {
            "input_tokens": prompt, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": reply.tokens(), "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + reply.tokens(),
        },
        "user": null, "metadata": or("metadata", json!({})),
    })
}

/// The full sequence of events that tells a finished response.
fn events(response: &Value) -> Vec<String> {
    let mut events = Vec::new();
    let mut event = |kind: &str, fields: Value| {
        let mut data = fields;
        data["type"] = json!(kind);
        data["sequence_number"] = json!(events.len());
        events.push(format!("event: {kind}\ndata: {data}\n\n"));
    };
    let started = unfinished(response, "in_progress");
    event("response.created", json!({"response": started}));
    event("response.in_progress", json!({"response": started}));
    for (index, item) in response["output"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let mut opened = item.clone();
        opened["status"] = json!("in_progress");
        if item["type"] == "function_call" {
            opened["arguments"] = json!("");
            event(
                "response.output_item.added",
                json!({"output_index": index, "item": opened}),
            );
            for delta in sample::pieces(item["arguments"].as_str().unwrap_or_default()) {
                let fields = json!({"item_id": item["id"], "output_index": index, "delta": delta});
                event("response.function_call_arguments.delta", fields);
            }
            let fields = json!({"item_id": item["id"], "output_index": index, "name": item["name"], "arguments": item["arguments"]});
            event("response.function_call_arguments.done", fields);
        } else {
            opened["content"] = json!([]);
            event(
                "response.output_item.added",
                json!({"output_index": index, "item": opened}),
            );
            let part = &item["content"][0];
            let mut empty = part.clone();
            empty["text"] = json!("");
            let at = |fields: Value| {
                let mut fields = fields;
                fields["item_id"] = item["id"].clone();
                fields["output_index"] = json!(index);
                fields["content_index"] = json!(0);
                fields
            };
            event("response.content_part.added", at(json!({"part": empty})));
            for word in sample::words(part["text"].as_str().unwrap_or_default()) {
                event(
                    "response.output_text.delta",
                    at(json!({"delta": word, "logprobs": []})),
                );
            }
            event(
                "response.output_text.done",
                at(json!({"text": part["text"], "logprobs": []})),
            );
            event("response.content_part.done", at(json!({"part": part})));
        }
        event(
            "response.output_item.done",
            json!({"output_index": index, "item": item}),
        );
    }
    let last = if response["status"] == "incomplete" {
        "response.incomplete"
    } else {
        "response.completed"
    };
    event(last, json!({"response": response}));
    events
}
