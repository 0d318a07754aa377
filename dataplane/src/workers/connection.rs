//! A serving thread's connections to workers: one HTTP/2 connection each, made when it is
//! first needed.
//!
//! Written on hyper's own client, which tells a request that was never sent from one that was:
//! the first kind may go to another worker, the second may not.
//!
//! A worker on another machine is reached by mutual TLS and has to prove that it is the very pod
//! that the configuration names: an address outlives its pod, and whoever has it next must not
//! be sent a prompt.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tonic::body::Body;

use bodhi_net::identity::{self, Expected};
use bodhi_proto::chat::Fault;
use bodhi_proto::snapshot::{WorkerAddress, WorkerEndpoint, WorkerId};
use bodhi_proto::wire::inference::inference_client::InferenceClient;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// A TLS connection takes no new request after this long, ± a tenth: a renewed certificate is in
/// use everywhere by then. What runs on it runs on.
const AGE: Duration = Duration::from_secs(30 * 60);
/// A worker that is there answers pings, however busy it computes.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(20);
/// Unread bytes of one answer; they are drained, so this is never the limit.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 4 << 20;
/// Longest message: 2,048 vectors of 4,096 numbers.
const MESSAGE: usize = 64 << 20;

/// The service of a worker.
pub type Client = InferenceClient<Connection>;

/// The request was never sent.
#[derive(Debug, thiserror::Error)]
#[error("the worker cannot be reached: {0}")]
pub struct NotSent(String);

/// A thread's connections, by worker.
#[derive(Debug)]
pub struct Connections {
    client: Option<Arc<identity::Client>>,
    age: Duration,
    kept: RefCell<HashMap<WorkerId, Kept>>,
}

#[derive(Debug)]
struct Kept {
    sender: SendRequest<Body>,
    /// When it takes no new request any more.
    until: Option<Instant>,
}

impl Kept {
    fn takes_requests(&self) -> bool {
        !self.sender.is_closed() && self.until.is_none_or(|until| Instant::now() < until)
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Connections {
    /// None yet. Without a client workers on this machine can be reached, and no others.
    pub fn new(client: Option<Arc<identity::Client>>) -> Self {
        Self {
            client,
            age: AGE,
            kept: RefCell::default(),
        }
    }

    /// The worker's service, over a connection that was alive a moment ago.
    ///
    /// # Errors
    /// No connection could be made; nothing was sent.
    pub async fn client(&self, endpoint: &WorkerEndpoint) -> Result<Client, NotSent> {
        let sender = match self.known(&endpoint.id) {
            Some(sender) => sender,
            None => self.connect(endpoint).await?,
        };
        let origin = Uri::from_static("http://worker");
        Ok(InferenceClient::with_origin(Connection(sender), origin)
            .max_decoding_message_size(MESSAGE)
            .max_encoding_message_size(MESSAGE))
    }

    fn known(&self, worker: &WorkerId) -> Option<SendRequest<Body>> {
        let kept = self.kept.borrow();
        let kept = kept.get(worker).filter(|kept| kept.takes_requests());
        kept.map(|kept| kept.sender.clone())
    }

    async fn connect(&self, endpoint: &WorkerEndpoint) -> Result<SendRequest<Body>, NotSent> {
        let not_sent = |error: &dyn std::fmt::Display| NotSent(error.to_string());
        let opened = timeout(CONNECT, self.open(endpoint)).await;
        let io = opened
            .map_err(|_| NotSent(format!("no connection within {CONNECT:?}")))?
            .map_err(|error| not_sent(&error))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| not_sent(&error))?;
        let id = endpoint.id.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(worker = %id, %error, "the connection to a worker ended");
            }
        });
        let until = match endpoint.address {
            WorkerAddress::Unix(_) => None,
            WorkerAddress::Tcp(_) => {
                let age = self.age.mul_f64(0.9 + 0.2 * rand::random::<f64>());
                Some(Instant::now() + age)
            }
        };
        let kept = Kept {
            sender: sender.clone(),
            until,
        };
        let mut all = self.kept.borrow_mut();
        all.retain(|_, kept| kept.takes_requests());
        all.insert(endpoint.id.clone(), kept);
        Ok(sender)
    }

    async fn open(&self, endpoint: &WorkerEndpoint) -> io::Result<Box<dyn Io>> {
        let address = match &endpoint.address {
            WorkerAddress::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await?)),
            WorkerAddress::Tcp(address) => address,
        };
        let client = self.client.as_ref().ok_or_else(|| {
            let text = format!("{address} wants a certificate, and this data plane has none");
            io::Error::new(io::ErrorKind::Unsupported, text)
        })?;
        let expected = Expected::worker(&endpoint.id);
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no addresses");
        for address in tokio::net::lookup_host(&**address).await? {
            match client.connect(address, &expected).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// One request's way over a connection.
#[derive(Debug, Clone)]
pub struct Connection(SendRequest<Body>);

impl tower::Service<Request<Body>> for Connection {
    type Response = Response<Incoming>;
    type Error = tonic::codegen::StdError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    /// A connection that has closed is told of by the call, with the request given back.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let sent = self.0.try_send_request(request);
        Box::pin(async move {
            sent.await.map_err(|error| match error.message() {
                Some(_) => NotSent(error.error().to_string()).into(),
                None => error.into_error().into(),
            })
        })
    }
}

/// What a failed call means.
#[derive(Debug)]
pub enum CallFailure {
    /// Another worker may be asked.
    NotSent(String),
    /// The worker said so, or was lost in the middle.
    Fault(Fault),
}

impl From<tonic::Status> for CallFailure {
    fn from(status: tonic::Status) -> Self {
        let mut cause = std::error::Error::source(&status);
        while let Some(error) = cause {
            if let Some(not_sent) = error.downcast_ref::<NotSent>() {
                return Self::NotSent(not_sent.to_string());
            }
            cause = error.source();
        }
        Self::Fault(Fault::from(&status))
    }
}

#[cfg(test)]
mod tests;
