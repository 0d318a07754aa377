//! The managed authority: certificates for our own programs, without anybody's doing.
//!
//! Its roots live in one Secret, `bodhi-ca`, which an installation brings along empty. The leader
//! fills it by compare-and-swap and puts the next root beside the last one in good time
//! ([`rotation`]); every controller reads it and signs ([`leaf`]): its own certificate ([`own`])
//! and, for a projected ServiceAccount token, those of data planes and workers ([`sale`]). Where
//! certificates come from elsewhere, such as cert-manager, none of this runs.

mod keeper;
mod leaf;
mod own;
mod request;
mod root;
mod rotation;
mod sale;

use std::sync::Arc;

use bodhi_net::identity::{Bundle, BundleError};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;

pub use keeper::{Config, keep};
pub use leaf::{MakeError, NameError, ServerNames, Subject};
pub use own::own;
pub use request::RequestError;
pub use root::{AUTHORITY, CERTIFICATES, Root, SecretError, read, write};
pub use sale::{Pods, Refused, Seller, SellerConfig, Sold};

/// What signs, as far as this controller has read. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Authority(watch::Receiver<Arc<Vec<Root>>>);

/// Why nothing is signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The Secret has not been filled or read yet, or all roots have expired.
    #[error("this controller has no authority to sign with yet")]
    NoRoot,
    /// No randomness, or a name that is none.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// What was made cannot be used by our own TLS.
    #[error(transparent)]
    Use(#[from] BundleError),
}

/// A certificate, and whom its holder believes.
#[derive(Debug, Clone)]
pub struct Certified {
    /// Valid for a day.
    pub certificate: CertificateDer<'static>,
    /// The authorities to believe; the certificate's own is among them.
    pub authorities: Vec<CertificateDer<'static>>,
}

impl Authority {
    /// One whose roots somebody else keeps.
    pub fn new(roots: watch::Receiver<Arc<Vec<Root>>>) -> Self {
        Self(roots)
    }

    /// The roots as they were read last.
    pub fn roots(&self) -> Arc<Vec<Root>> {
        Arc::clone(&self.0.borrow())
    }

    /// The certificates that are believed, PEM, for those who pass them on; `None` until there are
    /// any. To be called within a tokio runtime.
    pub fn certificates(&self) -> watch::Receiver<Option<Arc<str>>> {
        let text = |roots: &[Root]| {
            let certificates: String = roots.iter().map(Root::text).collect();
            (!certificates.is_empty()).then(|| Arc::<str>::from(certificates))
        };
        let mut roots = self.0.clone();
        let first = text(&roots.borrow_and_update());
        let (tell, told) = watch::channel(first);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    Ok(()) = roots.changed() => {
                        let now = text(&roots.borrow_and_update());
                        tell.send_replace(now);
                    }
                    () = tell.closed() => return,
                }
            }
        });
        told
    }

    /// Certifies a key, `now` in Unix seconds.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(
        &self,
        subject: &Subject,
        key: &impl rcgen::PublicKeyData,
        now: i64,
    ) -> Result<Certified, SignError> {
        let roots = self.roots();
        let plan = rotation::plan(&lives(&roots), now);
        let signer = plan.signer.ok_or(SignError::NoRoot)?;
        let trusted = plan.trusted.iter().map(|i| roots[*i].certificate().clone());
        Ok(Certified {
            certificate: leaf::sign(&roots[signer], subject, key, now)?,
            authorities: trusted.collect(),
        })
    }

    /// Makes a key and certifies it.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn issue(&self, subject: &Subject, now: i64) -> Result<Bundle, SignError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(MakeError::from)?;
        let made = self.sign(subject, &key, now)?;
        let private = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok(Bundle::new(
            vec![made.certificate],
            private.into(),
            made.authorities,
        )?)
    }

    /// Which roots there are, by when they were made, and when that means something else.
    fn plan(&self, now: i64) -> rotation::Plan {
        rotation::plan(&lives(&self.roots()), now)
    }
}

fn lives(roots: &[Root]) -> Vec<rotation::Life> {
    roots.iter().map(Root::life).collect()
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
