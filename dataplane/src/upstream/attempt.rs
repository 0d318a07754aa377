//! One attempt: connect, send, wait for the head; and what its failures mean.

use std::cell::Cell;
use std::error::Error as _;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bodhi_net::dial::{self, Resolve};
use bodhi_net::stream::Stream;
use bodhi_net::tls::ClientConfigs;
use bodhi_proto::egress::{Class, classify};
use bodhi_proto::snapshot::{Roots, Scheme};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, TlsStream};

use super::pool::{Connection, Destination, Lease};
use super::{BodyFailure, BoxError, Failure};

/// Largest response head; at most 100 headers, hyper's default.
const MAX_HEAD: usize = 64 * 1024;
/// How long a connection to a public address lies idle: less than the 60 s of common load balancers.
const KEEP_PUBLIC: Duration = Duration::from_secs(55);
/// And to a private one: less than the 5 s of common Python servers.
const KEEP_PRIVATE: Duration = Duration::from_secs(4);

/// An attempt that came to nothing.
pub(super) struct Failed<B> {
    pub(super) failure: Failure,
    /// The request, when nothing of it was written.
    pub(super) unsent: Option<Request<B>>,
}

/// A fresh connection to `destination`: `timeout` for TCP, and as much again for TLS.
pub(super) async fn connect<B>(
    resolver: &impl Resolve,
    tls: &Arc<ClientConfigs>,
    destination: &Rc<Destination<B>>,
    timeout: Duration,
) -> Result<Lease<B>, Failure>
where
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<BoxError>,
{
    let origin = &destination.origin;
    let tls = match origin.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(tls_config(tls, &destination.roots).await?),
    };
    let tcp = dial::dial(
        resolver,
        &origin.host,
        origin.port,
        &destination.egress,
        timeout,
    )
    .await?;
    let keep = match tcp.peer_addr().map(|peer| classify(peer.ip())) {
        Ok(Class::Private | Class::Loopback) => KEEP_PRIVATE,
        _ => KEEP_PUBLIC,
    };
    let stream = match tls {
        None => Stream::Plain(tcp),
        Some(config) => {
            let handshake = handshake(config, &origin.host, tcp);
            match tokio::time::timeout(timeout, handshake).await {
                Ok(stream) => stream?,
                Err(_) => {
                    return Err(Failure::ConnectTimeout(format!(
                        "no TLS with '{}' within {} ms",
                        origin.host,
                        timeout.as_millis()
                    )));
                }
            }
        }
    };
    let wrote = Rc::new(Cell::new(Instant::now()));
    let io = TokioIo::new(Timed {
        stream,
        wrote: wrote.clone(),
    });
    let (sender, connection) = http1::Builder::new()
        .max_header_size(MAX_HEAD)
        // A request body's slices go out as they are, in one vectored write; rustls takes slices too.
        .writev(true)
        .handshake(io)
        .await
        .map_err(|error| Failure::ConnectFailed(error.to_string()))?;
    let driver = Box::pin(connection);
    Ok(destination.lease(Connection::new(sender, driver, wrote, keep)))
}

async fn tls_config(
    configs: &Arc<ClientConfigs>,
    roots: &Roots,
) -> Result<Arc<ClientConfig>, Failure> {
    if let Some(config) = configs.cached(roots) {
        return Ok(config);
    }
    let (configs, roots) = (configs.clone(), roots.clone());
    // Reads the system's certificates: not on the thread that serves.
    match tokio::task::spawn_blocking(move || configs.get(&roots)).await {
        Ok(made) => made.map_err(|error| Failure::TlsFailed(error.to_string())),
        Err(stopped) => Err(Failure::TlsFailed(stopped.to_string())),
    }
}

async fn handshake(
    config: Arc<ClientConfig>,
    host: &str,
    tcp: TcpStream,
) -> Result<Stream, Failure> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| Failure::TlsFailed(format!("'{host}': {error}")))?;
    let tls = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|error| Failure::TlsFailed(error.to_string()))?;
    Ok(Stream::Tls(Box::new(TlsStream::Client(tls))))
}

/// Sends `request` over `lease` and waits for the head, at most `first_byte` after the last byte written.
pub(super) async fn send<B>(
    mut lease: Lease<B>,
    request: Request<B>,
    first_byte: Duration,
) -> Result<(Response<Incoming>, Lease<B>), Failed<B>>
where
    B: Body<Data = Bytes> + 'static,
{
    let started = Instant::now();
    let mut response = pin!(lease.send(request));
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(outcome) = lease.turn(cx, |cx| response.as_mut().poll(cx)) {
            return Poll::Ready(Some(outcome));
        }
        let due = started.max(lease.wrote.get()) + first_byte;
        lease.deadline.poll_until(cx, due).map(|()| None)
    })
    .await;
    match outcome {
        Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => Err(Failed {
            failure: Failure::InvalidResponse("it switches protocols unasked".into()),
            unsent: None,
        }),
        Some(Ok(response)) => Ok((response, lease)),
        Some(Err(mut error)) => {
            let unsent = error.take_message();
            Err(Failed {
                failure: classify_head(error.into_error(), unsent.is_some()),
                unsent,
            })
        }
        None => Err(Failed {
            failure: Failure::FirstByteTimeout(first_byte),
            unsent: None,
        }),
    }
}

fn classify_head(error: hyper::Error, unwritten: bool) -> Failure {
    if unwritten {
        Failure::ClosedUnwritten(error)
    } else if error.is_parse() {
        Failure::InvalidResponse(error.to_string())
    } else if error.is_user() {
        Failure::RequestBody(error)
    } else {
        Failure::ConnectionReset(error)
    }
}

/// What the end of a response body before its time means.
pub(super) fn classify_body(error: hyper::Error) -> BodyFailure {
    let kind = error
        .source()
        .and_then(|source| source.downcast_ref::<io::Error>())
        .map(io::Error::kind);
    match kind {
        // How hyper's chunked decoder reports broken chunks.
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            BodyFailure::InvalidResponse(error)
        }
        _ => BodyFailure::ConnectionReset(error),
    }
}

/// Notes when bytes were written: the wait for the first byte begins at the last of them.
struct Timed {
    stream: Stream,
    wrote: Rc<Cell<Instant>>,
}

impl Timed {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(_))) {
            self.wrote.set(Instant::now());
        }
        written
    }
}

impl AsyncRead for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
