//! Models, caps and usage.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::generate::{object, string, value};
use super::*;

fn capped(dialect: Dialect, limit: u32, field: OutputField, body: &str) -> String {
    let cap = Some(OutputCap { limit, field });
    edited(
        dialect,
        body,
        &Edits {
            cap,
            ..Edits::default()
        },
    )
}

#[test]
fn a_model_is_never_added() {
    assert_eq!(edited(Dialect::OpenAi, "{}", &with_model("m")), "{}");
    let nulls = r#"{"model":null,"requests":[{"model":null}]}"#;
    assert_eq!(edited(Dialect::Gemini, nulls, &with_model("m")), nulls);
}

#[test]
fn every_model_of_gemini_is_replaced_and_stays_a_resource_name() {
    let sent = r#"{"model":"models/x","requests":[{"model":"models/p/x"},{"model":"x"},{}],"generateContentRequest":{"model":"models/x"}}"#;
    let received = r#"{"model":"models/y","requests":[{"model":"models/y"},{"model":"y"},{}],"generateContentRequest":{"model":"models/y"}}"#;
    assert_eq!(edited(Dialect::Gemini, sent, &with_model("y")), received);
    assert_eq!(
        edited(Dialect::Gemini, received, &with_model("y")),
        received
    );
}

#[test]
fn a_cap_lowers_what_is_above_it_and_nothing_else() {
    let cap = |body| capped(Dialect::OpenAi, 100, OutputField::MaxTokens, body);
    assert_eq!(cap(r#"{"max_tokens":101}"#), r#"{"max_tokens":100}"#);
    assert_eq!(cap(r#"{"max_tokens":100}"#), r#"{"max_tokens":100}"#);
    assert_eq!(cap(r#"{"max_tokens":0}"#), r#"{"max_tokens":0}"#);
    assert_eq!(
        cap(r#"{"max_tokens":9,"a":1,"max_completion_tokens":99999999999999999999}"#),
        r#"{"max_tokens":9,"a":1,"max_completion_tokens":100}"#
    );
    assert_eq!(
        cap(r#"{"max_completion_tokens":7}"#),
        r#"{"max_completion_tokens":7}"#
    );
}

#[test]
fn a_cap_is_set_where_nothing_was_asked() {
    let cases = [
        (
            Dialect::OpenAi,
            OutputField::MaxTokens,
            "{}",
            r#"{"max_tokens":5}"#,
        ),
        (
            Dialect::OpenAi,
            OutputField::MaxTokens,
            "{ }",
            r#"{ "max_tokens":5}"#,
        ),
        (
            Dialect::OpenAi,
            OutputField::MaxCompletionTokens,
            r#"{"model":"m" }"#,
            r#"{"model":"m" ,"max_completion_tokens":5}"#,
        ),
        // The null is where it is to be; another field's null is left.
        (
            Dialect::OpenAi,
            OutputField::MaxTokens,
            r#"{"max_tokens":null,"a":1}"#,
            r#"{"max_tokens":5,"a":1}"#,
        ),
        (
            Dialect::OpenAi,
            OutputField::MaxTokens,
            r#"{"max_completion_tokens":null}"#,
            r#"{"max_completion_tokens":null,"max_tokens":5}"#,
        ),
        (
            Dialect::Responses,
            OutputField::MaxOutputTokens,
            "{}",
            r#"{"max_output_tokens":5}"#,
        ),
        // A field that the format does not have stands for its own.
        (
            Dialect::Anthropic,
            OutputField::MaxOutputTokens,
            "{}",
            r#"{"max_tokens":5}"#,
        ),
        (
            Dialect::Gemini,
            OutputField::GenerationConfig,
            "{}",
            r#"{"generationConfig":{"maxOutputTokens":5}}"#,
        ),
        (
            Dialect::Gemini,
            OutputField::GenerationConfig,
            r#"{"generation_config":{}}"#,
            r#"{"generation_config":{"maxOutputTokens":5}}"#,
        ),
        (
            Dialect::Gemini,
            OutputField::GenerationConfig,
            r#"{"generationConfig":{"topK":1},"a":1}"#,
            r#"{"generationConfig":{"topK":1,"maxOutputTokens":5},"a":1}"#,
        ),
        (
            Dialect::Gemini,
            OutputField::GenerationConfig,
            r#"{"generationConfig":null}"#,
            r#"{"generationConfig":{"maxOutputTokens":5}}"#,
        ),
        (
            Dialect::Gemini,
            OutputField::GenerationConfig,
            r#"{"generationConfig":{"max_output_tokens":null}}"#,
            r#"{"generationConfig":{"max_output_tokens":5}}"#,
        ),
        (
            Dialect::Gemini,
            OutputField::GenerationConfig,
            r#"{"generationConfig":{"max_output_tokens":6}}"#,
            r#"{"generationConfig":{"max_output_tokens":5}}"#,
        ),
    ];
    for (dialect, field, sent, received) in cases {
        assert_eq!(capped(dialect, 5, field, sent), received);
    }
}

#[test]
fn usage_is_asked_for_in_the_streams_options() {
    let usage = |body| {
        let edits = Edits {
            include_usage: true,
            ..Edits::default()
        };
        edited(Dialect::OpenAi, body, &edits)
    };
    let set = r#"{"stream_options":{"include_usage":true}}"#;
    assert_eq!(usage("{}"), set);
    assert_eq!(usage(set), set);
    assert_eq!(usage(r#"{"stream_options":null}"#), set);
    assert_eq!(usage(r#"{"stream_options":{}}"#), set);
    assert_eq!(usage(r#"{"stream_options":{"include_usage":false}}"#), set);
    assert_eq!(usage(r#"{"stream_options":{"include_usage":null}}"#), set);
    assert_eq!(
        usage(r#"{"stream_options":{"a":1},"stream":true}"#),
        r#"{"stream_options":{"a":1,"include_usage":true},"stream":true}"#
    );
}

#[test]
fn edits_of_all_kinds_meet() {
    let edits = Edits {
        model: Some("y"),
        cap: Some(OutputCap {
            limit: 5,
            field: OutputField::MaxTokens,
        }),
        include_usage: true,
        ..Edits::default()
    };
    assert_eq!(
        edited(Dialect::OpenAi, r#"{"stream":true,"model":"x"}"#, &edits),
        r#"{"stream":true,"model":"y","max_tokens":5,"stream_options":{"include_usage":true}}"#
    );
}

/// The text of an object's members, perhaps none, with a comma where one is due.
fn members(object: &str) -> &str {
    &object[1..object.len() - 1]
}

proptest! {
    /// The generator knows where the model is; the scanner has to find it.
    #[test]
    fn only_the_models_value_is_touched(
        before in object(string(true), value(true, string(true))),
        after in object(string(true), value(true, string(true))),
        old in string(false),
        new in "[ -~é🦀\n]{0,20}",
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let head = match members(&before).trim() {
            "" => format!("{{{} \"model\" :", members(&before)),
            _ => format!("{{{},\"model\":", members(&before)),
        };
        let tail = match members(&after).trim() {
            "" => format!("{}}}", members(&after)),
            _ => format!(",{}}}", members(&after)),
        };
        let sent = format!("{head}{old}{tail}");
        let taken = match take_pieces(Dialect::OpenAi, cut(sent.as_bytes(), &cuts)) {
            Ok(taken) => taken,
            // The generated keys can be policy's.
            Err(error) => {
                prop_assert_ne!(error.code(), "invalid_json");
                return Ok(());
            }
        };
        let old_model: String = serde_json::from_str(&old).unwrap();
        prop_assert_eq!(taken.model(), Some(&*old_model));
        let received = taken.prepare(&with_model(&new)).to_bytes();
        let inserted = match old_model == new {
            true => old.clone(),
            false => {
                let end = received.len() - tail.len();
                String::from_utf8(received[head.len()..end].to_vec()).unwrap()
            }
        };
        prop_assert_eq!(received, format!("{head}{inserted}{tail}"));
        prop_assert_eq!(serde_json::from_str::<Value>(&inserted).unwrap(), Value::from(new));
    }
}
