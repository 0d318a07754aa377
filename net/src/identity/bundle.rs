//! A certificate with its key, and the authorities that are believed, parsed and in memory.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::files::{Pem, PemError};
use crate::tls::provider;

/// What one end shows and whom it believes.
pub struct Bundle {
    /// The chain, our own certificate first, with the key.
    pub(super) own: Arc<CertifiedKey>,
    /// Whose signature the peer's certificate needs; at least one.
    pub(super) authorities: Arc<RootCertStore>,
}

/// What is no certificate with its key and authorities.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Certificate and key.
    #[error("the certificate and its key cannot be used: {0}")]
    Own(#[source] rustls::Error),
    /// One of the authorities.
    #[error("an authority's certificate cannot be used: {0}")]
    Authority(#[source] rustls::Error),
    /// Nobody could be believed.
    #[error("there is no authority")]
    NoAuthority,
}

impl Bundle {
    /// A chain, our own certificate first, its key, and the authorities that are believed.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        if authorities.is_empty() {
            return Err(BundleError::NoAuthority);
        }
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority).map_err(BundleError::Authority)?;
        }
        let own = CertifiedKey::from_der(chain, key, &provider()).map_err(BundleError::Own)?;
        Ok(Self {
            own: Arc::new(own),
            authorities: Arc::new(roots),
        })
    }

    /// The same out of three files.
    pub(super) fn read([certificate, key, authorities]: [&Pem; 3]) -> Result<Self, PemError> {
        let (chain, secret) = (certificate.chain()?, key.key()?);
        let own = CertifiedKey::from_der(chain, secret, &provider())
            .map_err(|error| key.mismatch(certificate, error))?;
        Ok(Self {
            own: Arc::new(own),
            authorities: Arc::new(authorities.roots()?),
        })
    }
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (chain, authorities) = (self.own.cert.len(), self.authorities.len());
        write!(f, "Bundle({chain} certificates, {authorities} authorities)")
    }
}
