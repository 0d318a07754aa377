//! Paths, names, headers and framings that are made to mislead: each is refused or harmless.

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::{ApiModel, alias};
use bodhi_tests::scripted::{KEY, Scripted};
use bodhi_tests::wire::{self, Wire};

const CONTENTS: &str = r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#;

#[test]
fn a_path_leads_to_its_template_or_nowhere() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let flash = "/gemini/v1beta/models/gemini-2.5-flash:generateContent";
    // Target, and where it may arrive; `None` is a refusal.
    let cases = [
        (
            "/v1beta/models/gemini-2.5-flash:generateContent",
            Some(flash),
        ),
        (
            "/v1beta/models/g/gemini-2.5-flash:generateContent",
            Some(flash),
        ),
        (
            "/v1beta/models/g%2Fgemini-2.5-flash:generateContent",
            Some(flash),
        ),
        (
            "/v1beta/models/%67%2fgemini-2.5-flash:generateContent",
            Some(flash),
        ),
        ("/v1beta/models/g/a b:generateContent", None),
        (
            "/v1beta/models/g/a%20b:generateContent",
            Some("/gemini/v1beta/models/a%20b:generateContent"),
        ),
        ("/v1beta/models/g/..:generateContent", None),
        ("/v1beta/models/g/../../x:generateContent", None),
        ("/v1beta/models/g/%2e%2e/x:generateContent", None),
        ("/v1beta/models/g/..%2Fx:generateContent", None),
        ("/v1beta/models/g%2F..%2F..%2Fx:generateContent", None),
        ("/v1beta/models/g/./x:generateContent", None),
        ("/v1beta/models/g//x:generateContent", None),
        ("/v1beta/models/g/%2Fx:generateContent", None),
        ("/v1beta/models/g/a%252Fb:generateContent", None),
        ("/v1beta/models/g/%252e%252e%252fb:generateContent", None),
        ("/v1beta/models/g/a%3Fkey=b:generateContent", None),
        ("/v1beta/models/g/a%23b:generateContent", None),
        ("/v1beta/models/g/a%5Cb:generateContent", None),
        ("/v1beta/models/g/a\\b:generateContent", None),
        ("/v1beta/models/g/a%00b:generateContent", None),
        ("/v1beta/models/g/a%0D%0Ahost:evil:generateContent", None),
        ("/v1beta/models/g/a%7F:generateContent", None),
        ("/v1beta/models/g/a%C3%28:generateContent", None),
        ("/v1beta/models/g/a%zz:generateContent", None),
        ("/v1beta/models/g/:generateContent", None),
        ("/v1beta/models/gemini-2.5-flash", None),
        ("/v1beta/models/gemini-2.5-flash:", None),
        ("/v1beta//models/gemini-2.5-flash:generateContent", None),
        (
            "/v1beta/../v1beta/models/gemini-2.5-flash:generateContent",
            None,
        ),
        ("/V1BETA/models/gemini-2.5-flash:generateContent", None),
        ("/v1beta/tunedModels/gemini-2.5-flash:generateContent", None),
        (
            "/gemini/v1beta/models/gemini-2.5-flash:generateContent",
            None,
        ),
        ("/v1/chat%2Fcompletions", None),
        ("/v1//chat/completions", None),
        ("/v1/chat/completions/..", None),
        ("/v1/./chat/completions", None),
        ("/v1/files", None),
        ("/v1/responses/..%2Fmodels/cancel", None),
        ("/v1/responses/resp_1%2Fcancel", None),
        ("/v1/responses/resp_1/cancel/x", None),
        ("/v1/responses/resp.1/cancel", None),
        ("/v1/responses/resp%00/cancel", None),
        ("*", None),
        ("", None),
    ];
    for (target, expected) in cases {
        provider.clear()?;
        let answer = gateway.post(target, CONTENTS);
        let arrived: Vec<String> = provider
            .requests()?
            .into_iter()
            .map(|one| one.target)
            .collect();
        match expected {
            Some(expected) => ensure!(
                arrived == [expected],
                "{target} arrived at {arrived:?}, {answer:?}"
            ),
            None => {
                ensure!(arrived.is_empty(), "{target} arrived at {arrived:?}");
                let status = answer.with_context(|| target.to_owned())?.status;
                ensure!(
                    (400..500).contains(&status),
                    "{target} was answered with {status}"
                );
            }
        }
    }
    let long = format!("/v1/responses/{}", "a".repeat(257));
    ensure!(
        gateway.get(&long)?.status == 400,
        "a response id of 257 characters"
    );
    ensure!(provider.requests()?.is_empty());
    gateway.finish()
}

#[test]
fn the_key_in_a_query_never_travels_however_it_is_spelled() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let token = gateway.token.clone();
    for (query, expected) in [
        (format!("key={token}"), ""),
        (format!("k%65y={token}"), ""),
        (format!("%6B%65%79={token}"), ""),
        (
            format!("alt=json&key={token}&b=1&b=2&a=%2F"),
            "?alt=json&b=1&b=2&a=%2F",
        ),
        (format!("key={token}&key={token}&x=1"), "?x=1"),
        (format!("a=1&&k%65y={token}&"), "?a=1&&"),
    ] {
        provider.clear()?;
        let target = format!("/v1beta/models/gemini-2.5-flash:generateContent?{query}");
        let request = wire::request(
            "POST",
            &target,
            &[("content-type", "application/json")],
            CONTENTS.as_bytes(),
        );
        let answer = wire::call(gateway.address, &request)?;
        ensure!(
            answer.status == 200,
            "{query}: {} {}",
            answer.status,
            answer.text()
        );
        let upstream = provider.only_request()?;
        let raw = String::from_utf8_lossy(&provider.raw(upstream.n)?).into_owned();
        ensure!(!raw.contains(&token), "the token travelled: {raw}");
        let got = upstream
            .target
            .trim_start_matches("/gemini/v1beta/models/gemini-2.5-flash:generateContent");
        let tidy = |query: &str| {
            query
                .trim_start_matches('?')
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        ensure!(tidy(got) == tidy(expected), "{query} became {got}");
    }
    gateway.finish()
}

#[test]
fn a_name_is_claimed_once_and_matched_exactly() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let at = |path: &str| format!("{}{path}", provider.url());
    let manifests = [
        ApiModel::new(
            "exact",
            "openai",
            at("/openai/v1"),
            &["gpt-4o", "p/q/exact"],
        )
        .yaml(),
        ApiModel::forwarding("short", "openai", at("/openai/short"), "p/", true).yaml(),
        ApiModel::forwarding("long", "openai", at("/openai/long"), "p/q/", true).yaml(),
        ApiModel::forwarding("kept", "openai", at("/openai/kept"), "kept-", false).yaml(),
        // An Alias takes the name of an ApiModel's id, within one namespace.
        alias("taken", "gpt-4o", "exact", "p/q/exact"),
    ];
    let gateway = Gateway::up(&manifests)?;
    gateway.serves("gpt-4o")?;
    gateway.serves("p/q/exact")?;
    // The name asked for; the version segment that tells the object; the model it gets.
    let cases = [
        ("gpt-4o", Some(("v1", "p/q/exact"))),
        ("p/q/exact", Some(("v1", "p/q/exact"))),
        ("p/x", Some(("short", "x"))),
        ("p/q", Some(("short", "q"))),
        ("p/qq/x", Some(("short", "qq/x"))),
        ("p/q/x", Some(("long", "x"))),
        ("p/q/q/x", Some(("long", "q/x"))),
        ("p/q/p/q/exact", Some(("long", "p/q/exact"))),
        ("kept-x", Some(("kept", "kept-x"))),
        ("p/../p/q/x", Some(("short", "../p/q/x"))),
        ("p/q/", Some(("short", "q/"))),
        ("p/", None),
        ("kept-", None),
        ("P/x", None),
        ("GPT-4o", None),
        (" gpt-4o", None),
        ("gpt-4o ", None),
        ("gpt-4o\\u0000", None),
        ("", None),
    ];
    for (name, expected) in cases {
        provider.clear()?;
        let body = format!(r#"{{"model":"{name}","messages":[{{"role":"user","content":"hi"}}]}}"#);
        let answer = gateway.post("/v1/chat/completions", body)?;
        let Some((object, model)) = expected else {
            ensure!(
                matches!(answer.status, 400 | 404),
                "'{name}': {} {}",
                answer.status,
                answer.text()
            );
            ensure!(provider.requests()?.is_empty(), "'{name}' was forwarded");
            continue;
        };
        let upstream = provider
            .only_request()
            .with_context(|| format!("'{name}': {}", answer.text()))?;
        let body: serde_json::Value = serde_json::from_slice(&provider.body(upstream.n)?)?;
        let got = (
            upstream.target.split('/').nth(2).unwrap_or_default(),
            body["model"].as_str().unwrap_or_default(),
        );
        ensure!(got == (object, model), "'{name}' went to {got:?}");
    }
    gateway.finish()
}

#[test]
fn only_the_headers_that_may_travel_do() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let token = gateway.token.clone();
    let bearer = format!("bEARER {token}");
    let misleading = [
        ("authorization", bearer.as_str()),
        ("x-api-key", "client-key"),
        ("x-goog-api-key", "client-key"),
        ("api-key", "client-key"),
        ("cookie", "session=1"),
        ("proxy-authorization", "Basic eDp5"),
        ("x-goog-user-project", "somebody-elses"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=10.0.0.1"),
        ("x-real-ip", "10.0.0.1"),
        ("host", "evil.example"),
        (
            "connection",
            "keep-alive, authorization, x-api-key, content-type",
        ),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("accept-encoding", "gzip, br"),
        ("user-agent", "curl/8"),
        ("origin", "https://evil.example"),
        ("referer", "https://evil.example"),
        ("x-bodhi-model", "gpt-4o"),
        ("x-stainless-lang", "js"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
        ("content-type", "application/json"),
        ("accept", "text/event-stream"),
        ("openai-beta", "assistants=v2"),
        ("idempotency-key", "i-1"),
        ("anthropic-version", "2026-01-01"),
        ("anthropic-beta", "b1,b2"),
        ("x-goog-fieldmask", "candidates"),
    ];
    // What must arrive besides the provider's own needs, by format.
    let common = ["content-type", "accept", "idempotency-key", "openai-beta"];
    let anthropic_own = ["anthropic-version", "anthropic-beta"];
    let claude = r#"{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[]}"#;
    let generate = "/v1beta/models/gemini-2.5-flash:generateContent";
    let cases = [
        (
            "/v1/chat/completions",
            r#"{"model":"fast","messages":[]}"#,
            &[][..],
            "authorization",
            format!("Bearer {KEY}"),
        ),
        (
            "/v1/messages",
            claude,
            &anthropic_own[..],
            "x-api-key",
            KEY.to_owned(),
        ),
        (
            generate,
            CONTENTS,
            &["x-goog-fieldmask"][..],
            "x-goog-api-key",
            KEY.to_owned(),
        ),
    ];
    for (format, body, own, credential, value) in cases {
        provider.clear()?;
        wire::call(
            gateway.address,
            &wire::request("POST", format, &misleading, body.as_bytes()),
        )?;
        let upstream = provider.only_request()?;
        let raw = String::from_utf8_lossy(&provider.raw(upstream.n)?).into_owned();
        ensure!(
            !raw.contains(&token) && !raw.contains("client-key"),
            "{format}: a credential of the client: {raw}"
        );
        let mut names: Vec<String> = upstream
            .headers
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        let find = |name: &str| {
            let found = upstream
                .headers
                .iter()
                .find(|(n, _)| n.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str())
        };
        ensure!(
            find("host") == Some(provider.listen.to_string().as_str()),
            "{format}: host {:?}",
            find("host")
        );
        ensure!(
            find("accept-encoding") == Some("identity"),
            "{format}: {:?}",
            find("accept-encoding")
        );
        ensure!(
            find(credential) == Some(value.as_str()),
            "{format}: no key of ours"
        );
        for name in own {
            let sent = misleading
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| *value);
            ensure!(find(name) == sent, "{format}: {name} is {:?}", find(name));
        }
        let allowed = |name: &String| {
            common.contains(&name.as_str())
                || own.contains(&name.as_str())
                || name == credential
                || ["host", "accept-encoding", "content-length"].contains(&name.as_str())
        };
        let count = names.len();
        names.sort();
        names.dedup();
        ensure!(names.len() == count, "{format}: a header twice: {names:?}");
        let extra: Vec<&String> = names.iter().filter(|name| !allowed(name)).collect();
        ensure!(extra.is_empty(), "{format}: {extra:?} travelled");
        for name in common {
            ensure!(
                names.iter().any(|n| n == name),
                "{format}: {name} did not travel"
            );
        }
    }
    gateway.finish()
}

#[test]
fn a_request_with_two_readings_is_refused_and_its_connection_closed() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let token = gateway.token.clone();
    let post = |rest: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{rest}"
        )
    };
    let body = r#"{"model":"fast","messages":[]}"#;
    let n = body.len();
    let chunked = format!("{n:x}\r\n{body}\r\n0\r\n\r\n");
    let hidden = format!(
        "POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
    );
    let cases = [
        (
            "content-length and transfer-encoding",
            post(&format!(
                "content-length: {n}\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"
            )),
        ),
        (
            "transfer-encoding and content-length",
            post(&format!(
                "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{chunked}{hidden}"
            )),
        ),
        (
            "two lengths",
            post(&format!(
                "content-length: {n}\r\ncontent-length: 5\r\n\r\n{body}"
            )),
        ),
        (
            "two equal lengths",
            post(&format!(
                "content-length: {n}\r\ncontent-length: {n}\r\n\r\n{body}"
            )),
        ),
        (
            "a list of lengths",
            post(&format!("content-length: {n}, {n}\r\n\r\n{body}")),
        ),
        (
            "a signed length",
            post(&format!("content-length: +{n}\r\n\r\n{body}")),
        ),
        ("a negative length", post("content-length: -1\r\n\r\n")),
        (
            "a hexadecimal length",
            post(&format!("content-length: 0x{n:x}\r\n\r\n{body}")),
        ),
        (
            "a length beyond 64 bits",
            post(&format!(
                "content-length: 99999999999999999999\r\n\r\n{body}"
            )),
        ),
        (
            "a coding that is no coding",
            post(&format!("transfer-encoding: xchunked\r\n\r\n{chunked}")),
        ),
        (
            "chunked not last",
            post(&format!(
                "transfer-encoding: chunked, identity\r\n\r\n{chunked}"
            )),
        ),
        (
            "space before the colon",
            post(&format!("transfer-encoding : chunked\r\n\r\n{chunked}")),
        ),
        (
            "a folded line",
            post(&format!(
                "x-folded: a\r\n b\r\ncontent-length: {n}\r\n\r\n{body}"
            )),
        ),
        (
            "a null in a value",
            post(&format!(
                "x-null: a\0b\r\ncontent-length: {n}\r\n\r\n{body}"
            )),
        ),
        (
            "a space in a name",
            post(&format!("x name: a\r\ncontent-length: {n}\r\n\r\n{body}")),
        ),
        (
            "a chunk size with a prefix",
            post(&format!("transfer-encoding: chunked\r\n\r\n0x{chunked}")),
        ),
        (
            "a chunk size beyond 64 bits",
            post(&format!(
                "transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{body}"
            )),
        ),
        (
            "an upgrade",
            post(&format!(
                "connection: upgrade\r\nupgrade: websocket\r\ncontent-length: {n}\r\n\r\n{body}"
            )),
        ),
        (
            "CONNECT",
            format!(
                "CONNECT localhost:1 HTTP/1.1\r\nhost: localhost:1\r\nauthorization: Bearer {token}\r\n\r\n"
            ),
        ),
        (
            "TRACE",
            format!(
                "TRACE /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
            ),
        ),
        (
            "a version of the future",
            format!(
                "GET /v1/models HTTP/3.0\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\r\n"
            ),
        ),
        ("not HTTP", "\x16\x03\x01\x02\0\x01\0\r\n\r\n".to_owned()),
        (
            "a head that is too large",
            post(&format!("x-large: {}\r\n\r\n", "a".repeat(80_000))),
        ),
        (
            "too many headers",
            post(&format!("{}\r\n", "x-many: 1\r\n".repeat(150))),
        ),
    ];
    for (case, bytes) in cases {
        let mut wire = Wire::connect(gateway.address)?;
        let sent = wire.send(bytes.as_bytes());
        if let Ok(answer) = sent.and_then(|()| wire.response()) {
            ensure!(
                (400..500).contains(&answer.status),
                "{case}: {} {}",
                answer.status,
                answer.text()
            );
        }
        ensure!(
            wire.is_ended_by_peer().context(case)?,
            "{case}: the connection stayed open"
        );
        ensure!(
            provider.requests()?.is_empty(),
            "{case}: something reached the provider"
        );
    }
    ensure!(gateway.get("/v1/models")?.status == 200);
    gateway.finish()
}

#[test]
fn requests_in_one_packet_are_answered_one_by_one() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let ask = |text: &str| {
        let body =
            format!(r#"{{"model":"fast","messages":[{{"role":"user","content":"{text}"}}]}}"#);
        gateway.request("POST", "/v1/chat/completions", body.as_bytes())
    };
    let mut wire = gateway.connect()?;
    wire.send(&[ask("one"), ask("two"), ask("three")].concat())?;
    for text in ["one", "two", "three"] {
        let answer = wire.response()?;
        ensure!(
            answer.json()["choices"][0]["message"]["content"] == format!("You said: {text}"),
            "{}",
            answer.text()
        );
    }
    gateway.finish()
}
