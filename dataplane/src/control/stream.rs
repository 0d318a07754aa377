//! Connecting, and one stream after another.

use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bodhi_net::identity::Client;
use bodhi_proto::sync::Down;
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::config_sync_client::ConfigSyncClient;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::{Service, service_fn};

use super::Status;
use super::backoff::Backoff;
use super::held::{Do, Held};

/// Opens a connection within the process.
pub type Connector = Arc<dyn Fn() -> BoxFuture<'static, io::Result<DuplexStream>> + Send + Sync>;

/// Largest message from a controller: a chunk, or one resource with a bundle of roots.
const DOWN_MAX: usize = 2 << 20;
/// An attempt to connect gives up after this long.
const CONNECT: Duration = Duration::from_secs(5);
/// While a stream is up, what is held is confirmed again this often.
const CONFIRM: Duration = Duration::from_secs(60);

/// Where the controller is.
#[derive(Clone)]
pub enum Connect {
    /// In this process.
    InProcess(Connector),
    /// On a Unix socket. The controller must run as the same user, or as root.
    Unix(PathBuf),
    /// On another machine; both ends prove who they are.
    Tls(Arc<Client>),
}

impl std::fmt::Debug for Connect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InProcess(_) => f.write_str("in this process"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(client) => write!(f, "{client}"),
        }
    }
}

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Connect {
    async fn open(&self) -> io::Result<Box<dyn Io>> {
        match self {
            Self::InProcess(connector) => Ok(Box::new(connector().await?)),
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                let peer = stream.peer_cred()?.uid();
                if peer != 0 && peer != own_user()? {
                    let text = format!("{} belongs to another user ({peer})", path.display());
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                Ok(Box::new(stream))
            }
            Self::Tls(client) => Ok(Box::new(client.connect().await?)),
        }
    }
}

/// The effective user of this process: the owner of its folder in procfs.
fn own_user() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self")?.uid())
}

/// Every limit is said, none is left to a default.
fn endpoint() -> Endpoint {
    Endpoint::from_static("http://controller")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .http2_max_local_error_reset_streams(64)
}

type Opening = BoxFuture<'static, io::Result<TokioIo<Box<dyn Io>>>>;

fn connector(
    connect: &Connect,
) -> impl Service<Uri, Response = TokioIo<Box<dyn Io>>, Error = io::Error, Future = Opening>
+ Send
+ 'static {
    let connect = connect.clone();
    service_fn(move |_: Uri| -> Opening {
        let connect = connect.clone();
        Box::pin(async move { connect.open().await.map(TokioIo::new) })
    })
}

/// A connection for single questions, made when the first one is asked.
pub(super) fn lazy_channel(connect: &Connect) -> Channel {
    endpoint().connect_with_connector_lazy(connector(connect))
}

/// Streams until told to stop, then writes what is unwritten.
pub(super) async fn run(
    node: String,
    connect: Connect,
    mut held: Held,
    report: watch::Sender<Status>,
    stopped: oneshot::Receiver<()>,
) {
    let mut stopped = pin!(stopped);
    let mut backoff = Backoff::default();
    loop {
        let began = Instant::now();
        let ended = tokio::select! {
            ended = stream(&node, &connect, &mut held, &report) => ended,
            _ = &mut stopped => break,
        };
        report.send_modify(|status| {
            status.controller = None;
            status.last_end = Some(ended.clone());
        });
        let wait = backoff.after(began.elapsed(), rand::random());
        tracing::info!(controller = ?connect, reason = ended, ?wait, "the sync stream ended");
        let mut wait = pin!(sleep(wait));
        loop {
            tokio::select! {
                () = &mut wait => break,
                () = held.save_due() => held.save(),
                _ = &mut stopped => return held.save_if_changed(),
            }
        }
    }
    held.save_if_changed();
}

/// One stream, from connecting to its end; why it ended.
async fn stream(
    node: &str,
    connect: &Connect,
    held: &mut Held,
    report: &watch::Sender<Status>,
) -> String {
    let channel = match endpoint().connect_with_connector(connector(connect)).await {
        Ok(channel) => channel,
        Err(error) => return format!("cannot connect: {}", chain(&error)),
    };
    let mut client = ConfigSyncClient::new(channel).max_decoding_message_size(DOWN_MAX);
    let (up, outbound) = mpsc::channel::<pb::FromDataPlane>(1);
    let hello = held.hello(node);
    let opened = async {
        // The channel is empty and its other end lives in `outbound`.
        let _ = up.send(hello.into()).await;
        client.sync(ReceiverStream::new(outbound)).await
    };
    let mut inbound = match opened.await {
        Ok(response) => response.into_inner(),
        Err(status) => return format!("refused: {}", status.message()),
    };
    let mut confirm = Instant::now() + CONFIRM;
    let mut goodbye = None;
    loop {
        let message = tokio::select! {
            message = inbound.message() => message,
            () = held.save_due() => {
                held.save();
                continue;
            }
            () = sleep_until(confirm) => {
                confirm = Instant::now() + CONFIRM;
                held.confirm_again();
                continue;
            }
        };
        let down = match message {
            Ok(Some(message)) => message,
            Ok(None) => return goodbye.unwrap_or_else(|| "closed by the controller".to_owned()),
            Err(status) => return format!("broken: {}", status.message()),
        };
        let effects = match Down::try_from(down).map(|down| held.receive(down)) {
            Ok(Ok(effects)) => effects,
            Ok(Err(violation)) => return format!("protocol broken: {violation}"),
            Err(unreadable) => return format!("protocol broken: {unreadable}"),
        };
        for effect in effects {
            match effect {
                Do::Send(message) => {
                    // Nobody listens any more: the other direction says why, and then ends.
                    let _ = up.send((*message).into()).await;
                }
                Do::Note(note) => report.send_modify(|status| note.apply(status)),
                Do::Goodbye(reason) => goodbye = Some(format!("goodbye: {reason}")),
            }
        }
    }
}

/// An error with its causes: tonic's own says "transport error" and no more.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
