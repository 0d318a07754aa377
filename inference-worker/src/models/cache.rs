//! The folder that downloads go to, shared by workers of one machine or volume.
//!
//! Each source has a folder of its own, named by its file and a hash of its identity. In it lie the
//! files under their own names (llama.cpp finds the parts of a split model by name), beside each a
//! record of what it is, and while a download runs a partial file with notes. A file appears under
//! its name only when it is whole, verified and on disk. Whoever writes holds the folder's lock;
//! the system releases it when a process dies. Nothing is ever evicted: the folder's owner decides.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::ModelError;
use super::source::{Digest, Source};

/// A cache folder; made when it is first written to.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

/// The folder of one source.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
}

/// Held by whoever writes into a shelf.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// What a whole file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) sha256: String,
    pub(super) size: u64,
    /// Modification time, in nanoseconds since 1970: a file that was touched is hashed again.
    pub(super) modified: u64,
    pub(super) etag: Option<String>,
    pub(super) commit: Option<String>,
}

/// What a partial file is a part of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notes {
    pub(super) total: u64,
    pub(super) etag: Option<String>,
    pub(super) sha256: Option<String>,
}

/// How often a held lock is tried again. (A blocking wait could not be given up.)
const LOCK_PERIOD: Duration = Duration::from_millis(250);

impl Cache {
    /// The cache in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// The shelf of a source: mirrors of a hub share it, revisions do not.
    pub(super) fn shelf(&self, source: &Source, revision: Option<&str>, endpoint: &str) -> Shelf {
        let mut hash = Sha256::new();
        // A web source's query may choose the file, so the whole URL counts.
        let identity = match source {
            Source::Web(url) => url.to_string(),
            other => other.to_string(),
        };
        for part in [&*identity, revision.unwrap_or_default(), endpoint] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let hash = Digest(hash.finalize().into()).to_string();
        let name = source.file_name();
        let name = name.strip_suffix(".gguf").unwrap_or(&name);
        Shelf {
            folder: self.folder.join(format!("{name}-{}", &hash[..16])),
        }
    }
}

impl Shelf {
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(super) fn partial(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.partial"))
    }

    fn record_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    fn notes_path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.partial.json"))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The lock, once nobody else holds it; `waiting` is called before each wait.
    ///
    /// # Errors
    /// [`ModelError::Cache`] if the folder or the lock cannot be had.
    pub(super) async fn lock(&self, waiting: impl Fn()) -> Result<Lock, ModelError> {
        fs::create_dir_all(&self.folder).map_err(|e| self.fault(e))?;
        let path = self.folder.join(".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = file.map_err(|e| self.fault(e))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { _file: file }),
                Err(TryLockError::WouldBlock) => {
                    waiting();
                    tokio::time::sleep(LOCK_PERIOD).await;
                }
                Err(TryLockError::Error(error)) => return Err(self.fault(error)),
            }
        }
    }

    /// The record of a file that is whole and untouched since.
    pub(super) fn record(&self, name: &str) -> Option<Record> {
        let record: Record = read_json(&self.record_path(name))?;
        let (size, modified) = stamp(&self.file(name)).ok()?;
        (record.size == size && record.modified == modified).then_some(record)
    }

    /// What a file was that lies here but was touched since, or has no sound record (`Some(None)`).
    pub(super) fn doubtful(&self, name: &str) -> Option<Option<Record>> {
        let doubtful = self.file(name).exists() && self.record(name).is_none();
        doubtful.then(|| read_json(&self.record_path(name)))
    }

    /// What is noted of the partial file.
    pub(super) fn notes(&self, name: &str) -> Option<Notes> {
        read_json(&self.notes_path(name))
    }

    /// Written before the first byte, so that a killed worker's successor can go on.
    pub(super) fn note(&self, name: &str, notes: &Notes) -> io::Result<()> {
        write_json(&self.notes_path(name), notes)
    }

    pub(super) fn discard_partial(&self, name: &str) -> io::Result<()> {
        for path in [self.partial(name), self.notes_path(name)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The partial file, whole and synced by now, becomes the file. `record.modified` is filled in.
    pub(super) fn keep(&self, name: &str, record: Record) -> io::Result<Record> {
        fs::rename(self.partial(name), self.file(name))?;
        // The rename itself is on disk when the folder is.
        File::open(&self.folder)?.sync_all()?;
        let record = self.stamped(name, record)?;
        match fs::remove_file(self.notes_path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(record),
        }
    }

    /// Writes the record of a file as it lies there now.
    pub(super) fn stamped(&self, name: &str, record: Record) -> io::Result<Record> {
        let (size, modified) = stamp(&self.file(name))?;
        let record = Record {
            size,
            modified,
            ..record
        };
        write_json(&self.record_path(name), &record)?;
        Ok(record)
    }

    /// Bytes that an ordinary user may still write into the folder's file system.
    pub(super) fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// An error of the file system as the room's own.
    pub(super) fn fault(&self, error: io::Error) -> ModelError {
        ModelError::Cache {
            folder: self.folder.clone(),
            error,
        }
    }
}

fn stamp(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::metadata(path)?;
    let modified = metadata.modified()?.duration_since(UNIX_EPOCH);
    let modified = modified.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    });
    Ok((metadata.len(), modified))
}

/// `None` also for what cannot be read: then the work is done again.
fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Replaces the file in one step, so that no reader sees half of it.
fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    fs::write(&beside, serde_json::to_vec(value)?)?;
    fs::rename(&beside, path)
}
