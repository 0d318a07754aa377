//! Models and ids that come by path: decoded once, then judged.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::error::Failure;

/// RFC 3986 `unreserved` stays; everything else in a segment is encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Decodes a model out of a path. It may hold `/`, literal or `%2F`; a segment that is
/// empty, `.` or `..`, or holds what could mislead a second decoder, is refused.
pub(super) fn model(encoded: &str) -> Result<String, Failure> {
    let refuse = |what| Failure::BadPath {
        part: "model",
        what,
    };
    // A `%` that begins no escape would be left alone by the decoder: refused with the rest.
    let decoded = percent_decode_str(encoded)
        .decode_utf8()
        .map_err(|_| refuse("is not UTF-8 once decoded"))?;
    if decoded
        .chars()
        .any(|c| c.is_control() || "%?#\\".contains(c))
    {
        return Err(refuse(
            "holds a control character or one of % ? # \\ once decoded",
        ));
    }
    if decoded.split('/').any(|s| matches!(s, "" | "." | "..")) {
        return Err(refuse("holds an empty, '.' or '..' segment once decoded"));
    }
    Ok(decoded.into_owned())
}

/// Splits `{model}:{action}` at the last literal colon.
pub(super) fn model_and_action(rest: &str) -> Result<(String, String), Failure> {
    let refuse = |what| Failure::BadPath {
        part: "action",
        what,
    };
    let (encoded, action) = rest
        .rsplit_once(':')
        .ok_or_else(|| refuse("is missing: POST /v1beta/models/{model}:{action}"))?;
    if !(1..=64).contains(&action.len()) || !action.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err(refuse("must be 1 to 64 ASCII letters"));
    }
    Ok((model(encoded)?, action.to_owned()))
}

/// Judges a response id: `[A-Za-z0-9_-]{1,256}`, as it stands in the path.
pub(super) fn response_id(id: &str) -> Result<(), Failure> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    match (1..=256).contains(&id.len()) && id.bytes().all(allowed) {
        true => Ok(()),
        false => Err(Failure::BadPath {
            part: "response id",
            what: "must be 1 to 256 characters of A-Z a-z 0-9 _ -",
        }),
    }
}

/// Encodes a model for an upstream's path, segment by segment; `/` stays between them.
/// `None` if a segment is one that a path must not hold (the model came by body).
pub(crate) fn encode_model(model: &str) -> Option<String> {
    let mut encoded = String::with_capacity(model.len() + 8);
    for (i, segment) in model.split('/').enumerate() {
        if matches!(segment, "" | "." | "..") {
            return None;
        }
        if i > 0 {
            encoded.push('/');
        }
        encoded.extend(utf8_percent_encode(segment, SEGMENT));
    }
    Some(encoded)
}

/// What to tell a client whose path is not served.
pub(super) fn hint(path: &str) -> &'static str {
    let under = |root: &str| path.starts_with(root);
    if under("/v1/files") || under("/v1/uploads") {
        "file uploads are not offered by this gateway"
    } else if under("/v1/batches")
        || under("/v1/messages/batches")
        || under("/anthropic/v1/messages/batches")
    {
        "batches are not offered by this gateway"
    } else if under("/v1/realtime") {
        "realtime sessions are not offered by this gateway"
    } else if under("/mcp") {
        "an MCP proxy is not offered by this gateway; clients run MCP tools themselves"
    } else if under("/chat") || under("/models") || under("/responses") || under("/embeddings") {
        "the API begins at /v1: set the client's base URL to end in /v1"
    } else if under("/v1/v1") || under("/v1/chat/completions/") {
        "the path repeats a part: check the client's base URL"
    } else {
        "see /v1/models, /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, \
         /v1/messages and /v1beta/models"
    }
}
