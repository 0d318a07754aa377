//! Where callers connect.

use std::io;
use std::time::Duration;

use bodhi_net::unix;
use futures_util::Stream;
use tokio::net::UnixStream;

use crate::config::Listen;
use crate::exit::{Fatal, Reason};

/// A socket that is listened on.
pub struct Listener {
    socket: unix::Listener,
}

impl Listener {
    /// Listens there.
    ///
    /// # Errors
    /// [`Reason::CannotListen`].
    pub async fn bind(listen: &Listen) -> Result<Self, Fatal> {
        let Listen::Unix(path) = listen;
        let bound = unix::Listener::bind(path).await;
        let socket = bound.map_err(|error| Fatal::new(Reason::CannotListen, error.to_string()))?;
        Ok(Self { socket })
    }

    /// Connections, for ever.
    pub(super) fn incoming(self) -> impl Stream<Item = io::Result<UnixStream>> {
        futures_util::stream::unfold(self.socket, |socket| async move {
            loop {
                match socket.accept().await {
                    Ok(stream) => return Some((Ok(stream), socket)),
                    Err(error) => {
                        // Out of descriptors, mostly: go on, slowly.
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        })
    }
}
