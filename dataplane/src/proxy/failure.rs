//! Failures of upstream calls, as the client is told of them.

use http::Response;

use bodhi_proto::names::ObjectRef;

use super::UpstreamBody;
use crate::api::error::Failure;
use crate::telemetry::metrics::Outcome;
use crate::upstream::{self, BodyFailure};

/// No response head came.
pub(super) fn before_response(error: &upstream::Failure, object: &ObjectRef) -> Failure {
    use upstream::Failure::*;
    tracing::warn!(upstream = %object, %error, "no response from the upstream");
    let message = format!("The upstream '{}' did not answer: {error}.", object.short());
    let bad = |code| Failure::BadGateway {
        code,
        message: message.clone(),
    };
    let late = |code| Failure::GatewayTimeout {
        code,
        message: message.clone(),
    };
    match error {
        EgressRefused(_) | ConnectFailed(_) => bad("connect_failed"),
        TlsFailed(_) => bad("tls_failed"),
        ClosedUnwritten(_) | ConnectionReset(_) => bad("connection_reset"),
        InvalidResponse(_) => bad("invalid_response"),
        ConnectTimeout(_) => late("connect_timeout"),
        FirstByteTimeout(_) => late("first_byte_timeout"),
        // The body is ours, in memory and whole: this cannot come from a client.
        RequestBody(_) => Failure::Internal,
    }
}

/// The response broke off after its head.
pub(super) fn within_response(error: &BodyFailure) -> Failure {
    let message = format!("The response was broken off: {error}.");
    match error {
        BodyFailure::IdleTimeout(_) => Failure::GatewayTimeout {
            code: "idle_timeout",
            message,
        },
        BodyFailure::ConnectionReset(_) => Failure::BadGateway {
            code: "connection_reset",
            message,
        },
        BodyFailure::InvalidResponse(_) => Failure::BadGateway {
            code: "invalid_response",
            message,
        },
    }
}

/// How a call counts.
pub(super) fn outcome(called: &Result<Response<UpstreamBody>, upstream::Failure>) -> Outcome {
    match called {
        Err(_) => Outcome::Failed,
        Ok(response) => match response.status().as_u16() {
            429 => Outcome::RateLimited,
            400..=499 => Outcome::ClientError,
            500.. => Outcome::ServerError,
            _ => Outcome::Ok,
        },
    }
}
