//! TLS on the listener, from files that may change.

use std::sync::Arc;

use bodhi_net::identity::{PemError, PemFile, Reloading};
use bodhi_net::tls::provider;
use rustls::ServerConfig;

/// Where the certificate chain and its key are, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PemFile,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PemFile,
}

/// The current configuration; replaced when the files change.
pub(super) type Tls = Reloading<ServerConfig, 2>;

pub(super) fn load(files: TlsFiles) -> Result<Arc<Tls>, PemError> {
    let tls = Reloading::load([files.certificate, files.key], |[certificate, key]| {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| certificate.unusable(error))?
            .with_no_client_auth()
            .with_single_cert(certificate.chain()?, key.key()?)
            .map_err(|error| key.mismatch(certificate, error))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    });
    tls.map(Arc::new)
}
