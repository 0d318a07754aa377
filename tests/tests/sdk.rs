//! The official client libraries: each case gives through the gateway what it gives directly.

use std::process::Command;

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::scripted::{KEY, Scripted};

fn run(suite: &str) -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let status = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/run.sh"))
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
