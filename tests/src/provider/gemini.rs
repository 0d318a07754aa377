//! Gemini: generateContent and its streams, embeddings, token counts, the paged list of models.
//! Wire shapes: <https://ai.google.dev/api>.

use serde_json::{Value, json};

use super::answer::{Answer, Body};
use super::reply::{Ask, Choice, Reply, Tool, text_of};
use super::sample;
use super::vendor::{self, Refusal};

pub(super) const MODELS: [&str; 4] = [
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-embedding-001",
];

/// The page of models that `token` names, `size` (default 2) long.
pub(super) fn models(token: Option<&str>, size: Option<usize>) -> Result<Answer, Refusal> {
    let from = match token {
        None | Some("") => 0,
        Some(token) => token
            .strip_prefix("page-")
            .and_then(|from| from.parse::<usize>().ok())
            .filter(|from| *from < MODELS.len())
            .ok_or_else(|| Refusal::new(400, "Page token is invalid.".to_owned()))?,
    };
    let to = MODELS.len().min(from + size.unwrap_or(2).max(1));
    let mut page =
        json!({"models": MODELS[from..to].iter().map(|id| model(id)).collect::<Vec<_>>()});
    if to < MODELS.len() {
        page["nextPageToken"] = json!(format!("page-{to}"));
    }
    Ok(Answer::pretty(&page))
}

fn model(id: &str) -> Value {
    let methods = if id.contains("embedding") {
        json!(["embedContent", "countTokens"])
    } else {
        json!(["generateContent", "countTokens"])
    };
    json!({
        "name": format!("models/{id}"), "version": "001", "displayName": id, "description": "A scripted model",
        "inputTokenLimit": 1_048_576, "outputTokenLimit": 65536, "supportedGenerationMethods": methods,
    })
}

pub(super) fn model_by_id(id: &str) -> Result<Answer, Refusal> {
    let known = MODELS.iter().find(|known| **known == id);
    known
        .map(|id| Answer::pretty(&model(id)))
        .ok_or_else(|| Refusal::not_found("models", id))
}

/// One call of `models/{model}:{action}`; `sse` tells whether the query asked for events.
pub(super) fn act(model: &str, action: &str, body: &Value, sse: bool) -> Result<Answer, Refusal> {
    match action {
        "generateContent" => generate(model, body).map(|chunks| Answer::pretty(&join(&chunks))),
        "streamGenerateContent" => generate(model, body).map(|chunks| stream(&chunks, sse)),
        "embedContent" => Ok(Answer::pretty(&json!({"embedding": embed(body)}))),
        "batchEmbedContents" => {
            let requests = vendor::list(body, "requests")?;
            Ok(Answer::pretty(
                &json!({"embeddings": requests.iter().map(embed).collect::<Vec<_>>()}),
            ))
        }
        "countTokens" => {
            let inner = if body["generateContentRequest"].is_object() {
                &body["generateContentRequest"]
            } else {
                body
            };
            let tokens = prompt_tokens(vendor::list(inner, "contents")?);
            let details = json!([{"modality": "TEXT", "tokenCount": tokens}]);
            Ok(Answer::pretty(
                &json!({"totalTokens": tokens, "promptTokensDetails": details}),
            ))
        }
        _ => Err(Refusal::new(
            404,
            format!("Method '{action}' is not found."),
        )),
    }
}

fn embed(request: &Value) -> Value {
    json!({"values": sample::embedding(&text_of(&request["content"]["parts"]))})
}

fn prompt_tokens(contents: &[Value]) -> usize {
    contents
        .iter()
        .map(|content| sample::tokens(&text_of(&content["parts"])))
        .sum()
}

/// The chunks of a stream; together they are the whole answer.
fn generate(model: &str, body: &Value) -> Result<Vec<Value>, Refusal> {
    let contents = vendor::list(body, "contents")?;
    let last = contents.last().unwrap_or(&Value::Null);
    let result = last["parts"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|part| part.get("functionResponse"));
    let config = &body["generationConfig"];
    let function = &body["toolConfig"]["functionCallingConfig"];
    let schema = [&config["responseSchema"], &config["responseJsonSchema"]]
        .into_iter()
        .find(|schema| schema.is_object());
    let declared = body["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|tool| {
            tool["functionDeclarations"]
                .as_array()
                .into_iter()
                .flatten()
        });
    let ask = Ask {
        text: result.map_or_else(
            || text_of(&last["parts"]),
            |result| result["response"].to_string(),
        ),
        after_tool: result.is_some(),
        tools: declared
            .map(|tool| {
                // Protocol buffers' JSON takes field names in both spellings, and clients use both.
                let spellings = [
                    "parameters",
                    "parametersJsonSchema",
                    "parameters_json_schema",
                ];
                let schema = spellings.into_iter().find_map(|name| tool.get(name));
                Tool {
                    name: tool["name"].as_str().unwrap_or_default().to_owned(),
                    schema: schema.cloned().unwrap_or_default(),
                }
            })
            .collect(),
        choice: match (
            function["mode"].as_str(),
            function["allowedFunctionNames"][0].as_str(),
        ) {
            (Some("NONE"), _) => Choice::None,
            (Some("ANY"), Some(name)) => Choice::Named(name.to_owned()),
            _ => Choice::Auto,
        },
        parallel: true,
        schema: schema
            .cloned()
            .or_else(|| (config["responseMimeType"] == "application/json").then_some(Value::Null)),
        limit: config["maxOutputTokens"].as_u64(),
    };
    let reply = Reply::to(&ask);
    let id = sample::id("", &[&ask.text, model]);
    let prompt = prompt_tokens(contents);
    let chunk = |parts: Value, last: bool| {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
        let mut usage = json!({"promptTokenCount": prompt, "totalTokenCount": prompt});
        if last {
            candidate["finishReason"] = json!(if reply.truncated {
                "MAX_TOKENS"
            } else {
                "STOP"
            });
            usage["candidatesTokenCount"] = json!(reply.tokens());
            usage["totalTokenCount"] = json!(prompt + reply.tokens());
        }
        json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": model, "responseId": id})
    };
    if reply.calls.is_empty() {
        let words = sample::words(&reply.text);
        let end = words.len().saturating_sub(1);
        Ok(words
            .into_iter()
            .enumerate()
            .map(|(at, word)| chunk(json!([{"text": word}]), at == end))
            .collect())
    } else {
        let parts: Vec<Value> = reply
            .calls
            .iter()
            .map(|call| json!({"functionCall": {"name": call.name, "args": call.arguments}}))
            .collect();
        Ok(vec![chunk(json!(parts), true)])
    }
}

fn join(chunks: &[Value]) -> Value {
    let mut whole = chunks.last().cloned().unwrap_or_default();
    let parts = |chunk: &Value| chunk["candidates"][0]["content"]["parts"].clone();
    if parts(&whole)[0]["text"].is_string() {
        let text: String = chunks
            .iter()
            .filter_map(|chunk| parts(chunk)[0]["text"].as_str().map(str::to_owned))
            .collect();
        whole["candidates"][0]["content"]["parts"] = json!([{"text": text}]);
    }
    whole
}

/// Events end with CR LF here; without `alt=sse` the chunks are the elements of one JSON array.
fn stream(chunks: &[Value], sse: bool) -> Answer {
    if sse {
        return Answer::events(
            chunks
                .iter()
                .map(|chunk| format!("data: {chunk}\r\n\r\n"))
                .collect(),
        );
    }
    let mut parts: Vec<bytes::Bytes> = chunks
        .iter()
        .enumerate()
        .map(|(at, chunk)| format!("{}{chunk:#}\n", if at == 0 { "[" } else { ",\r\n" }).into())
        .collect();
    parts.push("]".into());
    Answer {
        body: Body::Parts(parts),
        ..Answer::pretty(&Value::Null)
    }
}
