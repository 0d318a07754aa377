//! Where callers connect: a Unix socket that only the same user reaches, or mutual TLS.

mod connection;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bodhi_net::{identity, unix};
use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::ReceiverStream;

use self::connection::Connection;
use crate::config::Listen;
use crate::exit::{Fatal, Reason};

/// A socket that is listened on.
pub enum Listener {
    /// On this machine.
    Unix(PathBuf, unix::Listener),
    /// For callers that prove who they are.
    Tls(SocketAddr, TcpListener, identity::Server),
}

impl Listener {
    /// Listens there.
    ///
    /// # Errors
    /// [`Reason::CannotListen`].
    pub async fn bind(listen: Listen) -> Result<Self, Fatal> {
        let cannot = |error: String| Fatal::new(Reason::CannotListen, error);
        match listen {
            Listen::Unix(path) => {
                let bound = unix::Listener::bind(&path).await;
                let socket = bound.map_err(|error| cannot(error.to_string()))?;
                Ok(Self::Unix(path, socket))
            }
            Listen::Tls(address, credentials) => {
                let identity = identity::Server::new(credentials, Listen::CALLERS);
                let fault = |error| cannot(format!("cannot listen on {address}: {error}"));
                let tcp = TcpListener::bind(address).await.map_err(fault)?;
                let address = tcp.local_addr().map_err(fault)?;
                Ok(Self::Tls(address, tcp, identity))
            }
        }
    }

    /// Where the socket lies in the file system.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::Unix(path, _) => Some(path.clone()),
            Self::Tls(..) => None,
        }
    }

    /// Connections, for ever.
    pub(super) fn incoming(self) -> BoxStream<'static, io::Result<Connection>> {
        match self {
            Self::Unix(_, socket) => same_user(socket).boxed(),
            Self::Tls(_, tcp, identity) => {
                let proven = ReceiverStream::new(identity.incoming(tcp));
                proven
                    .map(|(stream, _)| Ok(Connection::Tls(stream)))
                    .boxed()
            }
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path, _) => write!(f, "unix:{}", path.display()),
            Self::Tls(address, ..) => write!(f, "https://{address}"),
        }
    }
}

fn same_user(socket: unix::Listener) -> impl futures_util::Stream<Item = io::Result<Connection>> {
    futures_util::stream::unfold(socket, |socket| async move {
        loop {
            match socket.accept().await {
                Ok(stream) => return Some((Ok(Connection::Unix(stream)), socket)),
                Err(error) => {
                    // Out of descriptors, mostly: go on, slowly.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}
