//! Bodies, queries and path segments, with faults in the envelope.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use bodhi_proto::names::{ObjectKind, ObjectRef};
use serde::de::DeserializeOwned;

use super::ApiError;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state).await;
        let bytes = bytes.map_err(|e: BytesRejection| match e.status() {
            StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(),
            _ => ApiError::invalid_json("The body ended early."),
        })?;
        parse(&bytes).map(Self)
    }
}

/// serde's message may quote a value, and that value may be a key in the wrong field; only
/// the kinds that name fields are passed on.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let text = error.to_string();
        let about = ["missing field", "unknown field", "duplicate field"];
        if error.is_data() && about.iter().any(|known| text.starts_with(known)) {
            return ApiError::invalid("", format!("The body is not what this call takes: {text}."));
        }
        ApiError::invalid_json(format!(
            "The body is not the JSON that this call takes: see line {line}, column {column}."
        ))
    })
}

/// Query parameters.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let query = Query::from_request_parts(parts, state).await;
        let query = query.map_err(|e: QueryRejection| ApiError::invalid("", e.body_text()))?;
        Ok(Self(query.0))
    }
}

/// Path segments; what they cannot be is a path that does not exist.
pub(super) struct Segments<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let path = Path::from_request_parts(parts, state).await;
        path.map(|Path(value)| Self(value))
            .map_err(|_| ApiError::unknown_path())
    }
}

/// The plural in a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Plural {
    ApiModels,
    Aliases,
}

impl Plural {
    pub(super) fn kind(self) -> ObjectKind {
        match self {
            Self::ApiModels => ObjectKind::ApiModel,
            Self::Aliases => ObjectKind::Alias,
        }
    }
}

/// A reference from path segments; 400 when they cannot name an object.
pub(super) fn object(kind: ObjectKind, namespace: &str, name: &str) -> Result<ObjectRef, ApiError> {
    let label = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let fits = |text: &str, max: usize, dots: bool| {
        let outer = |b: Option<u8>| b.is_some_and(|b| label(b) && b != b'-');
        let inner = |b: u8| label(b) || (dots && b == b'.');
        text.len() <= max
            && text.bytes().all(inner)
            && outer(text.bytes().next())
            && outer(text.bytes().last())
    };
    if !fits(namespace, 63, false) {
        return Err(ApiError::invalid(
            "metadata.namespace",
            "A namespace has 1 to 63 characters of a-z, 0-9 and '-', not at its ends.",
        ));
    }
    if !fits(name, 253, true) {
        return Err(ApiError::invalid(
            "metadata.name",
            "A name has 1 to 253 characters of a-z, 0-9, '-' and '.', the last two not at its ends.",
        ));
    }
    Ok(ObjectRef {
        kind,
        namespace: namespace.into(),
        name: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_its_path_names_no_object() {
        let ok = |namespace, name| object(ObjectKind::Alias, namespace, name).is_ok();
        assert!(ok("bodhi", "a-1.b"));
        for (namespace, name) in [
            ("", "a"),
            ("a", ""),
            ("a/b", "a"),
            ("a.b", "a"),
            ("a", ".."),
            ("a", "../x"),
            ("a", "a/b"),
            ("a", "A"),
            ("a", "-a"),
            ("a", "a\n"),
            ("a", "a\0"),
        ] {
            assert!(!ok(namespace, name), "{namespace:?} {name:?}");
        }
    }
}
