//! The gateway's benchmark: what a request costs through Bodhi, next to nginx as a plain reverse
//! proxy and no proxy at all.
//!
//! All variants run against the same scripted provider, one after another in each round, and
//! figures are compared within rounds: so whatever else the machine does meets all of them.
//! CPU time is that of the proxy's own processes, as the kernel counts it.

mod client;
mod gateway;
mod load;
mod local;
mod machine;
mod measure;
mod nginx;
mod program;
mod report;
mod restart;
mod scenario;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bodhi_tests::scripted::Scripted;
use clap::Parser;
use tokio::time::sleep;

use gateway::{Gateway, Setup};
use load::Fleet;
use machine::Machine;
use measure::{Tree, percentile};
use nginx::Nginx;
use report::{Footprint, Measured, Report, Round};
use scenario::Scenario;

/// Measures the gateway next to nginx and prints tables.
#[derive(Debug, Parser)]
struct Args {
    /// Rounds over all variants.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of one variant's turn in a closed loop.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Serving threads of the data plane and workers of nginx; 0: one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Streams held while memory is read.
    #[arg(long, default_value_t = 2000)]
    held: usize,
    /// Scenarios to run (chat_1, chat_32, image_4, stream_paced_64, stream_fast_8); default: all.
    #[arg(long = "only", value_name = "KEY")]
    only: Vec<String>,
    /// Also with 10,000 routes and 100,000 tokens, which takes minutes to set up.
    #[arg(long)]
    scale: bool,
    /// Routes of that configuration.
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Tokens of that configuration.
    #[arg(long, default_value_t = 100_000)]
    tokens: usize,
    /// Starts of the data plane from its file, in that configuration.
    #[arg(long, default_value_t = 9)]
    restarts: usize,
    /// Leave the gateway out: to try the harness itself.
    #[arg(long)]
    without_gateway: bool,
    /// Folder of the programs; default: this program's own.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Folder of other programs to measure in the same rounds, as "before".
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Measure a local model instead, of this GGUF file: its worker alone and through the gateway.
    #[arg(long, value_name = "FILE", requires = "worker")]
    model: Option<PathBuf>,
    /// The worker's program, with --model.
    #[arg(long, value_name = "FILE")]
    worker: Option<PathBuf>,
    /// llama-server, to be measured in the same rounds, with --model.
    #[arg(long, value_name = "FILE", requires = "model")]
    llama_server: Option<PathBuf>,
    /// Where all figures go as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One way to the provider.
struct Variant {
    name: String,
    /// Where whole answers are asked for.
    whole: SocketAddr,
    /// Where streams are.
    stream: SocketAddr,
    /// What stands before the model's name.
    prefix: &'static str,
    /// The proxy's processes; none when there is no proxy.
    tree: Option<Tree>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let programs = match &args.programs {
        Some(folder) => folder.clone(),
        None => std::env::current_exe()?
            .parent()
            .context("a program is in a folder")?
            .to_owned(),
    };
    let threads = match args.threads {
        0 => std::thread::available_parallelism()?.get(),
        threads => threads,
    };
    let folder = tempfile::tempdir()?;
    let mut report = Report {
        machine: Machine::describe(&programs),
        threads,
        held_streams: args.held,
        scenarios: Vec::new(),
        footprints: Vec::new(),
        restarts: None,
    };
    println!("{}", report.machine());
    if let (Some(model), Some(worker)) = (&args.model, &args.worker) {
        let setup = local::Setup {
            programs: &programs,
            worker,
            model,
            llama_server: args.llama_server.as_deref(),
            threads,
            rounds: args.rounds,
        };
        return local::run(folder.path(), &setup).await;
    }
    let upstream = Scripted::with(&["--bench"])?;
    let mut setup = Setup {
        programs: &programs,
        upstream: upstream.listen,
        threads,
        access_log: false,
        routes: 0,
    };

    let mut proxies = Proxies::default();
    for access_log in [false, true] {
        let name = with_log("nginx", access_log);
        let folder = folder.path().join(&name);
        let nginx = Nginx::start(&folder, upstream.listen, threads, access_log).await?;
        proxies.nginx.push((name, nginx));
    }
    for access_log in [false, true] {
        if args.without_gateway {
            continue;
        }
        let name = with_log("bodhi", access_log);
        setup.access_log = access_log;
        let gateway = Gateway::start(&folder.path().join(&name), setup).await?;
        proxies.gateways.push((name, gateway));
    }
    if let Some(programs) = &args.against {
        let before = Setup {
            programs,
            access_log: false,
            ..setup
        };
        let gateway = Gateway::start(&folder.path().join("before"), before).await?;
        proxies.gateways.push(("before".into(), gateway));
    }
    let variants = proxies.variants(upstream.listen);

    for variant in &variants {
        report
            .footprints
            .extend(footprint(variant, args.held).await?);
    }
    let wanted = |scenario: &&Scenario| {
        args.only.is_empty() || args.only.iter().any(|key| key == scenario.key)
    };
    let names: Vec<String> = variants.iter().map(|v| v.name.clone()).collect();
    for scenario in scenario::ALL.iter().filter(wanted) {
        let measured = measure(scenario, &variants, &args).await?;
        println!("{}", measured.table(&names));
        report.scenarios.push(measured);
    }
    for (footprint, variant) in report.footprints.iter_mut().zip(variants.iter().skip(1)) {
        footprint.after_load = variant.tree.map(Tree::memory).transpose()?;
    }
    println!("{}", report.footprints());

    if args.scale {
        drop(proxies);
        setup.access_log = true;
        at_scale(&args, setup, folder.path(), &mut report).await?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("All figures: {}", path.display());
    }
    Ok(())
}

/// The proxies that run.
#[derive(Default)]
struct Proxies {
    nginx: Vec<(String, Nginx)>,
    gateways: Vec<(String, Gateway)>,
}

impl Proxies {
    /// All ways to the provider, the direct one first.
    fn variants(&self, upstream: SocketAddr) -> Vec<Variant> {
        let direct = Variant {
            name: "direct".into(),
            whole: upstream,
            stream: upstream,
            prefix: "",
            tree: None,
        };
        let nginx = self.nginx.iter().map(|(name, nginx)| Variant {
            name: name.clone(),
            whole: nginx.whole,
            stream: nginx.stream,
            prefix: "",
            tree: Some(nginx.program.tree()),
        });
        let gateways = self
            .gateways
            .iter()
            .map(|(name, gateway)| of_gateway(name, gateway));
        [direct].into_iter().chain(nginx).chain(gateways).collect()
    }
}

fn of_gateway(name: &str, gateway: &Gateway) -> Variant {
    Variant {
        name: name.to_owned(),
        whole: gateway.address,
        stream: gateway.address,
        prefix: gateway::PREFIX,
        tree: Some(gateway.dataplane.program.tree()),
    }
}

fn with_log(name: &str, access_log: bool) -> String {
    match access_log {
        true => format!("{name}, log"),
        false => name.to_owned(),
    }
}

impl Variant {
    /// Where a scenario goes.
    fn address(&self, scenario: &Scenario) -> SocketAddr {
        match scenario.is_stream() {
            true => self.stream,
            false => self.whole,
        }
    }

    fn request(&self, address: SocketAddr, body: &str) -> Vec<u8> {
        client::request(address, gateway::KEY, "/v1/chat/completions", body)
    }

    fn cpu_nanos(&self) -> anyhow::Result<u64> {
        self.tree.map_or(Ok(0), Tree::cpu_nanos)
    }
}

/// Memory before any request, and with streams held. None of a direct connection.
async fn footprint(variant: &Variant, held: usize) -> anyhow::Result<Option<Footprint>> {
    let Some(tree) = variant.tree else {
        return Ok(None);
    };
    sleep(Duration::from_secs(1)).await;
    let idle = tree.memory()?;
    let request = variant.request(variant.stream, &scenario::held(variant.prefix));
    let streams = load::hold(variant.stream, held, &request)
        .await
        .with_context(|| format!("holding {held} streams through {}", variant.name))?;
    sleep(Duration::from_secs(2)).await;
    let holding = tree.memory()?;
    drop(streams);
    // The provider has to notice, or its chunks would go on into the next measurement.
    sleep(Duration::from_secs(1)).await;
    Ok(Some(Footprint {
        variant: variant.name.clone(),
        idle,
        holding,
        after_load: None,
    }))
}

/// Runs one scenario over all variants, round by round.
async fn measure(
    scenario: &Scenario,
    variants: &[Variant],
    args: &Args,
) -> anyhow::Result<Measured> {
    let mut measured = Measured::new(scenario);
    let mut expected: Option<Vec<u8>> = None;
    for round in 0..args.rounds {
        // Who is first changes from round to round.
        for index in 0..variants.len() {
            let variant = &variants[(index + round) % variants.len()];
            let address = variant.address(scenario);
            let request = |body: &str| variant.request(address, body);
            let turn = async {
                let warm_up = request(&scenario.warm_up(variant.prefix));
                let mut fleet = Fleet::open(address, scenario.connections, &warm_up).await?;
                let requests = [request(&scenario.body(variant.prefix))];
                let answer = fleet.probe(&requests[0]).await?;
                let expected = expected.get_or_insert_with(|| answer.clone());
                ensure!(*expected == answer, "answers differ in their bytes");
                run(variant, &mut fleet, &requests, answer.len(), scenario, args).await
            };
            let result = turn
                .await
                .with_context(|| format!("{} through {}", scenario.key, variant.name))?;
            measured
                .rounds
                .entry(variant.name.clone())
                .or_default()
                .push(result);
        }
    }
    Ok(measured)
}

async fn run(
    variant: &Variant,
    fleet: &mut Fleet,
    requests: &[Vec<u8>],
    length: usize,
    scenario: &Scenario,
    args: &Args,
) -> anyhow::Result<Round> {
    let before = variant.cpu_nanos()?;
    let outcome = fleet
        .run(
            requests,
            length,
            scenario.until(args.seconds),
            scenario.stagger(),
        )
        .await?;
    // Log lines and the like are written a little later.
    sleep(Duration::from_millis(50)).await;
    let nanos = variant.cpu_nanos()? - before;
    let calls = outcome.calls as f64;
    Ok(Round {
        calls: outcome.calls,
        per_second: calls / outcome.elapsed.as_secs_f64(),
        cpu_micros: nanos as f64 / 1e3 / calls,
        p50_micros: percentile(&outcome.totals, 0.5),
        p99_micros: percentile(&outcome.totals, 0.99),
        first_byte_p50_micros: percentile(&outcome.first_bytes, 0.5),
        first_byte_p99_micros: percentile(&outcome.first_bytes, 0.99),
    })
}

/// The small chat request with a large configuration, alternating with a small one.
async fn at_scale(
    args: &Args,
    setup: Setup<'_>,
    folder: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let large = Setup {
        routes: args.routes,
        ..setup
    };
    let small = Gateway::start(&folder.join("small"), setup).await?;
    let large = Gateway::start(&folder.join("large"), large).await?;
    let started = std::time::Instant::now();
    let tokens = large.make_tokens(args.tokens).await?;
    println!(
        "\n{} tokens made through the admin API in {:.0} s",
        tokens.len(),
        started.elapsed().as_secs_f64()
    );
    let name = format!("bodhi, {} routes, {} tokens", args.routes, args.tokens);
    let variants = [of_gateway("bodhi", &small), of_gateway(&name, &large)];
    let chat = Scenario {
        key: "chat_32_scale",
        title: "Small chat request, 32 connections, with a large configuration",
        ..scenario::ALL[1]
    };
    let mut measured = Measured::new(&chat);
    // Many callers and many models, as many configured ones suggest. All answers are of one length:
    // the routes' names differ in the ApiModel, not in what the provider is asked for.
    let many: Vec<Vec<u8>> = (0..1000)
        .map(|n| {
            let route = (n * 50) % args.routes;
            let body = scenario::chat(&gateway::route_name(route));
            let token = &tokens[n * 97 % tokens.len()];
            client::request(large.address, token, "/v1/chat/completions", &body)
        })
        .collect();
    let one = vec![variants[0].request(small.address, &chat.body(gateway::PREFIX))];
    for round in 0..args.rounds {
        for index in 0..2 {
            let which = (index + round) % 2;
            let (variant, requests) = (&variants[which], [&one, &many][which]);
            let mut fleet = Fleet::open(variant.whole, chat.connections, &requests[0]).await?;
            let length = fleet.probe(&requests[0]).await?.len();
            let result = run(variant, &mut fleet, requests, length, &chat, args).await?;
            measured
                .rounds
                .entry(variant.name.clone())
                .or_default()
                .push(result);
        }
    }
    println!(
        "{}",
        measured.table(&variants.each_ref().map(|v| v.name.clone()))
    );
    for (gateway, variant) in [(&small, &variants[0]), (&large, &variants[1])] {
        let resident = |tree: Tree| anyhow::Ok(tree.memory()?.resident as f64 / f64::from(1 << 20));
        println!(
            "{}: data plane {:.1} MiB, controller {:.1} MiB",
            variant.name,
            resident(gateway.dataplane.program.tree())?,
            resident(gateway.controller())?
        );
    }
    report.scenarios.push(measured);
    drop(small);
    let restarts = restart::measure(large, args.restarts).await?;
    println!("{}", restarts.table());
    report.restarts = Some(restarts);
    Ok(())
}
