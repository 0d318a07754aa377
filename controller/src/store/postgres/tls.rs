//! What a server has to prove, by `sslmode`.

use std::path::Path;
use std::sync::Arc;

use bodhi_net::tls::{RootsError, provider, root_store};
use bodhi_proto::snapshot::Roots;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::config::Tls;

/// PostgreSQL 17 and later want to be told what is spoken inside.
const ALPN: &[u8] = b"postgresql";

/// Why nothing can be verified; the text names the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// It cannot be read, or holds no certificate that can be used.
    #[error("--store-ca '{0}': {1}")]
    Authorities(String, String),
    /// The system has none.
    #[error("{0} (install ca-certificates, or name the server's authorities with --store-ca)")]
    System(#[from] RootsError),
    /// The cryptography of this build refuses.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// The client's side of a connection. Reads files: a replaced one counts from the next connection.
pub(super) fn client_config(
    tls: Tls,
    authorities: Option<&Path>,
) -> Result<ClientConfig, TlsError> {
    let setup = |e: &dyn std::fmt::Display| TlsError::Setup(e.to_string());
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|e| setup(&e))?;
    let mut config = match tls {
        Tls::VerifyFull => builder
            .with_root_certificates(roots(authorities)?)
            .with_no_client_auth(),
        Tls::VerifyCa => {
            let roots = Arc::new(roots(authorities)?);
            let inner = WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|e| setup(&e))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyName(inner)))
                .with_no_client_auth()
        }
        Tls::Require | Tls::Prefer | Tls::Disable => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider())))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn roots(authorities: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let Some(path) = authorities else {
        return Ok(root_store(&Roots::System)?);
    };
    let fault = |why: String| TlsError::Authorities(path.display().to_string(), why);
    let pem = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
    root_store(&Roots::Bundle(pem.into())).map_err(|e| fault(e.to_string()))
}

/// `verify-ca`: the chain is verified, the name is not.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // webpki looks at the name last, so the chain was found right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// `require` and `prefer`: encryption against those who only listen. The operator chose it.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, schemes)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
