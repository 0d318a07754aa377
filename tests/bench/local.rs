//! What a local model costs through the gateway: the same worker asked by gRPC directly and over
//! HTTP through the data plane, in turn, and on request llama-server with the same model.
//!
//! Prompts are never the same twice, since what a worker has read it need not read again.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use bodhi_proto::chat::{
    Conversation, Event, Generation, Message, Part, Prompt, ReplyEvent, Sampling,
};
use bodhi_proto::wire::inference::inference_client::InferenceClient;
use hyper_util::rt::TokioIo;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::client::{Conn, request};
use crate::gateway::{DataPlaneSetup, KEY};
use crate::measure::median;
use crate::program::{Program, free_address};

/// Tokens of each answer.
const OUTPUT: u32 = 64;
/// Requests at once that either side takes.
const SLOTS: u32 = 8;
/// The worker may have a large model to load.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is measured.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The folder of the controller's and the data plane's programs.
    pub(crate) programs: &'a Path,
    pub(crate) worker: &'a Path,
    pub(crate) model: &'a Path,
    pub(crate) llama_server: Option<&'a Path>,
    pub(crate) threads: usize,
    pub(crate) rounds: usize,
}

/// Who is asked.
#[derive(Clone)]
enum Side {
    Worker(InferenceClient<Channel>),
    Gateway(SocketAddr),
    Server(SocketAddr),
}

impl Side {
    fn name(&self) -> &'static str {
        match self {
            Self::Worker(_) => "worker",
            Self::Gateway(_) => "through the gateway",
            Self::Server(_) => "llama-server",
        }
    }
}

/// Of one turn.
struct Turn {
    tokens_per_second: f64,
    /// Mean over the streams, milliseconds.
    first_token: f64,
}

/// Starts everything in `folder`, measures and prints a table.
pub(crate) async fn run(folder: &Path, setup: &Setup<'_>) -> anyhow::Result<()> {
    let (_gateway, address, socket) = start_gateway(folder, setup).await?;
    let channel = Endpoint::from_static("http://worker")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await?;
    let mut sides = vec![
        Side::Worker(InferenceClient::new(channel)),
        Side::Gateway(address),
    ];
    let server = match setup.llama_server {
        Some(program) => Some(start_server(folder, program, setup).await?),
        None => None,
    };
    sides.extend(server.as_ref().map(|(_, address)| Side::Server(*address)));

    let mut rng = StdRng::seed_from_u64(1);
    let names: Vec<&str> = sides.iter().map(Side::name).collect();
    println!("| | {} |", names.join(" | "));
    println!("|---|{}", "--:|".repeat(sides.len()));
    for words in [20, 200] {
        for streams in [1, 4, 8] {
            let mut turns: Vec<Vec<Turn>> = sides.iter().map(|_| Vec::new()).collect();
            for round in 0..=setup.rounds {
                for index in 0..sides.len() {
                    let index = (index + round) % sides.len();
                    let turn = turn(&sides[index], streams, words, &mut rng).await?;
                    // The first round warms up.
                    if round > 0 {
                        turns[index].push(turn);
                    }
                }
            }
            row(
                &format!("{streams} × {words} words: tokens/s"),
                &turns,
                |turn| turn.tokens_per_second,
            );
            row("… first token, ms", &turns, |turn| turn.first_token);
        }
    }
    Ok(())
}

/// Medians, and of those beside the first the median of each round's difference to it.
fn row(name: &str, turns: &[Vec<Turn>], read: fn(&Turn) -> f64) {
    let cells: Vec<String> = turns
        .iter()
        .enumerate()
        .map(|(index, side)| {
            let middle = median(side.iter().map(read));
            let apart = median(side.iter().zip(&turns[0]).map(|(a, b)| read(a) / read(b)));
            match index {
                0 => format!("{middle:.1}"),
                _ => format!("{middle:.1} (× {apart:.3})"),
            }
        })
        .collect();
    println!("| {name} | {} |", cells.join(" | "));
}

async fn turn(side: &Side, streams: usize, words: usize, rng: &mut StdRng) -> anyhow::Result<Turn> {
    let prompts: Vec<String> = (0..streams).map(|_| prompt(words, rng)).collect();
    let start = Instant::now();
    let mut asked = JoinSet::new();
    for prompt in prompts {
        let side = side.clone();
        asked.spawn(async move {
            match side {
                Side::Worker(client) => ask_worker(client, prompt).await,
                Side::Gateway(address) | Side::Server(address) => ask_http(address, &prompt).await,
            }
        });
    }
    let mut waited = Duration::ZERO;
    while let Some(first) = asked.join_next().await {
        waited += first?? - start;
    }
    Ok(Turn {
        tokens_per_second: (streams as u32 * OUTPUT) as f64 / start.elapsed().as_secs_f64(),
        first_token: waited.as_secs_f64() * 1e3 / streams as f64,
    })
}

fn prompt(words: usize, rng: &mut StdRng) -> String {
    let word = |rng: &mut StdRng| -> String {
        (0..4)
            .map(|_| char::from(rng.random_range(b'a'..=b'z')))
            .collect()
    };
    (0..words).map(|_| word(rng)).collect::<Vec<_>>().join(" ")
}

/// Answers when the first text came.
async fn ask_worker(
    mut client: InferenceClient<Channel>,
    prompt: String,
) -> anyhow::Result<Instant> {
    let conversation = Conversation {
        messages: vec![Message::User {
            name: None,
            content: vec![Part::Text(prompt)],
        }],
        ..Conversation::default()
    };
    let generation = Generation {
        sampling: Sampling {
            temperature: Some(0.0),
            ignore_eos: true,
            ..Sampling::default()
        },
        max_output_tokens: Some(OUTPUT),
        ..Generation::new(Prompt::Conversation(conversation))
    };
    let mut replies = client.generate(generation.encode()).await?.into_inner();
    let (mut first, mut completion) = (None, 0);
    while let Some(reply) = replies.message().await? {
        for event in ReplyEvent::decode_all(reply)? {
            match event {
                ReplyEvent::Choice {
                    event: Event::Text(_),
                    ..
                } => {
                    first.get_or_insert_with(Instant::now);
                }
                ReplyEvent::End { usage, .. } => completion = usage.completion,
                ReplyEvent::Choice { .. } => {}
            }
        }
    }
    ensure!(completion == OUTPUT, "the worker said {completion} tokens");
    first.context("the worker said nothing")
}

async fn ask_http(address: SocketAddr, prompt: &str) -> anyhow::Result<Instant> {
    let body = json!({
        "model": "local",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": OUTPUT,
        "temperature": 0,
        "ignore_eos": true,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
    .to_string();
    let mut connection = Conn::open(address).await?;
    let (mut first, mut text) = (None, Vec::new());
    let answer = connection
        .call(
            &request(address, KEY, "/v1/chat/completions", &body),
            |piece| {
                text.extend_from_slice(piece);
                if first.is_none() && says_something(piece) {
                    first = Some(Instant::now());
                }
            },
        )
        .await?;
    let text = String::from_utf8_lossy(&text);
    ensure!(answer.status == 200, "status {}: {text}", answer.status);
    ensure!(
        text.contains(&format!("\"completion_tokens\":{OUTPUT}")),
        "not {OUTPUT} tokens: {text}"
    );
    first.context("no content came")
}

/// Whether there is content in the events, and not only the role.
fn says_something(events: &[u8]) -> bool {
    const CONTENT: &[u8] = b"\"content\":\"";
    memchr::memmem::find_iter(events, CONTENT)
        .any(|at| events.get(at + CONTENT.len()) != Some(&b'"'))
}

/// Controller, data plane and worker. Answers the gateway's address and the worker's socket.
async fn start_gateway(
    folder: &Path,
    setup: &Setup<'_>,
) -> anyhow::Result<((Program, Program), SocketAddr, PathBuf)> {
    let (manifests, data) = (folder.join("manifests"), folder.join("data"));
    fs::create_dir_all(&manifests)?;
    let model = setup.model.canonicalize()?;
    let manifest = format!(
        "apiVersion: bodhi.dev/v1alpha1\nkind: Alias\nmetadata: {{name: local}}\nspec:\n  target:\n    \
         type: Local\n    local:\n      source: file://{}\n      features: [Chat]\n      \
         engine: {{parallelSlots: {SLOTS}, threads: {}}}\n",
        model.display(),
        setup.threads
    );
    fs::write(manifests.join("local.yaml"), manifest)?;
    let (admin, address, health) = (free_address()?, free_address()?, free_address()?);
    let socket = folder.join("sync.sock");
    let mut command = Command::new(setup.programs.join("bodhi-controller"));
    command
        .env("API_KEYS", KEY)
        .arg("--manifests")
        .arg(&manifests)
        .arg("--data")
        .arg(&data)
        .arg("--listen-sync")
        .arg(format!("unix:{}", socket.display()))
        .arg("--worker-binary")
        .arg(setup.worker)
        .args(["--listen", &admin.to_string()]);
    let controller = Program::start("bodhi-controller", command, folder)?;
    controller.answers(admin, "/openapi.json").await?;
    let plane = DataPlaneSetup::new(setup.programs, folder, socket, address, health);
    let plane = plane.run().await?;
    // The answer waits for the worker.
    let asked = tokio::time::timeout(PATIENCE, ask_http(address, "Hello"));
    asked.await.context("the worker does not become ready")??;
    let workers = data.join("workers");
    let socket = fs::read_dir(&workers)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|it| it == "sock"));
    let socket = socket.with_context(|| format!("no socket in {}", workers.display()))?;
    Ok(((plane, controller), address, socket))
}

async fn start_server(
    folder: &Path,
    program: &Path,
    setup: &Setup<'_>,
) -> anyhow::Result<(Program, SocketAddr)> {
    let address = free_address()?;
    let mut command = Command::new(program);
    command
        .arg("--model")
        .arg(setup.model)
        .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
        .args(["--parallel", &SLOTS.to_string()])
        .args(["--threads", &setup.threads.to_string()])
        .args(["--threads-batch", &setup.threads.to_string()])
        // As many tokens for each as the worker has: all that the model was trained on.
        .args([
            "--ctx-size",
            &(SLOTS * trained_context(setup.model)?).to_string(),
        ]);
    let server = Program::start("llama-server", command, folder)?;
    server.answers(address, "/health").await?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask_http(address, "Hello").await {
        if Instant::now() > deadline {
            bail!("llama-server does not answer: {error}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((server, address))
}

/// `llama.context_length` of a GGUF file.
/// <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>
fn trained_context(model: &Path) -> anyhow::Result<u32> {
    const KEY: &[u8] = b".context_length";
    let bytes = fs::read(model)?;
    let head = &bytes[..bytes.len().min(1 << 20)];
    let at = memchr::memmem::find(head, KEY).context("the model does not say its context")?;
    // The type of the value comes before it.
    let value = head.get(at + KEY.len() + 4..at + KEY.len() + 8);
    let value = value.context("the model's head is cut off")?;
    Ok(u32::from_le_bytes(value.try_into()?))
}
