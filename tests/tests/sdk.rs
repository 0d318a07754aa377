//! The official client libraries: each case gives through the gateway what it gives directly, and
//! agents, tools and embeddings work on models that run here, on llama.cpp.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::local;
use bodhi_tests::process::{binary, eventually};
use bodhi_tests::scripted::{KEY, Scripted};

const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/run.sh");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");

fn run(suite: &str) -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let status = Command::new(RUN)
        .arg(suite)
        .env("DIRECT_URL", provider.url())
        .env("DIRECT_KEY", KEY)
        .env("GATEWAY_URL", format!("http://{}", gateway.address))
        .env("GATEWAY_TOKEN", &gateway.token)
        .status()
        .context("tests/sdk/run.sh")?;
    ensure!(
        status.success(),
        "tests/sdk/run.sh {suite} ended with {status}"
    );
    gateway.finish()
}

#[test]
#[ignore = "installs client libraries: `make test` runs it"]
fn python_libraries() -> anyhow::Result<()> {
    run("python")
}

#[test]
#[ignore = "installs client libraries: `make test` runs it"]
fn node_libraries() -> anyhow::Result<()> {
    run("node")
}

/// The demo model and MiniLM, on the worker that `make worker` builds.
#[test]
#[ignore = "installs client libraries and takes a worker with llama.cpp: `make test` runs it"]
fn libraries_on_models_that_run_here() -> anyhow::Result<()> {
    binary("bodhi-worker").context("`make worker` builds it")?;
    let converted = Command::new(RUN)
        .arg("minilm")
        .stderr(Stdio::inherit())
        .output()?;
    let status = converted.status;
    ensure!(
        status.success(),
        "tests/sdk/run.sh minilm ended with {status}"
    );
    let minilm = String::from_utf8(converted.stdout)?;
    let minilm = Path::new(minilm.trim());
    let vectors = local(
        "minilm",
        &format!("file://{}", minilm.display()),
        "features: [Embeddings]",
        "",
    );
    let gateway = Gateway::with(&[vectors], &["--demo-model", DEMO], &[])?;
    for (path, body) in [
        (
            "/v1/chat/completions",
            r#"{"model":"demo","messages":[{"role":"user","content":"Hello"}]}"#,
        ),
        ("/v1/embeddings", r#"{"model":"minilm","input":"Hello"}"#),
    ] {
        eventually(path, || {
            (gateway.post(path, body).ok()?.status == 200).then_some(())
        })
        .with_context(|| format!("{:?}", gateway.post(path, body)))?;
    }
    let status = Command::new(RUN)
        .arg("local")
        .env("GATEWAY_URL", format!("http://{}", gateway.address))
        .env("GATEWAY_TOKEN", &gateway.token)
        .env("MINILM_CACHE", minilm.parent().context("a folder")?)
        .status()?;
    ensure!(
        status.success(),
        "tests/sdk/run.sh local ended with {status}"
    );
    gateway.finish()
}
