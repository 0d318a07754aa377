//! The scripted provider as a program of its own.
//!
//! It prints one line of JSON with its addresses, for instance
//! `{"listen":"127.0.0.1:40001","admin":"127.0.0.1:40002","authority":null}`, and serves until it
//! is killed or its standard input ends (with `--until-stdin-ends`).
//!
//! # Base URLs
//!
//! `http://LISTEN/openai/v1` (also for Responses), `http://LISTEN/anthropic/v1`,
//! `http://LISTEN/gemini/v1beta`; without the first segment the canonical paths work as well.
//!
//! # Admin port
//!
//! - `GET /_requests`: the requests kept, see [`bodhi_tests::provider::Entry`]
//! - `GET /_requests/N/raw`: request line, headers and body as they were on the wire
//! - `GET /_requests/N/body`: the body without its transfer coding
//! - `DELETE /_requests`: forgets them; numbers go on
//! - `GET /_active`: requests being answered and open connections
//!
//! # Scripts, chosen by the model's name
//!
//! `fault:D,D,…` answers as any model would, with faults; `replay:FILE,D,…` sends a file of the
//! fixtures folder; `bench:chunks=N,size=N,gap=Nms` (with `--bench`) sends equal chunks.
//! Offsets count bytes of the body without transfer coding; the head is always sent before them.
//! An unknown directive is answered with 400.
//!
//! | directive | effect |
//! |---|---|
//! | `status=N` | that status; from 400 on with the provider's error envelope |
//! | `retry-after=V` | the header |
//! | `slow-first-byte=Nms` | a pause before anything is sent |
//! | `reset-at=N` | RST after N bytes, inside a chunk; never a proper end |
//! | `early-close=N` | FIN after N bytes, likewise |
//! | `stall-after=N` | silence after N bytes until the client leaves |
//! | `drip=N/Mms` | N bytes at a time, M ms between (`1byte/5ms` reads well) |
//! | `gap=Nms` | a pause between the events of a stream |
//! | `framing=chunked\|length\|close` | how the end of the body is told |
//! | `garbage` | bytes that are not HTTP |
//! | `huge-head[=N]` | N bytes (default 1 MiB) of headers |
//! | `many-headers=N` | N small headers |
//! | `redirect[=URL]` | 307 |
//! | `partition=whole\|bytes\|every:N\|at:N;N` | `replay` only: each part is a write and a chunk |

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use bodhi_tests::provider::{Config, Provider, Tls};
use clap::Parser;
use tokio::net::TcpListener;

/// A stand-in for model providers.
#[derive(Debug, Parser)]
struct Args {
    /// Address for clients; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Address for the admin port.
    #[arg(long, default_value = "127.0.0.1:0")]
    admin: String,
    /// A key that is accepted; may be given several times.
    #[arg(long = "key", default_value = "test-key")]
    keys: Vec<String>,
    /// Name told in `x-scripted-provider`.
    #[arg(long, default_value = "scripted")]
    name: String,
    /// Folder of the files that `replay:` sends.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures"))]
    fixtures: PathBuf,
    /// How many requests are kept.
    #[arg(long, default_value_t = 20_000)]
    keep: usize,
    /// Serve TLS; the authority's certificate is in the printed line.
    #[arg(long)]
    tls: bool,
    /// Fixed answers at the least cost: no checks, no records.
    #[arg(long)]
    bench: bool,
    /// End when standard input ends, so that no provider outlives its test.
    #[arg(long)]
    until_stdin_ends: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listener = TcpListener::bind(&args.listen)
        .await
        .with_context(|| format!("cannot listen on {}", args.listen))?;
    let admin = TcpListener::bind(&args.admin)
        .await
        .with_context(|| format!("cannot listen on {}", args.admin))?;
    let tls = args.tls.then(Tls::generate).transpose()?;
    let line = serde_json::json!({
        "listen": listener.local_addr()?.to_string(),
        "admin": admin.local_addr()?.to_string(),
        "authority": tls.as_ref().map(|tls| &tls.authority),
    });
    writeln!(std::io::stdout(), "{line}")?;
    let provider = Provider::new(Config {
        keys: args.keys,
        name: args.name,
        fixtures: args.fixtures,
        keep: args.keep,
        bench: args.bench,
    });
    if args.until_stdin_ends {
        std::thread::spawn(|| {
            // Whatever is typed is ignored; only the end counts.
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    tokio::join!(
        provider.clone().serve(listener, tls),
        provider.serve_admin(admin)
    );
    Ok(())
}
