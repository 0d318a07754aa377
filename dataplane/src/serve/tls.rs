//! TLS on the listener, from files that may change.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bodhi_net::tls::provider;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How often the files are looked at; certificates are renewed days before they expire.
const PERIOD: Duration = Duration::from_secs(10);

/// Where the certificate chain and its key are, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of them cannot be read.
    #[error("cannot read '{}': {source}", file.display())]
    Read {
        /// Which one.
        file: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// Not PEM, no certificate, or no key in it.
    #[error("'{}' cannot be used: {why}", file.display())]
    Content {
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The key is not the certificate's, or is of a kind that is not supported.
    #[error("certificate and key do not work together: {0}")]
    Pair(rustls::Error),
}

/// The current configuration; replaced when the files change.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    current: ArcSwap<ServerConfig>,
}

#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    pub(super) fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let config = files.config(&files.read()?)?;
        Ok(Arc::new(Self {
            files,
            current: ArcSwap::from(config),
        }))
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Replaces the configuration when the files have changed, for ever. Files that cannot be
    /// used, such as a pair of which only one half is written yet, leave the old one in place.
    pub(super) async fn watch(&self) {
        let mut last = self.files.read().ok();
        loop {
            tokio::time::sleep(PERIOD).await;
            let now = match self.files.read() {
                Ok(now) if last.as_ref() == Some(&now) => continue,
                Ok(now) => now,
                Err(error) => {
                    tracing::warn!(%error, "the TLS files cannot be read; the old ones stay in use");
                    continue;
                }
            };
            match self.files.config(&now) {
                Ok(config) => {
                    self.current.store(config);
                    tracing::info!(file = %self.files.certificate.display(), "TLS certificate replaced");
                }
                Err(error) => {
                    tracing::warn!(%error, "the new TLS files cannot be used; the old ones stay in use");
                }
            }
            last = Some(now);
        }
    }
}

impl TlsFiles {
    fn read(&self) -> Result<Contents, TlsError> {
        let read = |file: &PathBuf| {
            std::fs::read(file).map_err(|source| TlsError::Read {
                file: file.clone(),
                source,
            })
        };
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
        })
    }

    fn config(&self, contents: &Contents) -> Result<Arc<ServerConfig>, TlsError> {
        let unusable = |file: &PathBuf, why: String| TlsError::Content {
            file: file.clone(),
            why,
        };
        let chain = CertificateDer::pem_slice_iter(&contents.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| unusable(&self.certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(unusable(
                &self.certificate,
                "it holds no certificate".into(),
            ));
        }
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| unusable(&self.key, error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn write(folder: &std::path::Path, certificate: &str, key: &str) -> TlsFiles {
        let files = TlsFiles {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
        };
        std::fs::write(&files.certificate, certificate).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_replace_the_configuration_and_broken_ones_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (certificate(), certificate());
        let tls = Tls::load(write(folder.path(), &first.0, &first.1)).unwrap();
        let before = tls.config();
        let watched = tls.clone();
        let watching = tokio::spawn(async move { watched.watch().await });
        tokio::time::sleep(PERIOD * 2).await;
        assert!(Arc::ptr_eq(&before, &tls.config()), "nothing changed");
        // Half written: the new certificate with the old key.
        write(folder.path(), &second.0, &first.1);
        tokio::time::sleep(PERIOD * 2).await;
        assert!(Arc::ptr_eq(&before, &tls.config()), "half a pair");
        write(folder.path(), &second.0, &second.1);
        tokio::time::sleep(PERIOD * 2).await;
        assert!(!Arc::ptr_eq(&before, &tls.config()), "a new pair");
        watching.abort();
    }

    #[test]
    fn faults_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate();
        let error = |certificate: &str, key: &str| {
            Tls::load(write(folder.path(), certificate, key))
                .unwrap_err()
                .to_string()
        };
        assert!(error("", &key).contains("tls.crt' cannot be used: it holds no certificate"));
        assert!(error(&certificate, "").contains("tls.key"));
        let missing = TlsFiles {
            certificate: folder.path().join("none"),
            key: folder.path().join("none"),
        };
        assert!(Tls::load(missing).unwrap_err().to_string().contains("none"));
    }
}
