//! Streams and documents, from the same events.

use std::num::NonZeroU32;

use bodhi_proto::chat::{
    Conversation, Event, FinishReason, Generation, Prompt, ReplyEvent, Timings, TokenLogprob,
    TopLogprob, Usage,
};
use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{head, of, text};
use crate::format::openai::{Calls, Delivery};
use crate::format::{openai_chat, openai_completions};
use crate::proxy::stream::EventBoundary;

fn generation(choices: u32, logprobs: Option<u32>) -> Generation {
    Generation {
        choices: NonZeroU32::new(choices).unwrap(),
        logprobs,
        ..Generation::new(Prompt::Conversation(Conversation::default()))
    }
}

fn raw(prompts: usize, choices: u32, scored: bool) -> openai_completions::Request {
    let logprobs = if scored { json!(1) } else { Value::Null };
    let body = json!({
        "prompt": vec!["x"; prompts], "n": choices, "logprobs": logprobs,
        "stream": true, "stream_options": {"include_usage": true},
    });
    openai_completions::parse(body.to_string().as_bytes()).unwrap()
}

fn streamed() -> Delivery {
    Delivery {
        stream: true,
        include_usage: true,
        calls: Calls::Tools,
    }
}

/// The events of a stream; every frame is whole events.
struct Stream {
    out: BytesMut,
    boundary: EventBoundary,
}

impl Stream {
    fn new() -> Self {
        Self {
            out: BytesMut::new(),
            boundary: EventBoundary::default(),
        }
    }

    fn frame(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let before = self.out.len();
        write(&mut self.out);
        self.boundary.push(&self.out[before..]);
        assert!(self.boundary.is_between_events());
    }

    fn text(self) -> String {
        String::from_utf8(self.out.to_vec()).unwrap()
    }

    /// Chunks, and whether `[DONE]` came after them.
    fn chunks(self) -> (Vec<Value>, bool) {
        let text = self.text();
        let events = text.split_terminator("\n\n");
        let mut data: Vec<_> = events
            .map(|event| event.strip_prefix("data: ").unwrap())
            .collect();
        let done = data.last() == Some(&"[DONE]");
        data.truncate(data.len() - usize::from(done));
        let chunks = data.iter().map(|data| serde_json::from_str(data).unwrap());
        (chunks.collect(), done)
    }
}

fn chat_stream(generation: &Generation, delivery: Delivery, events: &[ReplyEvent]) -> Stream {
    let mut writer = openai_chat::Writer::new(&head(), generation, delivery);
    let mut stream = Stream::new();
    for event in events {
        stream.frame(|out| writer.push(event, out).unwrap());
    }
    stream
}

fn chat_document(generation: &Generation, delivery: Delivery, events: &[ReplyEvent]) -> Value {
    let mut collector = openai_chat::Collector::new(head(), generation, delivery);
    for event in events {
        collector.push(event.clone()).unwrap();
    }
    serde_json::from_slice(&collector.finish().unwrap()).unwrap()
}

/// As an SDK puts a stream together again.
fn assembled(chunks: &[Value]) -> Value {
    let mut choices: Vec<Value> = Vec::new();
    let mut usage = Value::Null;
    let mut timings = Value::Null;
    for chunk in chunks {
        for piece in chunk["choices"].as_array().unwrap() {
            let index = usize::try_from(piece["index"].as_u64().unwrap()).unwrap();
            while choices.len() <= index {
                let index = choices.len();
                choices.push(
                    json!({"index": index, "message": {}, "logprobs": null, "finish_reason": null}),
                );
            }
            let choice = &mut choices[index];
            assert_eq!(
                choice["finish_reason"],
                Value::Null,
                "nothing follows the finish"
            );
            merge(&mut choice["message"], &piece["delta"]);
            let probabilities = &piece["logprobs"]["content"];
            if let Some(tokens) = probabilities.as_array() {
                let all = &mut choice["logprobs"];
                if all.is_null() {
                    *all = json!({"content": [], "refusal": null});
                }
                all["content"]
                    .as_array_mut()
                    .unwrap()
                    .extend(tokens.iter().cloned());
            }
            choice["finish_reason"] = piece["finish_reason"].clone();
        }
        if !chunk["usage"].is_null() {
            usage = chunk["usage"].clone();
            timings = chunk["timings"].clone();
        }
    }
    for choice in &mut choices {
        let message = choice["message"].as_object_mut().unwrap();
        let other = message.contains_key("tool_calls") || message.contains_key("refusal");
        if other && message["content"] == "" {
            message.insert("content".to_owned(), Value::Null);
        }
        message.entry("refusal").or_insert(Value::Null);
    }
    json!({"choices": choices, "usage": usage, "timings": timings})
}

/// Strings are joined, but for those that come once.
fn merge(into: &mut Value, delta: &Value) {
    for (key, value) in delta.as_object().unwrap() {
        if key == "index" {
            continue;
        }
        let place = &mut into[key.as_str()];
        match (key.as_str(), value) {
            ("tool_calls", Value::Array(calls)) => {
                for call in calls {
                    let index = usize::try_from(call["index"].as_u64().unwrap()).unwrap();
                    if place.is_null() {
                        *place = json!([]);
                    }
                    let all = place.as_array_mut().unwrap();
                    if all.len() == index {
                        all.push(json!({}));
                    }
                    merge(&mut all[index], call);
                }
            }
            (_, Value::Object(_)) => {
                if place.is_null() {
                    *place = json!({});
                }
                merge(place, value);
            }
            (_, Value::String(more)) => {
                let before = place.as_str().unwrap_or_default();
                assert!(
                    before.is_empty() || !["role", "id", "name", "type"].contains(&key.as_str())
                );
                *place = json!([before, more].concat());
            }
            _ => panic!("no delta has {key}: {value}"),
        }
    }
}

fn token(bytes: &[u8], logprob: f32) -> TopLogprob {
    TopLogprob {
        bytes: bytes.to_vec(),
        id: 7,
        logprob,
    }
}

fn end() -> ReplyEvent {
    ReplyEvent::End {
        usage: Usage {
            prompt: 12,
            cached: 8,
            completion: 5,
            reasoning: 2,
        },
        timings: Some(Timings {
            queued_ms: 0.5,
            prompt_ms: 20.0,
            predicted_ms: 50.0,
        }),
        load: None,
    }
}

/// What one answer may be: a piece of text, probabilities of some tokens, part of a call.
fn piece() -> impl Strategy<Value = Event> {
    let text = "[a-z\"\\\\\n\u{e9}\u{1f980}\u{2028}\u{1}]{0,4}";
    let logprobs = vec((vec(any::<u8>(), 0..4), -20.0_f32..0.0), 1..3).prop_map(|tokens| {
        let tokens = tokens.iter().map(|(bytes, logprob)| TokenLogprob {
            token: token(bytes, *logprob),
            top: vec![token(b"a", *logprob), token(b"b", f32::NEG_INFINITY)],
        });
        Event::Logprobs(tokens.collect())
    });
    prop_oneof![
        text.prop_map(Event::Text),
        text.prop_map(Event::Reasoning),
        text.prop_map(Event::Refusal),
        logprobs,
        text.prop_map(|text| Event::ToolCallArguments { index: 0, text }),
        Just(Event::ToolCallStart {
            index: 0,
            id: String::new(),
            name: String::new(),
        }),
    ]
}

/// Numbers the calls of an answer, and ends it.
fn answer() -> impl Strategy<Value = Vec<Event>> {
    let finish = prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::ToolCalls),
        Just(FinishReason::ContentFilter),
    ];
    (vec(piece(), 0..12), finish).prop_map(|(pieces, finish)| {
        let mut calls = 0;
        let mut events = Vec::new();
        for piece in pieces {
            match piece {
                Event::ToolCallStart { .. } => {
                    events.push(Event::ToolCallStart {
                        index: calls,
                        id: format!("call_{calls}"),
                        name: "f".to_owned(),
                    });
                    calls += 1;
                }
                Event::ToolCallArguments { text, .. } if calls > 0 => {
                    let index = calls - 1;
                    events.push(Event::ToolCallArguments { index, text });
                }
                Event::ToolCallArguments { .. } => {}
                other => events.push(other),
            }
        }
        events.push(Event::Finish(finish));
        events
    })
}

/// Several answers, mixed as a worker mixes them.
fn reply(answers: Vec<Vec<Event>>, mut order: u64) -> Vec<ReplyEvent> {
    let mut rest: Vec<_> = (0..).zip(answers.into_iter().map(Vec::into_iter)).collect();
    let mut events = Vec::new();
    while !rest.is_empty() {
        let at = usize::try_from(order % rest.len() as u64).unwrap();
        order = order.rotate_right(3).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let (choice, answer) = &mut rest[at];
        match answer.next() {
            Some(event) => events.push(of(*choice, event)),
            None => drop(rest.remove(at)),
        }
    }
    events.push(end());
    events
}

proptest! {
    #[test]
    fn a_stream_put_together_is_the_document(
        answers in vec(answer(), 1..4),
        order in any::<u64>(),
        joined in any::<bool>(),
    ) {
        let generation = generation(u32::try_from(answers.len()).unwrap(), joined.then_some(2));
        let events = reply(answers, order);
        let document = chat_document(&generation, streamed(), &events);
        let (chunks, done) = chat_stream(&generation, streamed(), &events).chunks();
        prop_assert!(done);
        let assembled = assembled(&chunks);
        for key in ["choices", "usage", "timings"] {
            prop_assert_eq!(&assembled[key], &document[key]);
        }
    }

    #[test]
    fn completions_put_together_are_the_document(
        texts in vec(vec("[a-z\u{e9}]{0,3}", 0..5), 4),
        order in any::<u64>(),
        scored in any::<bool>(),
    ) {
        let request = raw(2, 2, scored);
        let answers: Vec<Vec<Event>> = texts.into_iter().map(|pieces| {
            let mut events = Vec::new();
            for piece in pieces {
                events.push(text(&piece));
                if scored {
                    let token = token(piece.as_bytes(), -1.0);
                    events.push(Event::Logprobs(vec![TokenLogprob { top: vec![token.clone()], token }]));
                }
            }
            events.push(Event::Finish(FinishReason::Stop));
            events
        }).collect();
        let prompts = [reply(answers[..2].to_vec(), order), reply(answers[2..].to_vec(), order)];
        let mut collector = openai_completions::Collector::new(head(), &request);
        let mut writer = openai_completions::Writer::new(&head(), &request);
        let mut stream = Stream::new();
        for (prompt, events) in prompts.into_iter().enumerate() {
            for event in events {
                stream.frame(|out| writer.push(prompt, &event, out).unwrap());
                collector.push(prompt, event).unwrap();
            }
        }
        let document: Value = serde_json::from_slice(&collector.finish().unwrap()).unwrap();
        let (chunks, done) = stream.chunks();
        prop_assert!(done);
        for choice in document["choices"].as_array().unwrap() {
            let pieces: Vec<&Value> = chunks
                .iter()
                .flat_map(|chunk| chunk["choices"].as_array().unwrap())
                .filter(|piece| piece["index"] == choice["index"])
                .collect();
            let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
            prop_assert_eq!(&json!(text), &choice["text"]);
            prop_assert_eq!(&pieces.last().unwrap()["finish_reason"], &choice["finish_reason"]);
            for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let parts = pieces.iter().filter_map(|piece| piece["logprobs"][key].as_array());
                let all: Vec<Value> = parts.flatten().cloned().collect();
                let whole = choice["logprobs"][key].as_array().cloned().unwrap_or_default();
                prop_assert_eq!(all, whole);
            }
        }
        prop_assert_eq!(&chunks.last().unwrap()["usage"], &document["usage"]);
        prop_assert_eq!(&document["usage"]["total_tokens"], &json!(34));
    }
}

/// A stream that OpenAI sent, without what only it has; and the events that it was made of.
fn recorded(stream: &str) -> (Vec<Value>, Vec<ReplyEvent>) {
    let data = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "));
    let mut chunks = Vec::new();
    let mut events = Vec::new();
    for data in data.filter(|data| *data != "[DONE]") {
        let mut chunk: Value = serde_json::from_str(data).unwrap();
        for key in ["service_tier", "obfuscation"] {
            chunk.as_object_mut().unwrap().remove(key);
        }
        chunk["model"] = json!(head().model);
        let choice = chunk["choices"][0].clone();
        for call in choice["delta"]["tool_calls"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let string = |value: &Value| value.as_str().unwrap().to_owned();
            let index = u32::try_from(call["index"].as_u64().unwrap()).unwrap();
            let event = match call.get("id") {
                Some(id) => Event::ToolCallStart {
                    index,
                    id: string(id),
                    name: string(&call["function"]["name"]),
                },
                None => Event::ToolCallArguments {
                    index,
                    text: string(&call["function"]["arguments"]),
                },
            };
            events.push(of(0, event));
        }
        if let Some(content) = choice["delta"]["content"]
            .as_str()
            .filter(|c| !c.is_empty())
        {
            events.push(of(0, text(content)));
        }
        match choice["finish_reason"].as_str() {
            Some("stop") => events.push(of(0, Event::Finish(FinishReason::Stop))),
            Some("tool_calls") => events.push(of(0, Event::Finish(FinishReason::ToolCalls))),
            _ => {}
        }
        chunks.push(chunk);
    }
    let usage = Usage {
        prompt: 11,
        completion: 9,
        ..Usage::default()
    };
    events.push(ReplyEvent::End {
        usage,
        timings: None,
        load: None,
    });
    (chunks, events)
}

#[test]
fn streams_are_as_openai_sends_them() {
    let (mut theirs, events) = recorded(include_str!("../../../../tests/fixtures/openai-chat.sse"));
    // Ours say less at the beginning and more at the end.
    let delta = theirs[0]["choices"][0]["delta"].as_object_mut().unwrap();
    delta.remove("refusal");
    let last = theirs.last_mut().unwrap();
    last["usage"]["completion_tokens_details"] = json!({"reasoning_tokens": 0});
    let (ours, done) = chat_stream(&generation(1, None), streamed(), &events).chunks();
    assert_eq!(ours, theirs);
    assert!(done);
}

#[test]
fn tool_calls_are_as_openai_sends_them() {
    let fixture = include_str!("../../../../tests/fixtures/openai-chat-tools.sse");
    let (theirs, events) = recorded(fixture);
    let (ours, _) = chat_stream(&generation(1, None), streamed(), &events).chunks();
    // Theirs begins the first call in the chunk that has the role.
    let mut first = theirs[0].clone();
    let delta = &mut first["choices"][0]["delta"];
    *delta = json!({"tool_calls": delta["tool_calls"]});
    assert_eq!(
        ours[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    assert_eq!(ours[1], first);
    assert_eq!(ours[2..ours.len() - 1], theirs[1..]);
}

#[test]
fn the_bytes_of_a_stream() {
    let events = [
        of(0, Event::Reasoning("Hm.".to_owned())),
        of(0, text("Grüße\n\"")),
        of(1, text("x")),
        of(0, Event::Finish(FinishReason::Length)),
        of(1, Event::Finish(FinishReason::Stop)),
        end(),
    ];
    let generation = generation(2, None);
    insta::assert_snapshot!(
        "usage-told",
        chat_stream(&generation, streamed(), &events).text()
    );
    let delivery = Delivery {
        include_usage: false,
        ..streamed()
    };
    insta::assert_snapshot!(
        "usage-not-told",
        chat_stream(&generation, delivery, &events).text()
    );
}

#[test]
fn older_calls_are_answered_in_the_older_way() {
    let call = |index, id: &str| Event::ToolCallStart {
        index,
        id: id.to_owned(),
        name: "f".to_owned(),
    };
    let events = [
        of(0, call(0, "a")),
        of(
            0,
            Event::ToolCallArguments {
                index: 0,
                text: "{}".to_owned(),
            },
        ),
        of(0, call(1, "b")),
        of(0, Event::Finish(FinishReason::ToolCalls)),
        end(),
    ];
    let delivery = Delivery {
        calls: Calls::Function,
        ..streamed()
    };
    let generation = generation(1, None);
    let choice = chat_document(&generation, delivery, &events)["choices"][0].clone();
    let expected = json!({"name": "f", "arguments": "{}"});
    assert_eq!(choice["message"]["function_call"], expected);
    assert_eq!(choice["message"]["content"], Value::Null);
    assert_eq!(choice["finish_reason"], "function_call");
    let (chunks, _) = chat_stream(&generation, delivery, &events).chunks();
    let assembled = assembled(&chunks);
    assert_eq!(
        assembled["choices"][0]["message"]["function_call"],
        expected
    );
}

#[test]
fn text_and_the_probabilities_of_its_tokens_are_one_chunk() {
    let logprobs = Event::Logprobs(vec![TokenLogprob {
        token: token(b"Hi", -0.25),
        top: vec![token(b"Hi", -0.25), token(b"\xf0\x9f", f32::NEG_INFINITY)],
    }]);
    let events = [
        of(0, text("H")),
        of(0, text("i")),
        of(0, logprobs),
        of(0, text("!")),
        of(0, Event::Finish(FinishReason::Stop)),
        end(),
    ];
    let stream = chat_stream(&generation(1, Some(2)), streamed(), &events);
    insta::assert_snapshot!(stream.text());
}
