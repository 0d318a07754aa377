//! The public listener: sockets in, requests to a [`Service`] on the thread that owns them.
//!
//! One acceptor hands each socket to the least busy of a few threads. Each thread
//! runs a single-threaded runtime of its own and everything about a connection stays on it: handlers need not be
//! `Send`, nothing is locked, and nothing wakes another core.
//!
//! The limits of an edge are kept here, so that a service only meets well-formed requests in
//! bounded numbers: size and time of the head, idle and stalled connections, HTTP/2's
//! budgets, ambiguous framing ([`Refusal`]). A client that goes away drops its handler and its response body at
//! once; a connection whose response fails midway is reset, so that a cut response never looks complete.

mod connection;
mod drain;
mod framing;
mod listener;
mod state;
#[cfg(test)]
mod tests;
mod tls;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;

pub use listener::{BindError, Listener, bind};
pub use tls::TlsFiles;

/// A body's own error, boxed.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What answers requests; one per thread, shared by its connections.
pub trait Service: 'static {
    /// A response body. One that ends in an error aborts the connection (HTTP/1) or the stream (HTTP/2).
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static;

    /// Answers one request. The future is dropped, wherever it is, when the client goes away.
    fn call(
        self: Rc<Self>,
        request: Request<Incoming>,
        from: ConnInfo,
    ) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// The words for a request that the listener refuses by itself. Over HTTP/1 the connection closes after it.
    fn refuse(&self, request: &Request<Incoming>, refusal: Refusal) -> Response<Self::Body>;
}

/// Where a request came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnInfo {
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}

/// Why the listener refuses a request that the HTTP parser accepted. All are 400, but the last: 431.
///
/// What the parser itself refuses it answers with a bare status, and closes: bad syntax, an
/// HTTP/1.0 `transfer-encoding`, differing content lengths with 400; a head over 64 KiB or 100 fields, or a
/// content length of 2^64 − 2 or 2^64 − 1, with 431; larger ones are bad syntax.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The end of the body could be read in two ways, or the reading of another hop could differ.
    Framing(&'static str),
    /// Asks for another protocol.
    Upgrade,
    /// CONNECT or TRACE.
    Method,
    /// Not exactly one `host` (RFC 9112 §3.2).
    Host,
    /// More than 100 fields.
    TooManyHeaders,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Framing(why) => why,
            Self::Upgrade => "this server does not switch protocols; leave out the upgrade header",
            Self::Method => "CONNECT and TRACE are not offered",
            Self::Host => "an HTTP/1.1 request needs exactly one host header",
            Self::TooManyHeaders => "a request may have at most 100 header fields",
        })
    }
}

/// How the listener is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Encrypts when set.
    pub tls: Option<TlsFiles>,
    /// Serving threads.
    pub threads: NonZeroUsize,
    /// Limits of time.
    pub limits: Limits,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A connection without a request.
    pub idle: Duration,
    /// From a request head's first byte to its last; also the TLS handshake.
    pub head: Duration,
    /// A response of which the client takes nothing.
    pub stall: Duration,
    /// A connection's age, ± 10 %; it closes after the request it is on.
    pub age: Duration,
    /// What still runs when the drain time is over, to say its last word.
    pub farewell: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            age: Duration::from_secs(3600),
            farewell: Duration::from_secs(1),
        }
    }
}
