//! What must hold for any input: run by the fuzzer, and over the kept corpora
//! by the ordinary tests. The first byte of an input chooses how the rest is
//! read.

use bodhi_dataplane::format::{Fault, embeddings, openai_chat, openai_completions, rerank};
use bodhi_dataplane::proxy::body::{
    Body, BodyError, Dialect, Edits, ExtraBody, Intake, OutputCap, OutputField,
};
use bodhi_dataplane::proxy::stream::{EventBoundary, ResponseIdFinder};
use bytes::Bytes;
use serde_json::value::RawValue;

const DIALECTS: [Dialect; 4] = [
    Dialect::OpenAi,
    Dialect::Responses,
    Dialect::Anthropic,
    Dialect::Gemini,
];

/// Request bodies: judged as by `serde_json` under every partition; what is
/// sent is one body whose models are ours, and editing it again changes nothing.
pub(crate) fn body(input: &[u8]) {
    let Some((&choice, document)) = input.split_first() else {
        return;
    };
    let dialect = DIALECTS[usize::from(choice % 4)];
    let size = usize::from(choice / 4) + 1;
    let whole = take(dialect, document, usize::MAX);
    let parts = take(dialect, document, size);
    assert_eq!(whole.as_ref().err(), parts.as_ref().err());
    let text = std::str::from_utf8(document).ok();
    let object = text.filter(|text| text.trim_start().starts_with('{'));
    let valid = object.is_some_and(|text| serde_json::from_str::<&RawValue>(text).is_ok());
    match &whole {
        Ok(_) => assert!(valid),
        Err(BodyError::Syntax { .. }) => assert!(!valid),
        Err(_) => {}
    }
    let (Ok(whole), Ok(parts)) = (whole, parts) else {
        return;
    };
    assert_eq!(parts.prepare(&Edits::default()).to_bytes(), document);

    let edits = Edits {
        model: Some("a \"new\" model\n"),
        cap: Some(OutputCap {
            limit: 16,
            field: OutputField::of(dialect)[0],
        }),
        include_usage: true,
        ..Edits::default()
    };
    let sent = whole.prepare(&edits).to_bytes();
    assert_eq!(sent, parts.prepare(&edits).to_bytes());
    let again = take(dialect, &sent, usize::MAX).expect("what is sent is a body");
    for model in again.models() {
        let plain = model.strip_prefix("models/").unwrap_or(&model);
        assert!(plain == "a \"new\" model\n" || dialect != Dialect::Gemini && *model == *plain);
    }
    assert!(again.output_limits().all(|(_, limit)| limit <= 16));
    assert!(again.output_limits().next().is_some());
    assert_eq!(again.prepare(&edits).to_bytes(), sent);
}

/// Event streams: every partition is understood alike.
pub(crate) fn events(input: &[u8]) {
    let Some((&choice, stream)) = input.split_first() else {
        return;
    };
    let size = usize::from(choice) + 1;
    let (mut whole, mut parts) = (EventBoundary::default(), EventBoundary::default());
    whole.push(stream);
    stream.chunks(size).for_each(|piece| parts.push(piece));
    assert_eq!(whole.is_between_events(), parts.is_between_events());
    assert_eq!(whole.events(), parts.events());

    for finder in [ResponseIdFinder::in_events, ResponseIdFinder::in_document] {
        let find = |size| {
            let mut finder = finder();
            let mut pieces = stream.chunks(size);
            pieces.find_map(|piece| finder.push(&Bytes::copy_from_slice(piece)))
        };
        assert_eq!(find(usize::MAX), find(size));
    }
}

/// Extra bodies: what is configured and accepted can be merged into any body,
/// and merging it twice adds nothing.
pub(crate) fn extra_body(input: &[u8]) {
    let Some((&choice, config)) = input.split_first() else {
        return;
    };
    let dialect = DIALECTS[usize::from(choice % 4)];
    let Ok(extra) = ExtraBody::parse(dialect, config) else {
        return;
    };
    let edits = Edits {
        cap: (choice & 4 == 0).then_some(OutputCap {
            limit: 16,
            field: OutputField::of(dialect)[0],
        }),
        extra_body: Some(&extra),
        ..Edits::default()
    };
    let bodies = [
        "{}",
        "{ }",
        r#"{"a":{},"b":[],"c":{"a":{"a":1}},"generationConfig":{}}"#,
    ];
    for body in bodies {
        let body = take(dialect, body.as_bytes(), 3).expect("an accepted body");
        let sent = body.prepare(&edits).to_bytes();
        let valid = std::str::from_utf8(&sent).map(serde_json::from_str::<&RawValue>);
        assert!(matches!(valid, Ok(Ok(_))));
        // A configuration may bring keys in a case of its own, which as a
        // request's would be refused; system blocks are added each time.
        if extra.system_only().is_none()
            && let Ok(again) = take(dialect, &sent, 5)
        {
            assert_eq!(again.prepare(&edits).to_bytes(), sent);
        }
    }
}

/// Requests of OpenAI's endpoints: what is understood keeps to the limits of the contract, and
/// what is not is told with a path that the message repeats.
pub(crate) fn request(input: &[u8]) {
    let Some((&choice, body)) = input.split_first() else {
        return;
    };
    let generations = match choice % 4 {
        0 => openai_chat::parse(body).map(|(generation, _)| vec![generation]),
        1 => openai_completions::parse(body).map(|request| {
            let all = (0..request.prompts()).map(|prompt| request.generation(prompt));
            all.map(|generation| generation.expect("a prompt"))
                .collect()
        }),
        2 => embeddings::parse(body).map(|request| {
            assert!((1..=2048).contains(&request.embedding.inputs.len()));
            Vec::new()
        }),
        _ => rerank::parse(body).map(|request| {
            assert!((1..=1000).contains(&request.reranking.documents.len()));
            Vec::new()
        }),
    };
    let generations = match generations {
        Ok(generations) => generations,
        Err(Fault::Syntax) => {
            assert!(serde_json::from_slice::<&RawValue>(body).is_err());
            return;
        }
        Err(fault) => {
            assert!(
                fault
                    .to_string()
                    .contains(fault.param().unwrap_or("the request body"))
            );
            return;
        }
    };
    for generation in generations {
        assert!(generation.choices.get() <= 16);
        assert!(generation.stop.len() <= 16 && !generation.stop.contains(&String::new()));
        assert!(generation.logprobs.is_none_or(|top| top <= 20));
        let sampling = generation.sampling;
        assert!(
            sampling
                .temperature
                .is_none_or(|t| (0.0..=2.0).contains(&t))
        );
        assert!(
            sampling
                .logit_bias
                .iter()
                .all(|(_, bias)| bias.abs() <= 100.0)
        );
    }
}

fn take(dialect: Dialect, body: &[u8], size: usize) -> Result<Body, BodyError> {
    let mut intake = Intake::new(dialect, 1 << 20);
    for piece in body.chunks(size) {
        intake.push(Bytes::copy_from_slice(piece))?;
    }
    intake.finish()
}
