//! Where controllers are, and connecting to one of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bodhi_net::identity::{self, Expected, HostError};
use bodhi_net::places::Places;
use futures_util::future::BoxFuture;
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom as _;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::{UnixStream, lookup_host};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::{Service, service_fn};

/// Opens a connection within the process.
pub type Connector = Arc<dyn Fn() -> BoxFuture<'static, io::Result<DuplexStream>> + Send + Sync>;

/// HTTP/2 begins within this time.
const CONNECT: Duration = Duration::from_secs(5);

/// Where controllers are.
#[derive(Clone)]
pub enum Connect {
    /// In this process.
    InProcess(Connector),
    /// On a Unix socket. The controller must run as the same user, or as root.
    Unix(PathBuf),
    /// On other machines; both ends prove who they are.
    Tls(Arc<Controllers>),
}

/// Controllers on other machines: as many as the places have addresses.
#[derive(Debug)]
pub struct Controllers {
    client: Arc<identity::Client>,
    places: Places,
    expected: Expected,
}

impl Controllers {
    /// Whichever address is dialled, the certificate there has to name one of the places' hosts or the
    /// role of a controller.
    ///
    /// # Errors
    /// A host that no certificate could name.
    pub fn new(client: Arc<identity::Client>, places: Places) -> Result<Self, HostError> {
        Ok(Self {
            client,
            expected: places.controllers()?,
            places,
        })
    }
}

/// Which of the controllers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Which<'a> {
    /// Whichever answers, this one last.
    AnyBut(Option<SocketAddr>),
    /// The one at this address, which a controller told.
    At(&'a str),
    /// That one, and where it does not answer any other; `last` last in any case.
    Rather {
        first: &'a str,
        last: Option<SocketAddr>,
    },
}

/// A connection to a controller, and its address where it has one.
pub(super) struct Connected {
    io: Box<dyn Io>,
    pub(super) address: Option<SocketAddr>,
}

pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Connect {
    /// Who we are to others, where controllers are on other machines.
    pub fn identity(&self) -> Option<Arc<identity::Client>> {
        match self {
            Self::InProcess(_) | Self::Unix(_) => None,
            Self::Tls(controllers) => Some(Arc::clone(&controllers.client)),
        }
    }

    pub(super) async fn open(&self, which: Which<'_>) -> io::Result<Connected> {
        let io: Box<dyn Io> = match self {
            Self::InProcess(connector) => Box::new(connector().await?),
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                let peer = stream.peer_cred()?.uid();
                if peer != 0 && peer != own_user()? {
                    let text = format!("{} belongs to another user ({peer})", path.display());
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                Box::new(stream)
            }
            Self::Tls(controllers) => return controllers.open(which).await,
        };
        Ok(Connected { io, address: None })
    }
}

impl Controllers {
    /// One after the other, until one answers.
    async fn open(&self, which: Which<'_>) -> io::Result<Connected> {
        let candidates = match which {
            Which::At(address) => told(address).await?,
            Which::AnyBut(last) => in_order(Vec::new(), self.places.addresses().await?, last),
            Which::Rather { first, last } => {
                // Where one of the two cannot be resolved there is the other.
                let first = told(first).await.unwrap_or_default();
                let others = self.places.addresses().await;
                match first.is_empty() {
                    true => in_order(first, others?, last),
                    false => in_order(first, others.unwrap_or_default(), last),
                }
            }
        };
        let mut failure = io::Error::from(io::ErrorKind::NotFound);
        for address in candidates {
            match self.client.connect(address, &self.expected).await {
                Ok(stream) => {
                    return Ok(Connected {
                        io: Box::new(stream),
                        address: Some(address),
                    });
                }
                Err(error) => {
                    tracing::debug!(%address, %error, "a controller does not answer");
                    failure = io::Error::new(error.kind(), format!("{address}: {error}"));
                }
            }
        }
        Err(failure)
    }
}

/// `first`, then the others in any order, but this one at the end.
fn in_order(
    first: Vec<SocketAddr>,
    mut others: Vec<SocketAddr>,
    last: Option<SocketAddr>,
) -> Vec<SocketAddr> {
    others.retain(|other| !first.contains(other));
    others.shuffle(&mut rand::rng());
    let mut all = [first, others].concat();
    // Stable: it changes nothing else.
    all.sort_by_key(|address| Some(*address) == last);
    all
}

/// The addresses of `HOST:PORT`, as a controller told it.
async fn told(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host(address).await?.collect())
}

/// The effective user of this process: the owner of its folder in procfs.
fn own_user() -> io::Result<u32> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self")?.uid())
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProcess(_) => f.write_str("in this process"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(controllers) => write!(f, "{controllers}"),
        }
    }
}

impl fmt::Display for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.places.fmt(f)
    }
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

/// HTTP/2 over one connection. It is not made anew: when it ends, so does the channel.
pub(super) async fn channel(connected: Connected) -> Result<Channel, tonic::transport::Error> {
    let mut io = Some(connected.io);
    let once = service_fn(move |_: Uri| -> Opening {
        let io = io.take().ok_or(io::ErrorKind::NotConnected);
        Box::pin(async move { Ok(TokioIo::new(io?)) })
    });
    endpoint().connect_with_connector(once).await
}

/// A connection for single questions to any controller, made when the first one is asked, and
/// again when it was lost.
pub(super) fn lazy_channel(connect: &Connect) -> Channel {
    fn connector(
        connect: Connect,
    ) -> impl Service<Uri, Response = TokioIo<Box<dyn Io>>, Error = io::Error, Future = Opening>
    + Send
    + 'static {
        service_fn(move |_: Uri| -> Opening {
            let connect = connect.clone();
            Box::pin(async move {
                let connected = connect.open(Which::AnyBut(None)).await?;
                Ok(TokioIo::new(connected.io))
            })
        })
    }
    endpoint().connect_with_connector_lazy(connector(connect.clone()))
}

/// An error with its causes: tonic's own says "transport error" and no more.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_tried_the_shunned_one_last() {
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 1138));
        let all: Vec<_> = (1..6).map(address).collect();
        for _ in 0..20 {
            let order = in_order(vec![address(3)], all.clone(), Some(address(1)));
            assert_eq!((order[0], order[4]), (address(3), address(1)));
            let lost = in_order(vec![address(3)], all.clone(), Some(address(3)));
            assert_eq!(lost[4], address(3));
            for mut order in [order, lost] {
                order.sort();
                assert_eq!(order, all);
            }
        }
    }
}
