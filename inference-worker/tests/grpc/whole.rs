//! The whole worker, llama.cpp included, with a small model of random weights: what it says is
//! nonsense, but how it says it is held to all that was promised.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bodhi_proto::chat::{
    AssistantPart, Embedded, Embedding, Event, FaultCode, FinishReason, Generation, Message,
    OutputFormat, Part, Prompt, ReplyEvent, Sampling, Text, Tool, ToolCall,
};
use bodhi_worker::exit::Reason;
use bodhi_worker::models;
use bodhi_worker::start::llama::Llama;
use tempfile::TempDir;

use super::support::{Client, Worker, answer, chat, client, next, raw, ready, watch};
use super::{finish, text, usage};

#[path = "../llama/gguf.rs"]
mod gguf;

struct Model {
    folder: TempDir,
}

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        gguf::write(&folder.path().join("random.gguf"));
        Self { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("random.gguf")
    }

    async fn ready(&self, flags: &[&str]) -> (Worker, Client) {
        let sizes = [
            "--context-length",
            "512",
            "--parallel-slots",
            "2",
            "--threads",
            "1",
        ];
        let path = self.path().display().to_string();
        Worker::ready_with(Llama, &path, &[&sizes, flags].concat()).await
    }
}

fn greedy(generation: Generation, most: u32) -> Generation {
    Generation {
        sampling: Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        },
        max_output_tokens: Some(most),
        ..generation
    }
}

#[tokio::test]
async fn a_conversation_goes_on_where_the_last_turn_was_read() {
    let model = Model::new();
    let (_worker, mut client) = model.ready(&[]).await;
    let mut reports = watch(&mut client).await;
    let report = next(&mut reports).await;
    let info = report.model.unwrap();
    assert_eq!(info.architecture, "llama");
    assert_eq!(info.context_length, gguf::CONTEXT);
    assert_eq!(info.file_bytes, model.path().metadata().unwrap().len());
    assert_eq!(report.load.unwrap().slots, 2);

    let asked = greedy(chat("How are you today, my friend?"), 12);
    let first = answer(&mut client, asked.clone()).await.unwrap();
    assert!(!text(&first, 0).is_empty());
    assert!(finish(&first, 0).is_some());
    assert_eq!(usage(&first).cached, 0);
    let count = client.count(asked.prompt.clone().encode()).await.unwrap();
    assert_eq!(count.into_inner().tokens, usage(&first).prompt);

    let again = answer(&mut client, asked).await.unwrap();
    assert_eq!(text(&again, 0), text(&first, 0), "the same tokens");
    // All but the last token, which has to be read again for what comes after it.
    assert_eq!(usage(&again).cached, usage(&first).prompt - 1);
}

#[tokio::test]
async fn an_answer_is_held_to_a_schema() {
    let model = Model::new();
    let (_worker, mut client) = model.ready(&[]).await;
    let schema = r#"{"type":"object","properties":{"ok":{"type":"boolean"}},"required":["ok"],"additionalProperties":false}"#;
    for choices in [1, 2] {
        let generation = Generation {
            output: OutputFormat::JsonSchema {
                name: None,
                schema: schema.into(),
            },
            choices: NonZeroU32::new(choices).unwrap(),
            ..greedy(chat("Is it so?"), 200)
        };
        let events = answer(&mut client, generation).await.unwrap();
        for choice in 0..choices {
            assert_eq!(finish(&events, choice), Some(FinishReason::Stop));
            let said = text(&events, choice);
            let said: serde_json::Value = serde_json::from_str(&said).expect(&said);
            assert!(said["ok"].is_boolean(), "{said}");
        }
    }
    let broken = Generation {
        output: OutputFormat::Grammar("root ::= (".into()),
        ..chat("Is it so?")
    };
    let fault = answer(&mut client, broken).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::InvalidValue, "{fault}");
    assert_eq!(fault.param.as_deref(), Some("response_format"));
}

#[tokio::test]
async fn log_probabilities_follow_the_text_they_are_of() {
    let model = Model::new();
    let (_worker, mut client) = model.ready(&[]).await;
    let generation = Generation {
        logprobs: Some(3),
        ..greedy(Generation::new(Prompt::Raw(raw("abc"))), 6)
    };
    let events = answer(&mut client, generation).await.unwrap();
    let mut tokens = Vec::new();
    for event in &events {
        if let ReplyEvent::Choice {
            event: Event::Logprobs(logprobs),
            ..
        } = event
        {
            tokens.extend(logprobs);
        }
    }
    assert_eq!(tokens.len() as u32, usage(&events).completion);
    for token in &tokens {
        assert_eq!(token.top.len(), 3);
        assert!(token.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        // Greedy: the chosen one is the likeliest.
        assert_eq!(token.top[0].id, token.token.id);
    }
    let said: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token.token.bytes.clone())
        .collect();
    assert!(String::from_utf8_lossy(&said).starts_with(&text(&events, 0)));
}

#[tokio::test]
async fn what_this_model_cannot_do_is_said() {
    let model = Model::new();
    let (_worker, mut client) = model.ready(&[]).await;
    let mut gap = raw("before");
    gap.suffix = Some("after".into());
    let fault = answer(&mut client, Generation::new(Prompt::Raw(gap)))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::Unsupported);
    assert_eq!(fault.param.as_deref(), Some("suffix"));
    let fault = answer(&mut client, chat(&"long ".repeat(500)))
        .await
        .unwrap_err();
    assert_eq!(fault.code, FaultCode::ContextLengthExceeded);
    assert!(fault.message.contains("512"), "{fault}");
}

#[tokio::test]
async fn vectors_are_of_length_one_and_batches_are_as_their_parts() {
    let model = Model::new();
    let (_worker, mut client) = model.ready(&["--features", "embeddings"]).await;
    let texts = ["a red fish", "the sky at night", "x"];
    let embedding = |texts: &[&str]| Embedding {
        inputs: texts
            .iter()
            .map(|text| Text::Plain((*text).into()))
            .collect(),
        normalized: true,
    };
    let all = client.embed(embedding(&texts).encode()).await.unwrap();
    let all = Embedded::decode(all.into_inner());
    for (text, together) in texts.iter().zip(&all.vectors) {
        let length: f32 = together.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-4, "{text}: {length}");
        let alone = client.embed(embedding(&[text]).encode()).await.unwrap();
        let alone = &Embedded::decode(alone.into_inner()).vectors[0];
        let same: f32 = alone.iter().zip(together).map(|(a, b)| a * b).sum();
        assert!(same > 0.9999, "{text}: {same}");
    }
    let fault = answer(&mut client, chat("hi")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unsupported);
}

#[tokio::test]
async fn a_start_that_cannot_succeed_says_why_with_numbers() {
    let model = Model::new();
    let path = model.path().display().to_string();
    let corrupt = model.folder.path().join("cut.gguf");
    let bytes = std::fs::read(model.path()).unwrap();
    std::fs::write(&corrupt, &bytes[..bytes.len() / 2]).unwrap();
    let corrupt = corrupt.display().to_string();
    let huge = ["--context-length", "16777216", "--parallel-slots", "64"];
    let cases: [(&str, &[&str], Reason, &str); 5] = [
        (
            &path,
            &huge,
            Reason::Model(models::Reason::InsufficientMemory),
            "free",
        ),
        (
            &path,
            &["--features", "chat,rerank"],
            Reason::InvalidSettings,
            "--features",
        ),
        (
            &path,
            &["--features", "rerank"],
            Reason::InvalidSettings,
            "no reranker",
        ),
        (
            &path,
            &["--gpu-layers", "3"],
            Reason::GpuUnavailable,
            "--gpu-layers 3",
        ),
        (
            &corrupt,
            &[],
            Reason::Model(models::Reason::ArtifactCorrupted),
            "bytes",
        ),
    ];
    for (path, flags, reason, words) in cases {
        // It may be over before anybody has connected.
        let fatal = Worker::start_with(Llama, path, flags)
            .ended()
            .await
            .unwrap_err();
        assert_eq!(fatal.reason, reason, "{fatal}");
        assert!(fatal.message.contains(words), "{fatal}");
    }
}

/// The model of the repository, which was trained to do this much.
#[tokio::test]
async fn the_demo_model_calls_a_tool_and_says_what_it_answered() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/models/demo.gguf");
    let flags = ["--parallel-slots", "2", "--threads", "2"];
    let path = demo.display().to_string();
    let (_worker, mut client) = Worker::ready_with(Llama, &path, &flags).await;

    let capital = greedy(chat("What is the capital of France?"), 64);
    let events = answer(&mut client, capital).await.unwrap();
    assert_eq!(text(&events, 0), "The capital of France is Paris.");
    assert_eq!(finish(&events, 0), Some(FinishReason::Stop));

    let asked = chat("What is the weather in Paris?").prompt;
    let events = answer(&mut client, with_weather(asked, vec![]))
        .await
        .unwrap();
    assert_eq!(finish(&events, 0), Some(FinishReason::ToolCalls));
    assert_eq!(text(&events, 0), "", "no tag of the call is told as text");
    let call = call(&events);
    assert_eq!(call.name, "get_weather");
    let arguments: serde_json::Value = serde_json::from_str(&call.arguments).unwrap();
    assert_eq!(arguments, serde_json::json!({"city": "Paris"}));

    let answered = Message::Tool {
        call: call.id.clone(),
        name: None,
        content: vec![Part::Text("It's always sunny in Paris!".into())],
        failed: false,
    };
    let turns = vec![
        Message::Assistant(vec![AssistantPart::ToolCall(call)]),
        answered,
    ];
    let asked = chat("What is the weather in Paris?").prompt;
    let events = answer(&mut client, with_weather(asked, turns))
        .await
        .unwrap();
    // So small a model copies most of a sentence, not all of it.
    let said = text(&events, 0);
    assert!(
        said.starts_with("It's always ") && said.ends_with(" in Paris!"),
        "{said}"
    );
    assert_eq!(finish(&events, 0), Some(FinishReason::Stop));
    let usage = usage(&events);
    assert!(
        usage.cached > usage.prompt / 2,
        "earlier turns were read already: {usage:?}"
    );
}

/// A conversation with a tool and further turns.
fn with_weather(asked: Prompt, turns: Vec<Message>) -> Generation {
    let Prompt::Conversation(mut conversation) = asked else {
        panic!("no conversation");
    };
    conversation.messages.extend(turns);
    let parameters =
        r#"{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}"#;
    conversation.tools = vec![Tool {
        name: "get_weather".into(),
        description: Some(
            "Get the current weather in a given location. The result is one sentence.".into(),
        ),
        parameters: Some(parameters.into()),
        strict: true,
    }];
    greedy(Generation::new(Prompt::Conversation(conversation)), 128)
}

/// The one call of an answer.
fn call(events: &[ReplyEvent]) -> ToolCall {
    let mut call = ToolCall {
        id: String::new(),
        name: String::new(),
        arguments: String::new(),
    };
    for event in events {
        let ReplyEvent::Choice { event, .. } = event else {
            continue;
        };
        match event {
            Event::ToolCallStart { index: 0, id, name } => {
                (call.id, call.name) = (id.clone(), name.clone());
            }
            Event::ToolCallArguments { text, .. } => call.arguments += text,
            _ => {}
        }
    }
    call
}

#[tokio::test]
async fn the_program_ends_without_fault_in_the_middle_of_answers() {
    let model = Model::new();
    let socket = model.folder.path().join("worker.sock");
    for round in 0..5 {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_bodhi-worker"))
            .args([
                "--drain",
                "0",
                "--parallel-slots",
                "2",
                "--threads",
                "2",
                "--model",
            ])
            .arg(model.path())
            .arg(format!("--listen=unix:{}", socket.display()))
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut client = client(socket.clone()).await;
        ready(&mut client).await;
        let answers: Vec<_> = (0..2)
            .map(|_| {
                let mut client = client.clone();
                let mut endless = greedy(chat("On and on"), 400);
                endless.sampling.ignore_eos = true;
                tokio::spawn(async move { answer(&mut client, endless).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20 + 15 * round)).await;
        let id = program.id().unwrap().to_string();
        let sent = std::process::Command::new("kill")
            .args(["-TERM", &id])
            .status();
        assert!(sent.unwrap().success());
        let status = program.wait().await.unwrap();
        assert_eq!(status.code(), Some(0), "round {round}: {status}");
        for answer in answers {
            // Whole, or broken off with a word.
            if let Err(fault) = answer.await.unwrap() {
                assert_eq!(fault.code, FaultCode::Draining, "round {round}: {fault}");
            }
        }
    }
}
