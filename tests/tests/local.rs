//! Models that Bodhi runs itself: `bodhi up`, its workers with the fake engine, and what clients
//! see of them, in order and out of order. `BODHI_SOAK` runs the repeated ones at full length.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::{Gateway, PROMPT};
use bodhi_tests::manifests::{self, ApiModel, alias};
use bodhi_tests::process::{binary, eventually, signal};
use bodhi_tests::scripted::Scripted;
use bodhi_tests::told::Told;
use bodhi_tests::wire::{self, End, Response, Wire};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// `bodhi up` with the fake worker, and more environment for it.
fn up(manifests: &[String], arguments: &[&str], env: &[(&str, &str)]) -> anyhow::Result<Gateway> {
    let worker = binary("fake-worker")?;
    let worker = worker.to_str().context("UTF-8")?;
    let arguments = [&["--worker-binary", worker], arguments].concat();
    Gateway::with(manifests, &arguments, env)
}

/// An Alias for the fake engine, which reads no file.
fn local(name: &str, local: &str, more: &str) -> String {
    manifests::local(name, "file:///fake.gguf", local, more)
}

/// A conversation of one message.
fn ask(model: &str, text: &str) -> Value {
    json!({"model": model, "messages": [{"role": "user", "content": format!("{PROMPT} {text}")}]})
}

fn with(mut body: Value, more: Value) -> Value {
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

fn chat(gateway: &Gateway, body: &Value) -> anyhow::Result<Response> {
    gateway.post(CHAT, body.to_string())
}

/// What a chat says, once it is served.
fn said(gateway: &Gateway, body: &Value) -> anyhow::Result<String> {
    let answer = chat(gateway, body)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let text = answer.json()["choices"][0]["message"]["content"].take();
    Ok(text.as_str().context("no content")?.to_owned())
}

fn refused(answer: &Response, status: u16, code: &str, says: &str) -> anyhow::Result<()> {
    let error = &answer.json()["error"];
    let message = error["message"].as_str().unwrap_or_default();
    let good = answer.status == status
        && error["code"] == code
        && message.contains(says)
        && answer.header("x-bodhi-error-source") == Some("gateway")
        && (!matches!(status, 429 | 503) || answer.header("retry-after").is_some());
    ensure!(
        good,
        "expected {status} {code} '{says}', got {} {:?} {}",
        answer.status,
        answer.headers,
        answer.text()
    );
    Ok(())
}

/// What the fake engine says to `<<n>>`.
fn words(n: usize) -> String {
    "word ".chars().cycle().take(n).collect()
}

/// A number that the data plane's metrics show of an Alias.
fn metric(gateway: &Gateway, name: &str) -> anyhow::Result<u64> {
    let page = wire::call(gateway.admin, &wire::request("GET", "/metrics", &[], b""))?;
    let text = page.text();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
}

/// Waits until an Alias has so many workers.
fn has_workers(gateway: &Gateway, model: &str, workers: u64) -> anyhow::Result<()> {
    let name = format!("bodhi_pool_workers{{alias=\"bodhi/{model}\"}}");
    eventually(&format!("{workers} workers of {model}"), || {
        (metric(gateway, &name).ok()? == workers).then_some(())
    })
}

#[test]
fn answers_have_the_shape_of_openai() -> anyhow::Result<()> {
    let gateway = up(&[local("m", "", "")], &[], &[])?;
    let whole = chat(&gateway, &ask("m", "<<Hello there>>"))?;
    let body = whole.json();
    let choice = json!({
        "index": 0,
        "message": {"role": "assistant", "content": "Hello there", "refusal": null},
        "logprobs": null,
        "finish_reason": "stop",
    });
    ensure!(
        whole.status == 200 && body["object"] == "chat.completion",
        "{body}"
    );
    ensure!(body["model"] == "m" && body["created"].is_u64(), "{body}");
    ensure!(
        body["id"]
            .as_str()
            .is_some_and(|id| id.starts_with("chatcmpl-")),
        "{body}"
    );
    for (name, value) in choice.as_object().into_iter().flatten() {
        // Members that are null may be left out.
        let found = &body["choices"][0][name];
        let same = match value {
            Value::Object(members) => members.iter().all(|(name, value)| found[name] == *value),
            value => found == value,
        };
        ensure!(same, "{name}: {body}");
    }
    let usage = &body["usage"];
    let (prompt, completion) = (&usage["prompt_tokens"], &usage["completion_tokens"]);
    // A token is a byte here, and the end is one.
    ensure!(*completion == "Hello there".len() + 1, "{usage}");
    let total = prompt.as_u64().unwrap_or_default() + completion.as_u64().unwrap_or_default();
    ensure!(
        usage["total_tokens"] == total && prompt.as_u64() > Some(10),
        "{usage}"
    );

    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let answer = chat(&gateway, &with(ask("m", "<<Hello there>>"), stream))?;
    let told = Told::read(&answer)?;
    ensure!(
        told.done && answer.end == End::Complete,
        "{}",
        answer.text()
    );
    ensure!(told.text(0) == "Hello there" && told.finish(0) == Some("stop"));
    let (last, chunks) = told.chunks.split_last().context("no chunks")?;
    ensure!(
        chunks[0]["choices"][0]["delta"]["role"] == "assistant",
        "{}",
        chunks[0]
    );
    for chunk in chunks {
        let good = chunk["object"] == "chat.completion.chunk"
            && chunk["id"] == chunks[0]["id"]
            && chunk["model"] == "m"
            && chunk["usage"].is_null()
            && chunk["choices"]
                .as_array()
                .is_some_and(|choices| choices.len() == 1);
        ensure!(good, "{chunk}");
    }
    for chunk in &chunks[1..] {
        ensure!(chunk["choices"][0]["delta"]["role"].is_null(), "{chunk}");
    }
    ensure!(
        last["choices"] == json!([]) && last["usage"]["total_tokens"] == total,
        "{last}"
    );
    let plain = chat(&gateway, &with(ask("m", "<<a>>"), json!({"stream": true})))?;
    ensure!(
        !plain.text().contains("\"usage\""),
        "usage that nobody asked for: {}",
        plain.text()
    );

    let list = gateway.get("/v1/models")?.json();
    let model = &list["data"][0];
    let owned = model["owned_by"] == "bodhi/m" && model["created"].as_u64() > Some(1_600_000_000);
    ensure!(model["id"] == "m" && owned, "{list}");
    ensure!(gateway.get("/v1/models/m")?.json() == *model);
    gateway.finish()
}

#[test]
fn parameters_do_what_they_say() -> anyhow::Result<()> {
    let gateway = up(&[local("m", "", "")], &[], &[])?;
    let limited = chat(
        &gateway,
        &with(ask("m", "<<40>>"), json!({"max_tokens": 7})),
    )?
    .json();
    ensure!(
        limited["choices"][0]["finish_reason"] == "length",
        "{limited}"
    );
    ensure!(limited["usage"]["completion_tokens"] == 7, "{limited}");
    for stop in [json!("three"), json!(["never", "three"])] {
        let body = with(ask("m", "<<one two three four>>"), json!({"stop": stop}));
        ensure!(said(&gateway, &body)? == "one two ");
        let answer = chat(&gateway, &with(body, json!({"stream": true})))?;
        let told = Told::read(&answer)?;
        ensure!(
            told.text(0) == "one two " && told.finish(0) == Some("stop"),
            "{}",
            answer.text()
        );
    }
    let several = with(ask("m", "<<a>>"), json!({"n": 3}));
    let whole = chat(&gateway, &several)?.json();
    let answer = chat(&gateway, &with(several, json!({"stream": true})))?;
    let told = Told::read(&answer)?;
    for (n, text) in ["a", "a (1)", "a (2)"].iter().enumerate() {
        let choice = &whole["choices"][n];
        ensure!(
            choice["index"] == n && choice["message"]["content"] == *text,
            "{whole}"
        );
        ensure!(told.text(n as u64) == *text && told.finish(n as u64) == Some("stop"));
    }

    let complete = |body: Value| -> anyhow::Result<Value> {
        let body = with(json!({"model": "m"}), body);
        let answer = gateway.post(COMPLETIONS, body.to_string())?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(answer.json())
    };
    let one = complete(json!({"prompt": "<<said>>"}))?;
    ensure!(
        one["object"] == "text_completion" && one["choices"][0]["text"] == "said",
        "{one}"
    );
    ensure!(
        one["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")),
        "{one}"
    );
    let echo = complete(json!({"prompt": "<<said>>", "echo": true}))?;
    ensure!(echo["choices"][0]["text"] == "<<said>>said", "{echo}");
    // Of two prompts, two each, prompt by prompt.
    let several = complete(json!({"prompt": ["<<a>>", "<<b>>"], "n": 2}))?;
    for (n, text) in ["a", "a (1)", "b", "b (1)"].iter().enumerate() {
        let choice = &several["choices"][n];
        ensure!(choice["index"] == n && choice["text"] == *text, "{several}");
    }
    let body = json!({"model": "m", "prompt": "<<40>>", "stream": true});
    let answer = gateway.post(COMPLETIONS, body.to_string())?;
    let told = Told::read(&answer)?;
    ensure!(told.done && told.text(0) == words(40) && told.finish(0) == Some("stop"));
    gateway.finish()
}

#[test]
fn what_cannot_be_served_is_refused_in_the_callers_envelope() -> anyhow::Result<()> {
    let manifests = [
        local("m", "engine: {contextLength: 600}, features: [Chat]", ""),
        local("vectors", "features: [Embeddings]", ""),
    ];
    let gateway = up(&manifests, &[], &[])?;
    gateway.serves("vectors")?;
    let post = |path: &str, body: Value| gateway.post(path, body.to_string());
    let unsupported = "unsupported_by_backend";
    for (path, body) in [
        (COMPLETIONS, json!({"model": "m", "prompt": "a"})),
        ("/v1/embeddings", json!({"model": "m", "input": "a"})),
        (
            "/v1/rerank",
            json!({"model": "m", "query": "a", "documents": ["b"]}),
        ),
        (CHAT, ask("vectors", "a")),
    ] {
        refused(&post(path, body)?, 501, unsupported, "does not offer")?;
    }
    let responses = post("/v1/responses", json!({"model": "m", "input": "a"}))?;
    refused(&responses, 400, "wrong_format", "'openai_responses'")?;
    let messages = with(ask("m", "a"), json!({"max_tokens": 9}));
    let messages = post("/v1/messages", messages)?;
    ensure!(messages.status == 501, "{}", messages.text());
    ensure!(
        messages.json()["error"]["type"] == "api_error",
        "{}",
        messages.text()
    );
    let contents = json!({"contents": [{"parts": [{"text": "a"}]}]});
    let gemini = post("/v1beta/models/m:generateContent", contents)?;
    ensure!(gemini.status == 501, "{}", gemini.text());
    ensure!(
        gemini.json()["error"]["status"] == "UNIMPLEMENTED",
        "{}",
        gemini.text()
    );

    for (name, value, range) in [
        ("temperature", json!(2.5), "between 0 and 2"),
        ("top_p", json!(-0.1), "between 0 and 1"),
        ("n", json!(0), "between 1 and"),
        ("logit_bias", json!({"1": 101}), "between -100 and 100"),
    ] {
        for stream in [false, true] {
            let body = with(ask("m", "a"), json!({name: value, "stream": stream}));
            let answer = chat(&gateway, &body)?;
            refused(&answer, 400, "invalid_value", range)?;
            let param = answer.json()["error"]["param"].take();
            let named = param.as_str().is_some_and(|param| param.starts_with(name));
            ensure!(named, "{}", answer.text());
        }
    }
    for stream in [false, true] {
        let body = with(ask("m", &"a".repeat(700)), json!({"stream": stream}));
        let answer = chat(&gateway, &body)?;
        refused(&answer, 400, "context_length_exceeded", "600")?;
        let text = answer.text();
        let numbers = text.split(|c: char| !c.is_ascii_digit());
        let longest = numbers.filter_map(|n| n.parse::<u32>().ok()).max();
        ensure!(longest > Some(700), "not both numbers: {text}");
    }
    // Unknown parameters are ignored, as OpenAI's own clients expect.
    let unknown = with(
        ask("m", "<<a>>"),
        json!({"store": false, "service_tier": "auto", "x": [1]}),
    );
    ensure!(said(&gateway, &unknown)? == "a");
    gateway.finish()
}

#[test]
fn rules_of_alias_and_token_apply() -> anyhow::Result<()> {
    let manifests = [
        local("plain", "", ""),
        local(
            "spoken",
            "",
            "systemPrompt: 'You say <<by the system prompt>>'\ndefaults: {stop: ['prompt']}",
        ),
        local("short", "", "maxOutputTokens: 6"),
        local("hidden", "", "visibility: Internal"),
    ];
    let gateway = up(&manifests, &["--max-output-tokens", "plain=20"], &[])?;
    for name in ["plain", "spoken", "short"] {
        gateway.serves(name)?;
    }
    has_workers(&gateway, "hidden", 1)?;
    ensure!(!gateway.get("/v1/models")?.text().contains("hidden"));
    ensure!(said(&gateway, &ask("hidden", "<<a>>"))? == "a");

    let messages = |messages: Value| json!({"model": "spoken", "messages": messages});
    let user = json!({"role": "user", "content": "Speak."});
    let own = json!({"role": "system", "content": "You say <<what I was told>>"});
    ensure!(said(&gateway, &messages(json!([user])))? == "by the system ");
    ensure!(said(&gateway, &messages(json!([own, user])))? == "what I was told");
    // The request wins, key by key.
    let stops = with(messages(json!([user])), json!({"stop": "system"}));
    ensure!(said(&gateway, &stops)? == "by the ");

    let caps = json!([{"model": "plain", "limit": 3}]);
    let wish = json!({"name": "t", "models": ["pl*", "short"], "outputCaps": caps});
    let token = gateway.mint(&wish)?;
    let count = |token: &str, body: Value| -> anyhow::Result<Value> {
        let answer = gateway.call_as(token, "POST", CHAT, body.to_string())?;
        ensure!(answer.status == 200, "{}", answer.text());
        Ok(answer.json()["usage"]["completion_tokens"].take())
    };
    let own = gateway.token.clone();
    for (token, model, asked, capped) in [
        (&own, "plain", None, 20),
        (&own, "plain", Some(5), 5),
        (&own, "plain", Some(50), 20),
        (&own, "short", Some(50), 6),
        (&token, "plain", None, 3),
        (&token, "plain", Some(50), 3),
        (&token, "short", None, 6),
    ] {
        let body = with(ask(model, "<<100>>"), json!({"max_tokens": asked}));
        let counted = count(token, body)?;
        ensure!(
            counted == capped,
            "{model}, {asked:?}: {counted}, not {capped}"
        );
    }
    let body = ask("spoken", "a").to_string();
    let forbidden = gateway.call_as(&token, "POST", CHAT, body)?;
    refused(&forbidden, 400, "model_not_allowed", "'spoken'")?;
    let list = gateway.call_as(&token, "GET", "/v1/models", "")?.text();
    ensure!(list.contains("plain") && !list.contains("spoken"), "{list}");
    gateway.finish()
}

#[test]
fn requests_wait_while_a_model_loads() -> anyhow::Result<()> {
    let manifests = [local("m", "", "scaling: {activation: {maxHeld: 2}}")];
    let gateway = up(&manifests, &[], &[("BODHI_WORKER_FAKE_LOAD", "2000")])?;
    let body = with(ask("m", "<<a>>"), json!({"stream": true})).to_string();
    let request = gateway.request("POST", CHAT, body.as_bytes());
    let mut waiting = [gateway.connect()?, gateway.connect()?];
    for wire in &mut waiting {
        wire.send(&request)?;
    }
    let held = "bodhi_pool_requests{alias=\"bodhi/m\",state=\"held\"}";
    eventually("two held requests", || {
        (metric(&gateway, held).ok()? == 2).then_some(())
    })?;
    refused(&gateway.post(CHAT, body)?, 429, "queue_full", "starting")?;
    for wire in &mut waiting {
        let told = Told::read(&wire.response()?)?;
        ensure!(told.done && told.text(0) == "a");
    }
    ensure!(metric(&gateway, held)? == 0);
    gateway.finish()
}

#[test]
fn a_model_that_is_too_late_or_cannot_start_says_so() -> anyhow::Result<()> {
    let late = [local("m", "", "scaling: {activation: {holdTimeout: 1s}}")];
    let gateway = up(&late, &[], &[("BODHI_WORKER_FAKE_LOAD", "600000")])?;
    let begun = Instant::now();
    let answer = chat(&gateway, &ask("m", "a"))?;
    refused(&answer, 503, "model_loading", "within 1s")?;
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    gateway.finish()?;

    let fails = [("BODHI_WORKER_FAKE_FAIL", "InsufficientMemory")];
    let gateway = up(&[local("m", "", "")], &[], &fails)?;
    let answer = chat(&gateway, &ask("m", "a"))?;
    refused(&answer, 503, "not_ready", "InsufficientMemory")?;
    gateway.finish()
}

#[test]
fn a_pool_heals_within_a_second_of_a_first_crash() -> anyhow::Result<()> {
    let names = ["a", "b", "c"];
    let manifests = names.map(|name| local(name, "", ""));
    let mut gateway = up(&manifests, &[], &[("BODHI_WORKER_FAKE_STEP", "2000")])?;
    let mut soonest = Duration::MAX;
    for name in names {
        has_workers(&gateway, name, 1)?;
        ensure!(said(&gateway, &ask(name, "<<ready>>"))? == "ready");
    }
    for name in names {
        let body = with(ask(name, "<<4000>>"), json!({"stream": true})).to_string();
        let mut stream = gateway.connect()?;
        stream.send(&gateway.request("POST", CHAT, body.as_bytes()))?;
        stream.read_until(|bytes| memchr::memmem::find(bytes, b"\"content\":\"w").is_some())?;
        let victim = worker_of(&mut gateway, name)?;
        signal(victim, "KILL")?;
        let killed = Instant::now();
        let answer = stream.response()?;
        let told = Told::read(&answer)?;
        let error = told.error.as_ref().context("no error event")?;
        ensure!(
            error["code"] == "worker_lost" && !told.done,
            "{}",
            answer.text()
        );
        ensure!(told.finish(0).is_none() && answer.end != End::Complete);
        // Whoever asks before the data plane knows may be refused, and nobody afterwards.
        eventually("an answer", || {
            (chat(&gateway, &ask(name, "<<a>>")).ok()?.status == 200).then_some(())
        })?;
        soonest = soonest.min(killed.elapsed());
        ensure!(worker_of(&mut gateway, name)? != victim);
    }
    eprintln!("healed after {soonest:?} at best");
    ensure!(soonest < Duration::from_secs(1), "{soonest:?}");
    gateway.finish()
}

/// The process that runs an Alias with one worker.
fn worker_of(gateway: &mut Gateway, name: &str) -> anyhow::Result<u32> {
    let alias = format!("--alias=Alias/bodhi/{name}");
    let children = gateway.process().children()?;
    let worker = children.into_iter().find(|child| {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0)
            .any(|argument| argument == alias.as_bytes())
    });
    worker.with_context(|| format!("no worker of {name}"))
}

/// A stopped process holds its connections open and says nothing, as one that hangs does.
#[test]
fn a_worker_that_hangs_is_replaced_and_keeps_nobody_waiting_for_long() -> anyhow::Result<()> {
    let two = "scaling: {mode: External, replicas: 2}\nloadBalancing: {strategy: LeastLoad}";
    let mut gateway = up(
        &[local("m", "", two)],
        &["--worker-patience", "3"],
        &[("BODHI_WORKER_FAKE_STEP", "2000")],
    )?;
    has_workers(&gateway, "m", 2)?;
    let open = |text: &str| -> anyhow::Result<Wire> {
        let body = with(ask("m", text), json!({"stream": true})).to_string();
        let mut stream = gateway.connect()?;
        stream.send(&gateway.request("POST", CHAT, body.as_bytes()))?;
        stream.read_until(|bytes| memchr::memmem::find(bytes, b"\"content\":\"w").is_some())?;
        Ok(stream)
    };
    // One at each.
    let mut streams = [open("<<1000>>")?, open("<<1000>>")?];
    let hung = worker_of(&mut gateway, "m")?;
    signal(hung, "STOP")?;
    let stopped = Instant::now();
    let (mut cut, mut whole) = (0, 0);
    for stream in &mut streams {
        let answer = stream.response()?;
        let told = Told::read(&answer)?;
        match &told.error {
            Some(error) => {
                ensure!(
                    error["code"] == "worker_lost" && !told.done,
                    "{}",
                    answer.text()
                );
                ensure!(told.finish(0).is_none() && answer.end != End::Complete);
                cut += 1;
            }
            None => {
                ensure!(
                    told.done && told.text(0) == words(1000),
                    "{}",
                    answer.text()
                );
                whole += 1;
            }
        }
    }
    let waited = stopped.elapsed();
    ensure!((cut, whole) == (1, 1), "{cut} cut, {whole} whole");
    ensure!(waited < Duration::from_secs(15), "{waited:?}");
    has_workers(&gateway, "m", 2)?;
    ensure!(
        !gateway.process().children()?.contains(&hung),
        "it is still there"
    );
    for _ in 0..8 {
        ensure!(said(&gateway, &ask("m", "<<a>>"))? == "a");
    }
    gateway.finish()
}

#[test]
fn a_name_moves_between_workers_and_a_provider_under_load() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let api_model = ApiModel::new(
        "provider",
        "openai",
        format!("{}/openai/v1", provider.url()),
        &["gpt-4o"],
    );
    // Who asks while there is no worker is refused at once: nobody may have to wait.
    let here = local("m", "", "scaling: {activation: {maxHeld: 0}}");
    let gateway = up(&[here.clone(), api_model.yaml()], &[], &[])?;
    has_workers(&gateway, "m", 1)?;
    let file = gateway.manifests().join("000.yaml");
    let there = alias("m", "m", "provider", "gpt-4o");
    let over = AtomicBool::new(false);
    let answers = [const { AtomicUsize::new(0) }; 2];
    let loaded = |thread: usize| -> anyhow::Result<()> {
        let stream = thread.is_multiple_of(2);
        let body = with(ask("m", "<<from here>>"), json!({"stream": stream}));
        while !over.load(Ordering::Relaxed) {
            let text = match stream {
                true => {
                    let told = Told::read(&chat(&gateway, &body)?)?;
                    ensure!(told.done && told.error.is_none(), "{told:?}");
                    told.text(0)
                }
                false => said(&gateway, &body)?,
            };
            let who = match text.as_str() {
                "from here" => 0,
                text if text.starts_with("You said: ") => 1,
                text => anyhow::bail!("neither of them says '{text}'"),
            };
            answers[who].fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    // The answers of one of them go up: it is the one that serves.
    let serves = |who: usize| {
        let before = answers[who].load(Ordering::Relaxed);
        eventually("the other's answers", || {
            (over.load(Ordering::Relaxed) || answers[who].load(Ordering::Relaxed) > before + 20)
                .then_some(())
        })
    };
    let run = |thread: usize| {
        let ended = loaded(thread);
        over.store(true, Ordering::Relaxed);
        ended
    };
    thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || run(n))).collect();
        let moves = || -> anyhow::Result<()> {
            serves(0)?;
            for _ in 0..2 {
                std::fs::write(&file, &there)?;
                serves(1)?;
                std::fs::write(&file, &here)?;
                serves(0)?;
            }
            Ok(())
        };
        let moved = moves();
        over.store(true, Ordering::Relaxed);
        for thread in threads {
            let ended = thread.join();
            ended.map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        moved
    })?;
    gateway.finish()
}

#[test]
fn a_model_sleeps_when_idle_and_wakes_on_demand() -> anyhow::Result<()> {
    let scaling = "scaling: {replicas: 1, minReplicas: 0, maxReplicas: 1, \
                   activation: {idleAfter: 1s, holdTimeout: 60s}}";
    let mut gateway = up(&[local("m", "", scaling)], &[], &[])?;
    for _ in 0..2 {
        ensure!(said(&gateway, &ask("m", "<<awake>>"))? == "awake");
        has_workers(&gateway, "m", 0)?;
        eventually("no worker process", || {
            let children = gateway.process().children().ok()?;
            children.is_empty().then_some(())
        })?;
        // Asleep on purpose is no fault: it is listed and served.
        ensure!(gateway.get("/v1/models")?.text().contains("\"m\""));
        let woken = Instant::now();
        let stream = with(ask("m", "<<woken>>"), json!({"stream": true}));
        let told = Told::read(&chat(&gateway, &stream)?)?;
        ensure!(told.done && told.text(0) == "woken");
        eprintln!("woke within {:?}", woken.elapsed());
    }
    gateway.finish()
}
