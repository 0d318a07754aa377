//! The harness itself: what the other tests rely on has to be true of provider and client.

use std::process::Command;

use anyhow::ensure;
use bodhi_tests::provider::Outcome;
use bodhi_tests::scripted::{KEY, Scripted};
use bodhi_tests::wire::{self, End, Response, Wire};

fn chat(model: &str, stream: bool) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"a b"}}]}}"#
    );
    let bearer = format!("Bearer {KEY}");
    wire::request(
        "POST",
        "/openai/v1/chat/completions",
        &[("Authorization", &bearer)],
        body.as_bytes(),
    )
}

fn ask(provider: &Scripted, model: &str, stream: bool) -> anyhow::Result<Response> {
    wire::call(provider.listen, &chat(model, stream))
}

#[test]
fn the_provider_keeps_every_byte_it_was_sent() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let odd = b"POST /openai/v1/embeddings?a=%2f HTTP/1.1\r\nHoSt: x\r\nX-Twice: 1\r\nx-twice:  2 \r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3;ext=1\r\n{ }\r\n0\r\nTrailer: t\r\n\r\n";
    let answer = wire::call(provider.listen, odd)?;
    ensure!(answer.status == 401, "no key was given: {}", answer.text());
    let entry = provider.only_request()?;
    ensure!(
        provider.raw(entry.n)? == odd,
        "{:?}",
        String::from_utf8_lossy(&provider.raw(entry.n)?)
    );
    ensure!(provider.body(entry.n)? == b"{ }");
    ensure!(
        entry.headers[1..3]
            == [
                ("X-Twice".to_owned(), "1".to_owned()),
                ("x-twice".to_owned(), "2".to_owned())
            ]
    );
    provider.clear()?;
    ensure!(provider.requests()?.is_empty());
    Ok(())
}

#[test]
fn the_client_tells_how_an_answer_ended() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    for stream in [true, false] {
        ensure!(ask(&provider, "gpt-4o", stream)?.end == End::Complete);
        ensure!(ask(&provider, "fault:reset-at=100", stream)?.end == End::Reset);
        ensure!(ask(&provider, "fault:early-close=100", stream)?.end == End::Closed);
        ensure!(ask(&provider, "fault:framing=close", stream)?.end == End::Complete);
        ensure!(ask(&provider, "fault:framing=close,reset-at=100", stream)?.end == End::Reset);
        let slow = ask(&provider, "fault:drip=9bytes/1ms", stream)?;
        ensure!(
            slow.end == End::Complete && slow.text().contains("stop"),
            "{}",
            slow.text()
        );
    }
    // An end after the last byte is still no proper end of a chunked body.
    let length = ask(&provider, "fault:early-close=99999", true)?;
    ensure!(length.end == End::Closed && length.text().contains("[DONE]"));
    ensure!(ask(&provider, "fault:garbage", true).is_err());
    ensure!(
        ask(&provider, "fault:huge-head", true)?
            .headers
            .iter()
            .any(|(_, value)| value.len() > 10_000)
    );
    ensure!(ask(&provider, "fault:typo", true)?.status == 400);
    Ok(())
}

#[test]
fn a_fixture_is_sent_as_it_is_under_every_partition() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/odd.sse"))?;
    for directives in [
        "",
        ",partition=whole",
        ",partition=bytes",
        ",partition=every:7",
        ",partition=at:1;50",
        ",framing=close",
    ] {
        let answer = ask(&provider, &format!("replay:odd.sse{directives}"), true)?;
        ensure!(
            answer.body == file && answer.end == End::Complete,
            "{directives}"
        );
    }
    ensure!(ask(&provider, "replay:missing.sse", true)?.status == 404);
    Ok(())
}

#[test]
fn a_client_that_leaves_is_noticed() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut wire = Wire::connect(provider.listen)?;
    wire.send(&chat("fault:stall-after=50", true))?;
    wire.read_until(|bytes| bytes.windows(5).any(|window| window == b"data:"))?;
    ensure!(provider.active()?.active == 1);
    drop(wire);
    ensure!(provider.ended(0)?.1 == Outcome::ClientLeft);
    ensure!(provider.active()?.active == 0);
    Ok(())
}

#[test]
fn tls_is_served_under_an_authority_of_its_own() -> anyhow::Result<()> {
    let provider = Scripted::with(&["--tls", "--key", KEY])?;
    let folder = tempfile::tempdir()?;
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, provider.authority.as_deref().unwrap_or_default())?;
    let url = format!(
        "https://localhost:{}/openai/v1/models",
        provider.listen.port()
    );
    let curl = |arguments: &[&str]| {
        Command::new("curl")
            .args(["-sf", "-H", &format!("Authorization: Bearer {KEY}"), &url])
            .args(arguments)
            .output()
    };
    let trusted = curl(&["--cacert", &ca.to_string_lossy()])?;
    ensure!(
        trusted.status.success() && String::from_utf8_lossy(&trusted.stdout).contains("gpt-4o"),
        "{trusted:?}"
    );
    ensure!(
        !curl(&[])?.status.success(),
        "an unknown authority was trusted"
    );
    Ok(())
}

#[test]
fn bench_mode_answers_without_being_asked_who_calls() -> anyhow::Result<()> {
    let provider = Scripted::with(&["--bench"])?;
    let mut wire = Wire::connect(provider.listen)?;
    for _ in 0..3 {
        wire.send(&chat("bench:chunks=5,size=200", true))?;
        let answer = wire.response()?;
        ensure!(
            answer.body.len() == 5 * 200 + "data: [DONE]\n\n".len(),
            "{}",
            answer.text()
        );
        wire.send(&chat("bench:size=64", false))?;
        ensure!(wire.response()?.json()["choices"][0]["message"]["content"] == "x".repeat(64));
    }
    ensure!(provider.requests()?.is_empty());
    Ok(())
}
