//! The end that connects.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, TlsStream};

use super::credentials::Derived;
use super::expected::ServerVerifier;
use super::{Bundle, Credentials, Expected, HANDSHAKE, Identity, PemError};
use crate::dial;
use crate::stream::Stream;
use crate::tls::provider;

/// Longest wait for the other end's TCP.
const CONNECT: Duration = Duration::from_secs(3);

/// Connects to peers, each of which has to be whom it is expected to be.
#[derive(Debug)]
pub struct Client(Derived<Own>);

/// What does not depend on who is called.
#[derive(Debug)]
struct Own {
    certificate: Arc<SingleCertAndKey>,
    authorities: Arc<rustls::RootCertStore>,
}

impl Client {
    /// A client with these credentials.
    pub fn new(credentials: Credentials) -> Self {
        Self(Derived::new(credentials, |bundle: &Bundle| Own {
            certificate: Arc::new(SingleCertAndKey::from(Arc::clone(&bundle.own))),
            authorities: Arc::clone(&bundle.authorities),
        }))
    }

    /// A client whose credentials are files.
    ///
    /// # Errors
    /// [`PemError`] names the file and its flag.
    pub fn load(identity: Identity) -> Result<Self, PemError> {
        Ok(Self::new(Credentials::files(identity)?))
    }

    /// Connects, and waits for the first bytes: in TLS 1.3 a client is done before the server has
    /// judged it, but the server of HTTP/2 speaks first (RFC 9113 §3.4), and only to whom it
    /// accepts.
    ///
    /// # Errors
    /// Nobody answers, the server is not whom it has to be, it refuses us, or there is no
    /// certificate to show yet.
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: &Expected,
    ) -> io::Result<BufReader<Stream>> {
        let own = self.0.current();
        let own = own.map_err(|none| io::Error::new(io::ErrorKind::NotConnected, none))?;
        let connector = TlsConnector::from(Arc::new(own.towards(expected)));
        handshake(&connector, address, expected).await
    }
}

/// The connection itself.
pub(super) async fn handshake(
    connector: &TlsConnector,
    address: SocketAddr,
    expected: &Expected,
) -> io::Result<BufReader<Stream>> {
    let late = |what, limit: Duration| {
        let text = format!("no {what} within {} s", limit.as_secs());
        move |_| io::Error::new(io::ErrorKind::TimedOut, text)
    };
    let tcp = timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(late("TCP connection", CONNECT))??;
    dial::tune(&tcp)?;
    // Where nothing else is known an address is given, which is not sent.
    let name = expected.told();
    let name = name.unwrap_or_else(|| ServerName::from(address.ip()));
    let handshake = async {
        let tls = connector.connect(name, tcp).await;
        let tls = tls.map_err(|error| stranger(error, expected))?;
        let mut stream = BufReader::new(Stream::Tls(Box::new(TlsStream::Client(tls))));
        match stream.fill_buf().await.map_err(refusal)?.is_empty() {
            true => Err(io::ErrorKind::UnexpectedEof.into()),
            false => Ok(stream),
        }
    };
    let done = timeout(HANDSHAKE, handshake).await;
    done.map_err(late("TLS handshake", HANDSHAKE))?
}

impl Own {
    fn towards(&self, expected: &Expected) -> ClientConfig {
        let authorities = Arc::clone(&self.authorities);
        let verifier = ServerVerifier::new(authorities, expected.clone());
        configuration(verifier, Some(Arc::clone(&self.certificate)))
    }
}

/// With this certificate of ours, or none.
pub(super) fn configuration(
    verifier: ServerVerifier,
    own: Option<Arc<SingleCertAndKey>>,
) -> ClientConfig {
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => config.with_client_cert_resolver(own),
        None => config.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Says whom the certificate does not name, where that is a matter of ours.
fn stranger(error: io::Error, expected: &Expected) -> io::Error {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(_))) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the certificate there does not name {expected}"),
        ),
        _ => error,
    }
}

/// Says what an alert means that comes instead of the first bytes.
fn refusal(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the other end refuses our certificate ({alert:?})"),
        ),
        _ => error,
    }
}
