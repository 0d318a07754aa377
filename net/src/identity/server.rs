//! The end that accepts.

use std::io;
use std::sync::Arc;

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::credentials::Derived;
use super::role::{self, Peer, Role, RoleVerifier};
use super::{Bundle, Credentials, HANDSHAKE, Identity, PemError};
use crate::dial;
use crate::stream::Stream;
use crate::tls::provider;

/// Accepts clients of certain roles.
#[derive(Debug)]
pub struct Server {
    credentials: Credentials,
    config: Derived<ServerConfig>,
    roles: &'static [Role],
}

/// What becomes of clients without a certificate.
#[derive(Debug, Clone, Copy)]
enum Strangers {
    Refused,
    LetIn,
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
    /// This end cannot prove who it is.
    #[error("this end has no certificate yet")]
    NoneYet,
}

impl Server {
    /// A server with these credentials. Clients have to be of one of these roles.
    pub fn new(credentials: Credentials, roles: &'static [Role]) -> Self {
        let config = derived(&credentials, roles, Strangers::Refused);
        Self {
            credentials,
            config,
            roles,
        }
    }

    /// A server whose credentials are files.
    ///
    /// # Errors
    /// [`PemError`] names the file and its flag.
    pub fn load(identity: Identity, roles: &'static [Role]) -> Result<Self, PemError> {
        Ok(Self::new(Credentials::files(identity)?, roles))
    }

    /// Lets clients without any certificate in as well. What such a [`Peer`] may ask for is for the
    /// services to say.
    pub fn with_strangers(mut self) -> Self {
        self.config = derived(&self.credentials, self.roles, Strangers::LetIn);
        self
    }

    /// Does the handshake on an accepted connection.
    ///
    /// # Errors
    /// [`Refused`]; where TLS went that far, the client was sent an alert that says so.
    pub async fn accept(&self, tcp: TcpStream) -> Result<(Stream, Peer), Refused> {
        dial::tune(&tcp).map_err(Refused::Handshake)?;
        let config = self.config.current().map_err(|_| Refused::NoneYet)?;
        let handshake = TlsAcceptor::from(config).accept(tcp);
        match tokio::time::timeout(HANDSHAKE, handshake).await {
            Ok(Ok(tls)) => {
                let certificates = tls.get_ref().1.peer_certificates();
                let peer = Peer::of(certificates.and_then(<[_]>::first));
                Ok((Stream::Tls(Box::new(TlsStream::Server(tls))), peer))
            }
            Ok(Err(error)) if lacks_role(&error) => Err(Refused::Role { roles: self.roles }),
            Ok(Err(error)) => Err(Refused::Handshake(error)),
            Err(_) => Err(Refused::TooSlow),
        }
    }
}

fn derived(
    credentials: &Credentials,
    roles: &'static [Role],
    strangers: Strangers,
) -> Derived<ServerConfig> {
    Derived::new(credentials.clone(), move |bundle| {
        config(bundle, roles, strangers)
    })
}

fn config(bundle: &Bundle, roles: &'static [Role], strangers: Strangers) -> ServerConfig {
    let authorities = Arc::clone(&bundle.authorities);
    let chain = WebPkiClientVerifier::builder_with_provider(authorities, provider());
    let chain = match strangers {
        Strangers::Refused => chain,
        Strangers::LetIn => chain.allow_unauthenticated(),
    };
    let chain = chain.build().expect("a bundle has an authority");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(RoleVerifier::new(chain, roles)))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&bundle.own))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Only the role's verifier fails in this way.
fn lacks_role(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|e| e.downcast_ref());
    let expected = CertificateError::ApplicationVerificationFailure;
    inner == Some(&rustls::Error::InvalidCertificate(expected))
}
