//! Who a program is to its peer: mutual TLS from certificate files.
//!
//! Each end holds a certificate with its key, and the authorities that it believes. The
//! [`Client`] wants a server whose certificate names the host that was dialled; the [`Server`]
//! wants a client whose certificate names a [`Role`]. The files are looked at again for each
//! connection, so a renewed certificate is used from the next one on. Nothing is resumed:
//! every connection is judged anew. Both ends are ours, so it is TLS 1.3 (RFC 8446) with h2.

mod files;
mod incoming;
mod role;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, ServerConfig};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use self::role::RoleVerifier;
use crate::dial;
use crate::stream::Stream;
use crate::tls::provider;

pub use files::{Pem, PemError, PemFile, Reloading};
pub use role::Role;

/// A handshake takes two round trips; who needs longer is not a peer of ours.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The files of one end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The chain, our own certificate first.
    pub certificate: PemFile,
    /// Its private key: PKCS #8, PKCS #1 or SEC 1.
    pub key: PemFile,
    /// The authorities of which one must have signed the peer's certificate.
    pub authorities: PemFile,
}

/// The end that accepts.
#[derive(Debug)]
pub struct Server {
    config: Reloading<ServerConfig, 3>,
    roles: &'static [Role],
}

/// Why a connection is not a peer's.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It did not finish in time.
    #[error("its TLS handshake took longer than {} s", HANDSHAKE.as_secs())]
    TooSlow,
    /// It is one of ours, and something else.
    #[error("its certificate names no {}", role::described(.roles))]
    Role {
        /// What it should be: one of these.
        roles: &'static [Role],
    },
    /// No certificate, another authority's, an expired one, or no TLS at all.
    #[error("{0}")]
    Handshake(io::Error),
}

impl Server {
    /// Reads the files. Clients have to be of one of these roles.
    ///
    /// # Errors
    /// [`PemError`] names the file and its flag.
    pub fn load(identity: Identity, roles: &'static [Role]) -> Result<Self, PemError> {
        let config = Reloading::load(identity.files(), move |[certificate, key, authorities]| {
            server_config(certificate, key, authorities, roles)
        })?;
        Ok(Self { config, roles })
    }

    /// Does the handshake on an accepted connection.
    ///
    /// # Errors
    /// [`Refused`]; where TLS went that far, the client was sent an alert that says so.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Stream, Refused> {
        dial::tune(&tcp).map_err(Refused::Handshake)?;
        self.config.refresh();
        let handshake = TlsAcceptor::from(self.config.current()).accept(tcp);
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(tls)) => Ok(Stream::Tls(Box::new(TlsStream::Server(tls)))),
            Ok(Err(error)) if lacks_role(&error) => Err(Refused::Role { roles: self.roles }),
            Ok(Err(error)) => Err(Refused::Handshake(error)),
            Err(_) => Err(Refused::TooSlow),
        }
    }
}

/// The end that connects.
#[derive(Debug)]
pub struct Client {
    config: Reloading<ClientConfig, 3>,
    host: String,
    port: u16,
    name: ServerName<'static>,
}

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No certificate could ever name it.
    #[error("'{host}' is neither a DNS name nor an IP address")]
    Host {
        /// As given.
        host: String,
        /// What is wrong with it.
        source: InvalidDnsNameError,
    },
    /// The files.
    #[error(transparent)]
    Files(#[from] PemError),
}

impl Client {
    /// Reads the files. The server's certificate has to name `host`, a DNS name or an IP address
    /// (without brackets).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn load(identity: Identity, host: &str, port: u16) -> Result<Self, ClientError> {
        let name = ServerName::try_from(host.to_owned()).map_err(|source| ClientError::Host {
            host: host.to_owned(),
            source,
        })?;
        let config = Reloading::load(identity.files(), |[certificate, key, authorities]| {
            client_config(certificate, key, authorities)
        })?;
        Ok(Self {
            config,
            host: host.to_owned(),
            port,
            name,
        })
    }

    /// Connects to the first of the host's addresses that answers, and waits for the first bytes: in
    /// TLS 1.3 a client is done before the server has judged it, but the server of HTTP/2
    /// speaks first (RFC 9113 §3.4), and only to whom it accepts.
    ///
    /// # Errors
    /// The host has no address, none answers, the server cannot prove its name, or it refuses us.
    pub async fn connect(&self) -> io::Result<BufReader<Stream>> {
        self.config.refresh();
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        dial::tune(&tcp)?;
        let handshake = async {
            let connector = TlsConnector::from(self.config.current());
            let tls = connector.connect(self.name.clone(), tcp).await?;
            let mut stream = BufReader::new(Stream::Tls(Box::new(TlsStream::Client(tls))));
            match stream.fill_buf().await.map_err(refusal)?.is_empty() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(stream),
            }
        };
        tokio::time::timeout(HANDSHAKE, handshake).await?
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name {
            ServerName::IpAddress(_) if self.host.contains(':') => {
                write!(f, "https://[{}]:{}", self.host, self.port)
            }
            _ => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

impl Identity {
    fn files(self) -> [PemFile; 3] {
        [self.certificate, self.key, self.authorities]
    }
}

fn server_config(
    certificate: &Pem,
    key: &Pem,
    authorities: &Pem,
    roles: &'static [Role],
) -> Result<ServerConfig, PemError> {
    let roots = Arc::new(authorities.roots()?);
    let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| authorities.unusable(error))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| certificate.unusable(error))?
        .with_client_cert_verifier(Arc::new(RoleVerifier::new(chain, roles)))
        .with_single_cert(certificate.chain()?, key.key()?)
        .map_err(|error| key.mismatch(certificate, error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn client_config(
    certificate: &Pem,
    key: &Pem,
    authorities: &Pem,
) -> Result<ClientConfig, PemError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| certificate.unusable(error))?
        .with_root_certificates(authorities.roots()?)
        .with_client_auth_cert(certificate.chain()?, key.key()?)
        .map_err(|error| key.mismatch(certificate, error))?;
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Only the role's verifier fails in this way.
fn lacks_role(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    let expected = CertificateError::ApplicationVerificationFailure;
    inner == Some(&rustls::Error::InvalidCertificate(expected))
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

#[cfg(test)]
mod tests;
