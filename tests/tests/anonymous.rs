//! `bodhi up --anonymous`: no credential is asked for, and nobody from elsewhere gets in.

use std::process::Command;

use anyhow::ensure;
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::everything;
use bodhi_tests::process::{Process, binary};
use bodhi_tests::scripted::Scripted;
use bodhi_tests::wire::{self, Response};

const CHAT: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}"#;

struct Anonymous {
    provider: Scripted,
    gateway: Gateway,
}

impl Anonymous {
    fn start() -> anyhow::Result<Self> {
        let provider = Scripted::start()?;
        let gateway = Gateway::with(&everything(&provider.url()), &["--anonymous"], &[])?;
        gateway.serves("gpt-4o")?;
        gateway.serves("gemini-2.5-flash")?;
        gateway.serves("claude-sonnet-4-5")?;
        Ok(Self { provider, gateway })
    }

    fn call(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Response> {
        let mut all = headers.to_vec();
        if !body.is_empty() {
            all.push(("content-type", "application/json"));
        }
        let request = wire::request(method, target, &all, body.as_bytes());
        wire::call(self.gateway.address, &request)
    }

    fn chat(&self, headers: &[(&str, &str)]) -> anyhow::Result<Response> {
        self.call("POST", "/v1/chat/completions", headers, CHAT)
    }
}

#[test]
fn every_surface_serves_without_a_credential_and_the_providers_key_is_ours() -> anyhow::Result<()> {
    let anonymous = Anonymous::start()?;
    ensure!(anonymous.gateway.token.is_empty(), "a token was printed");
    let messages = CHAT.replace("gpt-4o\"", "claude-sonnet-4-5\",\"max_tokens\":9");
    let contents = r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#;
    for (method, target, body) in [
        ("GET", "/v1/models", ""),
        ("POST", "/v1/chat/completions", CHAT),
        (
            "POST",
            "/v1/responses",
            r#"{"model":"gpt-4o","input":"hi"}"#,
        ),
        ("POST", "/v1/messages", &messages),
        (
            "POST",
            "/v1beta/models/gemini-2.5-flash:generateContent",
            contents,
        ),
    ] {
        // A client library that cannot do without a key is welcome as well.
        let key = [
            ("authorization", "Bearer whatever"),
            ("x-api-key", "whatever"),
        ];
        for headers in [&[][..], &key] {
            let answer = anonymous.call(method, target, headers, body)?;
            ensure!(
                answer.status == 200,
                "{target}: {} {}",
                answer.status,
                answer.text()
            );
        }
    }
    anonymous.gateway.finish()
}

#[test]
fn names_that_lead_here_from_elsewhere_are_refused() -> anyhow::Result<()> {
    let anonymous = Anonymous::start()?;
    for host in ["localhost", "LOCALHOST:1135", "127.0.0.1:9", "[::1]:1135"] {
        let answer = anonymous.chat(&[("host", host)])?;
        ensure!(answer.status == 200, "{host}: {}", answer.text());
    }
    anonymous.provider.clear()?;
    for host in [
        "rebound.example",
        "rebound.example:1135",
        "localhost.rebound.example",
        "127.0.0.1.rebound.example",
        "10.0.0.1:1135",
        "0.0.0.0",
    ] {
        let answer = anonymous.chat(&[("host", host)])?;
        ensure!(
            answer.status == 403,
            "{host}: {} {}",
            answer.status,
            answer.text()
        );
        let json = answer.json();
        ensure!(
            json["error"]["type"] == "permission_error",
            "{host}: {json}"
        );
    }
    // The target's authority counts, where there is one.
    let target = "http://rebound.example/v1/models";
    let answer = anonymous.call("GET", target, &[("host", "localhost")], "")?;
    ensure!(answer.status >= 400, "{target}: {}", answer.status);
    ensure!(anonymous.provider.requests()?.is_empty());
    anonymous.gateway.finish()
}

#[test]
fn pages_of_this_machine_may_read_and_no_others() -> anyhow::Result<()> {
    let anonymous = Anonymous::start()?;
    let allowed = |answer: &Response| {
        answer
            .header("access-control-allow-origin")
            .map(str::to_owned)
    };
    let asks = |origin| {
        [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ]
    };
    let target = "/v1/chat/completions";
    for origin in [
        "http://localhost:3000",
        "https://localhost",
        "http://127.0.0.1:8080",
        "http://[::1]:3000",
    ] {
        let answer = anonymous.chat(&[("origin", origin)])?;
        ensure!(answer.status == 200, "{origin}: {}", answer.text());
        // One origin, not all: else any page could read what this one's request left in a cache.
        ensure!(
            allowed(&answer).as_deref() == Some(origin),
            "{origin}: {:?}",
            answer.headers
        );
        let varies = answer
            .headers
            .iter()
            .any(|(name, value)| name == "vary" && value.to_ascii_lowercase().contains("origin"));
        ensure!(varies, "{origin}: {:?}", answer.headers);
        let answer = anonymous.call("OPTIONS", target, &asks(origin), "")?;
        ensure!(answer.status == 204, "{origin}: {}", answer.status);
        ensure!(
            allowed(&answer).as_deref() == Some(origin),
            "{origin}: {:?}",
            answer.headers
        );
        ensure!(answer.header("access-control-allow-methods") == Some("POST"));
    }
    anonymous.provider.clear()?;
    for origin in [
        "https://evil.example",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example:80",
        "http://evil.example:1135",
        "null",
        "file://",
        "http://192.168.0.7",
        "",
    ] {
        let answer = anonymous.chat(&[("origin", origin)])?;
        ensure!(
            answer.status == 403,
            "{origin}: {} {}",
            answer.status,
            answer.text()
        );
        ensure!(allowed(&answer).is_none(), "{origin}: {:?}", answer.headers);
        let answer = anonymous.call("OPTIONS", target, &asks(origin), "")?;
        ensure!(allowed(&answer).is_none(), "{origin}: {:?}", answer.headers);
    }
    ensure!(
        anonymous.provider.requests()?.is_empty(),
        "a foreign page spent the key"
    );
    anonymous.gateway.finish()
}

#[test]
fn managing_still_takes_a_token() -> anyhow::Result<()> {
    let anonymous = Anonymous::start()?;
    for (method, path, body) in [
        ("GET", "/bodhi/v1/tokens", ""),
        (
            "POST",
            "/bodhi/v1/tokens",
            r#"{"name":"mine","scope":"admin"}"#,
        ),
        ("GET", "/bodhi/v1/apimodels", ""),
        ("GET", "/bodhi/v1/status", ""),
        ("GET", "/bodhi/v1/audit", ""),
        ("DELETE", "/bodhi/v1/apimodels/bodhi/openai", ""),
    ] {
        let answer = anonymous.call(method, path, &[], body)?;
        ensure!(
            answer.status == 401,
            "{method} {path}: {} {}",
            answer.status,
            answer.text()
        );
        ensure!(
            answer.header("access-control-allow-origin").is_none(),
            "{method} {path}"
        );
    }
    let admin = anonymous.gateway.admin_token()?;
    let answer = anonymous
        .gateway
        .call_as(&admin, "GET", "/bodhi/v1/tokens", "")?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    anonymous.gateway.finish()
}

#[test]
fn an_address_that_others_reach_is_refused_at_the_start() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let mut command = Command::new(binary("bodhi")?);
        command.env_clear().env("HOME", folder.path());
        command.args(["up", "--anonymous", "--admin-listen", "127.0.0.1:0"]);
        command
            .args(["--listen", listen])
            .arg("--data")
            .arg(folder.path());
        let mut process = Process::start("bodhi up", command)?;
        let status = process.wait()?;
        process.finish()?;
        let printed = process.printed();
        ensure!(!status.success(), "{listen}: {status}\n{printed}");
        for word in [
            "--anonymous",
            "loopback",
            listen.trim_end_matches(":0").trim_matches(['[', ']']),
        ] {
            ensure!(
                printed.contains(word),
                "{listen}: no '{word}' in:\n{printed}"
            );
        }
        ensure!(!printed.contains("panicked"), "{printed}");
    }
    Ok(())
}
