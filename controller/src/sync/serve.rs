//! Where data planes connect: inside the process, on a Unix socket that only the same user
//! reaches, or by mutual TLS.

mod tls;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bodhi_net::{identity, unix};
use bodhi_proto::wire::sync::config_sync_server::ConfigSyncServer;
use bodhi_proto::wire::sync::fleet_server::FleetServer;
use bodhi_proto::wire::sync::identity_server::IdentityServer;
use bodhi_proto::wire::sync::responses_server::ResponsesServer;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::{Connected, Router};

use super::Server;
use super::identity::{IdentityService, MESSAGE_MAX};
use super::link::FleetService;
use super::services::{ResponsesService, SyncService};
use super::session::MAX_AGE;

/// Opens a connection within the process; what the data plane's `Connect::InProcess` takes.
pub type Connector = Arc<dyn Fn() -> BoxFuture<'static, io::Result<DuplexStream>> + Send + Sync>;

/// Bytes that one direction of an in-process connection holds.
const DUPLEX: usize = 256 << 10;
/// Largest message from a data plane: a Hello with a thousand rejections.
const UP_MAX: usize = 1 << 20;
/// One sync stream and a burst of questions about responses.
const STREAMS_MAX: u32 = 256;

/// Why a listener ended or never began.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket cannot be made.
    #[error(transparent)]
    Listen(#[from] unix::BindError),
    /// The transport failed.
    #[error("the sync server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Server {
    /// Serves connections within this process, until the connector is dropped. Needs a
    /// tokio runtime, on which it runs.
    pub fn in_process(&self) -> Connector {
        let (connections, incoming) = mpsc::channel::<io::Result<DuplexStream>>(8);
        let router = self.router();
        tokio::spawn(async move {
            let served = router.serve_with_incoming(ReceiverStream::new(incoming));
            if let Err(error) = served.await {
                tracing::error!(%error, "the in-process sync server ended");
            }
        });
        Arc::new(move || {
            let connections = connections.clone();
            Box::pin(async move {
                let (near, far) = tokio::io::duplex(DUPLEX);
                let sent = connections.send(Ok(far)).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
                Ok(near)
            })
        })
    }

    /// Serves a Unix socket of mode 0600 until `shutdown`, then closes what is open. A socket
    /// that a dead process left behind is replaced.
    pub async fn serve_unix(
        &self,
        path: &Path,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let listener = unix::Listener::bind(path).await?;
        let served = self
            .router()
            .serve_with_incoming_shutdown(same_user(listener), async {
                shutdown.await;
                // Before the streams end: later it may be a successor's.
                if let Err(error) = std::fs::remove_file(path) {
                    tracing::warn!(path = %path.display(), %error, "the socket was not removed");
                }
                self.goodbye("the controller stops");
            })
            .await;
        Ok(served?)
    }

    /// Serves data planes that prove to be such by their certificates, until `shutdown`, then closes
    /// what is open.
    pub async fn serve_tls(
        &self,
        listener: TcpListener,
        identity: identity::Server,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let incoming = tls::incoming(listener, identity);
        self.serve_incoming(incoming, shutdown).await
    }

    /// Serves any stream of authenticated connections.
    pub async fn serve_incoming<C>(
        &self,
        incoming: impl Stream<Item = io::Result<C>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError>
    where
        C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let router = self.router();
        let closing = async {
            shutdown.await;
            self.goodbye("the controller stops");
        };
        Ok(router
            .serve_with_incoming_shutdown(incoming, closing)
            .await?)
    }

    /// Every limit is said, none is left to a default of "unlimited". A connection of a certain age
    /// takes no new call: the next one is made with the certificate of that time.
    fn router(&self) -> Router {
        let sync = ConfigSyncServer::new(SyncService(Arc::clone(&self.hub)))
            .max_decoding_message_size(UP_MAX);
        let fleet = FleetServer::new(FleetService(self.clone())).max_decoding_message_size(UP_MAX);
        let responses = ResponsesServer::new(ResponsesService(Arc::clone(&self.owners)))
            .max_decoding_message_size(64 << 10);
        let identity = self.seller.clone().map(|seller| {
            IdentityServer::new(IdentityService(seller)).max_decoding_message_size(MESSAGE_MAX)
        });
        tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_local_error_reset_streams(Some(64))
            .http2_max_pending_accept_reset_streams(Some(20))
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .max_connection_age(MAX_AGE)
            .add_service(sync)
            .add_service(fleet)
            .add_service(responses)
            .add_optional_service(identity)
    }
}

/// Connections of processes of our own user.
fn same_user(listener: unix::Listener) -> impl Stream<Item = io::Result<UnixStream>> {
    futures_util::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok(stream) => return Some((Ok(stream), listener)),
                Err(error) => {
                    // Out of descriptors, mostly: go on, slowly.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    })
}
