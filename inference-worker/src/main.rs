//! `bodhi-worker`: one GGUF model on llama.cpp, served over gRPC.

use bodhi_worker::app;
use bodhi_worker::config::Flags;
use bodhi_worker::start::llama::Llama;
use clap::Parser;

/// Bodhi's inference worker: serves one GGUF model over gRPC, and nothing else
#[derive(Debug, Parser)]
#[command(name = "bodhi-worker", version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

fn main() -> ! {
    app::main(Cli::parse().flags, Llama)
}
