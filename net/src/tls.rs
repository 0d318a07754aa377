//! Client configurations for TLS, one per set of roots, made once and shared by all threads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bodhi_proto::snapshot::Roots;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// Bundles kept; a bundle that changes makes a new entry, so old ones must go some time.
const MAX_BUNDLES: usize = 256;

/// Why no certificate could be verified at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// The bundle is not PEM, or one of its certificates is not usable as a root.
    #[error("the CA bundle cannot be used: {0}")]
    Bundle(String),
    /// The bundle holds no certificate.
    #[error("the CA bundle holds no certificate")]
    EmptyBundle,
    /// The system has none.
    #[error("no system root certificates were found: {0}")]
    NoSystemRoots(String),
    /// The cryptography of this build refuses the protocol versions.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// aws-lc-rs, the one provider of this program.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
        .clone()
}

/// Makes aws-lc-rs the process default, for libraries that look there. Harmless when repeated.
pub fn install_provider() {
    // An error means that one is installed already; it is the same one.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// Client configurations by roots. Cheap to look up, slow to make: the system's roots are
/// read from disk on first use.
#[derive(Debug, Default)]
pub struct ClientConfigs {
    made: Mutex<HashMap<Roots, Arc<ClientConfig>>>,
}

impl ClientConfigs {
    /// The configuration that trusts `roots`, speaking HTTP/1.1 only. Reads files, so
    /// it may block: for the system's roots, once per process.
    ///
    /// # Errors
    /// [`RootsError`], naming what is wrong with the roots.
    pub fn get(&self, roots: &Roots) -> Result<Arc<ClientConfig>, RootsError> {
        if let Some(config) = self.cached(roots) {
            return Ok(config);
        }
        let config = Arc::new(client_config(roots)?);
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if made.len() >= MAX_BUNDLES {
            made.retain(|roots, _| *roots == Roots::System);
        }
        Ok(made.entry(roots.clone()).or_insert(config).clone())
    }

    /// What [`ClientConfigs::get`] has made before.
    pub fn cached(&self, roots: &Roots) -> Option<Arc<ClientConfig>> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get(roots).cloned()
    }
}

/// The authorities to verify with. Reads files for the system's.
///
/// # Errors
/// [`RootsError`], naming what is wrong with the roots.
pub fn root_store(roots: &Roots) -> Result<RootCertStore, RootsError> {
    match roots {
        Roots::System => system_roots(),
        Roots::Bundle(pem) => bundle_roots(pem),
    }
}

fn client_config(roots: &Roots) -> Result<ClientConfig, RootsError> {
    let store = root_store(roots)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| RootsError::Setup(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn bundle_roots(pem: &str) -> Result<RootCertStore, RootsError> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| RootsError::Bundle(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|error| RootsError::Bundle(error.to_string()))?;
    }
    match store.is_empty() {
        true => Err(RootsError::EmptyBundle),
        false => Ok(store),
    }
}

fn system_roots() -> Result<RootCertStore, RootsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // A single certificate that rustls cannot read must not take the others away.
    store.add_parsable_certificates(found.certs);
    match store.is_empty() {
        true => {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            Err(RootsError::NoSystemRoots(errors.join("; ")))
        }
        false => Ok(store),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_certificates_is_refused_with_its_reason() {
        let configs = ClientConfigs::default();
        let bundle = |pem: &str| configs.get(&Roots::Bundle(pem.into())).unwrap_err();
        assert_eq!(bundle("not pem"), RootsError::EmptyBundle);
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(bundle(damaged), RootsError::Bundle(_)));
        assert!(configs.cached(&Roots::Bundle("not pem".into())).is_none());
    }
}
