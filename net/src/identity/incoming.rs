//! Connections that have proven who they are.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::{Peer, Server};
use crate::accept;
use crate::stream::Stream;

/// So many handshakes are under way at once, each for a few seconds at most; the kernel keeps the
/// rest. As many as there are data planes to design for: all may come back at once.
const HANDSHAKES: usize = 1000;

impl Server {
    /// Accepts, and does each handshake in a task of its own: one that stalls holds up nobody.
    /// Goes on, on this tokio runtime, until the receiver is dropped.
    pub fn incoming(self, listener: TcpListener) -> mpsc::Receiver<(Stream, Peer)> {
        let (ready, incoming) = mpsc::channel(16);
        let (identity, free) = (Arc::new(self), Arc::new(Semaphore::new(HANDSHAKES)));
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
        incoming
    }
}

async fn handshake(
    identity: &Server,
    tcp: TcpStream,
    peer: SocketAddr,
    ready: &mpsc::Sender<(Stream, Peer)>,
) {
    match identity.accept(tcp).await {
        Ok(proven) => {
            // Where nobody takes it any more, the server is stopping and it closes.
            let _ = ready.send(proven).await;
        }
        Err(reason) => tracing::warn!(%peer, %reason, "a connection was refused"),
    }
}
