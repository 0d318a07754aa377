//! What a client's certificate says that it is.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::EndEntityCert;

/// What a client may be to a controller. It stands in the certificate's SAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes configuration and asks for response owners.
    DataPlane,
}

impl Role {
    /// The SAN as a DNS name, for authorities that issue nothing else.
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::DataPlane => "dataplane",
        }
    }

    /// The SAN as a URI; it has a scheme, as RFC 5280 §4.2.1.6 wants it.
    pub fn uri(self) -> &'static str {
        match self {
            Self::DataPlane => "bodhi:dataplane",
        }
    }

    fn is_named_by(self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else {
            return false;
        };
        if certificate.valid_uri_names().any(|uri| uri == self.uri()) {
            return true;
        }
        ServerName::try_from(self.dns_name())
            .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok())
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DataPlane => "data plane",
        })
    }
}

/// First the chain, then the role. A wrong role fails with
/// [`CertificateError::ApplicationVerificationFailure`], which the client sees as `access_denied`.
#[derive(Debug)]
pub(super) struct RoleVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    role: Role,
}

impl RoleVerifier {
    pub(super) fn new(chain: Arc<dyn ClientCertVerifier>, role: Role) -> Self {
        Self { chain, role }
    }
}

impl ClientCertVerifier for RoleVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        match self.role.is_named_by(end_entity) {
            true => Ok(verified),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
