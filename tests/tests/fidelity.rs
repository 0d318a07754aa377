//! What a client sends is what the provider gets, but for the value of `model`; what the provider
//! sends is what the client gets. Both are compared as bytes, over real sockets.

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::scripted::Scripted;
use bodhi_tests::wire::{self, End};

/// Stands for the value of `model` in the corpus.
const MODEL: &str = "@MODEL@";

/// Bodies of a chat request with [`MODEL`] where the model's name goes.
fn corpus() -> Vec<(&'static str, String)> {
    let message = r#""messages":[{"role":"user","content":"hi"}]"#;
    let with = |rest: &str| format!(r#"{{"model":{MODEL},{message},{rest}}}"#);
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    let image = "iVBORw0KGgo/+AA".repeat(70_000);
    vec![
        ("plain", format!(r#"{{"model":{MODEL},{message}}}"#)),
        (
            "order of keys",
            format!(r#"{{"zeta":1,"alpha":2,{message},"model":{MODEL},"Mid":3}}"#),
        ),
        (
            "white space",
            format!("\r\n\t{{ \"model\"\t:\r\n {MODEL} ,\n {message} }}\n\n "),
        ),
        (
            "2^63",
            with(r#""seed":9223372036854775808,"n":18446744073709551616"#),
        ),
        (
            "spelling of numbers",
            with(r#""a":1,"b":1.0,"c":1.00e0,"d":-0,"e":-0.0,"f":1E+2,"g":0.1000"#),
        ),
        (
            "numbers beyond floating point",
            with(r#""a":1e400,"b":-1e400,"c":1e-400,"d":0.30000000000000004"#),
        ),
        (
            "long number",
            with(&format!(r#""pi":3.{}"#, "14159".repeat(200))),
        ),
        (
            "escapes",
            with(r#""a":"\/\b\f\n\r\t\"\\","b":"\u00e9é","c":"\u00E9""#),
        ),
        ("null character", with(r#""a":"\u0000","\u0000":1"#)),
        (
            "lone surrogates",
            with(r#""a":"\ud800","b":"\udc00\ud800","c":"\ud83d\ude00""#),
        ),
        (
            "text of all planes",
            with("\"a\":\"é 東京 👩\u{200d}🚀 \u{2028}\u{2029}\u{feff}\u{10ffff}\""),
        ),
        ("depth", with(&format!(r#""deep":{deep}"#))),
        (
            "unknown fields",
            with(r#""x-vendor":{"beta":[null,true,false,{}]},"":"empty name""#),
        ),
        (
            "equal keys that nobody reads",
            with(r#""temperature":0,"temperature":1,"user":"a","user":"b""#),
        ),
        ("model last", format!(r#"{{{message},"model":{MODEL}}}"#)),
        (
            "model nested",
            with(r#""metadata":{"model":"gpt-4o","Model":"x"},"tools":[{"model":1}]"#),
        ),
        ("model in a text", with(r#""user":"{\"model\":\"other\"}""#)),
        (
            "escaped name of the key",
            format!(r#"{{"mod\u0065l":{MODEL},{message}}}"#),
        ),
        (
            "fully escaped name of the key",
            format!(r#"{{"\u006d\u006F\u0064\u0065\u006c":{MODEL},{message}}}"#),
        ),
        (
            "an image",
            with(&format!(r#""image":"data:image/png;base64,{image}""#)),
        ),
    ]
}

#[test]
fn upstream_gets_the_clients_bytes_but_for_the_model() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    // The name as the client spells it, and as the provider has to get it.
    let spellings = [
        r#""o/gpt-4o-mini""#,
        r#""o\/gpt-4o-mini""#,
        r#""\u006f/gpt\u002d4o-mini""#,
    ];
    for (name, template) in corpus() {
        for spelling in spellings {
            provider.clear()?;
            let sent = template.replace(MODEL, spelling);
            let answer = gateway.post("/v1/chat/completions", &sent)?;
            let upstream = provider.only_request().with_context(|| {
                format!(
                    "{name}: nothing arrived, the client got {}: {}",
                    answer.status,
                    answer.text()
                )
            })?;
            ensure!(
                upstream.target == "/openai/v1/chat/completions",
                "{name}: {}",
                upstream.target
            );
            let expected = template.replace(MODEL, r#""gpt-4o-mini""#);
            let got = provider.body(upstream.n)?;
            ensure!(
                got == expected.as_bytes(),
                "{name}, model spelled {spelling}:\nexpected {:.300}\n     got {:.300}",
                expected,
                String::from_utf8_lossy(&got)
            );
        }
    }
    gateway.finish()
}

#[test]
fn a_body_that_comes_in_pieces_arrives_as_if_it_came_whole() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let body = r#"{"messages":[{"role":"user","content":"é👋"}],"n":1.0,"model":"o/gpt-4o-mini","z":"\ud800"}"#;
    let expected = body.replace("o/gpt-4o-mini", "gpt-4o-mini");
    let whole = gateway.request("POST", "/v1/chat/completions", body.as_bytes());
    // Each cut is a packet of its own: the gateway meets every boundary, in head and body.
    for cut in (1..whole.len()).step_by(3) {
        provider.clear()?;
        let mut wire = gateway.connect()?;
        wire.send(&whole[..cut])?;
        wire.send(&whole[cut..])?;
        wire.response()?;
        ensure!(
            provider.body(provider.only_request()?.n)? == expected.as_bytes(),
            "cut at {cut}"
        );
    }
    // A chunk for each byte.
    provider.clear()?;
    let bearer = format!("Bearer {}", gateway.token);
    let headers = [
        ("authorization", bearer.as_str()),
        ("content-type", "application/json"),
        ("transfer-encoding", "chunked"),
    ];
    let mut chunked = Vec::new();
    for byte in body.as_bytes() {
        chunked.extend_from_slice(b"1\r\n");
        chunked.extend_from_slice(&[*byte, b'\r', b'\n']);
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    wire::call(
        gateway.address,
        &wire::request("POST", "/v1/chat/completions", &headers, &chunked),
    )?;
    ensure!(
        provider.body(provider.only_request()?.n)? == expected.as_bytes(),
        "byte by byte"
    );
    gateway.finish()
}

#[test]
fn ambiguous_and_malformed_bodies_never_reach_the_provider() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let message = r#""messages":[{"role":"user","content":"hi"}]"#;
    let refused: [(&str, Vec<u8>, &str); 21] = [
        (
            "model twice",
            format!(r#"{{"model":"fast","model":"fast",{message}}}"#).into(),
            "duplicate_key",
        ),
        (
            "model twice, escaped once",
            format!(r#"{{"model":"fast","mod\u0065l":"gpt-4o",{message}}}"#).into(),
            "duplicate_key",
        ),
        (
            "model in two cases",
            format!(r#"{{"model":"fast","MODEL":"gpt-4o",{message}}}"#).into(),
            "duplicate_key",
        ),
        (
            "model in another case",
            format!(r#"{{"Model":"fast",{message}}}"#).into(),
            "",
        ),
        (
            "model with a long s and Kelvin sign",
            format!("{{\"model\":\"fast\",\"\u{17f}tream\":true,{message}}}").into(),
            "",
        ),
        (
            "stream twice",
            format!(r#"{{"model":"fast","stream":true,"stream":false,{message}}}"#).into(),
            "duplicate_key",
        ),
        (
            "output limit twice",
            format!(r#"{{"model":"fast","max_tokens":1,"Max_Tokens":9,{message}}}"#).into(),
            "duplicate_key",
        ),
        ("no model", format!("{{{message}}}").into(), "missing_field"),
        (
            "model is a number",
            format!(r#"{{"model":1,{message}}}"#).into(),
            "",
        ),
        (
            "model is null",
            format!(r#"{{"model":null,{message}}}"#).into(),
            "",
        ),
        ("empty", Vec::new(), ""),
        ("not an object", b"[]".to_vec(), ""),
        ("not JSON", b"model=fast".to_vec(), "invalid_json"),
        (
            "two documents",
            format!(r#"{{"model":"fast",{message}}}{{"model":"gpt-4o"}}"#).into(),
            "invalid_json",
        ),
        (
            "trailing comma",
            br#"{"model":"fast",}"#.to_vec(),
            "invalid_json",
        ),
        (
            "comment",
            br#"{"model":"fast"/*x*/}"#.to_vec(),
            "invalid_json",
        ),
        (
            "NaN",
            br#"{"model":"fast","t":NaN}"#.to_vec(),
            "invalid_json",
        ),
        (
            "leading zero",
            br#"{"model":"fast","t":01}"#.to_vec(),
            "invalid_json",
        ),
        (
            "bare control character",
            b"{\"model\":\"fast\",\"t\":\"\n\"}".to_vec(),
            "invalid_json",
        ),
        (
            "invalid UTF-8",
            b"{\"model\":\"fast\",\"t\":\"\xff\"}".to_vec(),
            "invalid_json",
        ),
        (
            "cut off",
            br#"{"model":"fast","messages":["#.to_vec(),
            "invalid_json",
        ),
    ];
    for (name, body, code) in refused {
        let answer = gateway.post("/v1/chat/completions", &body)?;
        let error = answer.json();
        ensure!(
            answer.status == 400,
            "{name}: {} {}",
            answer.status,
            answer.text()
        );
        ensure!(
            answer.header("x-bodhi-error-source") == Some("gateway"),
            "{name}"
        );
        ensure!(
            code.is_empty() || error["error"]["code"] == code,
            "{name}: {error}"
        );
        ensure!(
            error["error"]["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{name}: {error}"
        );
    }
    // A hundred thousand levels are an answer, whichever, and no crash.
    let deep = format!(
        r#"{{"model":"fast","a":{}{}}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    gateway.post("/v1/chat/completions", deep)?;
    provider.clear()?;
    ensure!(gateway.get("/v1/models")?.status == 200);
    ensure!(provider.requests()?.is_empty());
    gateway.finish()
}

/// A fixture with the endpoint that serves its format, and the prefix of a model that leads there.
const STREAMS: [(&str, &str, &str); 7] = [
    ("openai-chat.sse", "/v1/chat/completions", ""),
    ("openai-chat-tools.sse", "/v1/chat/completions", ""),
    ("openai-responses.sse", "/v1/responses", "r/"),
    ("anthropic-messages.sse", "/v1/messages", "a/"),
    (
        "gemini.sse",
        "/v1beta/models/{}:streamGenerateContent?alt=sse",
        "g/",
    ),
    ("odd.sse", "/v1/chat/completions", ""),
    (
        "gemini-array.json",
        "/v1beta/models/{}:streamGenerateContent",
        "g/",
    ),
];

fn fixture(name: &str) -> anyhow::Result<Vec<u8>> {
    let path = format!("{}/fixtures/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).with_context(|| path)
}

/// A streaming request for a model, at the endpoint of its format.
fn ask(gateway: &Gateway, endpoint: &str, model: &str) -> Vec<u8> {
    let (target, body) = if endpoint.contains("{}") {
        let body = r#"{"contents":[{"parts":[{"text":"hi"}]}]}"#.to_owned();
        (endpoint.replace("{}", &model.replace('/', "%2F")), body)
    } else {
        let rest = r#""stream":true,"max_tokens":99,"input":"hi","messages":[{"role":"user","content":"hi"}]"#;
        (
            endpoint.to_owned(),
            format!(r#"{{"model":"{model}",{rest}}}"#),
        )
    };
    gateway.request("POST", &target, body.as_bytes())
}

/// Where a relay that looks at the bytes may stumble: inside characters, between CR and LF, around
/// the ends of events, behind the first and before the last byte.
fn delicate(bytes: &[u8]) -> Vec<usize> {
    (1..bytes.len())
        .filter(|&at| {
            let (before, after) = (bytes[at - 1], bytes[at]);
            at == 1
                || at == bytes.len() - 1
                || after & 0xc0 == 0x80
                || before == b'\r'
                || before == b'\n'
                || after == b'\n'
        })
        .collect()
}

#[test]
fn clients_get_the_providers_bytes_under_every_partition() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let mut wire = gateway.connect()?;
    let mut streams = 0;
    for (name, endpoint, prefix) in STREAMS {
        let bytes = fixture(name)?;
        let mut partitions = vec![
            "partition=whole".to_owned(),
            "framing=length".to_owned(),
            "framing=chunked".to_owned(),
        ];
        partitions.extend([1, 2, 3, 5, 64].map(|size| format!("partition=every:{size}")));
        let cuts: Vec<usize> = match std::env::var_os("BODHI_SOAK") {
            Some(_) => (1..bytes.len()).collect(),
            None => delicate(&bytes),
        };
        partitions.extend(cuts.iter().map(|cut| format!("partition=at:{cut}")));
        for partition in partitions {
            wire.send(&ask(
                &gateway,
                endpoint,
                &format!("{prefix}replay:{name},{partition}"),
            ))?;
            let answer = wire
                .response()
                .with_context(|| format!("{name} {partition}"))?;
            ensure!(
                answer.status == 200,
                "{name} {partition}: {} {}",
                answer.status,
                answer.text()
            );
            ensure!(
                answer.end == End::Complete,
                "{name} {partition}: ended {:?}",
                answer.end
            );
            ensure!(
                answer.body == bytes,
                "{name} {partition}: {:?}",
                answer.text()
            );
            streams += 1;
        }
        // A provider that ends its answer by closing needs a connection of its own.
        let model = format!("{prefix}replay:{name},partition=every:7,framing=close");
        let answer = wire::call(gateway.address, &ask(&gateway, endpoint, &model))?;
        ensure!(
            answer.body == bytes && answer.end == End::Complete,
            "{name} ended by closing: {:?}",
            answer.text()
        );
    }
    eprintln!("{streams} streams were relayed byte for byte");
    gateway.finish()
}

#[test]
fn a_stream_that_is_cut_never_looks_complete() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let soak = std::env::var_os("BODHI_SOAK").is_some();
    let mut cuts = 0;
    for (name, endpoint, prefix) in STREAMS {
        let bytes = fixture(name)?;
        for at in 0..=bytes.len() {
            // Short runs take each offset of the small streams and every seventh of the others.
            if !soak && bytes.len() > 800 && at % 7 != 0 && at != bytes.len() {
                continue;
            }
            let fault = if at % 2 == 0 {
                "reset-at"
            } else {
                "early-close"
            };
            let model = format!("{prefix}replay:{name},partition=every:64,{fault}={at}");
            let answer = wire::call(gateway.address, &ask(&gateway, endpoint, &model));
            let Ok(answer) = answer else { continue };
            let case = format!(
                "{name} {fault}={at}: {} {:?} {:?}",
                answer.status,
                answer.end,
                answer.text()
            );
            cuts += 1;
            if answer.status >= 500 {
                ensure!(
                    at <= 1 && answer.header("x-bodhi-error-source") == Some("gateway"),
                    "{case}"
                );
                continue;
            }
            ensure!(answer.end != End::Complete, "{case}");
            // Up to the cut the bytes are the provider's; our error event may begin like its next.
            let pairs = answer.body.iter().zip(&bytes).take(at);
            let common = pairs.take_while(|(got, sent)| got == sent).count();
            let added = String::from_utf8_lossy(&answer.body[common..]).into_owned();
            if !added.is_empty() {
                ensure!(added.contains("error"), "something was made up. {case}");
            }
            for end in ["[DONE]", "message_stop", "response.completed", "\"STOP\""] {
                ensure!(!added.contains(end), "an end was made up. {case}");
            }
        }
    }
    eprintln!("{cuts} streams were cut");
    ensure!(cuts > 100, "only {cuts} cut streams gave an answer");
    gateway.finish()
}

#[test]
fn an_answer_that_is_cut_never_looks_complete() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::in_front_of(&provider)?;
    let bytes = fixture("openai-chat.json")?;
    for at in 0..bytes.len() {
        let fault = if at % 2 == 0 {
            "reset-at"
        } else {
            "early-close"
        };
        let body = format!(r#"{{"model":"replay:openai-chat.json,{fault}={at}","messages":[]}}"#);
        let Ok(answer) = gateway.post("/v1/chat/completions", body) else {
            continue;
        };
        ensure!(
            answer.end != End::Complete || answer.status == 502,
            "{fault}={at}: {} {}",
            answer.status,
            answer.text()
        );
    }
    gateway.finish()
}
