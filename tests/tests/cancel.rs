//! A client that goes away cancels its upstream request at once, wherever the request is.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::process::eventually;
use bodhi_tests::provider::Outcome;
use bodhi_tests::scripted::Scripted;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

/// The promise is 100 ms.
const PROMISE_US: u64 = 100_000;

fn now_us() -> anyhow::Result<u64> {
    Ok(u64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros(),
    )?)
}

/// Bytes of a chat request for this model.
fn ask(gateway: &Gateway, model: &str, stream: bool) -> Vec<u8> {
    let body = format!(
        r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"a b c"}}]}}"#
    );
    gateway.request("POST", "/v1/chat/completions", body.as_bytes())
}

#[test]
fn a_client_that_leaves_cancels_the_upstream_request_within_100_ms() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let cases = [
        (
            "before the first byte",
            "fault:slow-first-byte=60000ms",
            true,
            &b""[..],
        ),
        (
            "before the first byte, not streaming",
            "fault:slow-first-byte=60000ms",
            false,
            &b""[..],
        ),
        (
            "in a stream that stalls",
            "fault:stall-after=600",
            true,
            &b"data: "[..],
        ),
        (
            "in a stream that flows",
            "fault:gap=20ms",
            true,
            &b"data: "[..],
        ),
        (
            "in an answer that stalls",
            "fault:stall-after=50",
            false,
            &b"\"choices\""[..],
        ),
    ];
    for (case, model, stream, seen) in cases {
        let mut slowest = 0;
        for _ in 0..5 {
            provider.clear()?;
            let mut wire = gateway.connect()?;
            wire.send(&ask(&gateway, model, stream))?;
            if seen.is_empty() {
                eventually("the upstream request", || {
                    provider
                        .requests()
                        .ok()
                        .filter(|all| all.iter().any(|one| one.complete))
                })?;
            } else {
                wire.read_until(|bytes| bytes.windows(seen.len()).any(|window| window == seen))
                    .context(case)?;
            }
            let n = provider.only_request()?.n;
            let left = now_us()?;
            drop(wire);
            let (entry, outcome) = provider.ended(n).context(case)?;
            ensure!(outcome == Outcome::ClientLeft, "{case}: {outcome:?}");
            slowest = slowest.max(entry.ended_us.unwrap_or(u64::MAX).saturating_sub(left));
        }
        eprintln!("{case}: noticed after {slowest} µs at most");
        ensure!(slowest <= PROMISE_US, "{case}: noticed after {slowest} µs");
    }
    eventually("no request to be left", || {
        provider.active().ok().filter(|active| active.active == 0)
    })?;
    gateway.finish()
}

#[test]
fn a_client_that_leaves_while_it_sends_causes_no_upstream_request() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let whole = ask(&gateway, "gpt-4o-mini", true);
    for part in [whole.len() / 4, whole.len() / 2, whole.len() - 1] {
        let mut wire = gateway.connect()?;
        wire.send(&whole[..part])?;
    }
    // A whole request afterwards shows that the others had their time.
    ensure!(
        gateway
            .post("/v1/chat/completions", r#"{"model":"fast","messages":[]}"#)?
            .status
            == 200
    );
    let complete = provider
        .requests()?
        .iter()
        .filter(|one| one.complete)
        .count();
    ensure!(complete == 1, "{complete} requests reached the provider");
    gateway.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reset_stream_of_http_2_cancels_alone() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    provider.clear()?;
    let tcp = tokio::net::TcpStream::connect(gateway.address).await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await?;
    tokio::spawn(connection);
    let ask = |model: &str| {
        let body = format!(
            r#"{{"model":"{model}","stream":true,"messages":[{{"role":"user","content":"a b"}}]}}"#
        );
        http::Request::post(format!("http://{}/v1/chat/completions", gateway.address))
            .header("authorization", format!("Bearer {}", gateway.token))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
    };
    let mut left = sender
        .send_request(ask("fault:stall-after=600")?)
        .await?
        .into_body();
    let kept = sender
        .send_request(ask("fault:gap=50ms")?)
        .await?
        .into_body();
    left.frame().await.context("no first frame")??;
    let since = now_us()?;
    drop(left);
    let whole = kept.collect().await?.to_bytes();
    ensure!(
        whole.ends_with(b"data: [DONE]\n\n"),
        "the other stream ended: {whole:?}"
    );
    let (entry, outcome) = provider.ended(provider.requests()?[0].n)?;
    let after = entry.ended_us.unwrap_or(u64::MAX).saturating_sub(since);
    ensure!(
        outcome == Outcome::ClientLeft && after <= PROMISE_US,
        "{outcome:?} after {after} µs"
    );
    gateway.finish()
}
