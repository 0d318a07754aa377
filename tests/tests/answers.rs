//! What the gateway itself says: errors in the envelope of the surface that was called, lists of
//! models, CORS; and what it lets through of a provider's answer.

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::{Gateway, PROMPT};
use bodhi_tests::scripted::Scripted;
use bodhi_tests::wire;
use serde_json::Value;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Surface {
    OpenAi,
    Anthropic,
    Gemini,
}

impl Surface {
    /// Fails unless this is an error in the surface's envelope.
    fn check(self, error: &Value, status: u16) -> anyhow::Result<()> {
        let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
        let good = match self {
            Self::OpenAi => {
                text(&error["error"]["message"])
                    && text(&error["error"]["type"])
                    && error["error"].get("code").is_some()
            }
            Self::Anthropic => {
                error["type"] == "error"
                    && text(&error["error"]["type"])
                    && text(&error["error"]["message"])
            }
            Self::Gemini => {
                error["error"]["code"] == status
                    && text(&error["error"]["message"])
                    && text(&error["error"]["status"])
            }
        };
        ensure!(good, "not an error of {self:?} with {status}: {error}");
        Ok(())
    }
}

/// An endpoint of each surface with a body for this model.
fn surfaces(model: &str) -> [(Surface, String, String); 5] {
    let messages = r#""max_tokens":9,"messages":[{"role":"user","content":"hi"}]"#;
    [
        (
            Surface::OpenAi,
            "/v1/chat/completions".to_owned(),
            format!(r#"{{"model":"{model}",{messages}}}"#),
        ),
        (
            Surface::OpenAi,
            "/v1/responses".to_owned(),
            format!(r#"{{"model":"{model}","input":"hi"}}"#),
        ),
        (
            Surface::Anthropic,
            "/v1/messages".to_owned(),
            format!(r#"{{"model":"{model}",{messages}}}"#),
        ),
        (
            Surface::Anthropic,
            "/anthropic/v1/messages".to_owned(),
            format!(r#"{{"model":"{model}",{messages}}}"#),
        ),
        (
            Surface::Gemini,
            format!("/v1beta/models/{model}:generateContent"),
            r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#.to_owned(),
        ),
    ]
}

#[test]
fn errors_come_in_the_envelope_of_the_surface() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    for (surface, target, body) in surfaces("no-such-model") {
        let bearer = format!("Bearer {}", gateway.token);
        let (kept, last) = gateway.token.split_at(gateway.token.len() - 1);
        let broken = format!("Bearer {kept}{}", if last == "x" { "y" } else { "x" });
        let cases = [
            ("no credential", "POST", Vec::new(), body.as_str(), 401),
            (
                "a token nobody made",
                "POST",
                vec![("authorization", "Bearer bodhi_nonsense")],
                body.as_str(),
                401,
            ),
            (
                "a token with a wrong checksum",
                "POST",
                vec![("authorization", broken.as_str())],
                body.as_str(),
                401,
            ),
            (
                "an unknown model",
                "POST",
                vec![("authorization", bearer.as_str())],
                body.as_str(),
                404,
            ),
            (
                "malformed JSON",
                "POST",
                vec![("authorization", bearer.as_str())],
                "{\"model\":",
                400,
            ),
            (
                "another method",
                "PUT",
                vec![("authorization", bearer.as_str())],
                body.as_str(),
                405,
            ),
        ];
        for (case, method, mut headers, body, status) in cases {
            headers.push(("content-type", "application/json"));
            headers.push(("origin", "https://app.example"));
            let answer = wire::call(
                gateway.address,
                &wire::request(method, &target, &headers, body.as_bytes()),
            )?;
            let case = format!("{target}, {case}: {} {}", answer.status, answer.text());
            ensure!(answer.status == status, "{case}");
            surface
                .check(&answer.json(), status)
                .context(case.clone())?;
            ensure!(
                answer.header("x-bodhi-error-source") == Some("gateway"),
                "{case}"
            );
            ensure!(
                answer
                    .header("x-request-id")
                    .is_some_and(|id| !id.is_empty()),
                "{case}"
            );
            ensure!(
                answer.header("access-control-allow-origin") == Some("*"),
                "{case}"
            );
            ensure!(
                answer
                    .header("content-type")
                    .is_some_and(|kind| kind.starts_with("application/json")),
                "{case}"
            );
        }
    }
    ensure!(provider.requests()?.is_empty());
    gateway.finish()
}

#[test]
fn failures_of_the_provider_are_told_apart() -> anyhow::Result<()> {
    let mut provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let chat = |model: &str| {
        gateway.post(
            "/v1/chat/completions",
            format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#),
        )
    };
    for (model, status, code) in [
        ("fault:garbage", 502, "invalid_response"),
        ("fault:huge-head", 502, "invalid_response"),
        ("fault:many-headers=500", 502, "invalid_response"),
    ] {
        let answer = chat(model)?;
        ensure!(
            answer.status == status,
            "{model}: {} {}",
            answer.status,
            answer.text()
        );
        ensure!(
            answer.json()["error"]["code"] == code,
            "{model}: {}",
            answer.text()
        );
    }
    // The provider's own errors pass, byte for byte, with what tells when to come back.
    for status in [
        400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 529,
    ] {
        provider.clear()?;
        let answer = chat(&format!("fault:status={status},retry-after=7"))?;
        let direct = wire::request(
            "POST",
            "/openai/v1/chat/completions",
            &[(
                "authorization",
                &format!("Bearer {}", bodhi_tests::scripted::KEY),
            )],
            format!(r#"{{"model":"fault:status={status},retry-after=7","messages":[]}}"#)
                .as_bytes(),
        );
        ensure!(provider.requests()?.len() == 1, "{status} was tried again");
        let direct = wire::call(provider.listen, &direct)?;
        ensure!(
            answer.status == status && answer.body == direct.body,
            "{status}: {} {}",
            answer.status,
            answer.text()
        );
        ensure!(
            answer.header("x-bodhi-error-source") == Some("upstream"),
            "{status}"
        );
        ensure!(answer.header("retry-after") == Some("7"), "{status}");
    }
    // A redirect could carry the key elsewhere.
    provider.clear()?;
    let answer = chat("fault:redirect")?;
    ensure!(provider.requests()?.len() == 1, "the redirect was followed");
    ensure!(
        answer.status == 307 || answer.status == 502,
        "{} {}",
        answer.status,
        answer.text()
    );
    provider.kill();
    let answer = chat("gpt-4o-mini")?;
    ensure!(answer.status == 502, "{} {}", answer.status, answer.text());
    ensure!(
        ["connect_failed", "connection_reset"]
            .contains(&answer.json()["error"]["code"].as_str().unwrap_or_default()),
        "{}",
        answer.text()
    );
    gateway.finish()
}

#[test]
fn cells_of_the_table_answer_as_it_says() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let chat = |model: &str| {
        format!(
            r#"{{"model":"{model}","max_tokens":9,"prompt":"x","input":"hi","messages":[{{"role":"user","content":"hi"}}]}}"#
        )
    };
    let contents = r#"{"contents":[{"parts":[{"text":"hi"}]}],"content":{"parts":[{"text":"hi"}]},"requests":[]}"#;
    // The row's endpoint, then the status for openai, openai_responses, anthropic and gemini.
    let rows: [(&str, [u16; 4]); 10] = [
        ("/v1/chat/completions", [200, 400, 501, 501]),
        ("/v1/completions", [200, 400, 501, 501]),
        ("/v1/embeddings", [200, 400, 501, 501]),
        ("/v1/responses", [400, 200, 400, 400]),
        ("/v1/messages", [501, 400, 200, 501]),
        ("/v1/messages/count_tokens", [501, 400, 200, 501]),
        ("generateContent", [501, 400, 501, 200]),
        ("embedContent", [501, 400, 501, 200]),
        ("batchEmbedContents", [501, 400, 501, 200]),
        ("countTokens", [501, 400, 501, 200]),
    ];
    // Names that exist in one family only.
    let models = [
        "gpt-4o-mini",
        "r/only-responses",
        "claude-sonnet-4-5",
        "gemini-2.5-flash",
    ];
    for (endpoint, statuses) in rows {
        for (model, status) in models.into_iter().zip(statuses) {
            provider.clear()?;
            let answer = if endpoint.starts_with('/') {
                gateway.post(endpoint, chat(model))?
            } else {
                gateway.post(&format!("/v1beta/models/{model}:{endpoint}"), contents)?
            };
            ensure!(
                answer.status == status,
                "{endpoint} of {model}: {} {}",
                answer.status,
                answer.text()
            );
            let calls = provider.requests()?.len();
            ensure!(
                calls == usize::from(status == 200),
                "{endpoint} of {model}: {calls} upstream calls"
            );
        }
    }
    let refusal = gateway.post("/v1/responses", chat("gpt-4o-mini"))?;
    let wording = "Model 'gpt-4o-mini' is not configured for Responses API format. \
                   Configure an alias with 'openai_responses' format.";
    ensure!(
        refusal.json()["error"]["message"] == wording,
        "{}",
        refusal.text()
    );
    gateway.finish()
}

#[test]
fn a_providers_headers_survive_but_for_those_that_must_not() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let answer = gateway.post("/v1/chat/completions", r#"{"model":"fast","messages":[]}"#)?;
    for (name, value) in [
        ("date", "Tue, 14 Nov 2023 22:13:20 GMT"),
        ("content-type", "application/json; charset=UTF-8"),
        ("openai-processing-ms", "12"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-scripted-provider", "scripted"),
        ("access-control-allow-origin", "*"),
        ("access-control-expose-headers", "*"),
    ] {
        let all: Vec<&str> = answer
            .headers
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
            .collect();
        ensure!(all == [value], "{name}: {all:?}");
    }
    for name in [
        "set-cookie",
        "x-bodhi-error-source",
        "access-control-allow-credentials",
    ] {
        ensure!(
            answer.header(name).is_none(),
            "{name}: {:?}",
            answer.header(name)
        );
    }
    ensure!(
        answer
            .header("x-request-id")
            .is_some_and(|id| id.starts_with("req_")),
        "{:?}",
        answer.headers
    );
    gateway.finish()
}

#[test]
fn a_preflight_needs_no_credential() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let headers = [
        ("origin", "https://app.example"),
        ("access-control-request-method", "POST"),
        (
            "access-control-request-headers",
            "authorization, x-stainless-lang",
        ),
    ];
    for target in [
        "/v1/chat/completions",
        "/v1/responses/resp_1",
        "/anthropic/v1/messages",
        "/v1beta/models/x:generateContent",
    ] {
        let answer = wire::call(
            gateway.address,
            &wire::request("OPTIONS", target, &headers, b""),
        )?;
        ensure!(answer.status / 100 == 2, "{target}: {}", answer.status);
        ensure!(
            answer.header("access-control-allow-origin") == Some("*"),
            "{target}: {:?}",
            answer.headers
        );
        ensure!(
            answer
                .header("access-control-allow-methods")
                .is_some_and(|all| all.contains("POST")),
            "{target}: {:?}",
            answer.headers
        );
        let allowed = answer
            .header("access-control-allow-headers")
            .unwrap_or_default()
            .to_ascii_lowercase();
        ensure!(
            allowed.contains("authorization") && allowed.contains("x-stainless-lang"),
            "{target}: {allowed}"
        );
        ensure!(
            answer.header("access-control-allow-credentials").is_none(),
            "{target}"
        );
    }
    gateway.finish()
}

#[test]
fn each_surface_lists_what_its_generation_endpoint_serves() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let list = gateway.get("/v1/models")?.json();
    ensure!(list["object"] == "list", "{list}");
    let ids: Vec<&str> = list["data"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["id"].as_str())
        .collect();
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    ensure!(ids == sorted, "not sorted, or twice: {ids:?}");
    for name in [
        "fast",
        "gpt-4o",
        "gpt-4o-mini",
        "claude-sonnet-4-5",
        "gemini-2.5-flash",
    ] {
        ensure!(ids.contains(&name), "{name} is not in {ids:?}");
    }
    ensure!(
        !ids.iter()
            .any(|id| id.contains('*') || id.ends_with('/') || id.ends_with(':')),
        "a wildcard: {ids:?}"
    );
    let one = gateway.get("/v1/models/gpt-4o-mini")?.json();
    ensure!(
        one["id"] == "gpt-4o-mini" && one["object"] == "model",
        "{one}"
    );
    ensure!(gateway.get("/v1/models/none")?.status == 404);
    let claude = gateway.get("/anthropic/v1/models")?.json();
    let named = |list: &Value, key: &str, name: &str, value: &str| {
        list[key]
            .as_array()
            .into_iter()
            .flatten()
            .any(|one| one[name] == value)
    };
    ensure!(
        named(&claude, "data", "id", "claude-sonnet-4-5") && claude["has_more"] == false,
        "{claude}"
    );
    let gemini = gateway.get("/v1beta/models")?.json();
    ensure!(
        named(&gemini, "models", "name", "models/gemini-2.5-flash"),
        "{gemini}"
    );
    ensure!(provider.requests()?.is_empty(), "lists are ours");
    gateway.finish()
}

#[test]
fn nothing_of_a_conversation_is_printed_or_kept() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    for model in [
        "fast",
        "fault:status=500",
        "fault:garbage",
        "fault:reset-at=10",
        "none",
    ] {
        for stream in [true, false] {
            let body = format!(
                r#"{{"model":"{model}","stream":{stream},"messages":[{{"role":"user","content":"{PROMPT}"}}]}}"#
            );
            let _ = gateway.post("/v1/chat/completions", &body);
            let _ = gateway.post("/v1/chat/completions", &body[..body.len() - 1]);
        }
    }
    let _ = gateway.post(
        "/v1/responses",
        format!(r#"{{"model":"gpt-4o","input":"{PROMPT}"}}"#),
    );
    let _ = gateway.get(&format!("/v1/models?key={}", gateway.token));
    gateway.finish()
}
