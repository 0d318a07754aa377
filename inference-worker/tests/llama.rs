//! llama.cpp behind the engine's door, with a small model of random weights.

#![cfg(feature = "llama")]
#![expect(clippy::unwrap_used, reason = "these are tests")]

#[path = "llama/gguf.rs"]
mod gguf;

use std::path::PathBuf;

use bodhi_proto::chat::{FinishReason, Sampling};
use bodhi_worker::engine::llama::{LlamaEngine, LoadError, Settings};
use bodhi_worker::engine::{
    End, Job, JobError, JobStream, Options, Piece, Pooling, Purpose, Runner, Special, SubmitError,
    Token, Update,
};
use bodhi_worker::sampling::{Grammar, SamplerError, Trigger};

struct Model {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("random.gguf");
        gguf::write(&path);
        Self {
            _folder: folder,
            path,
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            slots: 4,
            threads: Some(1),
            ..Settings::new(&self.path)
        }
    }
}

fn start(settings: &Settings) -> Runner {
    let engine = LlamaEngine::load(settings, |_| ()).unwrap();
    Runner::start(engine, Options::default()).unwrap()
}

fn greedy(prompt: Vec<Token>, most: u32) -> Job {
    Job {
        sampling: Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        },
        max_output_tokens: Some(most),
        ..Job::new(prompt)
    }
}

fn prompt(length: u32, start: u32) -> Vec<Token> {
    (0..length).map(|it| (it * 7 + start) % 256).collect()
}

async fn finish(mut stream: JobStream) -> Result<(Vec<Piece>, End), JobError> {
    let mut answers: Vec<Piece> = Vec::new();
    loop {
        match stream.next().await.expect("a stream has an end")? {
            Update::End(end) => {
                answers.sort_by_key(|answer| answer.choice);
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

async fn run(runner: &Runner, job: Job) -> (Vec<Piece>, End) {
    finish(runner.submit(job).unwrap()).await.unwrap()
}

async fn tokens(runner: &Runner, job: Job) -> Vec<Token> {
    run(runner, job).await.0.remove(0).tokens
}

#[tokio::test]
async fn answers_alike_alone_and_beside_others() {
    let model = Model::new();
    let runner = start(&model.settings());
    let mut alone = Vec::new();
    for seed in 0..4 {
        alone.push(tokens(&runner, greedy(prompt(60, seed * 50), 40)).await);
    }
    let runner = start(&model.settings());
    let streams: Vec<JobStream> = (0..4)
        .map(|seed| runner.submit(greedy(prompt(60, seed * 50), 40)).unwrap())
        .collect();
    for (stream, alone) in streams.into_iter().zip(alone) {
        let (answers, _) = finish(stream).await.unwrap();
        assert_eq!(answers[0].tokens, alone);
        assert!(answers[0].finish.is_some());
    }
}

#[tokio::test]
async fn answers_alike_from_its_own_anothers_and_a_saved_beginning() {
    let model = Model::new();
    let settings = model.settings();
    let wanted = tokens(&start(&settings), greedy(prompt(200, 0), 30)).await;

    let runner = start(&settings);
    assert_eq!(tokens(&runner, greedy(prompt(200, 0), 30)).await, wanted);
    let (answers, end) = run(&runner, greedy(prompt(200, 0), 30)).await;
    assert_eq!((&answers[0].tokens, end.usage.cached), (&wanted, 199));

    // The slot with the beginning is in use, so it is copied.
    let mut busy = runner.submit(greedy(prompt(200, 0), 300)).unwrap();
    busy.next().await.unwrap().unwrap();
    let (answers, end) = run(&runner, greedy(prompt(200, 0), 30)).await;
    assert_eq!((&answers[0].tokens, end.usage.cached), (&wanted, 199));
    drop(busy);

    // Others take all slots in the meantime.
    let runner = start(&Settings {
        slots: 1,
        ..settings
    });
    tokens(&runner, greedy(prompt(200, 0), 1)).await;
    tokens(&runner, greedy(prompt(200, 3), 1)).await;
    let (answers, end) = run(&runner, greedy(prompt(200, 0), 30)).await;
    assert_eq!((&answers[0].tokens, end.usage.cached), (&wanted, 199));
}

#[tokio::test]
async fn gives_the_same_answers_for_the_same_seed() {
    let model = Model::new();
    let seeded = |seed| Job {
        sampling: Sampling {
            seed: Some(seed),
            ..Sampling::default()
        },
        max_output_tokens: Some(30),
        choices: 3,
        ..Job::new(prompt(20, 0))
    };
    // From an empty cache each time: steps of other sizes round differently.
    let mut runs = Vec::new();
    for seed in [7, 7, 8] {
        let (answers, _) = run(&start(&model.settings()), seeded(seed)).await;
        runs.push(answers.into_iter().map(|it| it.tokens).collect::<Vec<_>>());
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    assert_ne!(runs[0][0], runs[0][1]);
}

#[tokio::test]
async fn chooses_alike_from_the_likeliest_and_from_all() {
    let model = Model::new();
    let runner = start(&model.settings());
    let job = |min_keep: u32, bias: Vec<(u32, f32)>| Job {
        sampling: Sampling {
            seed: Some(3),
            min_keep: Some(min_keep),
            // A bias of nothing makes all candidates be looked at.
            logit_bias: bias,
            ..Sampling::default()
        },
        max_output_tokens: Some(60),
        ..Job::new(prompt(30, 1))
    };
    let few = tokens(&runner, job(0, vec![])).await;
    let all = tokens(&runner, job(0, vec![(5, 0.0)])).await;
    assert_eq!(few, all);
}

#[tokio::test]
async fn keeps_to_a_grammar() {
    let model = Model::new();
    let runner = start(&model.settings());
    let constrained = |grammar: Grammar| Job {
        grammar: Some(grammar),
        ..greedy(prompt(20, 0), 50)
    };
    let (answers, _) = run(
        &runner,
        constrained(Grammar::new(r#"root ::= "yes" | "no""#)),
    )
    .await;
    let text = String::from_utf8(answers[0].bytes.clone()).unwrap();
    assert!(["yes", "no"].contains(&text.as_str()), "{text}");
    assert_eq!(answers[0].finish, Some(FinishReason::Stop));
    assert_eq!(answers[0].tokens.last(), Some(&gguf::END));

    let begun = Grammar {
        generation_prompt: "{\"".into(),
        ..Grammar::new(r#"root ::= "{\"a\":" [0-9] "}""#)
    };
    let (answers, _) = run(&runner, constrained(begun)).await;
    let text = String::from_utf8(answers[0].bytes.clone()).unwrap();
    assert!(text.starts_with("a\":") && text.len() == 5, "{text}");
}

#[tokio::test]
async fn lets_a_waiting_grammar_hold_from_its_trigger_on() {
    let model = Model::new();
    let runner = start(&model.settings());
    let free = tokens(&runner, greedy(prompt(20, 0), 20)).await;
    let trigger = free[4];
    let waiting = Job {
        grammar: Some(Grammar {
            triggers: vec![Trigger::Token(trigger)],
            ..Grammar::new(format!("root ::= <[{trigger}]> \"!?\""))
        }),
        ..greedy(prompt(20, 0), 20)
    };
    let (answers, _) = run(&runner, waiting).await;
    let first = free.iter().position(|token| *token == trigger).unwrap();
    assert_eq!(answers[0].tokens[..=first], free[..=first]);
    assert_eq!(answers[0].tokens[first + 1..], [33, 63, gguf::END]);
}

#[tokio::test]
async fn refuses_grammars_that_cannot_be_used() {
    let model = Model::new();
    let runner = start(&model.settings());
    let submit = |grammar: Grammar| {
        let job = Job {
            grammar: Some(grammar),
            ..greedy(prompt(20, 0), 50)
        };
        runner.submit(job).err()
    };
    for grammar in [
        Grammar::new("not a grammar"),
        Grammar::new("root ::= other"),
        Grammar::new("root ::= root \"a\""),
        Grammar {
            generation_prompt: "something else".into(),
            ..Grammar::new(r#"root ::= "yes""#)
        },
        Grammar {
            generation_prompt: "<|end|>".into(),
            ..Grammar::new(r#"root ::= "yes""#)
        },
        Grammar {
            triggers: vec![Trigger::Pattern("(".into())],
            ..Grammar::new(r#"root ::= "yes""#)
        },
    ] {
        let shown = format!("{grammar:?}");
        let error = submit(grammar);
        assert!(
            matches!(error, Some(SubmitError::Sampler(SamplerError::Grammar(_)))),
            "{shown}: {error:?}"
        );
    }
}

#[tokio::test]
async fn follows_biases() {
    let model = Model::new();
    let runner = start(&model.settings());
    let biased = Job {
        sampling: Sampling {
            logit_bias: vec![(65, 100.0)],
            ..Sampling::default()
        },
        max_output_tokens: Some(5),
        ..Job::new(prompt(20, 0))
    };
    assert_eq!(tokens(&runner, biased).await, [65; 5]);
    let endless = Job {
        sampling: Sampling {
            logit_bias: vec![(gguf::END, 100.0)],
            ignore_eos: true,
            ..Sampling::default()
        },
        max_output_tokens: Some(5),
        ..Job::new(prompt(20, 0))
    };
    assert_eq!(tokens(&runner, endless).await.len(), 5);
}

#[tokio::test]
async fn runs_every_filter() {
    use bodhi_proto::chat::{Dry, Mirostat, Xtc};

    let model = Model::new();
    let runner = start(&model.settings());
    let all = Sampling {
        dynatemp_range: Some(0.3),
        typical_p: Some(0.9),
        top_n_sigma: Some(2.0),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(0.5),
        repeat_penalty: Some(1.1),
        repeat_last_n: Some(-1),
        dry: Some(Dry {
            multiplier: 0.8,
            base: 1.75,
            allowed_length: 2,
            penalty_last_n: -1,
            sequence_breakers: None,
        }),
        xtc: Some(Xtc {
            probability: 0.5,
            threshold: 0.05,
        }),
        seed: Some(1),
        ..Sampling::default()
    };
    let mirostat = |version| Sampling {
        mirostat: Some(Mirostat {
            version,
            tau: 5.0,
            eta: 0.1,
        }),
        ..all.clone()
    };
    for sampling in [all.clone(), mirostat(1), mirostat(2)] {
        let job = Job {
            sampling,
            max_output_tokens: Some(30),
            ..Job::new(prompt(20, 0))
        };
        let first = tokens(&runner, job.clone()).await;
        assert_eq!(tokens(&runner, job).await, first);
    }
}

#[tokio::test]
async fn tells_how_likely_tokens_were() {
    let model = Model::new();
    let runner = start(&model.settings());
    let asked = Job {
        logprobs: Some(5),
        ..greedy(prompt(20, 0), 10)
    };
    let (answers, _) = run(&runner, asked).await;
    for (token, logprob) in answers[0].tokens.iter().zip(&answers[0].logprobs) {
        assert_eq!(logprob.token.id, *token);
        assert_eq!(logprob.top[0], logprob.token);
        assert!(logprob.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
        let sum: f32 = logprob.top.iter().map(|it| it.logprob.exp()).sum();
        assert!(sum <= 1.0 + 1e-5);
    }
}

#[tokio::test]
async fn goes_on_until_the_context_is_full() {
    let model = Model::new();
    let runner = start(&model.settings());
    let endless = Job {
        max_output_tokens: None,
        sampling: Sampling {
            ignore_eos: true,
            ..Sampling::default()
        },
        ..Job::new(prompt(500, 0))
    };
    let (answers, end) = run(&runner, endless).await;
    assert_eq!(end.usage.prompt + end.usage.completion, gguf::CONTEXT);
    assert_eq!(answers[0].finish, Some(FinishReason::Length));
    assert!(matches!(
        runner.submit(Job::new(prompt(512, 0))),
        Err(SubmitError::ContextLength {
            prompt: 512,
            context: 512
        })
    ));
}

#[tokio::test]
async fn embeds_alike_alone_and_beside_others() {
    let model = Model::new();
    for pooling in [Pooling::Mean, Pooling::First, Pooling::Last] {
        let runner = start(&Settings {
            purpose: Purpose::Embed(pooling),
            ..model.settings()
        });
        let inputs: Vec<Vec<Token>> = (1..10).map(|it| prompt(it * 20, it)).collect();
        let together = runner.embed(inputs.clone(), true).await.unwrap();
        for (input, vector) in inputs.into_iter().zip(together) {
            let alone = runner.embed(vec![input], true).await.unwrap().remove(0);
            let cosine: f32 = alone.iter().zip(&vector).map(|(a, b)| a * b).sum();
            assert!(cosine > 0.9999, "{pooling:?} {cosine}");
        }
        assert!(matches!(
            runner.embed(vec![prompt(513, 0)], true).await,
            Err(SubmitError::ContextLength { .. })
        ));
    }
}

#[test]
fn tokenizes_and_spells() {
    let model = Model::new();
    let engine = LlamaEngine::load(&model.settings(), |_| ()).unwrap();
    let runner = Runner::start(engine, Options::default()).unwrap();
    let vocabulary = runner.model();
    for text in ["", "the thing", "naïve 😀 <|end|>\n"] {
        let tokens = vocabulary.tokenize(text, Special::Text);
        let spelled: Vec<u8> = tokens
            .iter()
            .flat_map(|token| vocabulary.piece(*token))
            .copied()
            .collect();
        assert_eq!(spelled, text.as_bytes());
        assert!(!tokens.contains(&gguf::END));
    }
    assert_eq!(vocabulary.tokenize("<|end|>", Special::Parse), [gguf::END]);
    assert!(vocabulary.is_end(gguf::END) && vocabulary.is_control(gguf::END));
    assert_eq!(vocabulary.piece(vocabulary.size()), b"");
}

#[test]
fn says_why_a_model_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Settings::new(folder.path().join("nothing.gguf"));
    assert!(matches!(
        LlamaEngine::load(&missing, |_| ()),
        Err(LoadError::Missing(_))
    ));
    let path = folder.path().join("broken.gguf");
    std::fs::write(&path, b"GGUF and then something else").unwrap();
    let broken = Settings::new(path);
    assert!(matches!(
        LlamaEngine::load(&broken, |_| ()),
        Err(LoadError::Model { .. })
    ));
}

#[test]
fn tells_how_far_loading_has_come() {
    let model = Model::new();
    let (sender, parts) = std::sync::mpsc::channel();
    LlamaEngine::load(&model.settings(), move |part| sender.send(part).unwrap()).unwrap();
    let parts: Vec<f32> = parts.iter().collect();
    assert!(parts.is_sorted() && parts.last() == Some(&1.0), "{parts:?}");
}
