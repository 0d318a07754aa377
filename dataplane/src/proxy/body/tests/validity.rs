//! What is JSON: the same as for `serde_json`, under every partition.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::value::RawValue;

use super::generate::{object, space, string, value};
use super::*;

/// The oracle: an object, valid as RFC 8259 has it. Raw values are skipped by
/// `serde_json` without a limit on depth and without converting numbers.
fn is_json_object(body: &[u8]) -> bool {
    let text = std::str::from_utf8(body).ok();
    let object = text.filter(|text| text.trim_start().starts_with('{'));
    object.is_some_and(|text| serde_json::from_str::<&RawValue>(text).is_ok())
}

/// The verdict where it is about JSON and not about policy's keys.
fn verdict(result: &Result<Body, BodyError>) -> Option<bool> {
    match result {
        Ok(_) => Some(true),
        Err(BodyError::Syntax { .. }) => Some(false),
        Err(_) => None,
    }
}

fn document() -> impl Strategy<Value = String> {
    (
        space(),
        object(string(true), value(true, string(true))),
        space(),
    )
        .prop_map(|(a, object, b)| format!("{a}{object}{b}"))
}

#[derive(Debug, Clone)]
enum Mutation {
    Delete(Index),
    Insert(Index, u8),
    Replace(Index, u8),
    Truncate(Index),
    Repeat(Index, Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let byte = prop_oneof![
        4 => select(b"\"\\{}[],:0123456789.eE+-tfnul \n\r\t\x00\x1f/".to_vec()),
        1 => any::<u8>(),
    ];
    prop_oneof![
        any::<Index>().prop_map(Mutation::Delete),
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        any::<Index>().prop_map(Mutation::Truncate),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Mutation::Repeat(from, to)),
    ]
}

fn mutate(body: &mut Vec<u8>, mutation: &Mutation) {
    if body.is_empty() {
        return;
    }
    match mutation {
        Mutation::Delete(at) => drop(body.remove(at.index(body.len()))),
        Mutation::Insert(at, byte) => body.insert(at.index(body.len()), *byte),
        Mutation::Replace(at, byte) => {
            let at = at.index(body.len());
            body[at] = *byte;
        }
        Mutation::Truncate(at) => body.truncate(at.index(body.len())),
        Mutation::Repeat(from, to) => {
            let (from, to) = (from.index(body.len()), to.index(body.len()));
            body.extend_from_within(from.min(to)..from.max(to));
        }
    }
}

/// Takes `body` under every kind of partition, all of which must agree.
fn take_all_ways(body: &[u8], cuts: &[usize]) -> Result<Body, BodyError> {
    let whole = take(Dialect::OpenAi, body);
    for pieces in [body.chunks(1).collect(), cut(body, cuts)] {
        let parts = take_pieces(Dialect::OpenAi, pieces);
        assert_eq!(whole.as_ref().err(), parts.as_ref().err());
        if let (Ok(whole), Ok(parts)) = (&whole, &parts) {
            assert_eq!(whole.model(), parts.model());
            assert_eq!(parts.prepare(&Edits::default()).to_bytes(), body);
        }
    }
    whole
}

proptest! {
    #[test]
    fn every_document_is_accepted(body in document(), cuts in vec(any::<usize>(), 0..6)) {
        prop_assert!(is_json_object(body.as_bytes()));
        let taken = take_all_ways(body.as_bytes(), &cuts);
        prop_assert_ne!(verdict(&taken), Some(false), "{:?}", taken);
    }

    #[test]
    fn a_damaged_document_is_judged_as_by_serde_json(
        body in document(),
        mutations in vec(mutation(), 1..4),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let mut body = body.into_bytes();
        mutations.iter().for_each(|mutation| mutate(&mut body, mutation));
        let taken = take_all_ways(&body, &cuts);
        if let Some(valid) = verdict(&taken) {
            prop_assert_eq!(valid, is_json_object(&body), "{:?}", taken);
        }
    }

    #[test]
    fn no_bytes_at_all_make_it_panic(
        body in vec(any::<u8>(), 0..200),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let taken = take_all_ways(&body, &cuts);
        prop_assert_eq!(verdict(&taken).unwrap_or(true), is_json_object(&body));
    }
}

/// Where a body that is not JSON goes wrong, and what is said about it.
#[test]
fn faults_are_told_with_offset_and_expectation() {
    let cases: [(&[u8], usize, &str); 30] = [
        (b"", 0, "a value"),
        (b" \n", 2, "a value"),
        (b"\xEF\xBB\xBF{}", 0, "a value"),
        (b"[]", 0, "an object"),
        (b"\"x\"", 0, "an object"),
        (b"null", 0, "an object"),
        (b"{", 1, "a key in double quotes or '}'"),
        (b"{,}", 1, "a key in double quotes or '}'"),
        (b"{a:1}", 1, "a key in double quotes or '}'"),
        (b"{'a':1}", 1, "a key in double quotes or '}'"),
        (b"{\"a\":1,}", 7, "a key in double quotes"),
        (b"{\"a\" 1}", 5, "':'"),
        (b"{\"a\":}", 5, "a value"),
        (b"{\"a\":1 \"b\":2}", 7, "',' or '}'"),
        (b"{\"a\":[1 2]}", 8, "',' or ']'"),
        (b"{\"a\":[1,]}", 8, "a value"),
        (b"{\"a\":[,1]}", 6, "a value or ']'"),
        (b"{\"a\":[1}", 7, "',' or ']'"),
        (b"{\"a\":01}", 6, "',' or '}'"),
        (b"{\"a\":1.}", 7, "a digit"),
        (b"{\"a\":-}", 6, "a digit"),
        (b"{\"a\":+1}", 5, "a value"),
        (b"{\"a\":1e}", 7, "a digit"),
        (b"{\"a\":NaN}", 5, "a value"),
        (b"{\"a\":nul}", 8, "true, false or null"),
        (
            b"{\"a\":\"\\x\"}",
            7,
            "one of \" \\ / b f n r t u after '\\'",
        ),
        (
            b"{\"a\":\"\\u12g4\"}",
            10,
            "four hexadecimal digits after '\\u'",
        ),
        (b"{\"a\":\"x", 7, "the string to end with '\"'"),
        (b"{\"a\":\"\xC3(\"}", 6, "UTF-8"),
        (b"{} x", 3, "nothing after the top-level value"),
    ];
    for (body, at, expected) in cases {
        let error = take_all_ways(body, &[1, 5]).unwrap_err();
        assert_eq!(
            error,
            BodyError::Syntax { at, expected },
            "{}",
            body.escape_ascii()
        );
        assert_eq!(error.code(), "invalid_json");
        assert_eq!(error.param(), None);
    }
    let control = take_all_ways(b"{\"a\":\"x\ny\"}", &[]).unwrap_err();
    assert_eq!(
        control.to_string(),
        "the request body is not valid JSON: at byte 7 expected control characters in strings \
         to be escaped"
    );
}

/// Every short text of the characters that numbers are made of.
#[test]
fn numbers_follow_the_grammar() {
    let mut texts = vec![String::new()];
    for _ in 0..5 {
        let longer = texts.iter().flat_map(|text| {
            ["-", "+", "0", "1", ".", "e"].map(|character| format!("{text}{character}"))
        });
        texts = longer.collect();
        for text in &texts {
            let body = format!("{{\"a\":{text}}}");
            let valid = is_json_object(body.as_bytes());
            for size in [1, body.len()] {
                let taken = take_pieces(Dialect::OpenAi, body.as_bytes().chunks(size));
                assert_eq!(taken.is_ok(), valid, "{text} in frames of {size}");
            }
        }
    }
}

#[test]
fn nesting_is_taken_to_the_limit_and_refused_beyond_it() {
    let nest = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!("{{\"model\":\"m\",\"x\":{open}{close}}}")
    };
    let deepest = chat(nest(512)).unwrap();
    assert_eq!(deepest.model(), Some("m"));
    let error = chat(nest(513)).unwrap_err();
    assert_eq!(
        error,
        BodyError::TooDeep {
            at: 17 + 511,
            limit: 512
        }
    );
    assert_eq!(error.code(), "too_deep");
    let objects = "{\"a\":".repeat(600);
    assert_eq!(chat(objects).unwrap_err().code(), "too_deep");
}

/// Objects and arrays share the stack of bits: a closed one leaves none behind.
#[test]
fn brackets_are_matched_at_every_depth() {
    let mut text = String::from("1");
    for depth in 0..500 {
        text = match depth % 3 {
            0 => format!("[{text},2]"),
            1 => format!("{{\"a\":[],\"b\":{text}}}"),
            _ => format!("[{{}},{text}]"),
        };
    }
    let body = format!("{{\"x\":{text}}}");
    assert!(chat(&body).is_ok());
    let wrong = body.replacen("]}", "}}", 1);
    assert_eq!(chat(&wrong).is_ok(), is_json_object(wrong.as_bytes()));
}

#[test]
fn a_body_over_the_limit_is_refused_by_the_frame_that_exceeds_it() {
    let body = br#"{"model":"m"}"#;
    let mut intake = Intake::new(Dialect::OpenAi, body.len());
    intake.push(Bytes::from_static(body)).unwrap();
    let limit = body.len();
    let error = intake.push(Bytes::from_static(b" ")).unwrap_err();
    assert_eq!(error, BodyError::TooLarge { limit });
    assert_eq!(error.code(), "body_too_large");
}

/// A client that sends single bytes must not cost a frame for each.
#[test]
fn small_frames_are_gathered() {
    let body = format!("{{\"model\":\"m\",\"x\":\"{}\"}}", "é".repeat(50_000));
    let taken = take_pieces(Dialect::OpenAi, body.as_bytes().chunks(1)).unwrap();
    let prepared = taken.prepare(&Edits::default());
    assert_eq!(prepared.to_bytes(), body.as_bytes());
    assert!(prepared.slices().len() < 20, "{}", prepared.slices().len());
}

#[test]
fn frames_are_forwarded_where_they_lie() {
    let frame = Bytes::from(format!(
        "{{\"model\":\"m\",\"x\":\"{}\"}}",
        "y".repeat(5_000)
    ));
    let mut intake = Intake::new(Dialect::OpenAi, LIMIT);
    intake.push(frame.clone()).unwrap();
    let prepared = intake.finish().unwrap().prepare(&with_model("n"));
    let last = prepared.slices().last().unwrap();
    assert_eq!(last.as_ptr_range().end, frame.as_ptr_range().end);
}
