use bodhi_proto::chat::Sampling;

use super::*;
use crate::engine::fake::{self, FakeEngine, Settings};
use crate::engine::{JobError, Piece, Pooling, Special, Update};
use crate::sampling::SamplerError;

fn runner(settings: Settings, options: Options) -> Runner {
    Runner::start(FakeEngine::new(settings), options).unwrap()
}

fn quick() -> Runner {
    runner(Settings::default(), Options::default())
}

fn job(runner: &Runner, prompt: &str) -> Job {
    Job::new(runner.model().tokenize(prompt, Special::Parse))
}

/// All answers, and the end.
async fn collect(mut stream: JobStream) -> Result<(Vec<Piece>, End), JobError> {
    let mut answers: Vec<Piece> = Vec::new();
    loop {
        match stream.next().await.expect("a stream has an end")? {
            Update::End(end) => {
                assert_eq!(stream.next().await, None);
                answers.sort_by_key(|it| it.choice);
                return Ok((answers, end));
            }
            Update::Pieces(pieces) => {
                for piece in pieces {
                    match answers.iter_mut().find(|it| it.choice == piece.choice) {
                        Some(answer) => {
                            answer.tokens.extend(piece.tokens);
                            answer.bytes.extend(piece.bytes);
                            answer.logprobs.extend(piece.logprobs);
                            answer.finish = piece.finish;
                        }
                        None => answers.push(piece),
                    }
                }
            }
        }
    }
}

fn text(piece: &Piece) -> &str {
    std::str::from_utf8(&piece.bytes).unwrap()
}

#[tokio::test]
async fn says_what_the_prompt_asks_for() {
    let runner = quick();
    let (answers, end) = collect(runner.submit(job(&runner, "say <<good morning>>")).unwrap())
        .await
        .unwrap();
    assert_eq!(text(&answers[0]), "good morning");
    assert_eq!(answers[0].finish, Some(FinishReason::Stop));
    assert_eq!((end.usage.prompt, end.usage.completion), (20, 13));
}

#[tokio::test]
async fn stops_at_the_output_limit() {
    let runner = quick();
    let limited = Job {
        max_output_tokens: Some(4),
        ..job(&runner, "<<good morning>>")
    };
    let (answers, end) = collect(runner.submit(limited).unwrap()).await.unwrap();
    assert_eq!(text(&answers[0]), "good");
    assert_eq!(answers[0].finish, Some(FinishReason::Length));
    assert_eq!(end.usage.completion, 4);
}

#[tokio::test]
async fn answers_nothing_at_a_limit_of_zero() {
    let runner = quick();
    let limited = Job {
        max_output_tokens: Some(0),
        ..job(&runner, "hello")
    };
    let (answers, end) = collect(runner.submit(limited).unwrap()).await.unwrap();
    assert_eq!(
        (text(&answers[0]), answers[0].finish),
        ("", Some(FinishReason::Length))
    );
    assert_eq!((end.usage.prompt, end.usage.completion), (5, 0));
}

#[tokio::test]
async fn gives_several_answers_from_more_choices_than_slots() {
    let runner = quick();
    let several = Job {
        choices: 6,
        ..job(&runner, "<<yes>>")
    };
    let (answers, end) = collect(runner.submit(several).unwrap()).await.unwrap();
    let texts: Vec<&str> = answers.iter().map(text).collect();
    assert_eq!(
        texts,
        ["yes", "yes (1)", "yes (2)", "yes (3)", "yes (4)", "yes (5)"]
    );
    assert_eq!(end.usage.prompt, 7);
}

#[tokio::test]
async fn reads_a_common_beginning_once() {
    let runner = quick();
    let long = "a conversation that was had before, ".repeat(10);
    let first = job(&runner, &long);
    let length = first.prompt.len() as u32;
    collect(runner.submit(first).unwrap()).await.unwrap();
    let (_, end) = collect(runner.submit(job(&runner, &(long + "\n<<ok>>"))).unwrap())
        .await
        .unwrap();
    assert_eq!(end.usage.cached, length);
}

#[tokio::test]
async fn joins_pieces_for_a_slow_reader() {
    let runner = quick();
    let mut stream = runner.submit(job(&runner, "<<500>>")).unwrap();
    runner.drain().await;
    let Some(Ok(Update::Pieces(pieces))) = stream.next().await else {
        panic!("there are pieces");
    };
    assert_eq!((pieces.len(), pieces[0].tokens.len()), (1, 501));
    assert!(matches!(stream.next().await, Some(Ok(Update::End(_)))));
}

#[tokio::test]
async fn frees_the_slots_of_a_thousand_readers_that_left() {
    let shape = Settings::default().shape;
    let runner = runner(
        Settings::default(),
        Options {
            queue: 2000,
            ..Options::default()
        },
    );
    for round in 0..1000 {
        let mut stream = runner
            .submit(Job {
                choices: 1 + round % 3,
                ..job(&runner, &format!("{round}: <<900>>"))
            })
            .unwrap();
        if round % 4 == 0 {
            stream.next().await.unwrap().unwrap();
        }
        drop(stream);
    }
    runner.drain().await;
    let load = runner.load();
    assert_eq!((load.slots, load.busy, load.queued), (shape.slots, 0, 0));
    assert_eq!(runner.busy_for(), None);
}

#[tokio::test]
async fn ends_one_answer_and_goes_on_with_the_other() {
    let settings = Settings {
        step: Duration::from_millis(1),
        ..Settings::default()
    };
    let runner = runner(settings, Options::default());
    let stream = runner
        .submit(Job {
            choices: 2,
            ..job(&runner, "<<60>>")
        })
        .unwrap();
    stream.stop(0);
    let (answers, _) = collect(stream).await.unwrap();
    assert_eq!(answers[0].finish, Some(FinishReason::Stop));
    assert!(answers[0].tokens.len() < 60);
    assert_eq!(answers[1].tokens.len(), 60 + " (1)".len() + 1);
}

#[tokio::test]
async fn refuses_more_than_may_wait() {
    let settings = Settings {
        step: Duration::from_millis(5),
        ..Settings::default()
    };
    let runner = runner(
        settings,
        Options {
            queue: 2,
            ..Options::default()
        },
    );
    let streams: Vec<_> = (0..20)
        .map(|_| runner.submit(job(&runner, "<<900>>")))
        .collect();
    assert!(
        streams
            .iter()
            .any(|stream| matches!(stream, Err(SubmitError::QueueFull(2))))
    );
    drop(streams);
    runner.drain().await;
    assert!(matches!(
        runner.submit(job(&runner, "hi")),
        Err(SubmitError::Draining)
    ));
}

#[tokio::test]
async fn refuses_what_llama_cpp_would_abort_at() {
    let runner = quick();
    let good = job(&runner, "hello");
    let submit = |job: Job| runner.submit(job).map(|_| ()).unwrap_err();
    assert!(matches!(submit(Job::new(vec![])), SubmitError::EmptyPrompt));
    assert!(matches!(
        submit(Job::new(vec![1, 9999])),
        SubmitError::UnknownToken(9999)
    ));
    assert!(matches!(
        submit(Job::new(vec![1; 4096])),
        SubmitError::ContextLength {
            prompt: 4096,
            context: 4096
        }
    ));
    assert!(matches!(
        submit(Job {
            choices: 65,
            ..good.clone()
        }),
        SubmitError::Choices(65)
    ));
    let biased = Sampling {
        logit_bias: vec![(777, 1.0)],
        ..Sampling::default()
    };
    assert!(matches!(
        submit(Job {
            sampling: biased,
            ..good.clone()
        }),
        SubmitError::UnknownToken(777)
    ));
    let impossible = Sampling {
        temperature: Some(f32::NAN),
        ..Sampling::default()
    };
    assert!(matches!(
        submit(Job {
            sampling: impossible,
            ..good
        }),
        SubmitError::Sampler(SamplerError::Parameter {
            name: "temperature",
            ..
        })
    ));
    assert_eq!(runner.load().queued, 0);
}

#[tokio::test]
async fn hides_control_tokens_unless_they_are_preserved() {
    let runner = quick();
    let hidden = job(&runner, "<<a<|mark|>b>>");
    let preserved = Job {
        preserved: vec![fake::MARK],
        ..hidden.clone()
    };
    let (answers, _) = collect(runner.submit(hidden).unwrap()).await.unwrap();
    assert_eq!((text(&answers[0]), answers[0].tokens.len()), ("ab", 4));
    let (answers, _) = collect(runner.submit(preserved).unwrap()).await.unwrap();
    assert_eq!(text(&answers[0]), "a<|mark|>b");
}

#[tokio::test]
async fn tells_how_likely_tokens_were() {
    let runner = quick();
    let asked = Job {
        logprobs: Some(3),
        ..job(&runner, "<<ab>>")
    };
    let (answers, _) = collect(runner.submit(asked).unwrap()).await.unwrap();
    // The end is a token too, and no content.
    assert_eq!((answers[0].tokens.len(), answers[0].logprobs.len()), (3, 2));
    assert_eq!(answers[0].logprobs[0].token.bytes, b"a");
    assert_eq!(answers[0].logprobs[0].top.len(), 3);
}

#[tokio::test]
async fn embeds_inputs_in_order_whatever_their_size() {
    let mut settings = Settings::default();
    settings.shape.purpose = Purpose::Embed(Pooling::Mean);
    let runner = runner(settings, Options::default());
    let inputs: Vec<Vec<Token>> = (1..40)
        .map(|count| {
            runner
                .model()
                .tokenize(&"word ".repeat(count), Special::Text)
        })
        .collect();
    let vectors = runner.embed(inputs.clone(), false).await.unwrap();
    for (input, vector) in inputs.iter().zip(&vectors) {
        let alone = runner.embed(vec![input.clone()], false).await.unwrap();
        assert_eq!(alone[0], *vector);
    }
    let scaled = runner.embed(inputs, true).await.unwrap();
    for vector in scaled {
        let length: f32 = vector.iter().map(|value| value * value).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
    assert!(matches!(
        runner.submit(Job::new(vec![1])),
        Err(SubmitError::Unsupported)
    ));
}

#[tokio::test]
async fn tells_streams_and_whoever_watches_that_the_engine_has_died() {
    let runner = quick();
    let stream = runner.submit(job(&runner, "<<!panic>>")).unwrap();
    assert_eq!(collect(stream).await.unwrap_err(), JobError::Stopped);
    assert_eq!(runner.ended().await, "the prompt asks for a panic");
    assert!(matches!(
        runner.submit(Job::new(vec![1])),
        Err(SubmitError::Stopped)
    ));
    runner.drain().await;
}

#[tokio::test]
async fn a_thread_that_turns_round_without_computing_counts_as_standing_still() {
    let mut settings = Settings::default();
    // No engine is like this: what is submitted never has its turn.
    settings.shape.slots = 0;
    let runner = runner(settings, Options::default());
    assert_eq!(runner.busy_for(), None);
    let waits = runner.submit(job(&runner, "<<hello>>")).unwrap();
    let patience = Duration::from_millis(100);
    while runner.busy_for().is_none_or(|busy| busy < patience) {
        // More work is no progress either.
        drop(runner.submit(job(&runner, "<<hello>>")));
        tokio::task::yield_now().await;
    }
    drop(waits);
    runner.drain().await;
    assert_eq!(runner.busy_for(), None);
}

#[tokio::test]
async fn refuses_an_input_that_no_step_holds() {
    let mut settings = Settings::default();
    settings.shape.purpose = Purpose::Embed(Pooling::Mean);
    settings.shape.batch = 16;
    let runner = runner(settings, Options::default());
    let inputs = |length| vec![vec![1; length]];
    assert!(matches!(
        runner.embed(inputs(17), false).await,
        Err(SubmitError::ContextLength {
            prompt: 17,
            context: 16
        })
    ));
    assert_eq!(runner.embed(inputs(16), false).await.unwrap().len(), 1);
}
