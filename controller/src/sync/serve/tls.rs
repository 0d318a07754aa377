//! Connections of data planes that have proven to be such.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bodhi_net::accept;
use bodhi_net::identity::Server;
use bodhi_net::stream::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// So many handshakes are under way at once, each for a few seconds at most; the kernel keeps the
/// rest. As many as there are data planes to design for: all may come back at once.
const HANDSHAKES: usize = 1000;

/// A data plane's connection.
pub(super) struct Peer(Stream);

/// Accepts, and does each handshake in a task of its own: one that stalls holds up nobody.
pub(super) fn incoming(
    listener: TcpListener,
    identity: Server,
) -> impl futures_util::Stream<Item = io::Result<Peer>> {
    let (ready, incoming) = mpsc::channel(16);
    let (identity, free) = (Arc::new(identity), Arc::new(Semaphore::new(HANDSHAKES)));
    tokio::spawn(async move {
        let accept = || async {
            let permit = Arc::clone(&free).acquire_owned().await;
            Ok((permit.map_err(io::Error::other)?, listener.accept().await?))
        };
        let take = |(permit, (tcp, peer))| {
            let (identity, ready) = (Arc::clone(&identity), ready.clone());
            tokio::spawn(async move {
                handshake(&identity, tcp, peer, &ready).await;
                drop(permit);
            });
        };
        tokio::select! {
            () = accept::forever(accept, take) => {}
            () = ready.closed() => {}
        }
    });
    ReceiverStream::new(incoming)
}

async fn handshake(
    identity: &Server,
    tcp: TcpStream,
    peer: SocketAddr,
    ready: &mpsc::Sender<io::Result<Peer>>,
) {
    match identity.accept(tcp).await {
        Ok(stream) => {
            // Where nobody takes it any more, the server is stopping and it closes.
            let _ = ready.send(Ok(Peer(stream))).await;
        }
        Err(reason) => tracing::warn!(%peer, %reason, "a connection to the sync port was refused"),
    }
}

impl Connected for Peer {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Peer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
