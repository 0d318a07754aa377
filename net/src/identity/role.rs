//! What a client's certificate says that it is.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use webpki::EndEntityCert;

/// What a client may be to a controller or a worker. It stands in the certificate's SAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes configuration and asks for response owners; asks workers for answers.
    DataPlane,
    /// Watches workers.
    Controller,
}

impl Role {
    /// The SAN as a DNS name, for authorities that issue nothing else.
    pub fn dns_name(self) -> &'static str {
        match self {
            Self::DataPlane => "dataplane",
            Self::Controller => "controller",
        }
    }

    /// The SAN as a URI; it has a scheme, as RFC 5280 §4.2.1.6 wants it.
    pub fn uri(self) -> &'static str {
        match self {
            Self::DataPlane => "bodhi:dataplane",
            Self::Controller => "bodhi:controller",
        }
    }

    /// Every role.
    const ALL: [Self; 2] = [Self::DataPlane, Self::Controller];

    fn is_named_by(self, certificate: &CertificateDer<'_>) -> bool {
        if names_uri(certificate, self.uri()) {
            return true;
        }
        let (Ok(certificate), Ok(name)) = (
            EndEntityCert::try_from(certificate),
            ServerName::try_from(self.dns_name()),
        ) else {
            return false;
        };
        certificate.verify_is_valid_for_subject_name(&name).is_ok()
    }
}

/// Whether this very URI is among the certificate's names.
pub(super) fn names_uri(certificate: &CertificateDer<'_>, uri: &str) -> bool {
    EndEntityCert::try_from(certificate)
        .is_ok_and(|certificate| certificate.valid_uri_names().any(|name| name == uri))
}

/// Who connected: the roles that its certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer([bool; Role::ALL.len()]);

impl Peer {
    /// None where there is no certificate.
    pub(super) fn of(certificate: Option<&CertificateDer<'_>>) -> Self {
        Self(Role::ALL.map(|role| certificate.is_some_and(|c| role.is_named_by(c))))
    }

    /// Whether it is one of these.
    pub fn is_one_of(self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.0[*role as usize])
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DataPlane => "data plane",
            Self::Controller => "controller",
        })
    }
}

/// The roles, and what a certificate has to hold to name each.
pub(super) fn described(roles: &[Role]) -> String {
    let one = |role: &Role| {
        let (dns, uri) = (role.dns_name(), role.uri());
        format!("{role}: its SAN must hold the DNS name '{dns}' or the URI '{uri}'")
    };
    roles.iter().map(one).collect::<Vec<_>>().join(", nor a ")
}

/// First the chain, then the role, which has to be one of these. A wrong one fails with
/// [`CertificateError::ApplicationVerificationFailure`], which the client sees as `access_denied`.
#[derive(Debug)]
pub(super) struct RoleVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    roles: &'static [Role],
}

impl RoleVerifier {
    pub(super) fn new(chain: Arc<dyn ClientCertVerifier>, roles: &'static [Role]) -> Self {
        Self { chain, roles }
    }
}

impl ClientCertVerifier for RoleVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

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
        match self.roles.iter().any(|role| role.is_named_by(end_entity)) {
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
