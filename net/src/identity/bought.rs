//! Certificates bought from a controller with a projected ServiceAccount token.
//!
//! A pod has nothing but the token that its kubelet renews, and the mounted certificates of the
//! authorities. For the token a controller signs a key that is made here and never leaves this
//! process; at half of the certificate's life both are replaced. While no controller sells, the
//! old one stays in use.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::identity_client::IdentityClient;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom as _;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

use super::client::{self, configuration};
use super::expected::ServerVerifier;
use super::{Bundle, BundleError, Credentials, Expected, HostError, Pem, PemError, PemFile};
use crate::backoff::Backoff;
use crate::places::Places;

/// A controller signs within this time.
const SIGN: Duration = Duration::from_secs(10);
/// Where none does, it is tried again after waits of up to this long: nothing is urgent before the
/// certificate's other half has passed.
const RETRY: Duration = Duration::from_secs(60);
/// Longest sleep: timers do not count the time in which a machine is suspended.
const NAP: Duration = Duration::from_secs(300);
/// Longest token that is worth sending.
const TOKEN_MAX: usize = 64 << 10;

/// Where certificates are bought, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purchase {
    /// The projected ServiceAccount token, read anew each time.
    pub token: PathBuf,
    /// The flag that named it.
    pub token_flag: &'static str,
    /// The authorities of which one must have signed the controller's certificate, read anew each
    /// time.
    pub authorities: PemFile,
    /// Controllers; any of them sells.
    pub controllers: Places,
}

/// What is wrong with a [`Purchase`] from the start.
#[derive(Debug, thiserror::Error)]
pub enum PurchaseError {
    /// The file of authorities.
    #[error(transparent)]
    Authorities(#[from] PemError),
    /// A host.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// Why nothing was bought this time.
#[derive(Debug, thiserror::Error)]
enum NotSold {
    #[error("{flag} '{path}' cannot be read: {source}", path = .path.display())]
    Token {
        flag: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(transparent)]
    Authorities(#[from] PemError),
    #[error("no key can be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error("no controller can be reached: {0}")]
    Unreachable(io::Error),
    #[error("{address} did not sign: {message}", message = .status.message())]
    Refused {
        address: SocketAddr,
        status: Box<Status>,
    },
    #[error("what was sold cannot be used: {0}")]
    Unusable(String),
}

impl From<BundleError> for NotSold {
    fn from(error: BundleError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// A certificate that was bought, and when the next one is due.
struct Bought {
    bundle: Bundle,
    due: SystemTime,
}

impl Purchase {
    /// Buys, and goes on buying, on this tokio runtime, until the credentials are dropped. They
    /// hold nothing until the first purchase has succeeded.
    ///
    /// # Errors
    /// [`PurchaseError`]. A token or a controller that is not there yet is waited for.
    pub fn start(self) -> Result<Credentials, PurchaseError> {
        Pem::read(&self.authorities)?.roots()?;
        let expected = self.controllers.controllers()?;
        let (show, shown) = watch::channel(None);
        tokio::spawn(async move {
            tokio::select! {
                () = self.renew(&expected, &show) => {}
                () = show.closed() => {}
            }
        });
        Ok(Credentials::memory(shown))
    }

    async fn renew(&self, expected: &Expected, show: &watch::Sender<Option<Arc<Bundle>>>) {
        let mut backoff = Backoff::up_to(RETRY);
        loop {
            match self.buy(expected).await {
                Ok(bought) => {
                    tracing::info!(controllers = %self.controllers, "a certificate was bought");
                    show.send_replace(Some(Arc::new(bought.bundle)));
                    backoff = Backoff::up_to(RETRY);
                    until(bought.due).await;
                }
                Err(error) => {
                    let wait = backoff.after(Duration::ZERO, rand::random());
                    let held = show.borrow().is_some();
                    tracing::warn!(%error, ?wait, held, "no certificate was bought");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Asks one controller after the other.
    async fn buy(&self, expected: &Expected) -> Result<Bought, NotSold> {
        let token = self.read_token()?;
        let mounted = Pem::read(&self.authorities)?;
        let (roots, mounted) = (Arc::new(mounted.roots()?), mounted.chain()?);
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let request = pb::SignCertificateRequest {
            token: token.as_str().to_owned(),
            signing_request: request.der().to_vec().into(),
        };
        let mut addresses = self.controllers.addresses().await;
        if let Ok(addresses) = &mut addresses {
            addresses.shuffle(&mut rand::rng());
        }
        let mut failure = NotSold::Unreachable(io::ErrorKind::NotFound.into());
        for address in addresses.map_err(NotSold::Unreachable)? {
            let asked = timeout(SIGN, ask(address, expected, &roots, request.clone())).await;
            let late = |_| Err(NotSold::Unreachable(io::ErrorKind::TimedOut.into()));
            match asked.unwrap_or_else(late) {
                Ok(reply) => return unpack(reply, &key, mounted),
                Err(error) => {
                    let last = error.is_everybodys();
                    failure = error;
                    if last {
                        break;
                    }
                }
            }
        }
        Err(failure)
    }

    fn read_token(&self) -> Result<Zeroizing<String>, NotSold> {
        let unreadable = |source| NotSold::Token {
            flag: self.token_flag,
            path: self.token.clone(),
            source,
        };
        let text = Zeroizing::new(std::fs::read_to_string(&self.token).map_err(unreadable)?);
        match text.trim() {
            token if (1..=TOKEN_MAX).contains(&token.len()) => Ok(Zeroizing::new(token.to_owned())),
            _ => Err(unreadable(io::Error::new(
                io::ErrorKind::InvalidData,
                "it holds no token",
            ))),
        }
    }
}

impl NotSold {
    /// Whether every controller would say the same.
    fn is_everybodys(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::PermissionDenied)
    }
}

/// Sleeps until that time of the wall clock.
async fn until(due: SystemTime) {
    while let Ok(left) = due.duration_since(SystemTime::now()) {
        sleep(left.min(NAP)).await;
    }
}

/// One question to one controller, over a connection of its own and without a certificate.
async fn ask(
    address: SocketAddr,
    expected: &Expected,
    roots: &Arc<RootCertStore>,
    request: pb::SignCertificateRequest,
) -> Result<pb::SignCertificateReply, NotSold> {
    let verifier = ServerVerifier::new(Arc::clone(roots), expected.clone());
    let config: ClientConfig = configuration(verifier, None);
    let connector = TlsConnector::from(Arc::new(config));
    let stream = client::handshake(&connector, address, expected).await;
    let mut stream = Some(stream.map_err(|error| {
        NotSold::Unreachable(io::Error::new(error.kind(), format!("{address}: {error}")))
    })?);
    let once = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::NotConnected);
        async move { Ok::<_, io::Error>(TokioIo::new(stream?)) }
    });
    let channel = Endpoint::from_static("http://controller").connect_with_connector_lazy(once);
    let signed = IdentityClient::new(channel).sign_certificate(request).await;
    signed
        .map(tonic::Response::into_inner)
        .map_err(|status| NotSold::Refused {
            address,
            status: Box::new(status),
        })
}

/// The authorities to believe are those that were told and those that are mounted: whichever hears
/// of a new one first.
fn unpack(
    reply: pb::SignCertificateReply,
    key: &KeyPair,
    mounted: Vec<CertificateDer<'static>>,
) -> Result<Bought, NotSold> {
    let der = |bytes: &Bytes| CertificateDer::from(bytes.to_vec());
    let chain: Vec<_> = reply.chain.iter().map(der).collect();
    let mut authorities: Vec<_> = reply.authorities.iter().map(der).collect();
    for authority in mounted {
        if !authorities.contains(&authority) {
            authorities.push(authority);
        }
    }
    let own = chain
        .first()
        .ok_or_else(|| NotSold::Unusable("there is no certificate".to_owned()))?;
    let due = due(own, SystemTime::now(), rand::random())?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    Ok(Bought {
        bundle: Bundle::new(chain, key.into(), authorities)?,
        due,
    })
}

/// When to buy the next one: at half of what is left, less up to a fifth of that, so that pods which
/// started together do not go on together. `jitter` is uniform in 0..1.
fn due(
    certificate: &CertificateDer<'_>,
    now: SystemTime,
    jitter: f64,
) -> Result<SystemTime, NotSold> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|error| NotSold::Unusable(error.to_string()))?;
    let end = parsed.validity().not_after.timestamp();
    let end = UNIX_EPOCH + Duration::from_secs(u64::try_from(end).unwrap_or(0));
    let left = end
        .duration_since(now)
        .map_err(|_| NotSold::Unusable("it has expired already".to_owned()))?;
    Ok(now + (left / 2).mul_f64(1.0 - 0.2 * jitter))
}

impl fmt::Display for Purchase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.display();
        write!(f, "bought from {} with '{token}'", self.controllers)
    }
}

#[cfg(test)]
mod tests;
