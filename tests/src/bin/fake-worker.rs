//! `bodhi-worker` without llama.cpp: the same flags, the same service, and an engine that says
//! what the prompt tells it to (`bodhi_worker::engine::fake`). Its own flags are read from the environment
//! too, which is how they reach workers that a controller starts.

use std::time::Duration;

use bodhi_worker::app;
use bodhi_worker::config::Flags;
use bodhi_worker::exit::Reason;
use bodhi_worker::start::fake::{Fake, File};
use clap::Parser;

/// A worker without a model, for tests
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    /// Obtain what --model names, as a real worker does; else a download is pretended
    #[arg(long, conflicts_with = "fake_download")]
    fake_obtain: bool,
    /// How long it pretends to download
    #[arg(
        long,
        env = "BODHI_WORKER_FAKE_DOWNLOAD",
        value_name = "MILLISECONDS",
        default_value_t = 0
    )]
    fake_download: u64,
    /// How long it pretends to load
    #[arg(
        long,
        env = "BODHI_WORKER_FAKE_LOAD",
        value_name = "MILLISECONDS",
        default_value_t = 0
    )]
    fake_load: u64,
    /// What a step of the engine takes
    #[arg(
        long,
        env = "BODHI_WORKER_FAKE_STEP",
        value_name = "MICROSECONDS",
        default_value_t = 0
    )]
    fake_step: u64,
    /// What each token of a step takes besides
    #[arg(
        long,
        env = "BODHI_WORKER_FAKE_TOKEN",
        value_name = "MICROSECONDS",
        default_value_t = 0
    )]
    fake_token: u64,
    /// Fail with this reason instead of becoming ready, such as InsufficientMemory
    #[arg(long, env = "BODHI_WORKER_FAKE_FAIL", value_name = "REASON", value_parser = reason)]
    fake_fail: Option<Reason>,
}

fn reason(text: &str) -> Result<Reason, String> {
    let named = Reason::ALL
        .into_iter()
        .find(|reason| reason.as_str() == text);
    named.ok_or_else(|| format!("'{text}' is no reason"))
}

fn main() -> ! {
    let cli = Cli::parse();
    let fake = Fake {
        file: match cli.fake_obtain {
            true => File::Obtained,
            false => File::Pretended(Duration::from_millis(cli.fake_download)),
        },
        load: Duration::from_millis(cli.fake_load),
        step: Duration::from_micros(cli.fake_step),
        token: Duration::from_micros(cli.fake_token),
        fail: cli.fake_fail,
    };
    app::main(cli.flags, fake)
}
