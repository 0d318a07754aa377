//! What holds for every body, checked against `serde_json` and simple models.

mod corpus;
mod fields;
mod generate;
mod merging;
mod splicing;
mod validity;

use super::*;

const LIMIT: usize = 16 << 20;

/// Takes a body in, in pieces.
fn take_pieces<'a>(
    dialect: Dialect,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Body, BodyError> {
    let mut intake = Intake::new(dialect, LIMIT);
    for piece in pieces {
        intake.push(Bytes::copy_from_slice(piece))?;
    }
    intake.finish()
}

fn take(dialect: Dialect, body: impl AsRef<[u8]>) -> Result<Body, BodyError> {
    take_pieces(dialect, [body.as_ref()])
}

fn chat(body: impl AsRef<[u8]>) -> Result<Body, BodyError> {
    take(Dialect::OpenAi, body)
}

/// What is sent, as text.
fn edited(dialect: Dialect, body: &str, edits: &Edits<'_>) -> String {
    let prepared = take(dialect, body).unwrap().prepare(edits);
    let bytes = prepared.to_bytes();
    assert_eq!(prepared.len(), bytes.len() as u64);
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn extra(dialect: Dialect, json: &str) -> ExtraBody {
    ExtraBody::parse(dialect, json.as_bytes()).unwrap()
}

fn with_model(model: &str) -> Edits<'_> {
    Edits {
        model: Some(model),
        ..Edits::default()
    }
}

/// Cuts `bytes` at the given places, each taken modulo the length.
fn cut<'a>(bytes: &'a [u8], places: &[usize]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|at| at % (bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places
        .windows(2)
        .map(|pair| &bytes[pair[0]..pair[1]])
        .collect()
}
