//! PEM files that make a TLS configuration, and make it again when they change.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// How often [`Reloading::watch`] looks; certificates are renewed days before they expire.
const PERIOD: Duration = Duration::from_secs(10);

/// A file, and the flag by which the operator named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PemFile {
    /// Where it is.
    pub path: PathBuf,
    /// Such as `--tls-cert`.
    pub flag: &'static str,
}

impl fmt::Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}'", self.flag, self.path.display())
    }
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PemError {
    /// One of them cannot be read.
    #[error("{file} cannot be read: {source}")]
    Read {
        /// Which one.
        file: PemFile,
        /// The system's word.
        source: io::Error,
    },
    /// Not PEM, or what is wanted is not in it.
    #[error("{file} cannot be used: {why}")]
    Content {
        /// Which one.
        file: PemFile,
        /// What is wrong.
        why: String,
    },
    /// The key is another certificate's, or of a kind that is not supported.
    #[error("{key} does not go with {certificate}: {source}")]
    Pair {
        /// The private key.
        key: PemFile,
        /// The certificate.
        certificate: PemFile,
        /// What is wrong.
        source: Box<rustls::Error>,
    },
}

/// A file's content.
pub struct Pem {
    file: PemFile,
    bytes: Vec<u8>,
}

impl Pem {
    pub(super) fn read(file: &PemFile) -> Result<Self, PemError> {
        let bytes = std::fs::read(&file.path).map_err(|source| PemError::Read {
            file: file.clone(),
            source,
        })?;
        Ok(Self {
            file: file.clone(),
            bytes,
        })
    }

    /// The certificates, at least one.
    ///
    /// # Errors
    /// [`PemError::Content`].
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, PemError> {
        let chain = CertificateDer::pem_slice_iter(&self.bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.unusable(error))?;
        match chain.is_empty() {
            true => Err(self.unusable("it holds no certificate")),
            false => Ok(chain),
        }
    }

    /// The private key: PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    /// [`PemError::Content`].
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, PemError> {
        use rustls::pki_types::pem::Error;
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| match error {
            Error::NoItemsFound => self.unusable("it holds no private key"),
            error => self.unusable(error),
        })
    }

    /// The certificates as authorities.
    ///
    /// # Errors
    /// [`PemError::Content`].
    pub fn roots(&self) -> Result<RootCertStore, PemError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.chain()? {
            roots
                .add(certificate)
                .map_err(|error| self.unusable(error))?;
        }
        Ok(roots)
    }

    /// This file is at fault.
    pub fn unusable(&self, why: impl fmt::Display) -> PemError {
        PemError::Content {
            file: self.file.clone(),
            why: why.to_string(),
        }
    }

    /// This key does not go with that certificate.
    pub fn mismatch(&self, certificate: &Self, source: rustls::Error) -> PemError {
        PemError::Pair {
            key: self.file.clone(),
            certificate: certificate.file.clone(),
            source: Box::new(source),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // It may be a private key.
        write!(f, "Pem({}, …)", self.file)
    }
}

type Make<T, const N: usize> = Box<dyn Fn([&Pem; N]) -> Result<T, PemError> + Send + Sync>;

/// What `N` files make; replaced when their contents change. Files that cannot be used, such as
/// a pair of which only one half is written yet, leave the old one in place.
pub struct Reloading<T, const N: usize> {
    files: [PemFile; N],
    make: Make<T, N>,
    current: ArcSwap<T>,
    /// What was judged last, good or not; none while a file cannot be read.
    seen: Mutex<Option<Vec<Vec<u8>>>>,
}

impl<T, const N: usize> Reloading<T, N> {
    /// Reads the files and makes the first one.
    ///
    /// # Errors
    /// [`PemError`].
    pub fn load(
        files: [PemFile; N],
        make: impl Fn([&Pem; N]) -> Result<T, PemError> + Send + Sync + 'static,
    ) -> Result<Self, PemError> {
        let pems = read(&files)?;
        let first = make(pems.each_ref())?;
        Ok(Self {
            files,
            make: Box::new(make),
            current: ArcSwap::from_pointee(first),
            seen: Mutex::new(Some(contents(pems))),
        })
    }

    /// The latest that could be used.
    pub fn current(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Looks at the files now. Reads a few kilobytes, and says each fault once.
    pub fn refresh(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let pems = match read(&self.files) {
            Ok(pems) => pems,
            Err(error) => {
                if seen.take().is_some() {
                    tracing::warn!(%error, "a TLS file cannot be read; the old ones stay in use");
                }
                return;
            }
        };
        let same = |seen: &Vec<Vec<u8>>| seen.iter().eq(pems.iter().map(|pem| &pem.bytes));
        if seen.as_ref().is_some_and(same) {
            return;
        }
        match (self.make)(pems.each_ref()) {
            Ok(made) => {
                self.current.store(Arc::new(made));
                tracing::info!(files = %self.names(), "TLS files have changed and are in use");
            }
            Err(error) => {
                tracing::warn!(%error, "the new TLS files cannot be used; the old ones stay in use");
            }
        }
        *seen = Some(contents(pems));
    }

    /// Looks at the files every 10 s, for ever.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.refresh();
        }
    }

    fn names(&self) -> String {
        self.files.each_ref().map(ToString::to_string).join(", ")
    }
}

impl<T, const N: usize> fmt::Debug for Reloading<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reloading({})", self.names())
    }
}

fn read<const N: usize>(files: &[PemFile; N]) -> Result<[Pem; N], PemError> {
    let pems: Vec<Pem> = files.iter().map(Pem::read).collect::<Result<_, _>>()?;
    Ok(pems.try_into().expect("there is one for each file"))
}

fn contents<const N: usize>(pems: [Pem; N]) -> Vec<Vec<u8>> {
    pems.into_iter().map(|pem| pem.bytes).collect()
}
