//! What a configuration adds to requests: headers, bodies, defaults and caps on output.

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::{ApiModel, alias};
use bodhi_tests::provider::Entry;
use bodhi_tests::scripted::{KEY, Scripted};
use bodhi_tests::wire;
use serde_json::{Value, json};

/// A gateway in front of one provider, and what the provider is sent.
struct Lab {
    provider: Scripted,
    gateway: Gateway,
}

/// A request as it reached the provider.
struct Sent {
    head: Entry,
    body: Vec<u8>,
}

impl Sent {
    /// All values of a header, its name without regard to case.
    fn header(&self, name: &str) -> Vec<&str> {
        let fields = self.head.headers.iter();
        fields
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The values of `anthropic-beta`, sorted; repeats are kept.
    fn betas(&self) -> Vec<&str> {
        let lists = self.header("anthropic-beta");
        let mut betas: Vec<_> = lists
            .iter()
            .flat_map(|list| list.split(',').map(str::trim))
            .collect();
        betas.sort_unstable();
        betas
    }

    fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }
}

impl Lab {
    /// Starts one with the objects that are made of the provider's URL, and waits for these names.
    fn start(
        manifests: impl Fn(&str) -> Vec<String>,
        names: &[&str],
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let provider = Scripted::start()?;
        let gateway = Gateway::with(&manifests(&provider.url()), arguments, &[])?;
        for name in names {
            gateway.serves(name)?;
        }
        Ok(Self { provider, gateway })
    }

    /// What becomes of a request that is answered with 200.
    fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Sent> {
        self.send_as(&self.gateway.token, method, target, headers, body)
    }

    fn send_as(
        &self,
        token: &str,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> anyhow::Result<Sent> {
        self.provider.clear()?;
        let bearer = format!("Bearer {token}");
        let mut all = vec![
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        all.extend(headers);
        let request = wire::request(method, target, &all, body.as_bytes());
        let answer = wire::call(self.gateway.address, &request)?;
        let text = answer.text();
        ensure!(
            answer.status == 200,
            "{target} {body}: {} {text}",
            answer.status
        );
        let head = self.provider.only_request()?;
        let body = self.provider.body(head.n)?;
        Ok(Sent { head, body })
    }

    fn post(&self, target: &str, body: &Value) -> anyhow::Result<Value> {
        self.send("POST", target, &[], &body.to_string())?.json()
    }
}

fn chat(model: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
}

fn messages(model: &str) -> Value {
    json!({"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]})
}

/// `value` with one more member.
fn with(mut value: Value, key: &str, member: impl Into<Value>) -> Value {
    value[key] = member.into();
    value
}

#[test]
fn configured_headers_are_sent_and_the_clients_win() -> anyhow::Result<()> {
    let manifests = |url: &str| {
        let openai = ApiModel {
            more: "extraHeaders: [{name: X-Team, value: platform}, {name: OpenAI-Beta, value: ours}]",
            ..ApiModel::new("openai", "openai", format!("{url}/openai/v1"), &["gpt-4o"])
        };
        let anthropic = ApiModel {
            more: "extraHeaders: [{name: Anthropic-Beta, value: 'one,two'}, {name: anthropic-version, value: 2023-01-01}]",
            ..ApiModel::new(
                "claude",
                "anthropic",
                format!("{url}/anthropic/v1"),
                &["claude-sonnet-4-5"],
            )
        };
        vec![openai.yaml(), anthropic.yaml()]
    };
    let lab = Lab::start(manifests, &["gpt-4o", "claude-sonnet-4-5"], &[])?;
    let target = "/v1/chat/completions";
    let body = chat("gpt-4o").to_string();
    let sent = lab.send("POST", target, &[], &body)?;
    ensure!(sent.header("x-team") == ["platform"] && sent.header("openai-beta") == ["ours"]);
    // The body stays as it is.
    ensure!(sent.body == body.as_bytes());
    // A header of the client's that does not travel cannot displace a configured one.
    let theirs = [("OPENAI-BETA", "theirs"), ("x-team", "intruders")];
    let sent = lab.send("POST", target, &theirs, &body)?;
    ensure!(
        sent.header("x-team") == ["platform"],
        "{:?}",
        sent.head.headers
    );
    ensure!(
        sent.header("openai-beta") == ["theirs"],
        "{:?}",
        sent.head.headers
    );

    let body = messages("claude-sonnet-4-5").to_string();
    let sent = lab.send("POST", "/v1/messages", &[], &body)?;
    ensure!(sent.betas() == ["one", "two"], "{:?}", sent.head.headers);
    ensure!(sent.header("anthropic-version") == ["2023-01-01"]);
    let theirs = [
        ("anthropic-beta", "two, three"),
        ("anthropic-beta", "four,three"),
        ("anthropic-version", "2023-06-01"),
    ];
    let sent = lab.send("POST", "/v1/messages", &theirs, &body)?;
    ensure!(
        sent.betas() == ["four", "one", "three", "two"],
        "{:?}",
        sent.head.headers
    );
    ensure!(sent.header("anthropic-version") == ["2023-06-01"]);
    lab.gateway.finish()
}

#[test]
fn a_configured_body_fills_what_the_client_leaves_out() -> anyhow::Result<()> {
    let manifests = |url: &str| {
        let more = "extraBody: {provider: {sort: price, only: [a, b], deep: {x: 1, y: 2}}, temperature: 0.5, stop: [END]}";
        let openai = ApiModel {
            more,
            ..ApiModel::new(
                "openai",
                "openai",
                format!("{url}/openai/v1"),
                &["gpt-4o", "text-embedding-3-small"],
            )
        };
        let responses = ApiModel {
            more: "extraBody: {truncation: auto}",
            ..ApiModel::new(
                "responses",
                "openai_responses",
                format!("{url}/openai/v1"),
                &["o4"],
            )
        };
        vec![openai.yaml(), responses.yaml()]
    };
    let names = ["gpt-4o", "text-embedding-3-small", "o4"];
    let lab = Lab::start(manifests, &names, &[])?;
    let target = "/v1/chat/completions";
    let configured = json!({"sort": "price", "only": ["a", "b"], "deep": {"x": 1, "y": 2}});
    let sent = lab.post(target, &chat("gpt-4o"))?;
    let expected = with(chat("gpt-4o"), "provider", configured.clone());
    let expected = with(with(expected, "temperature", 0.5), "stop", json!(["END"]));
    ensure!(sent == expected, "{sent}");

    let theirs = json!({"only": ["c"], "deep": {"y": null, "z": 3}, "sort": {"by": "speed"}});
    let asked = with(chat("gpt-4o"), "provider", theirs);
    let sent = lab.post(target, &with(asked, "temperature", 0))?;
    let merged =
        json!({"only": ["c"], "deep": {"x": 1, "y": null, "z": 3}, "sort": {"by": "speed"}});
    ensure!(sent["provider"] == merged, "{sent}");
    ensure!(
        sent["temperature"] == 0 && sent["stop"] == json!(["END"]),
        "{sent}"
    );
    // No object, nothing to merge into.
    let sent = lab.post(target, &with(chat("gpt-4o"), "provider", json!([1])))?;
    ensure!(sent["provider"] == json!([1]), "{sent}");

    let embed = json!({"model": "text-embedding-3-small", "input": "hi"});
    let sent = lab.post("/v1/embeddings", &embed)?;
    ensure!(sent["provider"] == configured, "{sent}");

    let ask = json!({"model": "o4", "input": "hi", "background": true});
    let made = lab.gateway.post("/v1/responses", ask.to_string())?;
    let id = made.json()["id"].as_str().context("an id")?.to_owned();
    let created: Value = serde_json::from_slice(
        &lab.provider
            .body(lab.provider.requests()?.last().context("a request")?.n)?,
    )?;
    ensure!(created["truncation"] == "auto", "{created}");
    let path = format!("/v1/responses/{id}");
    for (method, target, body) in [
        ("GET", path.clone(), ""),
        ("POST", format!("{path}/cancel"), ""),
        ("POST", format!("{path}/cancel"), "{}"),
        ("DELETE", path, ""),
    ] {
        let sent = lab.send(method, &target, &[], body)?;
        ensure!(
            sent.body == body.as_bytes(),
            "{method} {target}: {:?}",
            sent.body
        );
    }
    lab.gateway.finish()
}

#[test]
fn configured_system_blocks_come_first() -> anyhow::Result<()> {
    let manifests = |url: &str| {
        let claude = ApiModel {
            more: "extraBody: {system: [{type: text, text: ours}], temperature: 0.5}",
            ..ApiModel::new(
                "claude",
                "anthropic",
                format!("{url}/anthropic/v1"),
                &["claude-sonnet-4-5"],
            )
        };
        vec![claude.yaml()]
    };
    let lab = Lab::start(manifests, &["claude-sonnet-4-5"], &[])?;
    let block = |text: &str| json!({"type": "text", "text": text});
    let cached = json!({"type": "text", "text": "theirs", "cache_control": {"type": "ephemeral"}});
    for (asked, expected) in [
        (None, json!([block("ours")])),
        (
            Some(json!("theirs")),
            json!([block("ours"), block("theirs")]),
        ),
        (Some(json!([cached])), json!([block("ours"), cached])),
        (Some(json!([])), json!([block("ours")])),
    ] {
        let mut body = messages("claude-sonnet-4-5");
        if let Some(system) = asked {
            body["system"] = system;
        }
        let sent = lab.post("/v1/messages", &body)?;
        ensure!(sent["system"] == expected, "{body}: {sent}");
        ensure!(sent["temperature"] == 0.5, "{sent}");

        // Tokens are counted of the prompt alone; the API refuses anything else.
        body.as_object_mut()
            .context("an object")?
            .remove("max_tokens");
        let sent = lab.post("/v1/messages/count_tokens", &body)?;
        ensure!(sent["system"] == expected, "{body}: {sent}");
        let known = ["model", "messages", "system"];
        let keys = sent.as_object().context("an object")?.keys();
        let strange: Vec<_> = keys.filter(|key| !known.contains(&key.as_str())).collect();
        ensure!(strange.is_empty(), "{strange:?}");
    }
    lab.gateway.finish()
}

#[test]
fn an_oauth_token_brings_what_the_api_asks_for() -> anyhow::Result<()> {
    let manifests = |url: &str| {
        let url = format!("{url}/anthropic/v1");
        let plain = ApiModel::forwarding("plain", "anthropic_oauth", url.clone(), "plain/", true);
        let headers = ApiModel {
            more: "extraHeaders: [{name: anthropic-beta, value: mine}]",
            ..ApiModel::forwarding("headers", "anthropic_oauth", url.clone(), "headers/", true)
        };
        let body = ApiModel {
            more: "extraBody: {temperature: 0.5}",
            ..ApiModel::forwarding("body", "anthropic_oauth", url.clone(), "body/", true)
        };
        // Listed, so that a test can wait for it.
        let last = ApiModel::new("last", "anthropic_oauth", url, &["claude-sonnet-4-5"]);
        [plain, headers, body, last]
            .iter()
            .map(ApiModel::yaml)
            .collect()
    };
    let lab = Lab::start(manifests, &["claude-sonnet-4-5"], &[])?;
    let without_limit = |object: &str| {
        let model = format!("{object}/claude-sonnet-4-5");
        json!({"model": model, "messages": [{"role": "user", "content": "hi"}]})
    };
    let send = |headers: &[(&str, &str)], body: &Value| {
        lab.send("POST", "/v1/messages", headers, &body.to_string())
    };

    let sent = send(&[], &without_limit("plain"))?;
    ensure!(sent.header("authorization") == [format!("Bearer {KEY}")]);
    ensure!(sent.header("x-api-key").is_empty());
    ensure!(
        sent.betas() == ["claude-code-20250219", "oauth-2025-04-20"],
        "{:?}",
        sent.betas()
    );
    ensure!(sent.header("anthropic-version") == ["2023-06-01"]);
    let body = sent.json()?;
    ensure!(
        body["max_tokens"] == 4096 && body["model"] == "claude-sonnet-4-5",
        "{body}"
    );
    ensure!(body.get("system").is_none(), "{body}");

    let theirs = [
        ("x-api-key", "never"),
        ("anthropic-beta", "oauth-2025-04-20,theirs"),
        ("anthropic-version", "2024-01-01"),
    ];
    let sent = send(&theirs, &with(without_limit("plain"), "max_tokens", 7))?;
    ensure!(sent.header("x-api-key").is_empty());
    let betas = ["claude-code-20250219", "oauth-2025-04-20", "theirs"];
    ensure!(sent.betas() == betas, "{:?}", sent.betas());
    ensure!(sent.header("anthropic-version") == ["2024-01-01"]);
    ensure!(sent.json()?["max_tokens"] == 7);

    let sent = send(&[], &without_limit("headers"))?;
    ensure!(
        sent.betas() == ["mine", "oauth-2025-04-20"],
        "{:?}",
        sent.betas()
    );
    ensure!(sent.header("anthropic-version") == ["2023-06-01"]);
    ensure!(sent.json()?["max_tokens"] == 4096);

    let sent = send(&[], &with(without_limit("body"), "max_tokens", 7))?;
    ensure!(sent.betas() == ["claude-code-20250219", "oauth-2025-04-20"]);
    ensure!(sent.json()?["temperature"] == 0.5);
    // An own body replaces the default: the provider says what it misses.
    let own = lab
        .gateway
        .post("/v1/messages", without_limit("body").to_string())?;
    let text = own.text();
    ensure!(
        own.status == 400 && text.contains("max_tokens"),
        "{}: {text}",
        own.status
    );
    ensure!(
        own.header("x-bodhi-error-source") == Some("upstream"),
        "{text}"
    );
    lab.gateway.finish()
}

#[test]
fn output_is_capped_in_the_field_of_the_format() -> anyhow::Result<()> {
    let manifests = |url: &str| {
        let openai = format!("{url}/openai/v1");
        let newer = ApiModel {
            more: "outputLimitField: max_completion_tokens",
            ..ApiModel::new("newer", "openai", openai.clone(), &["o4-mini"])
        };
        let generous = ApiModel {
            more: "extraBody: {max_tokens: 5000}",
            ..ApiModel::new("generous", "openai", openai.clone(), &["gpt-4o-mini"])
        };
        let objects = [
            ApiModel::new(
                "older",
                "openai",
                openai.clone(),
                &["gpt-4o", "text-embedding-3-small"],
            ),
            newer,
            generous,
            ApiModel::new("responses", "openai_responses", openai, &["gpt-5"]),
            ApiModel::new(
                "claude",
                "anthropic",
                format!("{url}/anthropic/v1"),
                &["claude-sonnet-4-5"],
            ),
            ApiModel::new(
                "gemini",
                "gemini",
                format!("{url}/gemini/v1beta"),
                &["gemini-2.5-flash"],
            ),
        ];
        let capped = |served: &str, object: &str, model: &str| {
            format!(
                "{}  maxOutputTokens: 100\n",
                alias(served, served, object, model)
            )
        };
        let aliases = [
            capped("old", "older", "gpt-4o"),
            capped("new", "newer", "o4-mini"),
            capped("gen", "generous", "gpt-4o-mini"),
            capped("resp", "responses", "gpt-5"),
            capped("son", "claude", "claude-sonnet-4-5"),
            capped("flash", "gemini", "gemini-2.5-flash"),
            capped("embed", "older", "text-embedding-3-small"),
        ];
        objects.iter().map(ApiModel::yaml).chain(aliases).collect()
    };
    let names = ["old", "new", "gen", "resp", "son", "flash", "embed"];
    let lab = Lab::start(manifests, &names, &[])?;
    let chat_target = "/v1/chat/completions";
    let without = |mut body: Value, key: &str| {
        body.as_object_mut().map(|members| members.remove(key));
        body
    };
    let claude = without(messages("son"), "max_tokens");
    let response = json!({"model": "resp", "input": "hi"});
    let prompt = json!({"model": "old", "prompt": "hi"});
    let old = chat("old");
    for (target, body, field, others) in [
        (
            chat_target,
            &old,
            "max_tokens",
            &["max_completion_tokens"][..],
        ),
        (
            chat_target,
            &chat("new"),
            "max_completion_tokens",
            &["max_tokens"],
        ),
        (
            "/v1/completions",
            &prompt,
            "max_tokens",
            &["max_completion_tokens"],
        ),
        (
            "/v1/responses",
            &response,
            "max_output_tokens",
            &["max_tokens"],
        ),
        (
            "/v1/messages",
            &claude,
            "max_tokens",
            &["max_output_tokens"],
        ),
    ] {
        // Where nothing was asked for, where less, and where more.
        let unsaid = lab.post(target, body);
        let unsaid = unsaid.with_context(|| format!("{target} {body}"))?;
        ensure!(unsaid[field] == 100, "{target} {body}: {unsaid}");
        ensure!(
            others.iter().all(|other| unsaid.get(other).is_none()),
            "{unsaid}"
        );
        for (asked, allowed) in [(7, 7), (100, 100), (101, 100), (1_000_000, 100)] {
            let sent = lab.post(target, &with(body.clone(), field, asked))?;
            ensure!(sent[field] == allowed, "{target}, {asked}: {sent}");
        }
    }
    // In the field that the client chose, and in both if it chose both.
    let sent = lab.post(
        chat_target,
        &with(old.clone(), "max_completion_tokens", 300),
    )?;
    ensure!(
        sent["max_completion_tokens"] == 100 && sent.get("max_tokens").is_none(),
        "{sent}"
    );
    let both = with(with(old, "max_completion_tokens", 300), "max_tokens", 50);
    let sent = lab.post(chat_target, &both)?;
    ensure!(
        sent["max_completion_tokens"] == 100 && sent["max_tokens"] == 50,
        "{sent}"
    );
    // What the configuration adds is capped as well.
    let sent = lab.post(chat_target, &chat("gen"))?;
    ensure!(sent["max_tokens"] == 100, "{sent}");

    let flash = "/v1beta/models/flash:generateContent";
    let contents = json!({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]});
    let sent = lab.post(flash, &contents)?;
    ensure!(
        sent["generationConfig"] == json!({"maxOutputTokens": 100}),
        "{sent}"
    );
    let config = json!({"temperature": 1, "maxOutputTokens": 300});
    let sent = lab.post(flash, &with(contents.clone(), "generationConfig", config))?;
    let capped = json!({"temperature": 1, "maxOutputTokens": 100});
    ensure!(sent["generationConfig"] == capped, "{sent}");
    let config = json!({"max_output_tokens": 300});
    let sent = lab.post(flash, &with(contents, "generationConfig", config))?;
    ensure!(
        sent["generationConfig"] == json!({"max_output_tokens": 100}),
        "{sent}"
    );

    // What has no output has no cap.
    let sent = lab.post("/v1/embeddings", &json!({"model": "embed", "input": "hi"}))?;
    ensure!(
        sent == json!({"model": "text-embedding-3-small", "input": "hi"}),
        "{sent}"
    );
    let sent = lab.post("/v1/messages/count_tokens", &claude)?;
    ensure!(sent.get("max_tokens").is_none(), "{sent}");
    lab.gateway.finish()
}

#[test]
fn the_least_of_all_caps_holds() -> anyhow::Result<()> {
    let manifests = |url: &str| {
        let url = format!("{url}/openai/v1");
        let capped = |name: &str| {
            format!(
                "{}  maxOutputTokens: 100\n",
                alias(name, name, "openai", "gpt-4o-mini")
            )
        };
        let openai = ApiModel::new("openai", "openai", url, &["gpt-4o", "gpt-4o-mini"]);
        vec![openai.yaml(), capped("a"), capped("b")]
    };
    let arguments = [
        "--max-output-tokens",
        "a=80",
        "--max-output-tokens",
        "gpt-4o=500",
    ];
    let lab = Lab::start(manifests, &["gpt-4o", "a", "b"], &arguments)?;
    let caps = json!([{"model": "a", "limit": 60}, {"model": "gpt-4o", "limit": 600}]);
    let capped = lab
        .gateway
        .mint(&json!({"name": "capped", "outputCaps": caps}))?;
    let free = lab.gateway.token.clone();
    for (token, model, asked, allowed) in [
        (&free, "gpt-4o", None, json!(500)),
        (&free, "gpt-4o", Some(400), json!(400)),
        (&free, "gpt-4o-mini", None, Value::Null),
        (&free, "gpt-4o-mini", Some(9000), json!(9000)),
        (&free, "a", None, json!(80)),
        (&free, "a", Some(90), json!(80)),
        (&free, "b", None, json!(100)),
        (&capped, "a", None, json!(60)),
        (&capped, "a", Some(70), json!(60)),
        (&capped, "a", Some(50), json!(50)),
        (&capped, "b", Some(200), json!(100)),
        (&capped, "gpt-4o", Some(9000), json!(500)),
    ] {
        let mut body = chat(model);
        if let Some(asked) = asked {
            body["max_tokens"] = json!(asked);
        }
        let sent = lab.send_as(
            token,
            "POST",
            "/v1/chat/completions",
            &[],
            &body.to_string(),
        )?;
        let sent = sent.json()?;
        ensure!(sent["max_tokens"] == allowed, "{body}: {sent}");
    }
    lab.gateway.finish()
}

#[test]
fn an_aliass_defaults_fill_what_the_request_leaves_out() -> anyhow::Result<()> {
    let manifests = |url: &str| {
        let object = ApiModel {
            more: "extraBody: {temperature: 0.1, top_p: 0.2, provider: {a: object}}",
            ..ApiModel::new("openai", "openai", format!("{url}/openai/v1"), &["gpt-4o"])
        };
        let defaults =
            "  defaults: {temperature: 0.7, stop: [END], provider: {a: alias, b: alias}}\n";
        vec![
            object.yaml(),
            alias("mild", "mild", "openai", "gpt-4o") + defaults,
        ]
    };
    let lab = Lab::start(manifests, &["gpt-4o", "mild"], &[])?;
    let target = "/v1/chat/completions";
    // The request before the Alias, the Alias before the ApiModel.
    let sent = lab.post(target, &chat("mild"))?;
    let mut expected = chat("gpt-4o");
    for (key, value) in [
        ("temperature", json!(0.7)),
        ("stop", json!(["END"])),
        ("top_p", json!(0.2)),
        ("provider", json!({"a": "alias", "b": "alias"})),
    ] {
        expected[key] = value;
    }
    ensure!(sent == expected, "{sent}");
    let asked = with(with(chat("mild"), "temperature", 0), "stop", Value::Null);
    let sent = lab.post(target, &asked)?;
    ensure!(sent["temperature"] == 0 && sent["stop"].is_null(), "{sent}");
    // The object's own name knows nothing of them.
    let sent = lab.post(target, &chat("gpt-4o"))?;
    ensure!(
        sent["temperature"] == 0.1 && sent.get("stop").is_none(),
        "{sent}"
    );
    lab.gateway.finish()
}
