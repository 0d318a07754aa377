//! The last snapshot on disk, for a start without a controller, and the denials since.
//!
//! Both files are sealed under a key file that is mounted beside them, and written so that
//! a crash at any moment leaves a whole one. The snapshot is replaced by rename; the
//! journal is appended to before a denial is acknowledged.

mod seal;

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bodhi_proto::sync::{Deny, Hold, ImageError, Restore};
use bodhi_proto::wire::{deny_from_wire, deny_to_wire, sync as pb};
use prost::Message as _;
use zeroize::Zeroizing;

use self::seal::{JournalReader, JournalWriter, SealError, Sealer, SnapshotReader, SnapshotWriter};

const SNAPSHOT: &str = "snapshot.sealed";
const JOURNAL: &str = "denies.sealed";
/// A file that no controller has confirmed for this long is not used.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);
/// Least bytes of a key file.
const KEY_MIN: usize = 32;

/// Where the last snapshot is kept.
#[derive(Debug, Clone)]
pub struct Disk {
    /// A folder of this data plane alone; made if it is missing.
    pub folder: PathBuf,
    /// At least 32 random bytes, in any form.
    pub key_file: PathBuf,
    /// Whether a missing key file is made (mode 0600), as on one machine; in a cluster it is
    /// mounted.
    pub create_key: bool,
}

/// Why the folder or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The folder cannot be made, or a file in it not be written.
    #[error("{path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Too short to be a key.
    #[error("key file {0} holds fewer than {KEY_MIN} bytes: write 32 random bytes into it")]
    Key(PathBuf),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    let path = path.to_owned();
    move |error| DiskError::Io { path, error }
}

/// Why a kept file is not used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The folder, opened with its key.
#[derive(Debug)]
pub(super) struct Folder {
    snapshot: PathBuf,
    journal: PathBuf,
    sealer: Sealer,
    writer: Option<JournalWriter>,
}

impl Folder {
    pub(super) fn open(disk: &Disk) -> Result<Self, DiskError> {
        std::fs::create_dir_all(&disk.folder).map_err(at(&disk.folder))?;
        let key = read_key(disk)?;
        Ok(Self {
            snapshot: disk.folder.join(SNAPSHOT),
            journal: disk.folder.join(JOURNAL),
            sealer: Sealer::new(key),
            writer: None,
        })
    }

    /// What was kept, if it can and may be used, and the denials since. Files that cannot be read
    /// are set aside with the ending `.bad`.
    pub(super) fn load(&self, version: &str, now: SystemTime) -> (Option<Hold>, Vec<Deny>) {
        let hold = match File::open(&self.snapshot) {
            Ok(file) => self.load_snapshot(file, version, now),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!(path = %self.snapshot.display(), %error, "the kept snapshot cannot be opened");
                None
            }
        };
        (hold, self.load_journal())
    }

    fn load_snapshot(&self, file: File, version: &str, now: SystemTime) -> Option<Hold> {
        let confirmed = file.metadata().and_then(|m| m.modified()).ok()?;
        if now.duration_since(confirmed).is_ok_and(|age| age > STALE) {
            tracing::warn!(
                "the kept snapshot is not used: no controller has confirmed it for a day"
            );
            return None;
        }
        match self.restore(file, version) {
            Ok(hold) => Some(hold),
            Err(error) => {
                tracing::error!(%error, "the kept snapshot cannot be used; it is set aside");
                set_aside(&self.snapshot);
                None
            }
        }
    }

    fn restore(&self, file: File, version: &str) -> Result<Hold, Unusable> {
        let mut frames =
            SnapshotReader::new(&self.sealer, BufReader::with_capacity(128 << 10, file))?;
        let mut restore = Restore::new(version);
        while let Some(frame) = frames.next()? {
            restore.push(frame)?;
        }
        Ok(restore.finish()?)
    }

    fn load_journal(&self) -> Vec<Deny> {
        let file = match File::open(&self.journal) {
            Ok(file) => file,
            Err(_) => return Vec::new(),
        };
        let mut denies = Vec::new();
        let read =
            JournalReader::new(&self.sealer, BufReader::new(file)).and_then(|mut records| {
                while let Some(record) = records.next()? {
                    denies.extend(
                        pb::Deny::decode(&*record)
                            .ok()
                            .and_then(|deny| deny_from_wire(deny).ok()),
                    );
                }
                Ok(())
            });
        match read {
            Ok(()) => {}
            // Mostly the record that was being written when the process died: it was never
            // acknowledged. What came before it counts.
            Err(error @ SealError::Damaged) => {
                tracing::warn!(%error, read = denies.len(), "the journal of denials ends early");
            }
            Err(error) => {
                tracing::error!(%error, "the journal of denials cannot be read; it is set aside");
                set_aside(&self.journal);
            }
        }
        denies
    }

    /// Replaces the file. Denials are in it, so the journal begins anew.
    pub(super) fn save(&mut self, hold: &Hold, version: &str) -> Result<(), DiskError> {
        let temporary = self.snapshot.with_extension("new");
        let file = create_private(&temporary).map_err(at(&temporary))?;
        let written = (|| {
            let file = BufWriter::with_capacity(128 << 10, file);
            let mut frames = SnapshotWriter::new(&self.sealer, file)?;
            hold.image(version, |frame| frames.frame(frame))?;
            frames.finish()
        })();
        written.map_err(at(&temporary))?;
        std::fs::rename(&temporary, &self.snapshot).map_err(at(&self.snapshot))?;
        self.writer = None;
        match std::fs::remove_file(&self.journal) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&self.journal)(error)),
            _ => Ok(()),
        }
    }

    /// Writes a denial down for good.
    pub(super) fn journal(&mut self, deny: &Deny) -> Result<(), DiskError> {
        let record = deny_to_wire(deny).encode_to_vec();
        self.append(&record).map_err(|error| {
            // What follows a half-written record would be lost: begin a new file next time.
            self.writer = None;
            at(&self.journal)(error)
        })
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let writer = match &mut self.writer {
            Some(writer) => writer,
            None => {
                // One from before this start, or before a failure, is carried over whole.
                let kept = self.load_journal();
                let temporary = self.journal.with_extension("new");
                let mut writer = JournalWriter::new(&self.sealer, create_private(&temporary)?)?;
                for deny in kept {
                    writer.append(&deny_to_wire(&deny).encode_to_vec())?;
                }
                std::fs::rename(&temporary, &self.journal)?;
                self.writer.insert(writer)
            }
        };
        writer.append(record)?;
        writer.sync()
    }

    /// Notes that a controller confirmed what the file holds.
    pub(super) fn touch(&self, now: SystemTime) {
        let touched = File::options()
            .write(true)
            .open(&self.snapshot)
            .and_then(|file| file.set_modified(now));
        match touched {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, "the kept snapshot could not be marked as confirmed");
            }
            _ => {}
        }
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

fn set_aside(path: &Path) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".bad");
    if let Err(error) = std::fs::rename(path, &aside) {
        tracing::error!(path = %path.display(), %error, "a damaged file could not be set aside");
    }
}

fn read_key(disk: &Disk) -> Result<Zeroizing<Vec<u8>>, DiskError> {
    let path = &disk.key_file;
    if disk.create_key && !path.exists() {
        let mut random = Zeroizing::new([0; KEY_MIN]);
        getrandom::fill(random.as_mut_slice()).map_err(|e| at(path)(io::Error::other(e)))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(at(path))?;
        file.write_all(random.as_slice()).map_err(at(path))?;
        file.sync_all().map_err(at(path))?;
    }
    let mut key = Zeroizing::new(Vec::with_capacity(4 * KEY_MIN));
    File::open(path)
        .and_then(|file| file.take(4096).read_to_end(&mut key))
        .map_err(at(path))?;
    match key.len() < KEY_MIN {
        true => Err(DiskError::Key(path.clone())),
        false => Ok(key),
    }
}
