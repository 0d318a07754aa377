//! Bodies that must reach the upstream as they were sent, but for the model.

use super::*;

/// Each with `@` where the model's value is.
const BODIES: [&str; 17] = [
    r#"{"model":@}"#,
    r#"{ "model" : @ }"#,
    "\r\n{\t\"z\":1,\"model\":@\n,\"a\":2}\n\n",
    r#"{"z":1,"y":2,"model":@,"x":3,"a":4}"#,
    r#"{"seed":9223372036854775808,"n":18446744073709551616,"model":@}"#,
    r#"{"a":1,"b":1.0,"c":1.00,"d":1e0,"e":-0,"f":0.1e-7,"model":@}"#,
    r#"{"a":1e400,"b":-1E+999,"model":@}"#,
    r#"{"a":"\u0041\/\b\f\n\r\t\"\\","model":@}"#,
    r#"{"a":"\u0000","b":"\ud83e\udd80","model":@}"#,
    r#"{"a":"\ud800","b":"\udc00\ud800","\udfff":1,"model":@}"#,
    r#"{"unknown":{"deeply":[[[[{"x":[]}]]]]},"model":@,"other":null}"#,
    r#"{"metadata":{"model":"other"},"model":@,"tools":[{"model":"another"}]}"#,
    r#"{"mod\u0065l":@}"#,
    r#"{"x":1,"x":2,"X":3,"model":@}"#,
    r#"{"messages":[{"role":"user","content":"héllo 🦀 \u00e9"}],"model":@}"#,
    r#"{"":"","model":@," ":" "}"#,
    r#"{"model":@,"logit_bias":{"50256":-100}}"#,
];

#[test]
fn only_the_value_of_model_changes() {
    for body in BODIES {
        for before in [
            r#""gpt""#,
            r#""g\u0070t""#,
            r#""openrouter/openai/gpt-4o""#,
            r#""""#,
        ] {
            let sent = body.replace('@', before);
            let received = body.replace('@', r#""new \"name\" é\\""#);
            for size in [1, 2, 3, 7, usize::MAX] {
                let pieces = sent.as_bytes().chunks(size);
                let taken = take_pieces(Dialect::OpenAi, pieces).unwrap();
                let prepared = taken.prepare(&with_model("new \"name\" é\\"));
                assert_eq!(prepared.to_bytes(), received.as_bytes(), "frames of {size}");
            }
        }
    }
}

#[test]
fn without_edits_nothing_changes() {
    for body in BODIES {
        let sent = body.replace('@', r#""g\u0070t""#);
        assert_eq!(edited(Dialect::OpenAi, &sent, &Edits::default()), sent);
        // The same model in other words is no edit either.
        assert_eq!(edited(Dialect::OpenAi, &sent, &with_model("gpt")), sent);
    }
}

#[test]
fn depth_survives() {
    let deep = format!("{}1{}", "[{\"a\":".repeat(250), "}]".repeat(250));
    let sent = format!("{{\"x\":{deep},\"model\":\"a\"}}");
    let received = format!("{{\"x\":{deep},\"model\":\"b\"}}");
    assert_eq!(edited(Dialect::OpenAi, &sent, &with_model("b")), received);
}

#[test]
fn an_image_of_a_megabyte_survives_in_any_frames() {
    let image = "iVBORw0KGgoAAAANSUhEUgAA+/".repeat(40_330);
    let text = |model: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{image}"}}}}]}}],"model":"{model}"}}"#
        )
    };
    let (sent, received) = (text("a"), text("models/b"));
    for size in [1 << 10, 16_384, 65_537, usize::MAX] {
        let taken = take_pieces(Dialect::OpenAi, sent.as_bytes().chunks(size)).unwrap();
        let prepared = taken.prepare(&with_model("models/b"));
        assert!(
            prepared.to_bytes() == received.as_bytes(),
            "frames of {size}"
        );
    }
}
