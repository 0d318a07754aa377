//! The keys that policy reads.

use super::*;

fn refused(dialect: Dialect, body: &str) -> (&'static str, Option<&'static str>) {
    match take(dialect, body) {
        Ok(_) => panic!("accepted: {body}"),
        Err(error) => (error.code(), error.param()),
    }
}

#[test]
fn values_are_read_where_they_are() {
    let body = chat(
        r#"{"messages":[{"model":"no"}],"max_tokens":5,"stream":true,"model":"gpt","max_completion_tokens":99}"#,
    )
    .unwrap();
    assert_eq!(body.model(), Some("gpt"));
    assert!(body.stream());
    let limits: Vec<_> = body.output_limits().collect();
    let expected = [
        (OutputField::MaxTokens, 5),
        (OutputField::MaxCompletionTokens, 99),
    ];
    assert_eq!(limits, expected);
}

#[test]
fn a_model_may_be_written_with_escapes() {
    let escaped = chat(r#"{"mod\u0065l":"gpt\u002d4\/o\ud83e\udd80"}"#).unwrap();
    assert_eq!(escaped.model(), Some("gpt-4/o🦀"));
    assert_eq!(
        chat(r#"{"model":"a\u0000b"}"#).unwrap().model(),
        Some("a\0b")
    );
}

#[test]
fn a_missing_or_nested_model_is_none() {
    for body in [
        r#"{}"#,
        r#"{"x":{"model":"m"}}"#,
        r#"{"x":"model"}"#,
        r#"{"models":"m"}"#,
    ] {
        let taken = chat(body).unwrap();
        assert_eq!(taken.model(), None);
        let error = taken.require_model().unwrap_err();
        assert_eq!(
            (error.code(), error.param()),
            ("missing_field", Some("model"))
        );
    }
}

/// The long s folds to s and the Kelvin sign to k; the escapes are theirs.
#[test]
fn a_key_of_policys_that_occurs_twice_or_in_another_case_is_refused() {
    let pairs = [
        (r#"{"model":"a","model":"b"}"#, "model"),
        (r#"{"model":"a","mod\u0065l":"b"}"#, "model"),
        (r#"{"model":"a","x":[{"model":1}],"MODEL":"b"}"#, "model"),
        (r#"{"Model":"a"}"#, "model"),
        (r#"{"\u004dodel":"a"}"#, "model"),
        (r#"{"stream":true,"ſtream":false}"#, "stream"),
        (r#"{"\u017Ftream":false}"#, "stream"),
        (r#"{"max_toKens":1}"#, "max_tokens"),
        (r#"{"max_to\u212aens":1}"#, "max_tokens"),
        (r#"{"max_completion_tokenſ":1}"#, "max_completion_tokens"),
        (
            r#"{"stream_options":{"include_usage":true,"include_usage":true}}"#,
            "stream_options.include_usage",
        ),
        (
            r#"{"stream_options":{"Include_Usage":true}}"#,
            "stream_options.include_usage",
        ),
    ];
    for (body, param) in pairs {
        assert_eq!(
            refused(Dialect::OpenAi, body),
            ("duplicate_key", Some(param)),
            "{body}"
        );
    }
}

#[test]
fn keys_that_only_look_alike_are_others() {
    for key in [
        "mödel",
        "model ",
        "model\\u0000",
        "modeI",
        "mоdel",
        "mode",
        "\\ud800model",
        "",
    ] {
        let body = format!(r#"{{"model":"a","{key}":1}}"#);
        assert_eq!(chat(&body).unwrap().model(), Some("a"), "{key}");
    }
}

#[test]
fn values_of_another_type_are_refused() {
    let cases = [
        (Dialect::OpenAi, r#"{"model":null}"#, "model"),
        (Dialect::OpenAi, r#"{"model":["a"]}"#, "model"),
        (Dialect::OpenAi, r#"{"model":"\ud800"}"#, "model"),
        (Dialect::OpenAi, r#"{"stream":"true"}"#, "stream"),
        (Dialect::OpenAi, r#"{"stream":1}"#, "stream"),
        (Dialect::OpenAi, r#"{"max_tokens":1.0}"#, "max_tokens"),
        (Dialect::OpenAi, r#"{"max_tokens":-1}"#, "max_tokens"),
        (Dialect::OpenAi, r#"{"max_tokens":1e3}"#, "max_tokens"),
        (Dialect::OpenAi, r#"{"max_tokens":"5"}"#, "max_tokens"),
        (
            Dialect::OpenAi,
            r#"{"stream_options":[]}"#,
            "stream_options",
        ),
        (
            Dialect::Responses,
            r#"{"previous_response_id":5}"#,
            "previous_response_id",
        ),
        (
            Dialect::Responses,
            r#"{"previous_response_id":"\udc00"}"#,
            "previous_response_id",
        ),
        (Dialect::Responses, r#"{"conversation":[]}"#, "conversation"),
        (
            Dialect::Responses,
            r#"{"conversation":{"id":null}}"#,
            "conversation.id",
        ),
        (Dialect::Responses, r#"{"background":0}"#, "background"),
        (Dialect::Responses, r#"{"store":"no"}"#, "store"),
        (Dialect::Anthropic, r#"{"system":{}}"#, "system"),
        (Dialect::Gemini, r#"{"model":5}"#, "model"),
        (Dialect::Gemini, r#"{"requests":{}}"#, "requests"),
        (Dialect::Gemini, r#"{"requests":[{},5]}"#, "requests"),
        (
            Dialect::Gemini,
            r#"{"requests":[{"model":[]}]}"#,
            "requests[].model",
        ),
        (
            Dialect::Gemini,
            r#"{"generateContentRequest":{"model":{}}}"#,
            "generateContentRequest.model",
        ),
        (
            Dialect::Gemini,
            r#"{"generation_config":{"max_output_tokens":[]}}"#,
            "generationConfig.maxOutputTokens",
        ),
    ];
    for (dialect, body, param) in cases {
        assert_eq!(
            refused(dialect, body),
            ("invalid_type", Some(param)),
            "{body}"
        );
    }
}

#[test]
fn null_is_absence_where_a_value_is_optional() {
    let body = chat(r#"{"model":"m","stream":null,"max_tokens":null,"stream_options":null}"#);
    let body = body.unwrap();
    assert!(!body.stream());
    assert_eq!(body.output_limits().count(), 0);
    let nulls = r#"{"previous_response_id":null,"conversation":null,"store":null}"#;
    let body = take(Dialect::Responses, nulls).unwrap();
    assert_eq!(body.previous_response_id(), None);
    assert_eq!(body.conversation(), None);
    assert_eq!(body.store(), None);
}

#[test]
fn a_limit_beyond_64_bits_reads_as_the_largest() {
    let body = chat(r#"{"max_tokens":99999999999999999999999}"#).unwrap();
    assert_eq!(
        body.output_limits().next(),
        Some((OutputField::MaxTokens, u64::MAX))
    );
}

#[test]
fn responses_name_what_they_continue() {
    let text = r#"{"previous_response_id":"resp\u005f1","conversation":"conv_1","background":true,"store":false}"#;
    let body = take(Dialect::Responses, text).unwrap();
    assert_eq!(body.previous_response_id().as_deref(), Some("resp_1"));
    assert_eq!(body.conversation().as_deref(), Some("conv_1"));
    assert!(body.background());
    assert_eq!(body.store(), Some(false));
    let text = r#"{"conversation":{"x":{"id":"no"},"id":"conv_2"},"input":{"id":"no"}}"#;
    let body = take(Dialect::Responses, text).unwrap();
    assert_eq!(body.conversation().as_deref(), Some("conv_2"));
    assert_eq!(
        refused(
            Dialect::Responses,
            r#"{"conversation":{"id":"a","id":"b"}}"#
        ),
        ("duplicate_key", Some("conversation.id"))
    );
}

#[test]
fn gemini_names_models_in_several_places() {
    let text = r#"{"requests":[{"model":"models/a","content":{"model":"no"}},{},{"model":null},{"model":"b"}],
        "generate_content_request":{"contents":[{"model":"no"}],"model":"models/c"},"model":"d"}"#;
    let body = take(Dialect::Gemini, text).unwrap();
    let models: Vec<_> = body.models().collect();
    assert_eq!(models, ["d", "models/a", "b", "models/c"]);
}

#[test]
fn both_spellings_of_a_protobuf_field_are_one_key() {
    let cases = [
        (
            r#"{"generationConfig":{},"generation_config":{}}"#,
            "generationConfig",
        ),
        (
            r#"{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":2}}"#,
            "generationConfig.maxOutputTokens",
        ),
        (
            r#"{"generate_content_request":{},"generateContentRequest":{}}"#,
            "generateContentRequest",
        ),
        (r#"{"Generation_Config":{}}"#, "generationConfig"),
        (
            r#"{"requests":[{"model":"a","model":"a"}]}"#,
            "requests[].model",
        ),
    ];
    for (body, param) in cases {
        assert_eq!(
            refused(Dialect::Gemini, body),
            ("duplicate_key", Some(param)),
            "{body}"
        );
    }
    let text =
        r#"{"requests":[{"model":"a"},{"model":"a"}],"generation_config":{"max_output_tokens":7}}"#;
    let body = take(Dialect::Gemini, text).unwrap();
    assert_eq!(
        body.output_limits().next(),
        Some((OutputField::GenerationConfig, 7))
    );
}

/// What one format reads is nothing to another.
#[test]
fn keys_of_other_formats_are_left_alone() {
    let text = r#"{"model":"m","system":1,"system":2,"requests":5,"max_output_tokens":"x"}"#;
    assert!(chat(text).is_ok());
    assert!(
        take(
            Dialect::Anthropic,
            r#"{"stream_options":5,"stream_options":6}"#
        )
        .is_ok()
    );
}

#[test]
fn values_may_lie_across_frames() {
    let text = r#"{"mod\u0065l":"gé\u0074","stream":true,"max_tokens":1234}"#;
    for size in 1..20 {
        let body = take_pieces(Dialect::OpenAi, text.as_bytes().chunks(size)).unwrap();
        assert_eq!(body.model(), Some("gét"), "frames of {size}");
        assert!(body.stream());
        assert_eq!(
            body.output_limits().next(),
            Some((OutputField::MaxTokens, 1234))
        );
    }
}
