//! Whom a server's certificate has to name.
//!
//! A worker is known by its pod, not by its address: the address of a pod that ended may soon
//! belong to somebody else's, who must not be sent a prompt. Controllers are dialled at addresses
//! that one of them told, which no certificate needs to hold.

use std::fmt;
use std::sync::Arc;

use bodhi_proto::snapshot::WorkerId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};

use super::role::{Role, names_uri};
use crate::tls::provider;

/// Whom a server has to be: its certificate names one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    hosts: Arc<[ServerName<'static>]>,
    uri: Option<Arc<str>>,
}

/// No certificate could ever name it.
#[derive(Debug, thiserror::Error)]
#[error("'{host}' is neither a DNS name nor an IP address")]
pub struct HostError {
    /// As given.
    pub host: String,
    source: InvalidDnsNameError,
}

/// The URI in a worker's certificate: `bodhi:worker/NAMESPACE/ALIAS/POD-UID`.
pub fn worker_uri(worker: &WorkerId) -> String {
    let (pool, pod) = (&worker.pool, &worker.worker);
    format!("bodhi:worker/{}/{}/{pod}", pool.namespace, pool.name)
}

impl Expected {
    /// Whoever bears this name: a DNS name, or an IP address without brackets.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn host(host: &str) -> Result<Self, HostError> {
        Ok(Self {
            hosts: [name(host)?].into(),
            uri: None,
        })
    }

    /// A controller: its certificate names its role, as `bodhi:controller`, or one of these hosts,
    /// whichever address it is met at.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn controller<'h>(hosts: impl IntoIterator<Item = &'h str>) -> Result<Self, HostError> {
        Ok(Self {
            hosts: hosts.into_iter().map(name).collect::<Result<_, _>>()?,
            uri: Some(Role::Controller.uri().into()),
        })
    }

    /// This very worker, wherever it is.
    pub fn worker(worker: &WorkerId) -> Self {
        Self {
            hosts: Arc::default(),
            uri: Some(worker_uri(worker).into()),
        }
    }

    /// The name that the server is told (RFC 6066 §3), where there is one.
    pub(super) fn told(&self) -> Option<ServerName<'static>> {
        self.hosts.first().cloned()
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if let Some(uri) = &self.uri
            && names_uri(certificate, uri)
        {
            return Ok(());
        }
        let certificate = ParsedCertificate::try_from(certificate)?;
        let unnamed = || CertificateError::Other(OtherError(Arc::new(Other(self.clone()))));
        let mut verdict = Err(unnamed().into());
        for host in self.hosts.iter().rev() {
            verdict = verify_server_name(&certificate, host);
            if verdict.is_ok() {
                break;
            }
        }
        verdict
    }
}

fn name(host: &str) -> Result<ServerName<'static>, HostError> {
    ServerName::try_from(host.to_owned()).map_err(|source| HostError {
        host: host.to_owned(),
        source,
    })
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(ServerName::to_str);
        let names: Vec<_> = hosts
            .chain(self.uri.iter().map(|uri| (&**uri).into()))
            .collect();
        f.write_str(&names.join(" or "))
    }
}

/// It is somebody else.
#[derive(Debug, thiserror::Error)]
#[error("it does not name {0}")]
struct Other(Expected);

/// First the chain, then the name.
#[derive(Debug)]
pub(super) struct ServerVerifier {
    authorities: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Expected,
}

impl ServerVerifier {
    pub(super) fn new(authorities: Arc<RootCertStore>, expected: Expected) -> Self {
        Self {
            authorities,
            algorithms: provider().signature_verification_algorithms,
            expected,
        }
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.authorities,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.expected.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
