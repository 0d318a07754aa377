//! Extra bodies, defaults and system blocks.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::generate::{object, value};
use super::*;

fn merged(dialect: Dialect, config: &str, body: &str) -> String {
    let extra = extra(dialect, config);
    let edits = Edits {
        extra_body: Some(&extra),
        ..Edits::default()
    };
    edited(dialect, body, &edits)
}

#[test]
fn absent_keys_are_added_at_the_end_of_their_object() {
    let config = r#"{"provider":{"sort":"price","only":["a"]},"seed":1.0}"#;
    let cases = [
        (
            "{}",
            r#"{"provider":{"sort":"price","only":["a"]},"seed":1.0}"#,
        ),
        (
            "{ \n}",
            "{ \n\"provider\":{\"sort\":\"price\",\"only\":[\"a\"]},\"seed\":1.0}",
        ),
        (
            r#"{"provider":{},"a":1}"#,
            r#"{"provider":{"sort":"price","only":["a"]},"a":1,"seed":1.0}"#,
        ),
        (
            r#"{"provider":{"only":[]},"seed":2}"#,
            r#"{"provider":{"only":[],"sort":"price"},"seed":2}"#,
        ),
        (
            r#"{"provider":"mine","seed":null}"#,
            r#"{"provider":"mine","seed":null}"#,
        ),
        // Keys are compared as text.
        (
            r#"{"prov\u0069der":{"sort":"x","only":1},"seed":0}"#,
            r#"{"prov\u0069der":{"sort":"x","only":1},"seed":0}"#,
        ),
        // Of a repeated key the last counts, as for decoders.
        (
            r#"{"provider":{"sort":1},"seed":0,"provider":{"only":1}}"#,
            r#"{"provider":{"sort":1},"seed":0,"provider":{"only":1,"sort":"price"}}"#,
        ),
        // Only objects on the way there count.
        (
            r#"{"x":{"provider":1,"seed":1}}"#,
            r#"{"x":{"provider":1,"seed":1},"provider":{"sort":"price","only":["a"]},"seed":1.0}"#,
        ),
    ];
    for (sent, received) in cases {
        assert_eq!(merged(Dialect::OpenAi, config, sent), received);
    }
}

#[test]
fn configured_values_keep_their_spelling() {
    let config = r#"{"a":1e400,"b":9223372036854775808,"c":[1.0, 1.00],"d\n":"\ud83e\udd80"}"#;
    let received =
        r#"{"a":1e400,"b":9223372036854775808,"c":[1.0, 1.00],"d\u000a":"\ud83e\udd80"}"#;
    assert_eq!(merged(Dialect::OpenAi, config, "{}"), received);
}

#[test]
fn geminis_two_spellings_are_one_key_when_merging() {
    let config = r#"{"generationConfig":{"topK":1,"thinkingConfig":{"thinkingBudget":0}}}"#;
    assert_eq!(
        merged(
            Dialect::Gemini,
            config,
            r#"{"generation_config":{"top_k":2,"thinking_config":{}}}"#
        ),
        r#"{"generation_config":{"top_k":2,"thinking_config":{"thinkingBudget":0}}}"#
    );
}

#[test]
fn the_providers_extra_body_gives_way_to_the_served_names_defaults() {
    let provider = extra(Dialect::OpenAi, r#"{"a":1,"b":{"x":1,"y":1},"c":1}"#);
    let name = extra(Dialect::OpenAi, r#"{"a":2,"b":{"y":2,"z":2}}"#);
    let edits = Edits {
        extra_body: Some(&provider),
        defaults: Some(&name),
        ..Edits::default()
    };
    let sent = edited(Dialect::OpenAi, r#"{"b":{"z":3}}"#, &edits);
    let received: Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(
        received,
        json!({"a": 2, "b": {"x": 1, "y": 2, "z": 3}, "c": 1})
    );
}

#[test]
fn caps_apply_after_what_the_configuration_adds() {
    let cases = [
        (
            Dialect::OpenAi,
            r#"{"max_tokens":4096}"#,
            "{}",
            json!({"max_tokens": 10}),
        ),
        (
            Dialect::OpenAi,
            r#"{"max_tokens":7}"#,
            "{}",
            json!({"max_tokens": 7}),
        ),
        (
            Dialect::OpenAi,
            r#"{"max_tokens":4096}"#,
            r#"{"max_tokens":3}"#,
            json!({"max_tokens": 3}),
        ),
        (
            Dialect::OpenAi,
            r#"{"max_tokens":null}"#,
            "{}",
            json!({"max_tokens": 10}),
        ),
        (
            Dialect::OpenAi,
            r#"{"max_completion_tokens":50}"#,
            r#"{"max_tokens":3}"#,
            json!({"max_tokens": 3, "max_completion_tokens": 10}),
        ),
        // A null of the client's is its own scalar: it stays, so nothing was asked.
        (
            Dialect::OpenAi,
            r#"{"max_tokens":4096}"#,
            r#"{"max_tokens":null}"#,
            json!({"max_tokens": 10}),
        ),
        (
            Dialect::Gemini,
            r#"{"generationConfig":{"topK":1}}"#,
            "{}",
            json!({"generationConfig": {"topK": 1, "maxOutputTokens": 10}}),
        ),
        (
            Dialect::Gemini,
            r#"{"generation_config":{"max_output_tokens":99}}"#,
            r#"{"generationConfig":{"topK":1}}"#,
            json!({"generationConfig": {"topK": 1, "max_output_tokens": 10}}),
        ),
        (
            Dialect::Gemini,
            r#"{"generationConfig":{"topK":1,"maxOutputTokens":99}}"#,
            r#"{"generationConfig":null}"#,
            json!({"generationConfig": {"maxOutputTokens": 10}}),
        ),
        (
            Dialect::Gemini,
            r#"{"generationConfig":{"topK":1}}"#,
            r#"{"generationConfig":{}}"#,
            json!({"generationConfig": {"topK": 1, "maxOutputTokens": 10}}),
        ),
    ];
    for (dialect, config, sent, expected) in cases {
        let extra = extra(dialect, config);
        let edits = Edits {
            cap: Some(OutputCap {
                limit: 10,
                field: OutputField::of(dialect)[0],
            }),
            extra_body: Some(&extra),
            ..Edits::default()
        };
        let received: Value = serde_json::from_str(&edited(dialect, sent, &edits)).unwrap();
        assert_eq!(received, expected, "{config} into {sent}");
    }
}

#[test]
fn usage_goes_where_the_configuration_brings_the_options() {
    let extra = extra(
        Dialect::OpenAi,
        r#"{"stream_options":{"a":1,"include_usage":false}}"#,
    );
    let edits = Edits {
        include_usage: true,
        extra_body: Some(&extra),
        ..Edits::default()
    };
    for (sent, received) in [
        ("{}", r#"{"stream_options":{"a":1,"include_usage":true}}"#),
        (
            r#"{"stream_options":{}}"#,
            r#"{"stream_options":{"a":1,"include_usage":true}}"#,
        ),
    ] {
        assert_eq!(edited(Dialect::OpenAi, sent, &edits), received);
    }
}

#[test]
fn configured_system_blocks_come_first() {
    let block = r#"{"type":"text","text":"Be kind."}"#;
    let config = format!(r#"{{"system":[ {block} ]}}"#);
    let cases = [
        ("{}", format!(r#"{{"system":[{block}]}}"#)),
        (r#"{"system":null}"#, format!(r#"{{"system":[{block}]}}"#)),
        (r#"{"system":""}"#, format!(r#"{{"system":[{block}]}}"#)),
        (r#"{"system":[]}"#, format!(r#"{{"system":[{block}]}}"#)),
        (r#"{"system":[ ]}"#, format!(r#"{{"system":[{block} ]}}"#)),
        (
            r#"{"system":[{"type":"text","text":"mine"}],"a":1}"#,
            format!(r#"{{"system":[{block},{{"type":"text","text":"mine"}}],"a":1}}"#),
        ),
        (
            r#"{"system":"m\u0069ne"}"#,
            format!(r#"{{"system":[{block},{{"type":"text","text":"m\u0069ne"}}]}}"#),
        ),
    ];
    for (sent, received) in cases {
        assert_eq!(merged(Dialect::Anthropic, &config, sent), received);
    }
    // A configured string is a block; an empty one is nothing.
    assert_eq!(
        merged(Dialect::Anthropic, r#"{"system":"Be kind."}"#, "{}"),
        format!(r#"{{"system":[{block}]}}"#)
    );
    for nothing in [r#"{"system":[]}"#, r#"{"system":null}"#, r#"{"system":""}"#] {
        assert_eq!(merged(Dialect::Anthropic, nothing, "{}"), "{}");
    }
    // Elsewhere it is a key like any other.
    assert_eq!(
        merged(Dialect::OpenAi, r#"{"system":"x"}"#, r#"{"system":1}"#),
        r#"{"system":1}"#
    );
}

/// The system string's end and the end of the object are one place.
#[test]
fn system_blocks_and_added_keys_do_not_mix() {
    let extra = extra(
        Dialect::Anthropic,
        r#"{"max_tokens":4096,"system":"s","a":{}}"#,
    );
    let edits = Edits {
        model: Some("y"),
        extra_body: Some(&extra),
        ..Edits::default()
    };
    assert_eq!(
        edited(Dialect::Anthropic, r#"{"model":"x","system":"c"}"#, &edits),
        r#"{"model":"y","system":[{"type":"text","text":"s"},{"type":"text","text":"c"}],"max_tokens":4096,"a":{}}"#
    );
}

#[test]
fn counting_tokens_takes_only_the_system_blocks() {
    let whole = extra(Dialect::Anthropic, r#"{"max_tokens":4096,"system":"s"}"#);
    let system = whole.system_only().unwrap();
    let edits = Edits {
        extra_body: Some(&system),
        ..Edits::default()
    };
    assert_eq!(
        edited(Dialect::Anthropic, "{}", &edits),
        r#"{"system":[{"type":"text","text":"s"}]}"#
    );
    assert!(
        extra(Dialect::Anthropic, r#"{"max_tokens":1}"#)
            .system_only()
            .is_none()
    );
    assert!(
        extra(Dialect::OpenAi, r#"{"system":"s"}"#)
            .system_only()
            .is_none()
    );
}

#[test]
fn a_configuration_that_cannot_be_merged_is_refused() {
    let cases = [
        (Dialect::OpenAi, "[]", "not a JSON object"),
        (Dialect::OpenAi, "{", "not a JSON object"),
        (Dialect::OpenAi, r#"{"a":1,"a":2}"#, "occurs twice"),
        (
            Dialect::OpenAi,
            r#"{"a":{"b":1,"\u0062":2}}"#,
            "occurs twice",
        ),
        (
            Dialect::OpenAi,
            r#"{"model":"m"}"#,
            "'model' belongs to the request",
        ),
        (
            Dialect::OpenAi,
            r#"{"Stream":true}"#,
            "'Stream' belongs to the request",
        ),
        (
            Dialect::Gemini,
            r#"{"contents":[]}"#,
            "'contents' belongs to the request",
        ),
        (
            Dialect::OpenAi,
            r#"{"max_tokens":1.5}"#,
            "'max_tokens' must be a non-negative integer",
        ),
        (
            Dialect::Anthropic,
            r#"{"system":5}"#,
            "'system' must be a string or an array",
        ),
        (
            Dialect::Anthropic,
            r#"{"system":{}}"#,
            "'system' must be a string or an array",
        ),
        (
            Dialect::OpenAi,
            r#"{"Max_Tokens":1}"#,
            "'max_tokens' must be spelled in this case",
        ),
        (
            Dialect::Gemini,
            r#"{"generation_config":{"MaxOutputTokens":1}}"#,
            "'generationConfig.maxOutputTokens' must be spelled in this case",
        ),
        (
            Dialect::Gemini,
            r#"{"generation_config":{"maxOutputTokens":"1"}}"#,
            "'generationConfig.maxOutputTokens' must be",
        ),
    ];
    for (dialect, config, message) in cases {
        let error = ExtraBody::parse(dialect, config.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(message), "{config}: {error}");
    }
}

/// The rule, on values: the client's scalars and arrays win.
fn merge_model(client: &mut Value, config: &Value) {
    let (Value::Object(client), Value::Object(config)) = (client, config) else {
        return;
    };
    for (key, value) in config {
        match client.get_mut(key) {
            Some(present) => merge_model(present, value),
            None => drop(client.insert(key.clone(), value.clone())),
        }
    }
}

/// Few keys, so that many meet; none is policy's but the cap.
fn key() -> impl Strategy<Value = String> + Clone {
    select(vec![
        r#""a""#,
        r#""b""#,
        r#""c""#,
        r#""d""#,
        r#""\u0061""#,
        r#""A""#,
    ])
    .prop_map(str::to_owned)
}

fn is_subsequence(of: &[u8], bytes: &[u8]) -> bool {
    let mut of = of.iter();
    bytes.iter().all(|byte| of.any(|other| other == byte))
}

proptest! {
    #[test]
    fn merging_follows_the_rule_and_only_adds(
        client in object(key(), value(false, key())),
        config in object(key(), value(false, key())),
        asked in proptest::option::of(0_u32..30),
        limit in proptest::option::of(0_u32..30),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        // A repeated key in the configuration is an error of its own.
        let Ok(extra) = ExtraBody::parse(Dialect::OpenAi, config.as_bytes()) else {
            return Ok(());
        };
        let client = match (asked, client.trim_end_matches('}')) {
            (Some(asked), _) if client[1..client.len() - 1].trim().is_empty() => {
                format!("{{\"max_tokens\":{asked}}}")
            }
            (Some(asked), _) => format!("{{\"max_tokens\":{asked},{}", &client[1..]),
            (None, _) => client,
        };
        let taken = take_pieces(Dialect::OpenAi, cut(client.as_bytes(), &cuts)).unwrap();
        let edits = Edits {
            extra_body: Some(&extra),
            cap: limit.map(|limit| OutputCap { limit, field: OutputField::MaxTokens }),
            ..Edits::default()
        };
        let received = taken.prepare(&edits).to_bytes();

        let mut expected: Value = serde_json::from_str(&client).unwrap();
        merge_model(&mut expected, &serde_json::from_str(&config).unwrap());
        let sent_limit = match (asked, limit) {
            (Some(asked), Some(limit)) => Some(asked.min(limit)),
            (one, other) => one.or(other),
        };
        if let Some(limit) = sent_limit {
            expected["max_tokens"] = json!(limit);
        }
        let value: Value = serde_json::from_slice(&received).unwrap();
        prop_assert_eq!(value, expected);
        if sent_limit == asked {
            prop_assert!(is_subsequence(&received, client.as_bytes()));
        }
        // What we send is a body of which nothing needs to be refused.
        prop_assert!(take(Dialect::OpenAi, &received).is_ok());
    }
}
