//! The service over a real Unix socket, with the fake engine behind it.

mod support;
#[cfg(feature = "llama")]
#[path = "grpc/whole.rs"]
mod whole;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bodhi_proto::chat::{
    Embedded, Embedding, Event, FaultCode, FinishReason, Generation, OutputFormat, Phase, Prompt,
    ReplyEvent, Reranked, Reranking, Sampling, Text, Tool, Usage,
};
use bodhi_worker::exit::Reason;
use bodhi_worker::models;
use bodhi_worker::start::fake::{Fake, File};
use support::{Worker, answer, chat, next, raw, watch};
use tokio::time::timeout;

fn text(events: &[ReplyEvent], choice: u32) -> String {
    let texts = events.iter().filter_map(|event| match event {
        ReplyEvent::Choice {
            choice: c,
            event: Event::Text(text),
        } if *c == choice => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

fn finish(events: &[ReplyEvent], choice: u32) -> Option<FinishReason> {
    events.iter().find_map(|event| match event {
        ReplyEvent::Choice {
            choice: c,
            event: Event::Finish(reason),
        } if *c == choice => Some(*reason),
        _ => None,
    })
}

fn usage(events: &[ReplyEvent]) -> Usage {
    match events.last() {
        Some(ReplyEvent::End { usage, .. }) => *usage,
        other => panic!("{other:?} is no end"),
    }
}

fn tool(name: &str) -> Tool {
    Tool {
        name: name.into(),
        description: None,
        parameters: Some("{\"type\":\"object\"}".into()),
        strict: false,
    }
}

#[tokio::test]
async fn a_conversation_is_answered_and_accounted_for() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    let events = answer(&mut client, chat("<<Hello, naïve world>>"))
        .await
        .unwrap();
    assert_eq!(text(&events, 0), "Hello, naïve world");
    assert_eq!(finish(&events, 0), Some(FinishReason::Stop));
    let usage = usage(&events);
    // A token is a byte here, and the end token counts.
    assert_eq!(usage.completion as usize, "Hello, naïve world".len() + 1);
    assert_eq!(usage.reasoning, 0);
    let rendered = "<|im_start|>user\n<<Hello, naïve world>><|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(usage.prompt as usize, rendered.len());
    let count = client
        .count(chat("<<Hello, naïve world>>").prompt.encode())
        .await
        .unwrap();
    assert_eq!(count.into_inner().tokens, usage.prompt);
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_is_no_part_of_it() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    let mut generation = chat("<<one two three>>");
    generation.stop = vec![" three".into()];
    let events = answer(&mut client, generation).await.unwrap();
    assert_eq!(text(&events, 0), "one two");
    assert_eq!(finish(&events, 0), Some(FinishReason::Stop));
}

#[tokio::test]
async fn the_output_limit_cuts_the_answer() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    for (limit, expected) in [(5, "word "), (0, "")] {
        let mut generation = chat("<<40>>");
        generation.max_output_tokens = Some(limit);
        let events = answer(&mut client, generation).await.unwrap();
        assert_eq!(text(&events, 0), expected);
        assert_eq!(finish(&events, 0), Some(FinishReason::Length));
        assert_eq!(usage(&events).completion, limit);
    }
}

#[tokio::test]
async fn several_answers_are_numbered_and_counted_together() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    let mut generation = chat("<<abc>>");
    generation.choices = NonZeroU32::new(3).unwrap();
    let events = answer(&mut client, generation).await.unwrap();
    for (choice, expected) in ["abc", "abc (1)", "abc (2)"].iter().enumerate() {
        assert_eq!(text(&events, choice as u32), *expected);
        assert_eq!(finish(&events, choice as u32), Some(FinishReason::Stop));
    }
    assert_eq!(usage(&events).completion, 4 + 8 + 8);
}

#[tokio::test]
async fn a_tool_call_is_told_in_parts() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    let call = "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}}</tool_call>";
    let mut generation = chat(&format!("<< {call} >>"));
    let Prompt::Conversation(conversation) = &mut generation.prompt else {
        panic!("a conversation");
    };
    conversation.tools = vec![tool("add")];
    let events = answer(&mut client, generation).await.unwrap();
    let mut arguments = String::new();
    let mut started = None;
    for event in &events {
        if let ReplyEvent::Choice { event, .. } = event {
            match event {
                Event::ToolCallStart { index, id, name } => {
                    started = Some((*index, name.clone(), id.starts_with("call_")));
                }
                Event::ToolCallArguments { text, .. } => arguments.push_str(text),
                _ => {}
            }
        }
    }
    assert_eq!(started, Some((0, "add".to_owned(), true)));
    assert_eq!(arguments, "{\"a\": 1}");
    assert_eq!(text(&events, 0).trim(), "");
    assert_eq!(finish(&events, 0), Some(FinishReason::ToolCalls));
}

#[tokio::test]
async fn a_raw_prompt_is_continued_and_echoed_if_asked() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    let plain = Generation::new(Prompt::Raw(raw("say <<hi>>")));
    assert_eq!(text(&answer(&mut client, plain).await.unwrap(), 0), "hi");
    let mut echo = raw("say <<hi>>");
    echo.echo = true;
    let echoed = Generation::new(Prompt::Raw(echo.clone()));
    let events = answer(&mut client, echoed).await.unwrap();
    assert_eq!(text(&events, 0), "say <<hi>>hi");
    echo.prompt = Text::Tokens("say <<hi>>".bytes().map(u32::from).collect());
    let events = answer(&mut client, Generation::new(Prompt::Raw(echo)))
        .await
        .unwrap();
    assert_eq!(text(&events, 0), "say <<hi>>hi");
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_its_parameter() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    let json = Generation {
        output: OutputFormat::JsonObject,
        ..chat("hi")
    };
    let mut suffix = raw("before");
    suffix.suffix = Some("after".into());
    let mut echo = raw("before");
    echo.echo = true;
    let echo = Generation {
        logprobs: Some(1),
        ..Generation::new(Prompt::Raw(echo))
    };
    let hot = Generation {
        sampling: Sampling {
            temperature: Some(2.5),
            ..Sampling::default()
        },
        ..chat("hi")
    };
    let strange = Text::Tokens(vec![1, 99_999]);
    let strange = Generation::new(Prompt::Raw(bodhi_proto::chat::RawPrompt {
        prompt: strange,
        ..raw("")
    }));
    let cases = [
        (json, FaultCode::Unsupported, None),
        (
            Generation::new(Prompt::Raw(suffix)),
            FaultCode::Unsupported,
            Some("suffix"),
        ),
        (echo, FaultCode::InvalidValue, Some("echo")),
        (hot, FaultCode::InvalidValue, Some("temperature")),
        (strange, FaultCode::InvalidValue, Some("prompt")),
        (
            Generation::new(Prompt::Raw(raw(""))),
            FaultCode::InvalidValue,
            Some("prompt"),
        ),
        (
            chat(&"x".repeat(5000)),
            FaultCode::ContextLengthExceeded,
            None,
        ),
    ];
    for (generation, code, param) in cases {
        let fault = answer(&mut client, generation).await.unwrap_err();
        assert_eq!(fault.code, code, "{fault}");
        assert_eq!(fault.param.as_deref(), param, "{fault}");
    }
    let fault = answer(&mut client, chat(&"x".repeat(5000)))
        .await
        .unwrap_err();
    assert!(
        fault.message.contains("4096") && fault.message.contains("5050"),
        "{fault}"
    );
}

#[tokio::test]
async fn features_that_are_off_are_refused() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &["--features", "chat"]).await;
    answer(&mut client, chat("hi")).await.unwrap();
    let completion = Generation::new(Prompt::Raw(raw("hi")));
    let fault = answer(&mut client, completion).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Unsupported);
    let embedding = Embedding {
        inputs: vec![Text::Plain("hi".into())],
        normalized: true,
    };
    let status = client.embed(embedding.encode()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unimplemented);
    assert_eq!(
        status.metadata().get("bodhi-code").unwrap(),
        "unsupported_by_backend"
    );
}

#[tokio::test]
async fn texts_and_tokens_are_embedded_alike() {
    let flags = ["--features", "embeddings"];
    let (_worker, mut client) = Worker::ready(Fake::default(), &flags).await;
    let tokens = "red fish".bytes().map(u32::from).collect();
    let embedding = |normalized| Embedding {
        inputs: vec![
            Text::Plain("red fish".into()),
            Text::Tokens(tokens),
            Text::Plain("sky".into()),
        ],
        normalized,
    };
    let embedded = client.embed(embedding(true).encode()).await.unwrap();
    let embedded = Embedded::decode(embedded.into_inner());
    assert_eq!(embedded.vectors.len(), 3);
    assert_eq!(embedded.vectors[0], embedded.vectors[1]);
    assert_eq!(embedded.prompt_tokens, 8 + 8 + 3);
    for vector in &embedded.vectors {
        let length: f32 = vector.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "{vector:?}");
    }
}

#[tokio::test]
async fn documents_are_scored_in_their_order() {
    let (_worker, mut client) = Worker::ready(Fake::default(), &["--features", "rerank"]).await;
    let reranking = Reranking {
        query: "q".into(),
        documents: vec!["a".into(), "a b c".into()],
    };
    let reranked = client.rerank(reranking.encode()).await.unwrap();
    let reranked = Reranked::decode(reranked.into_inner());
    assert_eq!(reranked.scores.len(), 2);
    assert!(
        reranked.scores[0] < reranked.scores[1],
        "more words score more here"
    );
}

#[tokio::test]
async fn watching_tells_the_whole_start() {
    let fake = Fake {
        file: File::Pretended(Duration::from_millis(600)),
        load: Duration::from_millis(600),
        ..Fake::default()
    };
    let worker = Worker::start(fake, &[]);
    let mut client = worker.client().await;
    let fault = answer(&mut client, chat("hi")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::ModelLoading);
    let mut reports = watch(&mut client).await;
    let mut seen = Vec::new();
    loop {
        let report = next(&mut reports).await;
        let ready = report.phase == Phase::Ready;
        seen.push(report);
        if ready {
            break;
        }
    }
    let places: Vec<_> = seen
        .iter()
        .map(|report| match report.phase {
            Phase::Downloading(_) => 0,
            Phase::Loading(_) => 1,
            Phase::WarmingUp => 2,
            _ => 3,
        })
        .collect();
    assert!(places.is_sorted(), "{places:?}");
    for phase in [0, 1, 3] {
        assert!(places.contains(&phase), "{places:?}");
    }
    let last = seen.last().unwrap();
    assert_eq!(last.model.as_ref().unwrap().context_length, 4096);
    assert_eq!(last.load.unwrap().slots, 4);
    answer(&mut client, chat("hi")).await.unwrap();
}

#[tokio::test]
async fn a_failed_start_is_told_and_ends_the_worker() {
    let fake = Fake {
        load: Duration::from_millis(300),
        fail: Some(Reason::Model(models::Reason::InsufficientMemory)),
        ..Fake::default()
    };
    let worker = Worker::start(fake, &[]);
    let mut client = worker.client().await;
    let mut reports = watch(&mut client).await;
    let failure = loop {
        if let Phase::Failed(failure) = next(&mut reports).await.phase {
            break failure;
        }
    };
    assert_eq!(failure.reason, "InsufficientMemory");
    let socket = worker.socket();
    let fatal = worker.ended().await.unwrap_err();
    assert_eq!(
        fatal.reason,
        Reason::Model(models::Reason::InsufficientMemory)
    );
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_start_that_stands_still_ends() {
    let fake = Fake {
        load: Duration::from_secs(600),
        ..Fake::default()
    };
    let worker = Worker::start(fake, &["--stall", "1"]);
    let fatal = worker.ended().await.unwrap_err();
    assert_eq!(fatal.reason, Reason::StartStalled);
}

#[tokio::test]
async fn an_engine_that_hangs_ends_the_worker() {
    let fake = Fake {
        step: Duration::from_secs(5),
        ..Fake::default()
    };
    let (worker, mut client) = Worker::ready(fake, &["--hang", "1"]).await;
    let fault = answer(&mut client, chat("<<3>>")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Failed);
    assert!(fault.message.starts_with("EngineHung: "), "{fault}");
    assert_eq!(worker.ended().await.unwrap_err().reason, Reason::EngineHung);
}

#[tokio::test]
async fn an_engine_that_panics_ends_the_worker_at_once() {
    let (worker, mut client) = Worker::ready(Fake::default(), &[]).await;
    let begun = Instant::now();
    let fault = answer(&mut client, chat("<<!panic>>")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Failed);
    let fatal = worker.ended().await.unwrap_err();
    assert_eq!(fatal.reason, Reason::EngineFailed);
    assert!(
        fatal.message.ends_with("the prompt asks for a panic"),
        "{fatal}"
    );
    // Not by the watch for hangs, which waits for a minute.
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn answers_run_on_while_the_worker_drains_and_new_ones_are_refused() {
    let fake = Fake {
        step: Duration::from_millis(20),
        ..Fake::default()
    };
    let (mut worker, client) = Worker::ready(fake, &["--drain", "30"]).await;
    let mut running = client.clone();
    let mut replies = running
        .generate(chat("<<20>>").encode())
        .await
        .unwrap()
        .into_inner();
    let mut events = ReplyEvent::decode_all(replies.message().await.unwrap().unwrap()).unwrap();
    let mut watching = client.clone();
    let mut reports = watch(&mut watching).await;
    worker.stop();
    while next(&mut reports).await.phase != Phase::Draining {}
    let fault = answer(&mut client.clone(), chat("hi")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::Draining);
    while let Some(reply) = replies.message().await.unwrap() {
        events.extend(ReplyEvent::decode_all(reply).unwrap());
    }
    assert_eq!(text(&events, 0), "word word word word ");
    assert_eq!(finish(&events, 0), Some(FinishReason::Stop));
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn answers_that_outlast_the_drain_end_with_an_error() {
    let fake = Fake {
        step: Duration::from_millis(50),
        ..Fake::default()
    };
    let (mut worker, mut client) = Worker::ready(fake, &["--drain", "1"]).await;
    let mut replies = client
        .generate(chat("<<4000>>").encode())
        .await
        .unwrap()
        .into_inner();
    replies.message().await.unwrap().unwrap();
    worker.stop();
    let status = loop {
        match replies.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it looks complete"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.metadata().get("bodhi-code").unwrap(), "draining");
    worker.ended().await.unwrap();
}

#[tokio::test]
async fn callers_that_leave_free_their_slots() {
    let fake = Fake {
        step: Duration::from_millis(1),
        ..Fake::default()
    };
    let (_worker, client) = Worker::ready(fake, &["--queue", "1000"]).await;
    let leaving: Vec<_> = (0..1000)
        .map(|round: u64| {
            let mut client = client.clone();
            tokio::spawn(async move {
                // Some leave while they wait, some in the middle, some after a few events.
                let patience = Duration::from_micros(round * 7919 % 60_000);
                let call = answer(&mut client, chat("<<4000>>"));
                timeout(patience, call).await.unwrap_err();
            })
        })
        .collect();
    for left in leaving {
        left.await.unwrap();
    }
    let mut watching = client.clone();
    let mut reports = watch(&mut watching).await;
    let idle = async {
        loop {
            let load = next(&mut reports).await.load.unwrap();
            if load.busy == 0 && load.queued == 0 {
                return;
            }
        }
    };
    timeout(Duration::from_secs(5), idle)
        .await
        .expect("all slots are free");
    let events = answer(&mut client.clone(), chat("<<still here>>"))
        .await
        .unwrap();
    assert_eq!(text(&events, 0), "still here");
}

#[tokio::test]
async fn a_full_queue_refuses() {
    let fake = Fake {
        step: Duration::from_millis(20),
        ..Fake::default()
    };
    let flags = ["--parallel-slots", "1", "--queue", "1"];
    let (_worker, client) = Worker::ready(fake, &flags).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = client.clone();
        held.push(tokio::spawn(async move {
            answer(&mut client, chat("<<400>>")).await
        }));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let fault = answer(&mut client.clone(), chat("hi")).await.unwrap_err();
    assert_eq!(fault.code, FaultCode::QueueFull);
    held.iter().for_each(tokio::task::JoinHandle::abort);
}
