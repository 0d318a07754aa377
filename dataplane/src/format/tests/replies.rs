//! Documents, and backends that break the contract.

use std::num::NonZeroU32;

use bodhi_proto::chat::{
    Conversation, Embedded, Event, FinishReason, Generation, Prompt, ReplyEvent, Reranked, Timings,
    TokenLogprob, TopLogprob, Usage,
};
use bytes::BytesMut;

use super::{head, of, text};
use crate::api::error::Failure;
use crate::format::openai::Delivery;
use crate::format::{BadReply, embeddings, openai_chat, openai_completions, rerank};

fn end() -> ReplyEvent {
    ReplyEvent::End {
        usage: Usage {
            prompt: 10,
            cached: 4,
            completion: 3,
            reasoning: 1,
        },
        timings: Some(Timings {
            queued_ms: 0.25,
            prompt_ms: 12.0,
            predicted_ms: 30.0,
        }),
        load: None,
    }
}

fn token(bytes: &[u8]) -> TokenLogprob {
    let token = TopLogprob {
        bytes: bytes.to_vec(),
        id: 1,
        logprob: -0.5,
    };
    TokenLogprob {
        top: vec![token.clone()],
        token,
    }
}

fn chat(choices: u32, events: &[ReplyEvent]) -> Result<String, BadReply> {
    let generation = Generation {
        choices: NonZeroU32::new(choices).unwrap(),
        ..Generation::new(Prompt::Conversation(Conversation::default()))
    };
    let mut collector = openai_chat::Collector::new(head(), &generation, Delivery::default());
    for event in events {
        collector.push(event.clone())?;
    }
    let document = collector.finish()?;
    Ok(String::from_utf8(document.to_vec()).unwrap())
}

#[test]
fn a_chat_completion() {
    let events = [
        of(1, text("Zwei")),
        of(0, Event::Reasoning("Hm.".to_owned())),
        of(0, text("Grüße")),
        of(0, Event::Logprobs(vec![token("Grüße".as_bytes())])),
        of(1, Event::Finish(FinishReason::Stop)),
        of(0, Event::Finish(FinishReason::Length)),
        end(),
    ];
    insta::assert_snapshot!(chat(2, &events).unwrap());
}

#[test]
fn a_chat_completion_that_calls_tools() {
    let start = |index, id: &str| Event::ToolCallStart {
        index,
        id: id.to_owned(),
        name: "weather".to_owned(),
    };
    let arguments = |index, text: &str| Event::ToolCallArguments {
        index,
        text: text.to_owned(),
    };
    let events = [
        of(0, start(0, "call_a")),
        of(0, arguments(0, r#"{"city":"#)),
        of(0, start(1, "call_b")),
        of(0, arguments(0, r#""Zürich"}"#)),
        of(0, arguments(1, "{}")),
        of(0, Event::Finish(FinishReason::ToolCalls)),
        end(),
    ];
    insta::assert_snapshot!(chat(1, &events).unwrap());
}

#[test]
fn a_text_completion() {
    let body = br#"{"prompt":"x","logprobs":1}"#;
    let request = openai_completions::parse(body).unwrap();
    let mut collector = openai_completions::Collector::new(head(), &request);
    let tokens = vec![
        token("é".as_bytes()),
        token(b"\xf0\x9f"),
        token(b"\xa6\x80"),
        token(b"!"),
    ];
    for event in [
        of(0, text("é🦀!")),
        of(0, Event::Logprobs(tokens)),
        of(0, Event::Finish(FinishReason::Stop)),
        end(),
    ] {
        collector.push(0, event).unwrap();
    }
    let document = collector.finish().unwrap();
    insta::assert_snapshot!(std::str::from_utf8(&document).unwrap());
}

#[test]
fn replies_out_of_order_are_bad_gateways_and_never_an_invented_end() {
    let finish = || of(0, Event::Finish(FinishReason::Stop));
    let arguments = Event::ToolCallArguments {
        index: 0,
        text: String::new(),
    };
    let second = Event::ToolCallStart {
        index: 1,
        id: "a".to_owned(),
        name: "f".to_owned(),
    };
    let replies = [
        (vec![of(1, text("x"))], BadReply::Choice(1)),
        (vec![finish(), of(0, text("x"))], BadReply::AfterEnd),
        (vec![finish(), end(), end()], BadReply::AfterEnd),
        (vec![of(0, text("x")), end()], BadReply::Unfinished),
        (vec![of(0, arguments)], BadReply::ToolCall),
        (vec![of(0, second)], BadReply::ToolCall),
    ];
    let generation = Generation::new(Prompt::Conversation(Conversation::default()));
    let delivery = Delivery::default();
    for (events, expected) in replies {
        assert_eq!(chat(1, &events), Err(expected));
        let mut writer = openai_chat::Writer::new(&head(), &generation, delivery);
        let (bad, good) = events.split_last().unwrap();
        let mut out = BytesMut::new();
        for event in good {
            writer.push(event, &mut out).unwrap();
        }
        let written = out.len();
        assert_eq!(writer.push(bad, &mut out), Err(expected));
        assert_eq!(out.len(), written);
        assert_eq!(Failure::from(expected).code(), "invalid_response");
    }
    assert_eq!(chat(1, &[of(0, text("x"))]), Err(BadReply::Unfinished));
    assert_eq!(chat(1, &[finish()]), Err(BadReply::Unfinished));
}

#[test]
fn text_completions_have_text_only() {
    let request = openai_completions::parse(br#"{"prompt":["a","b"]}"#).unwrap();
    let mut writer = openai_completions::Writer::new(&head(), &request);
    let mut out = BytesMut::new();
    let refusal = of(0, Event::Refusal("no".to_owned()));
    assert_eq!(
        writer.push(0, &refusal, &mut out),
        Err(BadReply::Unexpected)
    );
    assert_eq!(writer.push(2, &end(), &mut out), Err(BadReply::Unexpected));
    assert!(out.is_empty());
}

#[test]
fn vectors_as_numbers_and_as_base64() {
    let embedded = Embedded {
        vectors: vec![vec![0.6, -0.8], vec![1.0, 0.0]],
        prompt_tokens: 7,
    };
    let respond = |body: &str| {
        let request = embeddings::parse(body.as_bytes()).unwrap();
        let document = request.respond(&embedded, "tiny")?;
        Ok::<_, embeddings::Refused>(String::from_utf8(document.to_vec()).unwrap())
    };
    insta::assert_snapshot!("floats", respond(r#"{"input":["a","b"]}"#).unwrap());
    let base64 = respond(r#"{"input":["a","b"],"encoding_format":"base64","dimensions":2}"#);
    insta::assert_snapshot!("base64", base64.unwrap());
    let cut = respond(r#"{"input":["a","b"],"dimensions":1}"#).unwrap_err();
    insta::assert_snapshot!("cut", cut);
    let one = respond(r#"{"input":"a"}"#).unwrap_err();
    let count = BadReply::Count {
        expected: 1,
        found: 2,
    };
    assert_eq!(one, count.into());
}

#[test]
fn the_best_documents_come_first() {
    let body =
        r#"{"query":"q","documents":["a",{"text":"b"},"c"],"top_n":2,"return_documents":true}"#;
    let request = rerank::parse(body.as_bytes()).unwrap();
    let scores = |scores: &[f32]| Reranked {
        scores: scores.to_vec(),
        prompt_tokens: 9,
    };
    let document = request
        .respond(&scores(&[-1.5, 0.25, 0.25]), "tiny")
        .unwrap();
    insta::assert_snapshot!(std::str::from_utf8(&document).unwrap());
    let nan = request.respond(&scores(&[f32::NAN, 0.0, 0.0]), "tiny");
    assert_eq!(nan, Err(BadReply::NotANumber));
}
