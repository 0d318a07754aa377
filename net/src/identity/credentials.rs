//! Where an end's certificate comes from, and what is made of the latest one.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::files::{PemError, Reloading};
use super::{Bundle, Identity};

/// A certificate with its key and authorities, always the latest. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Credentials(Kept);

#[derive(Debug, Clone)]
enum Kept {
    Files(Arc<Reloading<Bundle, 3>>),
    Memory(watch::Receiver<Option<Arc<Bundle>>>),
}

impl Credentials {
    /// In files, which are looked at again each time.
    ///
    /// # Errors
    /// [`PemError`] names the file and its flag.
    pub fn files(identity: Identity) -> Result<Self, PemError> {
        let files = Reloading::load(identity.files(), Bundle::read)?;
        Ok(Self(Kept::Files(Arc::new(files))))
    }

    /// In memory; none until whoever obtains them has done so.
    pub fn memory(bundles: watch::Receiver<Option<Arc<Bundle>>>) -> Self {
        Self(Kept::Memory(bundles))
    }

    /// Resolves once there is something to show.
    pub async fn ready(&self) {
        if let Kept::Memory(bundles) = &self.0 {
            // Were whoever obtains them gone, there would be nothing to wait for.
            let _ = bundles.clone().wait_for(Option::is_some).await;
        }
    }

    /// The latest.
    fn current(&self) -> Option<Arc<Bundle>> {
        match &self.0 {
            Kept::Files(files) => {
                files.refresh();
                Some(files.current())
            }
            Kept::Memory(bundles) => bundles.borrow().clone(),
        }
    }
}

/// There is nothing to show yet.
#[derive(Debug, thiserror::Error)]
#[error("this end has no certificate yet")]
pub(super) struct NoneYet;

/// A TLS configuration made of credentials, and made again when they change.
pub(super) struct Derived<T> {
    credentials: Credentials,
    make: Box<dyn Fn(&Bundle) -> T + Send + Sync>,
    made: Mutex<Option<(Arc<Bundle>, Arc<T>)>>,
}

impl<T> Derived<T> {
    pub(super) fn new(
        credentials: Credentials,
        make: impl Fn(&Bundle) -> T + Send + Sync + 'static,
    ) -> Self {
        Self {
            credentials,
            make: Box::new(make),
            made: Mutex::default(),
        }
    }

    pub(super) fn current(&self) -> Result<Arc<T>, NoneYet> {
        let bundle = self.credentials.current().ok_or(NoneYet)?;
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, made)) = &*made
            && Arc::ptr_eq(of, &bundle)
        {
            return Ok(Arc::clone(made));
        }
        let new = Arc::new((self.make)(&bundle));
        *made = Some((bundle, Arc::clone(&new)));
        Ok(new)
    }
}

impl<T> fmt::Debug for Derived<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Derived({:?})", self.credentials)
    }
}
