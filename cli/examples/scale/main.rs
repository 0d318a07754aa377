//! What the sync protocol costs at the size it is designed for: one controller, many data planes.
//!
//! The controller's server runs in a process of its own, with a full configuration; the data
//! planes run in this one. Each is a client of the real protocol over mutual TLS that keeps what
//! an acknowledgement needs (names, versions, digests) and not the resources, of which a
//! thousand copies would not fit one machine.
//!
//! `cargo run --profile bench -p bodhi-cli --example scale` prints the table of docs/scale.md.

mod content;
mod controller;
mod measure;
mod plane;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bodhi_net::identity::{self, Expected, Identity, PemFile};
use bodhi_tests::authority::Authority;
use clap::Parser;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use controller::Controller;
use measure::{Spread, bytes};
use plane::{Books, Event, Plane, Told};

/// Nothing takes longer, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Measures the sync protocol at scale and prints a table
#[derive(Debug, Clone, Parser)]
struct Args {
    /// Data planes
    #[arg(long, default_value_t = 1000)]
    planes: usize,
    /// ApiModels and Aliases together; a tenth are ApiModels with a key each
    #[arg(long, default_value_t = 10_000)]
    objects: usize,
    /// Tokens
    #[arg(long, default_value_t = 100_000)]
    tokens: usize,
    /// Edits of one object, one after the other
    #[arg(long, default_value_t = 100)]
    edits: usize,
    /// Revocations, one after the other
    #[arg(long, default_value_t = 100)]
    revocations: usize,
    /// Data planes that stop reading while as many edits are made as there are data planes
    #[arg(long, default_value_t = 100)]
    slow: usize,
    /// Be the controller, with the certificates in this folder
    #[arg(long, value_name = "DIR", hide = true)]
    serve: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    match &args.serve {
        Some(folder) => controller::serve(&args, folder).await,
        None => measure_all(&args).await,
    }
}

/// The files of one end.
fn files(folder: &Path, end: &str) -> Identity {
    let file = |name: &str, flag| PemFile {
        path: folder.join(name),
        flag,
    };
    Identity {
        certificate: file(&format!("{end}.crt"), "--cert"),
        key: file(&format!("{end}.key"), "--key"),
        authorities: file("ca", "--ca"),
    }
}

/// The data planes of this process.
struct Planes {
    count: usize,
    orders: watch::Sender<Told>,
    events: mpsc::UnboundedReceiver<(usize, Event)>,
    books: Arc<Books>,
}

impl Planes {
    fn start(args: &Args, client: identity::Client, port: u16) -> anyhow::Result<Self> {
        let (orders, told) = watch::channel(Told::default());
        let (say, events) = mpsc::unbounded_channel();
        let books = Arc::<Books>::default();
        let client = Arc::new(client);
        let expected = Expected::host("localhost")?;
        for n in 0..args.planes {
            let plane = Plane::new(n, Arc::clone(&books), say.clone());
            let (client, expected) = (Arc::clone(&client), expected.clone());
            let address = ([127, 0, 0, 1], port).into();
            tokio::spawn(plane.run(client, address, expected, told.clone()));
        }
        Ok(Self {
            count: args.planes,
            orders,
            events,
            books,
        })
    }

    /// Waits until so many have said what is asked for, and answers when each did.
    async fn all(
        &mut self,
        count: usize,
        begun: Instant,
        mut asked: impl FnMut(&Event) -> bool,
    ) -> anyhow::Result<Spread> {
        let mut times = Vec::with_capacity(count);
        let mut said = vec![false; self.count];
        let waiting = async {
            while times.len() < count {
                let event = self.events.recv().await;
                let (plane, event) = event.context("the data planes ended")?;
                if let Event::Failed(why) = &event {
                    anyhow::bail!("a data plane failed: {why}");
                }
                if asked(&event) && !std::mem::replace(&mut said[plane], true) {
                    times.push(begun.elapsed());
                }
            }
            Ok(())
        };
        timeout(PATIENCE, waiting)
            .await
            .with_context(|| format!("after {PATIENCE:?} not all of {count} had followed"))??;
        Ok(Spread::new(times))
    }
}

async fn measure_all(args: &Args) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let ours = Authority::new("ours")?;
    ours.issue(&["localhost"])?
        .write(folder.path(), "controller")?;
    ours.issue(&["bodhi:dataplane"])?
        .write(folder.path(), "plane")?;
    std::fs::write(folder.path().join("ca"), &ours.pem)?;
    let mut controller = Controller::start(args, folder.path()).await?;
    println!(
        "{} objects, {} tokens, {} data planes\n",
        args.objects, args.tokens, args.planes
    );
    println!("| what | figure |\n|---|---|");
    let row = |what: &str, figure: String| println!("| {what} | {figure} |");
    row("controller, nobody connected", controller.memory()?);

    let client = identity::Client::load(files(folder.path(), "plane"))?;
    let (begun, cpu) = (Instant::now(), controller.cpu()?);
    let mut planes = Planes::start(args, client, controller.port)?;
    let count = planes.count;
    let full = planes
        .all(count, begun, |e| matches!(e, Event::Complete))
        .await?;
    let (all, tokens) = planes.books.take(count);
    row("full sync, bytes per data plane", bytes(all));
    row("of these objects", bytes(all - tokens));
    row("full sync of all, first and last", full.ends());
    row(
        "controller's CPU for it",
        format!("{:.1} s", controller.cpu()? - cpu),
    );
    row("controller, all connected", controller.memory()?);
    sleep(Duration::from_secs(3)).await;
    planes.books.take(count);

    let mut last = Vec::new();
    let mut any = Vec::new();
    let cpu = controller.cpu()?;
    for _ in 0..args.edits {
        let begun = Instant::now();
        let revision = controller.edit().await?;
        let times = planes
            .all(
                count,
                begun,
                |e| matches!(e, Event::Objects(at) if *at >= revision),
            )
            .await?;
        last.push(times.last());
        any.push(times.middle());
        sleep(Duration::from_millis(200)).await;
    }
    let (moved, _) = planes.books.take(count);
    if let Some(each) = moved.checked_div(args.edits) {
        let edits = Spread::new(last);
        row("one edit at the last data plane", edits.percentiles());
        row(
            "one edit at the median data plane, median",
            format!("{:.0?}", Spread::new(any).middle()),
        );
        row("one edit, bytes per data plane", bytes(each));
        let each = (controller.cpu()? - cpu) / args.edits as f64;
        row(
            "controller's CPU for one edit",
            format!("{:.0} ms", each * 1000.0),
        );
    }

    let mut last = Vec::new();
    for n in 0..args.revocations {
        let begun = Instant::now();
        let revision = controller.revoke(n).await?;
        let times = planes
            .all(
                count,
                begun,
                |e| matches!(e, Event::Denied(at) if *at == revision),
            )
            .await?;
        last.push(times.last());
        sleep(Duration::from_millis(200)).await;
    }
    if args.revocations > 0 {
        row(
            "one revocation at the last data plane",
            Spread::new(last).percentiles(),
        );
    }
    sleep(Duration::from_secs(3)).await;
    planes.books.take(count);

    let (begun, cpu) = (Instant::now(), controller.cpu()?);
    planes.orders.send_modify(|told| told.connection += 1);
    let back = planes
        .all(count, begun, |e| matches!(e, Event::Level))
        .await?;
    let (moved, _) = planes.books.take(count);
    row(
        "reconnect of all, nothing changed: bytes each",
        bytes(moved),
    );
    row("reconnect of all, first and last", back.ends());
    row(
        "controller's CPU for it",
        format!("{:.1} s", controller.cpu()? - cpu),
    );
    row("controller, after it", controller.memory()?);

    if args.slow > 0 {
        let slow = args.slow.min(count);
        planes.orders.send_modify(|told| told.silent = slow);
        let mut revision = 0;
        for _ in 0..count {
            revision = controller.edit().await?;
        }
        let begun = Instant::now();
        planes
            .all(
                count - slow,
                begun,
                |e| matches!(e, Event::Objects(at) if *at >= revision),
            )
            .await?;
        let what = format!("controller, {slow} read nothing during {count} edits");
        row(&what, controller.memory()?);
        planes.orders.send_modify(|told| told.silent = 0);
        let caught_up = planes
            .all(
                slow,
                Instant::now(),
                |e| matches!(e, Event::Objects(at) if *at >= revision),
            )
            .await?;
        row("these catch up, first and last", caught_up.ends());
    }
    let diverged = planes.books.diverged();
    ensure!(
        diverged == 0,
        "{diverged} data planes held something else than was sent"
    );
    println!("\n{}", measure::machine());
    Ok(())
}
