//! The ring in use and the file behind it: read again when it changes, added to when it is ours.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use super::ring::{KeyRing, RingError};

/// The master keys in use. Shared by the store and whoever rotates them.
#[derive(Debug)]
pub struct Keys {
    ring: RwLock<Arc<KeyRing>>,
    file: Option<RingFile>,
}

/// Where a ring is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RingFile {
    /// In a file of the data folder, which we may write.
    Own(PathBuf),
    /// In a file that the operator provides, such as a mounted Secret.
    Given(PathBuf),
}

impl RingFile {
    fn path(&self) -> &Path {
        match self {
            Self::Own(path) | Self::Given(path) => path,
        }
    }
}

impl Keys {
    /// Reads the ring; one of our own is made if it is missing. `random` must come from the
    /// operating system's generator.
    ///
    /// # Errors
    /// The file cannot be read, made or understood.
    pub fn load(file: RingFile, random: &Zeroizing<[u8; 32]>) -> Result<Self, RingError> {
        let ring = match &file {
            RingFile::Own(path) => KeyRing::read_or_create(path, random)?,
            RingFile::Given(path) => KeyRing::read(path)?,
        };
        Ok(Self {
            ring: RwLock::new(Arc::new(ring)),
            file: Some(file),
        })
    }

    /// A ring without a file.
    pub fn of(ring: KeyRing) -> Self {
        Self {
            ring: RwLock::new(Arc::new(ring)),
            file: None,
        }
    }

    /// The ring as it was read last.
    pub fn ring(&self) -> Arc<KeyRing> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&ring)
    }

    /// Where the ring is kept.
    pub fn file(&self) -> Option<&RingFile> {
        self.file.as_ref()
    }

    /// Reads the file again: somebody may have added a key. A few hundred bytes, so nobody is kept
    /// from anything else.
    ///
    /// # Errors
    /// The file cannot be used; the ring stays as it was.
    pub fn read_again(&self) -> Result<Arc<KeyRing>, RingError> {
        match &self.file {
            None => Ok(self.ring()),
            Some(file) => Ok(self.replace(KeyRing::read(file.path())?)),
        }
    }

    /// Adds a key to the end of a file of our own, durably, and answers its id. `random` must come
    /// from the operating system's generator.
    ///
    /// # Errors
    /// The ring is not ours to write, or the file cannot be written.
    pub fn add(&self, random: &Zeroizing<[u8; 32]>) -> Result<String, RingError> {
        let path = self.own()?;
        let id = KeyRing::read(path)?.next_id();
        self.replace(KeyRing::append(path, &id, random)?);
        Ok(id)
    }

    /// Takes a key out of a file of our own, durably.
    ///
    /// # Errors
    /// As for [`Keys::add`], or it is the only one.
    pub fn remove(&self, id: &str) -> Result<(), RingError> {
        self.replace(KeyRing::remove(self.own()?, id)?);
        Ok(())
    }

    fn own(&self) -> Result<&Path, RingError> {
        match &self.file {
            Some(RingFile::Own(path)) => Ok(path),
            Some(RingFile::Given(path)) => Err(RingError::NotOurs(path.clone())),
            None => Err(RingError::NoFile),
        }
    }

    fn replace(&self, ring: KeyRing) -> Arc<KeyRing> {
        let ring = Arc::new(ring);
        let mut held = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        *held = Arc::clone(&ring);
        ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn our_own_file_grows_and_shrinks_by_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let keys = Keys::load(RingFile::Own(path.clone()), &Zeroizing::new([7; 32])).unwrap();
        let before = keys.ring();
        assert_eq!(keys.add(&Zeroizing::new([8; 32])).unwrap(), "k2");
        assert!(before.is_newest("k1") && keys.ring().is_newest("k2"));
        let again = KeyRing::read(&path).unwrap();
        assert_eq!(again.ids().collect::<Vec<_>>(), ["k1", "k2"]);
        assert_eq!(again.get("k1"), before.get("k1"));
        keys.remove("k1").unwrap();
        assert_eq!(keys.ring().ids().collect::<Vec<_>>(), ["k2"]);
        assert!(matches!(keys.remove("k2"), Err(RingError::Empty)));
        assert!(KeyRing::read(&path).unwrap().is_newest("k2"));
        // What is left in the folder is the file alone.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_given_file_is_read_again_and_never_written() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let write = |text: String| {
            std::fs::write(&path, text).unwrap();
            let private = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&path, private).unwrap();
        };
        write(format!("a {KEY}\n"));
        let keys = Keys::load(RingFile::Given(path.clone()), &Zeroizing::new([7; 32])).unwrap();
        assert!(matches!(
            keys.add(&Zeroizing::new([8; 32])),
            Err(RingError::NotOurs(_))
        ));
        write(format!("a {KEY}\nb {KEY}\n"));
        assert!(keys.ring().is_newest("a"));
        assert!(keys.read_again().unwrap().is_newest("b"));
        write("nonsense".into());
        assert!(keys.read_again().is_err());
        assert!(keys.ring().is_newest("b"));
    }

    #[test]
    fn a_given_file_that_is_missing_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let keys = Keys::load(RingFile::Given(path.clone()), &Zeroizing::new([7; 32]));
        assert!(matches!(keys, Err(RingError::File(..))));
        assert!(!path.exists());
    }
}
