//! OpenAI: chat and text completions, embeddings, the list of models.
//! Wire shapes: <https://platform.openai.com/docs/api-reference>.

use base64::Engine as _;
use serde_json::{Value, json};

use super::answer::Answer;
use super::reply::{Ask, Choice, Reply, Tool, text_of};
use super::sample::{self, CREATED};
use super::vendor::{self, Refusal};

pub(super) const MODELS: [&str; 3] = ["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"];

pub(super) fn models() -> Answer {
    Answer::pretty(&json!({"object": "list", "data": MODELS.map(model)}))
}

fn model(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": CREATED, "owned_by": "openai"})
}

pub(super) fn model_by_id(id: &str) -> Result<Answer, Refusal> {
    let known = MODELS.iter().find(|known| **known == id);
    known
        .map(|id| Answer::pretty(&model(id)))
        .ok_or_else(|| Refusal::not_found("model", id))
}

pub(super) fn chat(body: &Value) -> Result<Answer, Refusal> {
    let messages = vendor::list(body, "messages")?;
    let last = messages.last().unwrap_or(&Value::Null);
    let choice = match &body["tool_choice"] {
        Value::String(word) if word == "none" => Choice::None,
        Value::Object(named) => Choice::Named(
            named["function"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        ),
        _ => Choice::Auto,
    };
    let tools = body["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tool| &tool["function"])
        .map(tool)
        .collect();
    let ask = Ask {
        text: text_of(&last["content"]),
        after_tool: last["role"] == "tool",
        tools,
        choice,
        parallel: body["parallel_tool_calls"] != false,
        schema: match body["response_format"]["type"].as_str() {
            Some("json_schema") => Some(body["response_format"]["json_schema"]["schema"].clone()),
            Some("json_object") => Some(Value::Null),
            _ => None,
        },
        limit: body["max_completion_tokens"]
            .as_u64()
            .or(body["max_tokens"].as_u64()),
    };
    let reply = Reply::to(&ask);
    let head = Completion {
        id: sample::id(
            "chatcmpl-",
            &[&ask.text, body["model"].as_str().unwrap_or_default()],
        ),
        model: body["model"].clone(),
        usage: usage(
            messages
                .iter()
                .map(|message| sample::tokens(&text_of(&message["content"])))
                .sum(),
            reply.tokens(),
        ),
    };
    let calls: Vec<Value> = reply
        .calls
        .iter()
        .enumerate()
        .map(|(index, call)| {
            json!({
                "id": sample::id("call_", &[&head.id, &index.to_string()]),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments.to_string()},
            })
        })
        .collect();
    let finish = match &reply {
        reply if !reply.calls.is_empty() => "tool_calls",
        reply if reply.truncated => "length",
        _ => "stop",
    };
    let n = body["n"].as_u64().unwrap_or(1);
    if body["stream"] == true {
        return Ok(Answer::events(head.stream(body, &reply, &calls, finish, n)));
    }
    let mut message =
        json!({"role": "assistant", "content": reply.text, "refusal": null, "annotations": []});
    if !calls.is_empty() {
        message["content"] = Value::Null;
        message["tool_calls"] = json!(calls);
    }
    let choices: Vec<Value> = (0..n)
        .map(|index| json!({"index": index, "message": message, "logprobs": null, "finish_reason": finish}))
        .collect();
    Ok(Answer::pretty(&json!({
        "id": head.id, "object": "chat.completion", "created": CREATED, "model": head.model, "choices": choices,
        "usage": head.usage, "service_tier": "default", "system_fingerprint": "fp_scripted",
    })))
}

fn tool(function: &Value) -> Tool {
    Tool {
        name: function["name"].as_str().unwrap_or_default().to_owned(),
        schema: function["parameters"].clone(),
    }
}

fn usage(prompt: usize, completion: usize) -> Value {
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

/// What every chunk of a chat completion repeats.
struct Completion {
    id: String,
    model: Value,
    usage: Value,
}

impl Completion {
    fn stream(
        &self,
        body: &Value,
        reply: &Reply,
        calls: &[Value],
        finish: &str,
        n: u64,
    ) -> Vec<String> {
        let wants_usage = body["stream_options"]["include_usage"] == true;
        let event = |choices: Value, usage: &Value| {
            let mut chunk = json!({
                "id": self.id, "object": "chat.completion.chunk", "created": CREATED, "model": self.model,
                "service_tier": "default", "system_fingerprint": "fp_scripted", "choices": choices,
            });
            if wants_usage {
                chunk["usage"] = usage.clone();
            }
            format!("data: {chunk}\n\n")
        };
        let mut events = Vec::new();
        for index in 0..n {
            let mut delta = |delta: Value, finish: Value| {
                let choice = json!([{"index": index, "delta": delta, "logprobs": null, "finish_reason": finish}]);
                events.push(event(choice, &Value::Null));
            };
            delta(
                json!({"role": "assistant", "content": if calls.is_empty() { json!("") } else { Value::Null }, "refusal": null}),
                Value::Null,
            );
            for (at, call) in calls.iter().enumerate() {
                let function = json!({"name": call["function"]["name"], "arguments": ""});
                delta(
                    json!({"tool_calls": [{"index": at, "id": call["id"], "type": "function", "function": function}]}),
                    Value::Null,
                );
                for piece in
                    sample::pieces(call["function"]["arguments"].as_str().unwrap_or_default())
                {
                    delta(
                        json!({"tool_calls": [{"index": at, "function": {"arguments": piece}}]}),
                        Value::Null,
                    );
                }
            }
            for word in sample::words(&reply.text) {
                delta(json!({"content": word}), Value::Null);
            }
            delta(json!({}), json!(finish));
        }
        if wants_usage {
            events.push(event(json!([]), &self.usage));
        }
        events.push("data: [DONE]\n\n".to_owned());
        events
    }
}

pub(super) fn completions(body: &Value) -> Result<Answer, Refusal> {
    let prompt = body["prompt"]
        .as_str()
        .or(body["prompt"][0].as_str())
        .unwrap_or_default();
    let reply = Reply::to(&Ask {
        text: prompt.to_owned(),
        limit: body["max_tokens"].as_u64(),
        ..Ask::default()
    });
    let finish = if reply.truncated { "length" } else { "stop" };
    let head = json!({
        "id": sample::id("cmpl-", &[prompt]), "object": "text_completion", "created": CREATED,
        "model": body["model"], "system_fingerprint": "fp_scripted",
    });
    let with = |choices: Value, usage: Option<Value>| {
        let mut value = head.clone();
        value["choices"] = choices;
        if let Some(usage) = usage {
            value["usage"] = usage;
        }
        value
    };
    let choice = |text: &str, finish: Value| json!([{"text": text, "index": 0, "logprobs": null, "finish_reason": finish}]);
    let usage = usage(sample::tokens(prompt), reply.tokens());
    if body["stream"] != true {
        return Ok(Answer::pretty(&with(
            choice(&reply.text, json!(finish)),
            Some(usage),
        )));
    }
    let mut events: Vec<Value> = sample::words(&reply.text)
        .into_iter()
        .map(|word| with(choice(word, Value::Null), None))
        .collect();
    events.push(with(choice("", json!(finish)), None));
    if body["stream_options"]["include_usage"] == true {
        events.push(with(json!([]), Some(usage)));
    }
    let mut events: Vec<String> = events
        .iter()
        .map(|event| format!("data: {event}\n\n"))
        .collect();
    events.push("data: [DONE]\n\n".to_owned());
    Ok(Answer::events(events))
}

pub(super) fn embeddings(body: &Value) -> Result<Answer, Refusal> {
    let inputs: Vec<String> = match &body["input"] {
        Value::String(text) => vec![text.clone()],
        Value::Array(tokens) if tokens.iter().all(Value::is_number) => {
            vec![body["input"].to_string()]
        }
        Value::Array(many) => many
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect(),
        _ => return Err(Refusal::missing("input")),
    };
    let data: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let vector = sample::embedding(text);
            let embedding = if body["encoding_format"] == "base64" {
                let bytes: Vec<u8> = vector
                    .iter()
                    .flat_map(|number| number.to_le_bytes())
                    .collect();
                json!(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                json!(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens: usize = inputs.iter().map(|text| sample::tokens(text)).sum();
    Ok(Answer::pretty(&json!({
        "object": "list", "data": data, "model": body["model"],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })))
}
