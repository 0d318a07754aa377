//! Failures of the gateway itself: the one place that chooses a status, a code and a text.
//!
//! Upstream errors are not made here; they pass through as they came.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;

use super::Surface;
use crate::format::{BadReply, Fault, embeddings};

/// Says whether an error is ours (`gateway`) or the provider's (`upstream`).
pub const ERROR_SOURCE: HeaderName = HeaderName::from_static("x-bodhi-error-source");
/// Names the request in the client's hands and in the access log.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Why the gateway does not serve a request. Texts say what, where and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The body, a parameter or a combination of them cannot be acted on.
    InvalidRequest {
        /// A stable word, such as `invalid_json`.
        code: &'static str,
        /// For people.
        message: String,
        /// The parameter at fault.
        param: Option<String>,
    },
    /// A path that could mislead, or an id that is not one.
    BadPath {
        /// Which part of the path.
        part: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Neither a header nor a query parameter carries a credential.
    MissingCredentials,
    /// The credential is not one of ours; the text says what is wrong with its form.
    InvalidToken(Cow<'static, str>),
    /// The token was valid until then.
    ExpiredToken,
    /// A browser page from elsewhere, or a Host that is not this machine's, in anonymous mode.
    ForeignOrigin(&'static str),
    /// A list leaves the model out, whether or not it exists.
    ModelNotAllowed(String),
    /// Nothing serves the name. The text names near matches.
    ModelNotFound(String),
    /// The name is served, in a format that this endpoint does not take.
    WrongFormat(String),
    /// Nobody who could know it knows the response id, or it is another owner's.
    ResponseNotFound(String),
    /// Not a path of ours; the text is a hint.
    UnknownPath(&'static str),
    /// The path takes these methods.
    MethodNotAllowed(&'static str),
    /// The body is longer than this many bytes.
    BodyTooLarge(usize),
    /// More header fields than a request may have.
    TooManyHeaders,
    /// The body did not arrive in time.
    BodyTimeout,
    /// The body is in an encoding or of a type that cannot be judged.
    UnsupportedMedia(String),
    /// As many requests as an object allows are in flight.
    InFlight(String),
    /// As many requests wait for a local model as may.
    QueueFull(String),
    /// A local model did not become ready in time.
    ModelLoading(String),
    /// The object or this release cannot do it.
    Unsupported(String),
    /// The upstream's key is not there or may not go where the request would.
    CredentialMissing(String),
    /// The upstream could not be reached or broke off; the code says how.
    BadGateway {
        /// `connect_failed`, `connection_reset`, `tls_failed`, `invalid_response`.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// The upstream took too long; the code says at what.
    GatewayTimeout {
        /// `connect_timeout`, `first_byte_timeout`, `idle_timeout`.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// Configuration has not arrived, or the named object cannot serve as it is.
    NotReady(String),
    /// This process is about to stop.
    Draining,
    /// Too many bytes of bodies in flight.
    MemoryPressure,
    /// A defect of ours; details are in the log under the request's id.
    Internal,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::InvalidRequest {
            code: fault.code(),
            message: format!("{fault}."),
            param: fault.param().map(str::to_owned),
        }
    }
}

impl From<BadReply> for Failure {
    fn from(reply: BadReply) -> Self {
        Self::BadGateway {
            code: "invalid_response",
            message: format!("The model's backend broke its contract: {reply}."),
        }
    }
}

impl From<embeddings::Refused> for Failure {
    fn from(refused: embeddings::Refused) -> Self {
        match refused {
            embeddings::Refused::Request(fault) => fault.into(),
            embeddings::Refused::Reply(reply) => reply.into(),
        }
    }
}

/// A failure's outer form.
struct Shape<'a> {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: Cow<'a, str>,
    param: Option<&'a str>,
    retry_after: Option<u32>,
}

impl Failure {
    /// The status alone.
    pub fn status(&self) -> StatusCode {
        self.shape().status
    }

    /// The stable word, for metrics and logs.
    pub fn code(&self) -> &'static str {
        self.shape().code
    }

    /// What to tell a person.
    pub fn message(&self) -> String {
        self.shape().message.into_owned()
    }

    /// The `type` of OpenAI's envelope.
    pub fn kind(&self) -> &'static str {
        self.shape().kind
    }

    fn shape(&self) -> Shape<'_> {
        let make = |status, kind, code, message: Cow<'static, str>| Shape {
            status,
            kind,
            code,
            message,
            param: None,
            retry_after: None,
        };
        let bad = |code, message| make(StatusCode::BAD_REQUEST, "invalid_request", code, message);
        let unauthorized = |code, message| {
            make(
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                code,
                message,
            )
        };
        let busy = |code, message, seconds| Shape {
            retry_after: Some(seconds),
            ..make(StatusCode::SERVICE_UNAVAILABLE, "overloaded", code, message)
        };
        match self {
            Self::InvalidRequest {
                code,
                message,
                param,
            } => Shape {
                param: param.as_deref(),
                ..bad(code, message.clone().into())
            },
            Self::BadPath { part, what } => bad(
                "invalid_path",
                format!("The {part} in the path {what}.").into(),
            ),
            Self::MissingCredentials => unauthorized(
                "missing_credentials",
                "No credential was given. Send a Bodhi token as 'Authorization: Bearer <token>'."
                    .into(),
            ),
            Self::InvalidToken(why) => unauthorized(
                "invalid_token",
                format!("This is not a valid token: {why}.").into(),
            ),
            Self::ExpiredToken => unauthorized(
                "expired_token",
                "This token has expired. Ask for a new one.".into(),
            ),
            Self::ForeignOrigin(why) => make(
                StatusCode::FORBIDDEN,
                "permission_error",
                "insufficient_scope",
                (*why).into(),
            ),
            Self::ModelNotAllowed(message) => Shape {
                param: Some("model"),
                ..bad("model_not_allowed", message.clone().into())
            },
            Self::ModelNotFound(message) => Shape {
                param: Some("model"),
                ..make(
                    StatusCode::NOT_FOUND,
                    "not_found",
                    "model_not_found",
                    message.clone().into(),
                )
            },
            Self::WrongFormat(message) => Shape {
                param: Some("model"),
                ..bad("wrong_format", message.clone().into())
            },
            Self::ResponseNotFound(id) => make(
                StatusCode::NOT_FOUND,
                "not_found",
                "response_not_found",
                format!("Response '{id}' was not found.").into(),
            ),
            Self::UnknownPath(hint) => make(
                StatusCode::NOT_FOUND,
                "not_found",
                "unknown_path",
                format!("There is nothing at this path: {hint}.").into(),
            ),
            Self::MethodNotAllowed(allowed) => make(
                StatusCode::METHOD_NOT_ALLOWED,
                "invalid_request",
                "method_not_allowed",
                format!("This path takes {allowed}.").into(),
            ),
            Self::BodyTooLarge(limit) => make(
                StatusCode::PAYLOAD_TOO_LARGE,
                "invalid_request",
                "body_too_large",
                format!("The request body is longer than {limit} bytes, the limit here.").into(),
            ),
            Self::TooManyHeaders => make(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "invalid_request",
                "headers_too_large",
                "A request may have at most 100 header fields.".into(),
            ),
            Self::BodyTimeout => make(
                StatusCode::REQUEST_TIMEOUT,
                "invalid_request",
                "body_timeout",
                "The request body stopped arriving.".into(),
            ),
            Self::UnsupportedMedia(message) => make(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "invalid_request",
                "unsupported_media_type",
                message.clone().into(),
            ),
            Self::InFlight(message) => Shape {
                retry_after: Some(1),
                ..make(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_exceeded",
                    "concurrency",
                    message.clone().into(),
                )
            },
            Self::QueueFull(message) => Shape {
                retry_after: Some(1),
                ..make(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_exceeded",
                    "queue_full",
                    message.clone().into(),
                )
            },
            Self::ModelLoading(message) => busy("model_loading", message.clone().into(), 5),
            Self::Unsupported(message) => make(
                StatusCode::NOT_IMPLEMENTED,
                "unsupported",
                "unsupported_by_backend",
                message.clone().into(),
            ),
            Self::CredentialMissing(message) => make(
                StatusCode::BAD_GATEWAY,
                "backend_unreachable",
                "credential_missing",
                message.clone().into(),
            ),
            Self::BadGateway { code, message } => make(
                StatusCode::BAD_GATEWAY,
                "backend_unreachable",
                code,
                message.clone().into(),
            ),
            Self::GatewayTimeout { code, message } => make(
                StatusCode::GATEWAY_TIMEOUT,
                "backend_timeout",
                code,
                message.clone().into(),
            ),
            Self::NotReady(message) => busy("not_ready", message.clone().into(), 2),
            Self::Draining => busy("draining", "This gateway is about to stop.".into(), 1),
            Self::MemoryPressure => busy(
                "memory_pressure",
                "Too many large requests are in flight.".into(),
                1,
            ),
            Self::Internal => make(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "internal",
                "The gateway failed. Its log has details under this request's id.".into(),
            ),
        }
    }

    /// The JSON body in a surface's envelope.
    pub fn envelope(&self, surface: Surface, request_id: &str) -> Bytes {
        let shape = self.shape();
        let Shape {
            status,
            kind,
            code,
            message,
            param,
            ..
        } = &shape;
        let body = match surface {
            Surface::OpenAi => json!({
                "error": {"message": message, "type": kind, "param": param, "code": code}
            }),
            Surface::Anthropic => json!({
                "type": "error",
                "error": {"type": anthropic_type(*status), "message": message},
                "request_id": request_id,
            }),
            Surface::Gemini => json!({
                "error": {
                    "code": status.as_u16(),
                    "message": message,
                    "status": gemini_status(*status),
                    "details": [{
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": code.to_ascii_uppercase(),
                        "domain": "bodhi.dev",
                    }],
                }
            }),
        };
        Bytes::from(body.to_string())
    }

    /// The whole response, without CORS headers.
    pub fn response(&self, surface: Surface, request_id: &str) -> Response<Bytes> {
        let shape = self.shape();
        let body = self.envelope(surface, request_id);
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = shape.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(ERROR_SOURCE, HeaderValue::from_static("gateway"));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert(REQUEST_ID, id);
        }
        if let Some(seconds) = shape.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Self::MethodNotAllowed(allowed) = self {
            headers.insert(ALLOW, HeaderValue::from_static(allowed));
        }
        *response.body_mut() = body;
        response
    }
}

/// Anthropic's error types by status (<https://docs.anthropic.com/en/api/errors>).
pub fn anthropic_type(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// `google.rpc.Code` names by status (<https://cloud.google.com/apis/design/errors>).
pub fn gemini_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        501 => "UNIMPLEMENTED",
        502 | 503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        400..=499 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(failure: &Failure, surface: Surface) -> serde_json::Value {
        serde_json::from_slice(&failure.envelope(surface, "req_1")).expect("JSON")
    }

    #[test]
    fn the_three_envelopes_have_their_vendors_shape() {
        let failure = Failure::ModelNotFound("No model 'x'.".into());
        assert_eq!(
            value(&failure, Surface::OpenAi),
            json!({"error": {"message": "No model 'x'.", "type": "not_found", "param": "model",
                             "code": "model_not_found"}})
        );
        assert_eq!(
            value(&failure, Surface::Anthropic),
            json!({"type": "error", "request_id": "req_1",
                   "error": {"type": "not_found_error", "message": "No model 'x'."}})
        );
        let gemini = value(&failure, Surface::Gemini);
        assert_eq!(gemini["error"]["code"], 404);
        assert_eq!(gemini["error"]["status"], "NOT_FOUND");
        assert_eq!(gemini["error"]["details"][0]["reason"], "MODEL_NOT_FOUND");
    }

    #[test]
    fn where_waiting_helps_the_header_says_how_long() {
        for failure in [
            Failure::Draining,
            Failure::MemoryPressure,
            Failure::InFlight("x".into()),
        ] {
            let response = failure.response(Surface::OpenAi, "req_1");
            assert!(response.headers().contains_key(RETRY_AFTER), "{failure:?}");
            assert_eq!(response.headers()[ERROR_SOURCE], "gateway");
        }
        let plain = Failure::Internal.response(Surface::OpenAi, "req_1");
        assert!(!plain.headers().contains_key(RETRY_AFTER));
    }

    #[test]
    fn methods_that_are_allowed_are_named() {
        let response = Failure::MethodNotAllowed("GET").response(Surface::OpenAi, "r");
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "GET");
    }
}
