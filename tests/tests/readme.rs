//! What the README tells people to paste does what it says: its commands (blocks marked `sh`)
//! run as they are printed, its manifests are valid.

use std::process::Command;

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::process::binary;
use bodhi_tests::scripted::Scripted;
use serde_json::Value;

const README: &str = include_str!("../../README.md");

/// The fenced blocks in a language, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let mut parts = README.split("```");
    let mut blocks = Vec::new();
    // Text and blocks alternate; the text after the last fence ends it.
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        if let Some(code) = block.strip_prefix(language)
            && let Some(code) = code.strip_prefix('\n')
        {
            blocks.push(code);
        }
    }
    blocks
}

/// The providers of `deploy/examples` that the README calls, at a scripted one.
fn examples(provider: &Scripted) -> Vec<String> {
    let url = provider.url();
    let (openai, anthropic, gemini) = (
        format!("{url}/openai/v1"),
        format!("{url}/anthropic/v1"),
        format!("{url}/gemini/v1beta"),
    );
    [
        ApiModel::forwarding("openai", "openai", openai, "openai/", true),
        ApiModel::forwarding("anthropic", "anthropic", anthropic, "claude-", false),
        ApiModel::forwarding("gemini", "gemini", gemini, "gemini-", false),
    ]
    .iter()
    .map(ApiModel::yaml)
    .chain([bodhi_tests::manifests::alias(
        "ready", "ready", "openai", "gpt-4o",
    )])
    .collect()
}

#[test]
fn every_command_answers_as_pasted() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    // The model's file is not looked at by this worker, which needs no llama.cpp to be built.
    let worker = binary("fake-worker")?.display().to_string();
    let gateway = Gateway::with(
        &examples(&provider),
        &["--demo-model", "/no/matter/demo.gguf"],
        &[("BODHI_WORKER", &worker)],
    )?;
    gateway.serves("ready")?;
    gateway.serves("demo")?;
    let commands = blocks("sh");
    ensure!(commands.len() >= 4, "the README has lost its commands");
    for command in commands {
        let here = command.replace("localhost:1135", &gateway.address.to_string());
        ensure!(here != command, "no address of the gateway in: {command}");
        let output = Command::new("bash")
            .args(["-euc", &here])
            .env("BODHI_TOKEN", &gateway.token)
            .output()
            .context("bash and curl")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{command}\nended with {output:?}");
        let answer: Value =
            serde_json::from_str(&text).with_context(|| format!("{command}\nanswered {text}"))?;
        ensure!(answer.get("error").is_none(), "{command}\nanswered {text}");
    }
    gateway.finish()
}

#[test]
fn every_manifest_is_valid() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let manifests = blocks("yaml");
    ensure!(!manifests.is_empty(), "the README has lost its manifests");
    for (number, manifest) in manifests.iter().enumerate() {
        std::fs::write(folder.path().join(format!("{number}.yaml")), manifest)?;
    }
    let output = Command::new(binary("bodhi")?)
        .args(["validate", "-f"])
        .arg(folder.path())
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(())
}
