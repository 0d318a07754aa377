//! How fast the engine is: alone, or in turn with llama-server on the same model, threads and prompts.
//!
//! ```text
//! RUSTFLAGS="-C target-cpu=native" cargo run --profile bench -p bodhi-worker --example bench -- \
//!     MODEL.gguf [--server path/to/llama-server] [--rounds 3] [--threads N] \
//!     [--context 2048] [--gap MILLISECONDS] [--only 4x128|gap|prefix]
//! ```
//!
//! The engine is called as a library here, llama-server by HTTP. What that costs it shows where a token
//! takes less than a millisecond; what the worker's own gRPC costs is not in these figures.

mod server;
mod side;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bodhi_worker::engine::llama::{LlamaEngine, Settings};
use bodhi_worker::engine::{Options, Runner};

use side::{Side, Stream};

const SLOTS: u32 = 8;

struct Arguments {
    model: String,
    server: Option<String>,
    rounds: usize,
    threads: u32,
    /// Tokens in one sequence.
    context: u32,
    options: Options,
    /// Only these, by what their rows begin with.
    only: Option<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments()?;
    let engine = LlamaEngine::load(
        &Settings {
            slots: SLOTS,
            context: Some(arguments.context),
            threads: Some(arguments.threads),
            ..Settings::new(&arguments.model)
        },
        |_| (),
    )?;
    let runner = Runner::start(engine, arguments.options)?;
    let vocabulary = runner.model().size();
    let mut sides = vec![Side::Engine(runner)];
    let server = match &arguments.server {
        Some(path) => Some(server::start(
            path,
            &arguments.model,
            SLOTS,
            arguments.context,
            arguments.threads,
        )?),
        None => None,
    };
    if let Some(server) = &server {
        sides.push(Side::Server(server.address));
    }
    let mut prompts = Prompts {
        vocabulary,
        state: 1,
    };
    let names: Vec<&str> = sides.iter().map(Side::name).collect();
    println!("| | {} |", names.join(" | "));
    println!("|---|{}", "---:|".repeat(sides.len()));
    let wanted = |name: &str| {
        arguments
            .only
            .as_ref()
            .is_none_or(|only| name.starts_with(only))
    };
    let long = (arguments.context as usize * 3 / 4).min(1024);
    for length in [128, long] {
        for streams in [1, 4, 8] {
            if wanted(&format!("{streams}x{length}")) {
                throughput(&sides, &mut prompts, length, streams, arguments.rounds)?;
            }
        }
    }
    let has_room = arguments.context >= 2048;
    if has_room && wanted("gap") {
        gap(&sides, &mut prompts, arguments.rounds)?;
    }
    if has_room && wanted("prefix") {
        prefix(&sides, &mut prompts, arguments.rounds)?;
    }
    Ok(())
}

fn arguments() -> anyhow::Result<Arguments> {
    let mut arguments = Arguments {
        model: String::new(),
        server: None,
        rounds: 3,
        threads: std::thread::available_parallelism()?.get() as u32,
        context: 2048,
        options: Options::default(),
        only: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || {
            given
                .next()
                .with_context(|| format!("{argument} needs a value"))
        };
        match argument.as_str() {
            "--server" => arguments.server = Some(value()?),
            "--rounds" => arguments.rounds = value()?.parse()?,
            "--threads" => arguments.threads = value()?.parse()?,
            "--context" => arguments.context = value()?.parse()?,
            "--gap" => arguments.options.gap = Duration::from_millis(value()?.parse()?),
            "--only" => arguments.only = Some(value()?),
            other if other.starts_with("--") => bail!("{other} is not known"),
            _ => arguments.model = argument,
        }
    }
    if arguments.model.is_empty() {
        bail!("which model?");
    }
    Ok(arguments)
}

/// Never the same twice, unless asked for.
struct Prompts {
    vocabulary: u32,
    state: u64,
}

impl Prompts {
    fn next(&mut self, length: usize) -> Vec<u32> {
        (0..length)
            .map(|_| {
                self.state = self
                    .state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                // Past the bytes and control tokens of a small vocabulary.
                300 + (self.state >> 33) as u32 % (self.vocabulary - 300)
            })
            .collect()
    }
}

/// Tokens per second of all streams together, prompts included in the time; and the time to the first
/// token.
fn throughput(
    sides: &[Side],
    prompts: &mut Prompts,
    length: usize,
    streams: usize,
    rounds: usize,
) -> anyhow::Result<()> {
    const OUTPUT: u32 = 64;
    let mut rates = vec![Vec::new(); sides.len()];
    let mut firsts = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        let batch: Vec<Vec<u32>> = (0..streams).map(|_| prompts.next(length)).collect();
        for (index, side) in sides.iter().enumerate() {
            let start = Instant::now();
            let running: Vec<Stream> = batch
                .iter()
                .map(|prompt| side.start(prompt, OUTPUT))
                .collect();
            let mut last = start;
            let mut waited = Duration::ZERO;
            for stream in running {
                let times = stream.finish()?;
                waited += times[0] - start;
                last = last.max(times[times.len() - 1]);
            }
            let tokens = (streams as u32 * OUTPUT) as f64;
            rates[index].push(tokens / (last - start).as_secs_f64());
            firsts[index].push(waited.as_secs_f64() * 1000.0 / streams as f64);
        }
    }
    let name = format!("{streams} × {length} tokens");
    row(&format!("{name}: tokens/s"), rates);
    row(&format!("{name}: first token, ms"), firsts);
    Ok(())
}

/// How long streams that run are held up when a prompt of 1,024 tokens arrives.
fn gap(sides: &[Side], prompts: &mut Prompts, rounds: usize) -> anyhow::Result<()> {
    let mut gaps = vec![Vec::new(); sides.len()];
    let mut firsts = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        let (one, other, long) = (prompts.next(16), prompts.next(16), prompts.next(1024));
        for (index, side) in sides.iter().enumerate() {
            let running = [&one, &other].map(|prompt| side.start(prompt, 1500));
            for stream in &running {
                stream.wait_for(20);
            }
            let start = Instant::now();
            let arriving = side.start(&long, 2).finish()?;
            firsts[index].push((arriving[0] - start).as_secs_f64() * 1000.0);
            // A few more, since the gap ends with the token after it.
            let worst = running
                .into_iter()
                .map(|stream| stream.stop(Duration::from_millis(300)))
                .flat_map(|times| {
                    times
                        .windows(2)
                        .map(|pair| (pair[0], pair[1]))
                        .collect::<Vec<_>>()
                })
                .filter(|(_, after)| *after > start)
                .map(|(before, after)| after - before)
                .max()
                .unwrap_or_default();
            gaps[index].push(worst.as_secs_f64() * 1000.0);
        }
    }
    row(
        "a prompt of 1,024 arrives: worst gap of 2 streams, ms",
        gaps,
    );
    row("a prompt of 1,024 arrives: its first token, ms", firsts);
    Ok(())
}

/// The first token of a prompt that was read before: in a slot that is free, and in one that is in use.
fn prefix(sides: &[Side], prompts: &mut Prompts, rounds: usize) -> anyhow::Result<()> {
    let mut own = vec![Vec::new(); sides.len()];
    let mut others = vec![Vec::new(); sides.len()];
    for _ in 0..rounds {
        let prompt = prompts.next(1024);
        let [tail, next, last] = [(); 3].map(|()| prompts.next(16));
        let with = |tail: &[u32]| [&prompt[..], tail].concat();
        for (index, side) in sides.iter().enumerate() {
            let first = |prompt: Vec<u32>| -> anyhow::Result<f64> {
                let start = Instant::now();
                let times = side.start(&prompt, 1).finish()?;
                Ok((times[0] - start).as_secs_f64() * 1000.0)
            };
            first(with(&tail))?;
            own[index].push(first(with(&next))?);
            let busy = side.start(&with(&next), 900);
            busy.wait_for(5);
            others[index].push(first(with(&last))?);
            busy.stop(Duration::ZERO);
        }
    }
    row(
        "1,024 of 1,040 tokens cached in its own slot: first token, ms",
        own,
    );
    row("… in a slot that is in use: first token, ms", others);
    Ok(())
}

/// Medians.
fn row(name: &str, sides: Vec<Vec<f64>>) {
    let cells: Vec<String> = sides
        .into_iter()
        .map(|mut values| {
            values.sort_by(f64::total_cmp);
            format!("{:.1}", values[values.len() / 2])
        })
        .collect();
    println!("| {name} | {} |", cells.join(" | "));
}
