//! What can go wrong in an admin call, and its status, type, code and text.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bodhi_proto::names::ObjectRef;
use serde_json::json;
use tracing::error;

use super::WriteError;
use crate::store::{RotationError, StoreError};
use crate::validate::Fault;

/// An answer that is an error, in OpenAI's envelope.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    message: String,
    param: Option<String>,
    faults: Vec<Fault>,
}

impl ApiError {
    fn new(
        status: StatusCode,
        kind: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            kind,
            code,
            message: message.into(),
            param: None,
            faults: Vec::new(),
        }
    }

    /// 400: the request is not one. `param` names the field.
    pub(super) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        let param = Some(param.into()).filter(|p| !p.is_empty());
        let plain = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "invalid_field",
            message,
        );
        Self { param, ..plain }
    }

    pub(super) fn invalid_json(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "invalid_json",
            message,
        )
    }

    pub(super) fn too_large() -> Self {
        let message = format!("The body is longer than {} bytes.", super::BODY_MAX);
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "invalid_request",
            "body_too_large",
            message,
        )
    }

    /// 400: every fault of a manifest, each with its path.
    pub(super) fn faults(faults: Vec<Fault>) -> Self {
        let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let message = format!("The resource is not valid. {}.", lines.join("; "));
        let plain = Self::new(
            StatusCode::BAD_REQUEST,
            "invalid_request",
            "invalid_resource",
            message,
        );
        Self {
            param: faults.first().map(|f| f.path.to_string()),
            faults,
            ..plain
        }
    }

    pub(super) fn missing_credentials() -> Self {
        let message = "Send a Bodhi token: 'Authorization: Bearer bodhi_…'.";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "missing_credentials",
            message,
        )
    }

    pub(super) fn invalid_token(why: impl std::fmt::Display) -> Self {
        let message = format!("The token is not valid: {why}.");
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "invalid_token",
            message,
        )
    }

    pub(super) fn expired_token() -> Self {
        let message = "The token has expired: ask for a new one.";
        Self::new(
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "expired_token",
            message,
        )
    }

    pub(super) fn insufficient_scope(needed: &str) -> Self {
        let message = format!("This needs a token of scope {needed}.");
        Self::new(
            StatusCode::FORBIDDEN,
            "permission_error",
            "insufficient_scope",
            message,
        )
    }

    pub(super) fn not_found(object: &ObjectRef) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "object_not_found",
            format!("There is no {object}."),
        )
    }

    pub(super) fn no_token(id: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "token_not_found",
            format!("There is no token '{id}'."),
        )
    }

    pub(super) fn unknown_path() -> Self {
        let message = "There is nothing at this path; /openapi.json describes what there is.";
        Self::new(StatusCode::NOT_FOUND, "not_found", "unknown_path", message)
    }

    pub(super) fn method_not_allowed() -> Self {
        let message =
            "This path does not take that method; /openapi.json describes which it takes.";
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request",
            "method_not_allowed",
            message,
        )
    }

    fn conflict(code: &'static str, message: String) -> Self {
        Self::new(StatusCode::CONFLICT, "invalid_request", code, message)
    }

    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        error!(%cause, "an admin call failed");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "internal",
            "Something failed here; the controller's log says what.",
        )
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Exists(_) => Self::conflict("already_exists", format!("{error}.")),
            StoreError::Unavailable(_) => {
                error!(%error, "an admin call found no store");
                let message = "The store does not answer: try again.";
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "overloaded",
                    "not_ready",
                    message,
                )
            }
            StoreError::Damaged(_) | StoreError::Seal(_) => Self::internal(&error),
        }
    }
}

impl From<RotationError> for ApiError {
    fn from(error: RotationError) -> Self {
        match error {
            RotationError::Store(error) => error.into(),
            RotationError::Random(_) => Self::internal(&error),
            RotationError::Ring(_) => Self::conflict("master_keys_unusable", format!("{error}.")),
            RotationError::Seals(_) | RotationError::Needed(..) => {
                Self::conflict("master_key_needed", format!("{error}."))
            }
            RotationError::Unknown(_) => Self::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "master_key_not_found",
                format!("{error}."),
            ),
        }
    }
}

impl From<WriteError> for ApiError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Faults(faults) => Self::faults(faults),
            WriteError::Exists(_) => Self::conflict("already_exists", format!("{error}.")),
            WriteError::NotFound(object) => Self::not_found(&object),
            WriteError::Elsewhere { .. } | WriteError::ReadOnly => {
                Self::conflict("defined_elsewhere", format!("{error}."))
            }
            WriteError::Managed { .. } => Self::conflict("defined_elsewhere", format!("{error}.")),
            WriteError::Forbidden(message) => Self::new(
                StatusCode::FORBIDDEN,
                "permission_error",
                "forbidden_by_cluster",
                format!("The API server refuses: {message}"),
            ),
            WriteError::Unavailable(_) => {
                error!(%error, "an admin call found no API server");
                let message = "The API server does not answer: try again.";
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "overloaded",
                    "not_ready",
                    message,
                )
            }
            WriteError::File { .. } => Self::internal(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        });
        if !self.faults.is_empty() {
            let fault = |f: &Fault| json!({"path": f.path.to_string(), "message": f.message});
            body["faults"] = self.faults.iter().map(fault).collect();
        }
        let mut response = (self.status, Json(json!({"error": body}))).into_response();
        let headers = response.headers_mut();
        headers.insert("x-bodhi-error-source", HeaderValue::from_static("gateway"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
