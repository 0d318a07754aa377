//! What the gateway does not take, and how it says so; and what it does when it is to end.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::everything;
use bodhi_tests::process::eventually;
use bodhi_tests::scripted::Scripted;
use bodhi_tests::wire::{self, End, Response};

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}"#;

fn is_error(answer: &Response, status: u16, case: &str) -> anyhow::Result<()> {
    let good = answer.status == status
        && answer.header("x-bodhi-error-source") == Some("gateway")
        && answer.json()["error"]["message"].is_string();
    ensure!(good, "{case}: {} {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn a_body_that_is_announced_too_long_is_refused_before_it_is_sent() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let bearer = format!("Bearer {}", gateway.token);
    for (target, length) in [
        (CHAT, 32 << 20),
        ("/v1/embeddings", 32 << 20),
        ("/v1/responses", 32 << 20),
        ("/v1/messages", 32 << 20),
        ("/v1beta/models/gemini-2.5-flash:generateContent", 32 << 20),
        ("/v1/responses/resp_1/cancel", 4_u64 << 20),
    ] {
        // 2^64 − 3 is the largest length that the HTTP parser hands on.
        let lengths = [length + 1, i64::MAX as u64, 1 << 63, u64::MAX - 2];
        for length in lengths.map(|length| length.to_string()) {
            let headers = [
                ("authorization", bearer.as_str()),
                ("content-type", "application/json"),
                ("content-length", length.as_str()),
            ];
            let mut wire = gateway.connect()?;
            wire.send(&wire::request("POST", target, &headers, b""))?;
            let answer = wire.response()?;
            ensure!(
                answer.status == 413,
                "{target}, {length}: {} {}",
                answer.status,
                answer.text()
            );
            // What follows on the connection would be the body.
            ensure!(wire.is_ended_by_peer()?, "{target}: the connection goes on");
        }
    }
    ensure!(provider.requests()?.is_empty());
    gateway.finish()
}

#[test]
fn a_body_that_turns_out_too_long_is_refused() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let arguments = ["--max-body", "2048"];
    let gateway = Gateway::with(&everything(&provider.url()), &arguments, &[])?;
    gateway.serves("gpt-4o")?;
    let bearer = format!("Bearer {}", gateway.token);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("transfer-encoding", "chunked"),
    ];
    let chunk = |bytes: &[u8]| {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        chunk
    };
    let padded = |length: usize| {
        let mut body = HELLO.as_bytes().to_vec();
        body.resize(length, b' ');
        body
    };
    for (length, status) in [(2048, 200), (2049, 413), (6000, 413)] {
        let body: Vec<u8> = padded(length).chunks(1000).flat_map(&chunk).collect();
        let body = [body, chunk(b"")].concat();
        let answer = wire::call(
            gateway.address,
            &wire::request("POST", CHAT, &headers, &body),
        )?;
        ensure!(
            answer.status == status,
            "{length}: {} {}",
            answer.status,
            answer.text()
        );
    }
    // And one that was announced.
    let answer = gateway.post(CHAT, padded(2049))?;
    is_error(&answer, 413, "announced")?;
    ensure!(
        answer.json()["error"]["code"] == "body_too_large",
        "{}",
        answer.text()
    );
    ensure!(provider.requests()?.len() == 1);
    gateway.finish()
}

#[test]
fn a_body_that_stops_for_ten_seconds_is_408() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let request = gateway.request("POST", CHAT, HELLO.as_bytes());
    let (most, last) = request.split_at(request.len() - 10);
    // Slow, yet never for long: that is taken.
    let mut slow = gateway.connect()?;
    let mut stalled = gateway.connect()?;
    stalled.send(most)?;
    slow.send(most)?;
    let began = Instant::now();
    for byte in &last[..9] {
        std::thread::sleep(Duration::from_secs(1));
        slow.send(&[*byte])?;
    }
    let answer = stalled.response()?;
    is_error(&answer, 408, "stalled")?;
    let waited = began.elapsed().as_secs();
    ensure!((9..15).contains(&waited), "408 after {waited} s");
    ensure!(
        answer.json()["error"]["code"] == "body_timeout",
        "{}",
        answer.text()
    );
    ensure!(stalled.is_ended_by_peer()?, "the connection goes on");
    std::thread::sleep(Duration::from_secs(2));
    slow.send(&last[9..])?;
    let answer = slow.response()?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    ensure!(provider.requests()?.len() == 1);
    gateway.finish()
}

#[test]
fn what_cannot_be_read_as_json_is_415() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let bearer = format!("Bearer {}", gateway.token);
    let send = |header: (&str, &str)| {
        let headers = [("authorization", bearer.as_str()), header];
        let request = wire::request("POST", CHAT, &headers, HELLO.as_bytes());
        wire::call(gateway.address, &request)
    };
    for header in [
        ("content-encoding", "gzip"),
        ("content-encoding", "br"),
        ("Content-Encoding", "identity, zstd"),
        ("content-type", "multipart/form-data; boundary=x"),
    ] {
        is_error(&send(header)?, 415, &format!("{header:?}"))?;
    }
    ensure!(provider.requests()?.is_empty());
    for header in [
        ("content-encoding", "identity"),
        ("content-type", "application/json; charset=utf-8"),
        ("content-type", "application/x-www-form-urlencoded"),
    ] {
        let answer = send(header)?;
        ensure!(answer.status == 200, "{header:?}: {}", answer.text());
    }
    gateway.finish()
}

#[test]
fn while_it_drains_streams_go_on_and_nobody_new_comes_in() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut gateway = Gateway::in_front_of(&provider)?;
    let mut idle = gateway.connect()?;
    idle.send(&gateway.request("GET", "/v1/models", b""))?;
    ensure!(idle.response()?.status == 200);
    let stalled = HELLO.replace("gpt-4o\"", "fault:gap=100ms\",\"stream\":true");
    let stalled = stalled.replace("hi", "one two three four");
    let mut stream = gateway.connect()?;
    stream.send(&gateway.request("POST", CHAT, stalled.as_bytes()))?;
    stream.read_until(|bytes| bytes.windows(6).any(|window| window == b"data: "))?;

    gateway.process().terminate()?;
    eventually("new connections to be refused", || gateway.connect().err())?;
    ensure!(
        idle.is_ended_by_peer()?,
        "a connection without a request is kept"
    );
    ensure!(
        provider.active()?.active == 1,
        "the stream ended before the test did"
    );
    let answer = stream.response()?;
    let whole = answer.end == End::Complete && answer.text().ends_with("data: [DONE]\n\n");
    ensure!(whole, "{:?}: {}", answer.end, answer.text());
    let status = gateway.process().wait()?;
    ensure!(status.success(), "bodhi up ended with {status}");
    gateway.finish()
}
