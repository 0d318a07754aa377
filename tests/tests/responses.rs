//! Responses by id: whose they are, which upstream is asked, and what travels.

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::scripted::{KEY, Scripted};
use bodhi_tests::wire::{self, Response};
use serde_json::json;

/// Two providers of Responses: `one` has `first`, `two` has `second`.
struct Two {
    one: Scripted,
    two: Scripted,
    gateway: Gateway,
}

impl Two {
    fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let one = Scripted::with(&["--key", KEY, "--name", "one"])?;
        let two = Scripted::with(&["--key", KEY, "--name", "two"])?;
        let object = |name, provider: &Scripted, model| {
            let url = format!("{}/openai/v1", provider.url());
            ApiModel::new(name, "openai_responses", url, &[model]).yaml()
        };
        let manifests = [object("one", &one, "first"), object("two", &two, "second")];
        let gateway = Gateway::with(&manifests, arguments, &[])?;
        gateway.serves("first")?;
        gateway.serves("second")?;
        Ok(Self { one, two, gateway })
    }

    fn owner(&self, name: &str) -> anyhow::Result<String> {
        self.gateway.mint(&json!({"name": "test", "owner": name}))
    }

    /// The id of a new response.
    fn create(&self, token: &str, body: &str) -> anyhow::Result<String> {
        let made = self.gateway.call_as(token, "POST", "/v1/responses", body)?;
        ensure!(made.status == 200, "{}: {}", made.status, made.text());
        Ok(made.json()["id"].as_str().context("its id")?.to_owned())
    }

    fn forget(&self) -> anyhow::Result<()> {
        self.one.clear()?;
        self.two.clear()
    }

    /// How many requests either provider was sent.
    fn asked(&self) -> anyhow::Result<(usize, usize)> {
        Ok((self.one.requests()?.len(), self.two.requests()?.len()))
    }
}

/// A response that the gateway has no record of.
fn behind_its_back(provider: &Scripted, model: &str) -> anyhow::Result<String> {
    let bearer = format!("Bearer {KEY}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
    ];
    let body = json!({"model": model, "input": "made elsewhere", "background": true}).to_string();
    let request = wire::request("POST", "/openai/v1/responses", &headers, body.as_bytes());
    let made = wire::call(provider.listen, &request)?;
    ensure!(made.status == 200, "{}", made.text());
    Ok(made.json()["id"].as_str().context("its id")?.to_owned())
}

fn is_not_found(answer: &Response, case: &str) -> anyhow::Result<()> {
    let good = answer.status == 404
        && answer.json()["error"]["code"] == "response_not_found"
        && answer.header("x-bodhi-error-source") == Some("gateway");
    ensure!(good, "{case}: {} {}", answer.status, answer.text());
    Ok(())
}

#[test]
fn a_response_belongs_to_its_owner_and_outlives_its_token() -> anyhow::Result<()> {
    let two = Two::start(&[])?;
    let (ann, bob) = (two.owner("ann")?, two.owner("bob")?);
    let id = two.create(&ann, r#"{"model":"first","input":"hi","background":true}"#)?;
    let path = format!("/v1/responses/{id}");
    let as_bob =
        |method: &str, target: &str, body: &str| two.gateway.call_as(&bob, method, target, body);

    two.forget()?;
    for (method, target) in [
        ("GET", path.clone()),
        ("GET", format!("{path}?model=first")),
        ("GET", format!("{path}/input_items")),
        ("POST", format!("{path}/cancel")),
        ("DELETE", format!("{path}?model=first")),
    ] {
        let case = format!("{method} {target}");
        is_not_found(&as_bob(method, &target, "")?, &case)?;
    }
    for (field, value) in [
        ("previous_response_id", json!(id)),
        ("conversation", json!(id)),
        ("conversation", json!({"id": id})),
    ] {
        let mut body = json!({"model": "first", "input": "and then?"});
        body[field] = value;
        let answer = as_bob("POST", "/v1/responses", &body.to_string())?;
        is_not_found(&answer, &body.to_string())?;
    }
    ensure!(
        two.asked()? == (0, 0),
        "a provider was asked for another's response"
    );

    // Without a link bob is served; with one to his own response, too.
    let own = two.create(&bob, r#"{"model":"first","input":"mine"}"#)?;
    let next = json!({"model": "first", "input": "on", "previous_response_id": own});
    two.create(&bob, &next.to_string())?;

    // Another token of ann's is as good as the first one.
    let rotated = two.owner("ann")?;
    let next = json!({"model": "first", "input": "on", "previous_response_id": id});
    two.create(&rotated, &next.to_string())?;
    for (method, target) in [
        ("GET", path.clone()),
        ("GET", format!("{path}/input_items")),
        ("POST", format!("{path}/cancel")),
        ("DELETE", path.clone()),
    ] {
        let answer = two.gateway.call_as(&rotated, method, &target, "")?;
        ensure!(answer.status == 200, "{method} {target}: {}", answer.text());
    }
    two.gateway.finish()
}

#[test]
fn the_recorded_upstream_is_asked_and_no_other() -> anyhow::Result<()> {
    let two = Two::start(&[])?;
    let stream = r#"{"model":"second","input":"hi","stream":true}"#;
    let streamed = two.gateway.post("/v1/responses", stream)?;
    ensure!(streamed.status == 200, "{}", streamed.text());
    let text = streamed.text();
    let (_, from) = text
        .split_once("\"id\":\"resp_")
        .context("an id in the events")?;
    let streamed = format!("resp_{}", from.split('"').next().unwrap_or_default());
    let whole = two.create(&two.gateway.token, r#"{"model":"second","input":"ho"}"#)?;
    for id in [streamed, whole] {
        two.forget()?;
        let answer = two.gateway.get(&format!("/v1/responses/{id}"))?;
        ensure!(
            answer.status == 200 && answer.json()["id"] == *id,
            "{}",
            answer.text()
        );
        ensure!(answer.header("x-scripted-provider") == Some("two"));
        let deleted = two
            .gateway
            .request("DELETE", &format!("/v1/responses/{id}"), b"");
        let deleted = wire::call(two.gateway.address, &deleted)?;
        ensure!(deleted.status == 200, "{}", deleted.text());
        ensure!(two.asked()? == (0, 2), "{:?}", two.asked()?);
    }
    two.gateway.finish()
}

#[test]
fn an_unrecorded_response_is_looked_for_and_never_changed_by_guess() -> anyhow::Result<()> {
    let two = Two::start(&[])?;
    let id = behind_its_back(&two.two, "second")?;
    let call = |method: &str, target: &str| {
        wire::call(
            two.gateway.address,
            &two.gateway.request(method, target, b""),
        )
    };
    let path = format!("/v1/responses/{id}");

    two.forget()?;
    for target in [path.clone(), format!("{path}/input_items")] {
        let answer = call("GET", &target)?;
        ensure!(answer.status == 200, "{target}: {}", answer.text());
        ensure!(answer.header("x-scripted-provider") == Some("two"));
    }
    is_not_found(&call("GET", "/v1/responses/resp_nobody")?, "nobody has it")?;
    let before = two.asked()?;
    ensure!(before == (3, 3), "candidates are asked in turn: {before:?}");

    for (method, target) in [("POST", format!("{path}/cancel")), ("DELETE", path.clone())] {
        let answer = call(method, &target)?;
        let text = answer.text();
        ensure!(
            answer.status == 400 && text.contains("?model="),
            "{method}: {text}"
        );
        ensure!(
            answer.json()["error"]["param"] == "model",
            "{method}: {text}"
        );
    }
    ensure!(two.asked()? == before, "a change was tried on a guess");

    // Once the model is said, one provider is asked, and its word passes untouched.
    let answer = call("POST", &format!("{path}/cancel?model=second"))?;
    ensure!(answer.status == 200, "{}", answer.text());
    let answer = call("GET", &format!("{path}?model=first"))?;
    ensure!(answer.status == 404, "{}", answer.text());
    ensure!(answer.header("x-bodhi-error-source") == Some("upstream"));
    ensure!(answer.header("x-scripted-provider") == Some("one"));
    two.gateway.finish()
}

#[test]
fn what_names_the_model_does_not_travel() -> anyhow::Result<()> {
    let two = Two::start(&[])?;
    let id = behind_its_back(&two.two, "second")?;
    for (query, header, travels) in [
        ("?model=second", None, ""),
        (
            "?a=1&model=second&include%5B%5D=x&a=2",
            None,
            "?a=1&include%5B%5D=x&a=2",
        ),
        ("?%6Dodel=second&b", None, "?b"),
        ("?b=%2f", Some("second"), "?b=%2f"),
        ("", Some("second"), ""),
        // The query is nearer.
        ("?model=second", Some("first"), ""),
    ] {
        two.forget()?;
        let bearer = format!("Bearer {}", two.gateway.token);
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(header.map(|model| ("x-bodhi-model", model)));
        let target = format!("/v1/responses/{id}{query}");
        let request = wire::request("GET", &target, &headers, b"");
        let answer = wire::call(two.gateway.address, &request)?;
        ensure!(
            answer.status == 200,
            "{query} {header:?}: {}",
            answer.text()
        );
        ensure!(
            two.asked()? == (0, 1),
            "{query} {header:?}: {:?}",
            two.asked()?
        );
        let sent = two.two.only_request()?;
        let expected = format!("/openai/v1/responses/{id}{travels}");
        ensure!(sent.target == expected, "{query}: {}", sent.target);
        let names: Vec<_> = sent
            .headers
            .iter()
            .map(|(name, _)| name.to_lowercase())
            .collect();
        ensure!(
            !names.iter().any(|name| name.starts_with("x-bodhi")),
            "{names:?}"
        );
    }
    two.gateway.finish()
}

#[test]
fn strict_isolation_knows_recorded_responses_only() -> anyhow::Result<()> {
    let two = Two::start(&["--responses-isolation", "strict"])?;
    let id = behind_its_back(&two.one, "first")?;
    two.forget()?;
    for (method, target) in [
        ("GET", format!("/v1/responses/{id}")),
        ("GET", format!("/v1/responses/{id}?model=first")),
        ("DELETE", format!("/v1/responses/{id}?model=first")),
    ] {
        let request = two.gateway.request(method, &target, b"");
        is_not_found(&wire::call(two.gateway.address, &request)?, &target)?;
    }
    let next = json!({"model": "first", "input": "on", "previous_response_id": id});
    let answer = two.gateway.post("/v1/responses", next.to_string())?;
    is_not_found(&answer, "previous_response_id")?;
    ensure!(two.asked()? == (0, 0));

    let own = two.create(&two.gateway.token, r#"{"model":"first","input":"hi"}"#)?;
    let answer = two.gateway.get(&format!("/v1/responses/{own}"))?;
    ensure!(answer.status == 200, "{}", answer.text());
    two.gateway.finish()
}
