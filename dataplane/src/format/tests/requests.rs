//! Bodies and what they mean.

use std::fmt::Debug;

use crate::api::error::Failure;
use crate::format::{Fault, embeddings, openai_chat, openai_completions, rerank};

/// Accepted bodies, by endpoint; the folder is the fuzzer's corpus, too.
fn accepted<T: Debug>(name: &str, parse: impl Fn(&[u8]) -> Result<T, Fault>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/request");
    let body = std::fs::read(format!("{folder}/{name}")).unwrap();
    insta::assert_debug_snapshot!(name, parse(&body[1..]).unwrap());
}

#[test]
fn chats() {
    for name in [
        "chat-all",
        "chat-parts",
        "chat-tools",
        "chat-functions",
        "chat-nulls",
    ] {
        accepted(name, openai_chat::parse);
    }
}

#[test]
fn completions() {
    for name in ["completions-text", "completions-batch"] {
        accepted(name, openai_completions::parse);
    }
}

#[test]
fn embeddings_and_rerank() {
    accepted("embeddings-tokens", embeddings::parse);
    accepted("rerank", rerank::parse);
}

#[test]
fn a_fault_says_where_it_is_and_what_was_expected() {
    let user = r#"{"role":"user","content":"hi"}"#;
    let message = |message: &str| format!(r#"{{"messages":[{user},{message}]}}"#);
    let with = |members: &str| format!(r#"{{"messages":[{user}],{members}}}"#);
    let tool = r#"{"type":"function","function":{"name":"f"}}"#;
    let bodies = [
        "[]".to_owned(),
        "{}".to_owned(),
        r#"{"messages":{}}"#.to_owned(),
        r#"{"messages":[]}"#.to_owned(),
        message("7"),
        message("{}"),
        message(r#"{"role":"robot"}"#),
        message(r#"{"role":"user"}"#),
        message(r#"{"role":"user","content":7}"#),
        message(r#"{"role":"user","content":"\ud83d"}"#),
        message(r#"{"role":"user","content":["hi"]}"#),
        message(r#"{"role":"user","content":[{"text":"hi"}]}"#),
        message(r#"{"role":"user","content":[{"type":"text","text":"a"},{"type":"input_audio"}]}"#),
        message(r#"{"role":"user","content":[{"type":"file"}]}"#),
        message(
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"file:///x"}}]}"#,
        ),
        message(
            r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png,x"}}]}"#,
        ),
        message(r#"{"role":"system","content":[{"type":"image_url"}]}"#),
        message(r#"{"role":"assistant"}"#),
        message(r#"{"role":"assistant","tool_calls":[]}"#),
        message(r#"{"role":"assistant","tool_calls":[{"type":"custom"}]}"#),
        message(r#"{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f"}}]}"#),
        message(
            r#"{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":{}}}]}"#,
        ),
        message(r#"{"role":"assistant","audio":{"id":"x"}}"#),
        message(r#"{"role":"tool","content":"x"}"#),
        with(r#""tools":[{"type":"web_search"}]"#),
        with(r#""tools":[{"type":"function"}]"#),
        with(r#""tools":[{"function":{"name":"f","parameters":[]}}]"#),
        with(r#""tools":[],"functions":[]"#),
        with(r#""tool_choice":"required""#),
        with(r#""tool_choice":"any""#),
        with(r#""tool_choice":true"#),
        with(r#""tool_choice":{"type":"allowed_tools"}"#),
        with(&format!(
            r#""tools":[{tool}],"tool_choice":{{"type":"function","function":{{"name":"g"}}}}"#
        )),
        with(r#""modalities":["text","audio"]"#),
        with(r#""reasoning_effort":"huge""#),
        with(r#""max_tokens":0"#),
        with(r#""max_completion_tokens":1.5"#),
        with(r#""temperature":"hot""#),
        with(r#""temperature":2.1"#),
        with(r#""n":17"#),
        with(r#""top_logprobs":3"#),
        with(r#""logprobs":true,"top_logprobs":21"#),
        with(r#""logprobs":5"#),
        with(r#""stream":"yes""#),
        with(r#""stream_options":{"include_usage":1}"#),
        with(r#""chat_template_kwargs":"x""#),
        with(
            r#""response_format":{"type":"json_schema","json_schema":{"name":"x","schema":"{}"}}"#,
        ),
    ];
    let told = bodies.map(|body| {
        let fault = openai_chat::parse(body.as_bytes()).expect_err(&body);
        told(fault)
    });
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn faults_of_the_smaller_endpoints() {
    let completions = [
        r#"{"prompt":[]}"#,
        r#"{"prompt":{}}"#,
        r#"{"prompt":[1,"a"]}"#,
        r#"{"prompt":["a",1]}"#,
        r#"{"prompt":[[1],[]]}"#,
        r#"{"prompt":[-1]}"#,
        r#"{"prompt":"a","best_of":2}"#,
        r#"{"prompt":"a","logprobs":21}"#,
        r#"{"prompt":"a","max_tokens":-1}"#,
    ];
    let embeddings = [
        r#"{"input":""}"#,
        r#"{"input":[]}"#,
        r#"{"input":"a","encoding_format":"hex"}"#,
        r#"{"input":"a","dimensions":0}"#,
    ];
    let rerank = [
        r#"{"documents":["a"]}"#,
        r#"{"query":"a","documents":[]}"#,
        r#"{"query":"a","documents":[1]}"#,
        r#"{"query":"a","documents":[{}]}"#,
        r#"{"query":"a","documents":["a"],"top_n":0}"#,
    ];
    let mut lines = Vec::new();
    for body in completions {
        lines.push(told(
            openai_completions::parse(body.as_bytes()).expect_err(body),
        ));
    }
    for body in embeddings {
        lines.push(told(embeddings::parse(body.as_bytes()).expect_err(body)));
    }
    for body in rerank {
        lines.push(told(rerank::parse(body.as_bytes()).expect_err(body)));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

/// What the client is told.
fn told(fault: Fault) -> String {
    let param = fault.param().map(str::to_owned);
    let failure = Failure::from(fault);
    assert_eq!(failure.status(), 400);
    format!(
        "{} [{}] {}",
        failure.code(),
        param.unwrap_or_default(),
        failure.message()
    )
}

#[test]
fn an_object_with_countless_members_is_refused_where_keys_are_looked_up() {
    let members: Vec<_> = (0..2000).map(|n| format!("\"{n}\":1")).collect();
    let members = members.join(",");
    let message = r#""messages":[{"role":"user","content":"hi"}]"#;
    let fault = openai_chat::parse(format!("{{{message},{members}}}").as_bytes()).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "the request body must have at most 1024 members"
    );
    // Of biases there may be as many as there are tokens.
    let biases = format!("{{{message},\"logit_bias\":{{{members}}}}}");
    let (generation, _) = openai_chat::parse(biases.as_bytes()).unwrap();
    assert_eq!(generation.sampling.logit_bias.len(), 2000);
}

#[test]
fn lists_have_an_end() {
    let list = |of: &str, len| format!("[{}]", vec![of; len].join(","));
    let prompts = |len| {
        openai_completions::parse(format!(r#"{{"prompt":{}}}"#, list("\"\"", len)).as_bytes())
    };
    assert_eq!(prompts(128).unwrap().prompts(), 128);
    assert_eq!(
        prompts(129).unwrap_err().to_string(),
        "'prompt' must have at most 128 texts"
    );
    let inputs = |len| embeddings::parse(format!(r#"{{"input":{}}}"#, list("[1]", len)).as_bytes());
    assert!(inputs(2048).is_ok());
    assert_eq!(
        inputs(2049).unwrap_err().to_string(),
        "'input' must have at most 2048 texts"
    );
    let body = |len| format!(r#"{{"query":"q","documents":{}}}"#, list("\"a\"", len));
    assert!(rerank::parse(body(1000).as_bytes()).is_ok());
    assert!(rerank::parse(body(1001).as_bytes()).is_err());
    // One list of tokens is one text, however long.
    let tokens = format!(r#"{{"prompt":{}}}"#, list("7", 10_000));
    assert_eq!(
        openai_completions::parse(tokens.as_bytes())
            .unwrap()
            .prompts(),
        1
    );
}

#[test]
fn text_may_have_every_escape() {
    let body =
        r#"{"messages":[{"role":"user","content":"\u00e9\ud83d\ude00\n\/\u0000"}],"\ud800":1}"#;
    let (generation, _) = openai_chat::parse(body.as_bytes()).unwrap();
    assert!(format!("{generation:?}").contains("é😀\\n/\\0"));
}
