//! Calling a provider: HTTP/1.1 over connections that are kept and never shared across trust.
//!
//! Each serving thread has its own [`Upstreams`]. Connections are pooled by (origin, roots, egress scope): a
//! connection that one tenant's private CA vouched for must never carry another's key.
//! [`Upstreams::call`] returns once the response head is there; the body follows as
//! [`UpstreamBody`]. Dropping either, at any time, closes the connection at once, which is how
//! HTTP/1.1 cancels.
//!
//! HTTP/2 is not spoken upstream: one slow reader must not spend a connection that others share.

mod attempt;
mod deadline;
mod gate;
mod pool;
mod retry;
#[cfg(test)]
mod tests;

use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bodhi_net::dial::{DialError, Resolve, System};
use bodhi_net::tls::ClientConfigs;
use bodhi_proto::snapshot::Upstream;
use bytes::Bytes;
use http::header::HOST;
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

pub use deadline::Deadline;

use attempt::Failed;
use pool::{Lease, Pool};
use retry::{Budget, Connection, Next};

/// A body's own error, boxed.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why there is no response head.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The egress policy forbids every address of the host.
    #[error("{0}")]
    EgressRefused(String),
    /// The name does not resolve, or nothing accepts the connection.
    #[error("{0}")]
    ConnectFailed(String),
    /// No connection, or no TLS, within `timeouts.connect`.
    #[error("{0}")]
    ConnectTimeout(String),
    /// The peer's certificate or handshake is not acceptable, or the roots are unusable.
    #[error("TLS with the upstream failed: {0}")]
    TlsFailed(String),
    /// The connection ended before the request was begun to be written.
    #[error("the connection closed before the request was written: {0}")]
    ClosedUnwritten(hyper::Error),
    /// The connection ended after (part of) the request was written and before a response head came.
    #[error("the upstream closed the connection without a response: {0}")]
    ConnectionReset(hyper::Error),
    /// No response head within `timeouts.first_byte` of the request's last byte.
    #[error("the upstream sent no response within {} s", .0.as_secs_f32())]
    FirstByteTimeout(Duration),
    /// What came back is not an HTTP/1 response, its head is too large, or it switches protocols.
    #[error("the upstream's response is not valid HTTP: {0}")]
    InvalidResponse(String),
    /// The request's own body failed while it was being sent: the client's fault.
    #[error("the request body ended early: {0}")]
    RequestBody(hyper::Error),
}

impl Failure {
    /// Whether nothing of the request was written, so that it cannot have been acted on.
    pub fn never_written(&self) -> bool {
        match self {
            Self::EgressRefused(_)
            | Self::ConnectFailed(_)
            | Self::ConnectTimeout(_)
            | Self::TlsFailed(_)
            | Self::ClosedUnwritten(_) => true,
            Self::ConnectionReset(_)
            | Self::FirstByteTimeout(_)
            | Self::InvalidResponse(_)
            | Self::RequestBody(_) => false,
        }
    }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        let text = error.to_string();
        match error {
            DialError::Refused { .. } => Self::EgressRefused(text),
            DialError::Timeout { .. } => Self::ConnectTimeout(text),
            DialError::Resolve { .. } | DialError::Connect { .. } => Self::ConnectFailed(text),
        }
    }
}

/// Why a response body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyFailure {
    /// Nothing came for `timeouts.idle`.
    #[error("the upstream sent nothing for {} s", .0.as_secs_f32())]
    IdleTimeout(Duration),
    /// The connection ended before the body did.
    #[error("the upstream closed the connection within the response: {0}")]
    ConnectionReset(hyper::Error),
    /// The body's framing is broken (RFC 9112 §7.1).
    #[error("the upstream's response body is not valid HTTP: {0}")]
    InvalidResponse(hyper::Error),
}

/// What all threads share of calling: TLS configurations, with their session tickets.
#[derive(Debug, Clone, Default)]
pub struct Shared {
    tls: Arc<ClientConfigs>,
}

/// One thread's way to all upstreams. `B` is the one type of request body it sends.
///
/// Must be used inside a tokio `LocalRuntime` or `LocalSet`: what closes idle connections is a task of
/// the thread.
#[derive(Debug)]
pub struct Upstreams<B, R = System> {
    pool: Rc<Pool<B>>,
    resolver: R,
    shared: Shared,
    budget: Budget,
}

impl<B> Upstreams<B>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    /// Nothing connected yet; names are resolved by the system.
    pub fn new(shared: Shared) -> Self {
        Self::with_resolver(shared, System)
    }
}

impl<B, R> Upstreams<B, R>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
    R: Resolve,
{
    /// Nothing connected yet.
    pub fn with_resolver(shared: Shared, resolver: R) -> Self {
        Self {
            pool: Rc::new(Pool::new()),
            resolver,
            shared,
            budget: Budget::new(),
        }
    }

    /// Sends `request` to `upstream` and waits for the response head.
    ///
    /// The URI must be in origin form (`/v1/chat/completions?x=1`); `host` is set here. Framing
    /// headers (`content-length`, `transfer-encoding`) follow from the body's size hint. What was never
    /// written is tried again, up to `upstream.attempts` and within the thread's budget.
    ///
    /// # Errors
    /// [`Failure`] of the last attempt.
    pub async fn call(
        &self,
        upstream: &Upstream,
        mut request: Request<B>,
    ) -> Result<Response<UpstreamBody<B>>, Failure> {
        self.budget.earn();
        let origin = &upstream.base_url.origin;
        let destination = self
            .pool
            .destination(origin, &upstream.roots, &upstream.egress);
        request
            .headers_mut()
            .insert(HOST, destination.authority.clone());
        *request.version_mut() = Version::HTTP_11;

        let mut made = 0;
        let mut reusable = true;
        loop {
            let pooled = match reusable {
                true => destination.checkout(Instant::now()),
                false => None,
            };
            let (connection, outcome) = match pooled {
                Some(lease) => (
                    Connection::Pooled,
                    attempt::send(lease, request, upstream.timeouts.first_byte).await,
                ),
                None => {
                    made += 1;
                    let connected = attempt::connect(
                        &self.resolver,
                        &self.shared.tls,
                        &destination,
                        upstream.timeouts.connect,
                    );
                    // Rare next to requests on pooled connections: kept out of every request's future.
                    let outcome = match Box::pin(connected).await {
                        Ok(lease) => {
                            attempt::send(lease, request, upstream.timeouts.first_byte).await
                        }
                        Err(failure) => Err(Failed {
                            failure,
                            unsent: Some(request),
                        }),
                    };
                    (Connection::Fresh, outcome)
                }
            };
            let Failed { failure, unsent } = match outcome {
                Ok((response, lease)) => {
                    let idle = upstream.timeouts.idle;
                    return Ok(response.map(|incoming| {
                        UpstreamBody::new(incoming, lease, self.pool.clone(), idle)
                    }));
                }
                Err(failed) => failed,
            };
            let verdict = retry::next(
                made,
                upstream.attempts,
                &failure,
                connection,
                &self.budget,
                rand::random(),
            );
            match (verdict, unsent) {
                (Next::Again { after }, Some(unsent)) => {
                    tracing::debug!(%origin, made, error = %failure, "trying again");
                    // Others may have died with the one that did.
                    reusable = false;
                    request = unsent;
                    if !after.is_zero() {
                        tokio::time::sleep(after).await;
                    }
                }
                _ => return Err(failure),
            }
        }
    }
}

/// A response body as it arrives, with the idle timeout applied.
///
/// At its end the connection goes back to the pool; dropped before, the connection is closed at once.
#[derive(Debug)]
pub struct UpstreamBody<B> {
    incoming: Incoming,
    /// Until the end or a failure.
    lease: Option<Lease<B>>,
    pool: Rc<Pool<B>>,
    idle: Duration,
    /// Since when nothing has come although it was asked for.
    waiting: Option<Instant>,
}

impl<B: 'static> UpstreamBody<B> {
    fn new(incoming: Incoming, lease: Lease<B>, pool: Rc<Pool<B>>, idle: Duration) -> Self {
        let mut body = Self {
            incoming,
            lease: Some(lease),
            pool,
            idle,
            waiting: None,
        };
        // No one polls a body that is known to be empty.
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.pool.put(lease);
        }
    }

    /// The next piece that is there, or that a turn of the connection brings.
    fn poll_incoming(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let incoming = &mut self.incoming;
        let polled = Pin::new(&mut *incoming).poll_frame(&mut pool::nobody());
        match &mut self.lease {
            Some(lease) if polled.is_pending() => {
                lease.turn(cx, |cx| Pin::new(incoming).poll_frame(cx))
            }
            _ => polled,
        }
    }
}

impl<B: 'static> Body for UpstreamBody<B> {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let this = self.get_mut();
        match this.poll_incoming(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.waiting = None;
                if this.incoming.is_end_stream() {
                    this.give_back();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                this.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.lease = None;
                Poll::Ready(Some(Err(attempt::classify_body(error))))
            }
            Poll::Pending => {
                let Some(lease) = &mut this.lease else {
                    return Poll::Pending;
                };
                let since = *this.waiting.get_or_insert_with(Instant::now);
                match lease.deadline.poll_until(cx, since + this.idle) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(()) => {
                        this.lease = None;
                        Poll::Ready(Some(Err(BodyFailure::IdleTimeout(this.idle))))
                    }
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
