//! `bodhi-dataplane`: a data plane of its own, fed by a controller.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

use bodhi_dataplane::app::DataPlane;
use bodhi_dataplane::config::{ControllerFlags, ServeFlags};
use bodhi_dataplane::control;
use bodhi_net::drain;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bodhi's data plane: authenticates, routes and forwards; stateless, fed by a controller.
#[derive(Debug, Parser)]
#[command(name = "bodhi-dataplane", version)]
struct Cli {
    #[command(flatten)]
    controller: ControllerFlags,
    /// Folder for the sealed last-known-good configuration; none is kept without it.
    #[arg(long, value_name = "DIR", env = "BODHI_DATAPLANE_DATA")]
    data: Option<PathBuf>,
    /// Key that seals it, at least 32 bytes; default: DIR/seal.key, made at the first start.
    #[arg(long, value_name = "FILE", requires = "data")]
    seal_key: Option<PathBuf>,
    /// This data plane's name among others; default: the host's name and the process id.
    #[arg(long, value_name = "NAME", env = "BODHI_NODE")]
    node: Option<String>,
    #[command(flatten)]
    serve: ServeFlags,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    bodhi_net::logging::start();
    // Control, admin and telemetry run here; requests on runtimes of their own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(4)
        .enable_all()
        .build()?;
    runtime.block_on(run(cli))
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let config = cli.serve.judge(false, drain::Times::default())?;
    let link = control::Config {
        node: cli.node.unwrap_or_else(default_node),
        connect: cli.controller.judge()?,
        disk: cli.data.map(|folder| control::Disk {
            create_key: cli.seal_key.is_none(),
            key_file: cli.seal_key.unwrap_or_else(|| folder.join("seal.key")),
            folder,
        }),
    };
    let plane = DataPlane::start(&config, link, None).await?;
    tracing::info!(
        address = %plane.address(),
        admin = %plane.admin_address()?,
        "listening"
    );
    let (drain, signal) = drain::channel();
    let serving = tokio::spawn(plane.serve(signal));
    drain::terminate()
        .await
        .context("signals cannot be watched")?;
    tracing::info!("shutting down");
    let mut serving = serving;
    drain
        .begin(config.drain, async {
            let _ = (&mut serving).await;
        })
        .await;
    match serving.is_finished() {
        true => Ok(()),
        false => serving.await?,
    }
}

fn default_node() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
