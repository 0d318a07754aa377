//! The way to providers: TLS, addresses that are never dialled, limits and timeouts.

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::process::eventually;
use bodhi_tests::provider::Outcome;
use bodhi_tests::scripted::{KEY, Scripted};
use bodhi_tests::wire::{End, Response};
use serde_json::json;

fn body(model: &str) -> String {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]}).to_string()
}

fn chat(gateway: &Gateway, model: &str) -> anyhow::Result<Response> {
    gateway.post("/v1/chat/completions", body(model))
}

/// Fails unless this is the gateway's own error.
fn is_error(answer: &Response, status: u16, code: &str, case: &str) -> anyhow::Result<()> {
    let good = answer.status == status
        && answer.json()["error"]["code"] == code
        && answer.header("x-bodhi-error-source") == Some("gateway");
    ensure!(good, "{case}: {} {}", answer.status, answer.text());
    Ok(())
}

/// A labelled Secret of that name with these PEM roots as `ca.crt`.
fn roots(name: &str, pem: &str) -> String {
    let json = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "labels": {"bodhi.dev/credential": "true"}},
        "stringData": {"ca.crt": pem},
    });
    json.to_string()
}

#[test]
fn a_provider_is_trusted_by_its_objects_roots_alone() -> anyhow::Result<()> {
    let provider = Scripted::with(&["--key", KEY, "--tls"])?;
    let other = Scripted::with(&["--key", KEY, "--tls"])?;
    let url = format!("{}/openai/v1", provider.url());
    let by_name = url.replace("127.0.0.1", "localhost");
    let own = "caBundleRef: {name: own-roots, key: ca.crt}";
    let wrong = "caBundleRef: {name: other-roots, key: ca.crt}";
    let object = |name, url: &str, model, more| {
        ApiModel {
            more,
            ..ApiModel::new(name, "openai", url.to_owned(), model)
        }
        .yaml()
    };
    let gateway = Gateway::up(&[
        roots(
            "own-roots",
            provider.authority.as_deref().context("its authority")?,
        ),
        roots(
            "other-roots",
            other.authority.as_deref().context("its authority")?,
        ),
        object("right", &url, &["right"], own),
        object("named", &by_name, &["named"], own),
        object("wrong", &url, &["wrong"], wrong),
        object("public", &url, &["public"], ""),
    ])?;
    for model in ["right", "named", "wrong", "public"] {
        gateway.serves(model)?;
    }
    for model in ["right", "named"] {
        let answer = chat(&gateway, model)?;
        ensure!(
            answer.status == 200,
            "{model}: {} {}",
            answer.status,
            answer.text()
        );
    }
    provider.clear()?;
    for model in ["wrong", "public"] {
        let answer = chat(&gateway, model)?;
        is_error(&answer, 502, "tls_failed", model)?;
    }
    ensure!(
        provider.requests()?.is_empty(),
        "a key went to whom nobody vouches for"
    );
    // A connection that one object trusts is not another's.
    let answer = chat(&gateway, "right")?;
    ensure!(answer.status == 200, "{}", answer.text());
    is_error(
        &chat(&gateway, "wrong")?,
        502,
        "tls_failed",
        "with a warm connection",
    )?;
    gateway.finish()
}

#[test]
fn metadata_services_are_never_dialled_however_they_are_spelled() -> anyhow::Result<()> {
    let hosts = [
        ("plain", "169.254.169.254"),
        ("mapped", "[::ffff:169.254.169.254]"),
        ("mapped-hex", "[::ffff:a9fe:a9fe]"),
        ("nat64", "[64:ff9b::169.254.169.254]"),
        ("decimal", "2852039166"),
        ("hex", "0xa9fea9fe"),
        ("octal", "0251.0376.0251.0376"),
        ("short", "169.254.43518"),
        ("link-local", "169.254.1.1"),
        ("link-local-six", "[fe80::1]"),
        ("alibaba", "100.100.100.200"),
        ("aws-six", "[fd00:ec2::254]"),
        ("azure", "168.63.129.16"),
        ("unspecified", "0.0.0.0"),
    ];
    let manifests: Vec<String> = hosts
        .iter()
        .map(|&(name, host)| {
            let url = format!("http://{host}/latest/v1");
            let more = "timeouts: {connect: 1s, firstByte: 1s}";
            ApiModel {
                more,
                ..ApiModel::new(name, "openai", url, &[name])
            }
            .yaml()
        })
        .collect();
    let gateway = Gateway::up(&manifests)?;
    for (name, host) in hosts {
        gateway.serves(name)?;
        let answer = chat(&gateway, name)?;
        is_error(&answer, 502, "connect_failed", host)?;
        let text = answer.text();
        let says_so = text.contains("must not be dialled") && text.contains("egress policy");
        ensure!(says_so, "{host}: {text}");
    }
    gateway.finish()
}

#[test]
fn more_than_the_object_allows_in_flight_is_told_to_come_back() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let url = format!("{}/openai/v1", provider.url());
    let slow = "fault:slow-first-byte=60000ms";
    let few = ApiModel {
        more: "maxInFlight: 2",
        ..ApiModel::forwarding("few", "openai", url.clone(), "few/", true)
    };
    let many = ApiModel::new("many", "openai", url, &["gpt-4o"]);
    let gateway = Gateway::up(&[few.yaml(), many.yaml()])?;
    gateway.serves("gpt-4o")?;
    let asked = body(&format!("few/{slow}"));
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut wire = gateway.connect()?;
        wire.send(&gateway.request("POST", "/v1/chat/completions", asked.as_bytes()))?;
        waiting.push(wire);
    }
    let active = |n: usize| {
        eventually(&format!("{n} requests in flight"), || {
            provider.active().ok().filter(|active| active.active == n)
        })
    };
    active(2)?;
    let answer = chat(&gateway, "few/gpt-4o")?;
    is_error(&answer, 429, "concurrency", "a third request")?;
    let wait = answer
        .header("retry-after")
        .and_then(|wait| wait.parse::<u64>().ok());
    ensure!(wait.is_some_and(|wait| wait >= 1), "{:?}", answer.headers);
    ensure!(answer.text().contains("maxInFlight"), "{}", answer.text());
    ensure!(provider.active()?.active == 2, "it was sent all the same");
    // Another object at the same address has places of its own.
    ensure!(chat(&gateway, "gpt-4o")?.status == 200);
    // A client that leaves gives its place back.
    waiting.pop();
    active(1)?;
    eventually("a free place", || {
        chat(&gateway, "few/gpt-4o")
            .ok()
            .filter(|answer| answer.status == 200)
    })?;
    gateway.finish()
}

#[test]
fn a_provider_that_is_silent_or_gone_is_told_apart() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut gone = Scripted::start()?;
    let object = |name, provider: &Scripted, prefix, more| {
        let url = format!("{}/openai/v1", provider.url());
        ApiModel {
            more,
            models: &["gpt-4o"],
            ..ApiModel::forwarding(name, "openai", url, prefix, true)
        }
        .yaml()
    };
    let gateway = Gateway::up(&[
        object(
            "first-byte",
            &provider,
            "first/",
            "timeouts: {firstByte: 1s}",
        ),
        object("idle", &provider, "idle/", "timeouts: {idle: 1s}"),
        object("gone", &gone, "gone/", ""),
    ])?;
    gone.kill();
    for name in ["first/gpt-4o", "idle/gpt-4o", "gone/gpt-4o"] {
        gateway.serves(name)?;
    }
    is_error(
        &chat(&gateway, "gone/gpt-4o")?,
        502,
        "connect_failed",
        "gone",
    )?;

    provider.clear()?;
    let answer = chat(&gateway, "first/fault:slow-first-byte=60000ms")?;
    is_error(&answer, 504, "first_byte_timeout", "silent")?;
    let sent = provider.only_request()?;
    let (_, outcome) = provider.ended(sent.n)?;
    ensure!(
        outcome == Outcome::ClientLeft,
        "the provider works on: {outcome:?}"
    );
    // Only the first byte is timed: what is slow in itself is not cut.
    let answer = chat(&gateway, "first/fault:drip=150/400ms")?;
    ensure!(
        answer.status == 200 && answer.end == End::Complete,
        "{}",
        answer.text()
    );
    ensure!(
        answer.json()["object"] == "chat.completion",
        "{}",
        answer.text()
    );

    let stalled = json!({
        "model": "idle/fault:stall-after=600", "stream": true,
        "messages": [{"role": "user", "content": "a b c d"}],
    });
    let answer = gateway.post("/v1/chat/completions", stalled.to_string())?;
    let text = answer.text();
    ensure!(
        answer.status == 200 && answer.end != End::Complete,
        "{:?}: {text}",
        answer.end
    );
    ensure!(!text.contains("[DONE]"), "{text}");
    gateway.finish()
}

#[test]
fn redirects_are_the_clients_to_follow() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let elsewhere = Scripted::start()?;
    let url = format!("{}/openai/v1", provider.url());
    let object = ApiModel::forwarding("openai", "openai", url, "fault:", false);
    let listed = ApiModel {
        models: &["fault:status=200"],
        ..object
    };
    let gateway = Gateway::up(&[listed.yaml()])?;
    gateway.serves("fault:status=200")?;
    let location = format!("{}/openai/v1/chat/completions", elsewhere.url());
    let answer = chat(&gateway, &format!("fault:redirect={location}"))?;
    ensure!(answer.status == 307, "{} {}", answer.status, answer.text());
    ensure!(
        answer.header("location") == Some(&location),
        "{:?}",
        answer.headers
    );
    ensure!(provider.requests()?.len() == 1 && elsewhere.requests()?.is_empty());
    gateway.finish()
}
