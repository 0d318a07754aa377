//! Connections over TLS: of data planes and controllers that have proven to be such, and of pods that
//! have no certificate yet and come to buy one.

use std::future::{Future as _, ready};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bodhi_net::identity::{Peer, Server};
use bodhi_net::stream::Stream;
use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::config::ListenSync;

/// So many clients without a certificate are served at once. A visit takes milliseconds.
const VISITORS: usize = 256;
/// A visit is over after this long, whatever was asked for until then.
const VISIT: Duration = Duration::from_secs(20);

/// A connection, and who is at its other end.
pub(super) struct Connection {
    stream: Stream,
    peer: Peer,
    visit: Option<Visit>,
}

/// The stay of somebody without a certificate.
struct Visit {
    ends: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

/// Those that come to `listener`.
pub(super) fn incoming(
    listener: TcpListener,
    identity: Server,
) -> impl futures_util::Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(VISITORS));
    admitted(listener, identity, places)
}

fn admitted(
    listener: TcpListener,
    identity: Server,
    places: Arc<Semaphore>,
) -> impl futures_util::Stream<Item = io::Result<Connection>> {
    let connections = ReceiverStream::new(identity.incoming(listener));
    connections.filter_map(move |(stream, peer)| {
        let visit = match peer.is_one_of(ListenSync::CALLERS) {
            true => None,
            false => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => Some(Visit {
                    ends: Box::pin(sleep(VISIT)),
                    _place: place,
                }),
                Err(_) => {
                    tracing::warn!("too many clients without a certificate; one was turned away");
                    return ready(None);
                }
            },
        };
        let connection = Connection {
            stream,
            peer,
            visit,
        };
        ready(Some(Ok(connection)))
    })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(visit) = &mut self.visit
            && visit.ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

#[cfg(test)]
mod tests;
