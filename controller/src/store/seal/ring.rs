//! The master keys: parsed from text, kept in a file of mode 0600.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

const ID_MAX: usize = 32;
/// Far more than any key ring; a wrong path should not be read whole.
const FILE_MAX: u64 = 64 * 1024;

/// Why there is no key ring. Holds nothing of the keys.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The file cannot be read or made.
    #[error("master key file {0}: {1}")]
    File(PathBuf, #[source] io::Error),
    /// Others may read the file.
    #[error(
        "master key file {0} has mode {1:03o}: others may read it; run 'chmod 600 {0}' and consider the keys known"
    )]
    Exposed(PathBuf, u32),
    /// No key at all.
    #[error(
        "there is no master key: write one line, an id and 32 random bytes in base64, such as the output of 'echo \"k1 $(head -c 32 /dev/urandom | base64)\"'"
    )]
    Empty,
    /// A line that is not `ID BASE64`.
    #[error(
        "line {0} of the master keys is not an id of 1 to {ID_MAX} characters (A-Z a-z 0-9 . _ -), a blank and 32 bytes in base64"
    )]
    Line(usize),
    /// An id that an earlier line has.
    #[error("line {0} of the master keys repeats an earlier line's id")]
    Repeated(usize),
    /// The operator keeps it.
    #[error(
        "master key file {0} is kept by whoever named it with --master-key: it is changed there"
    )]
    NotOurs(PathBuf),
    /// It is nowhere kept.
    #[error("the master keys are not kept in a file")]
    NoFile,
}

/// Master keys, oldest first.
///
/// Its text has one key per line: an id, a blank, 32 bytes in base64. Empty lines and
/// those that begin with `#` are skipped. Any of them opens; which one seals is for the store
/// to say, so that one of several controllers cannot seal with a key that the others lack yet.
pub struct KeyRing {
    keys: Vec<(String, Zeroizing<[u8; 32]>)>,
}

impl std::fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<_> = self.keys.iter().map(|(id, _)| id).collect();
        f.debug_tuple("KeyRing").field(&ids).finish()
    }
}

impl KeyRing {
    /// Parses the text form, as a file or an environment variable holds it.
    pub fn parse(text: &str) -> Result<Self, RingError> {
        let mut keys: Vec<(String, Zeroizing<[u8; 32]>)> = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let (id, key) = parse_line(text).ok_or(RingError::Line(line))?;
            if keys.iter().any(|(other, _)| other == id) {
                return Err(RingError::Repeated(line));
            }
            keys.push((id.to_owned(), key));
        }
        match keys.is_empty() {
            true => Err(RingError::Empty),
            false => Ok(Self { keys }),
        }
    }

    /// Reads a file that the operator names. One that everybody may read is refused; a group
    /// may, as Kubernetes mounts Secrets so.
    pub fn read(path: &Path) -> Result<Self, RingError> {
        Self::parse(&read_text(path)?)
    }

    /// Reads the file, or makes it with one new key, mode 0600, durably: a key that seals
    /// must not be lost. `random` must come from the operating system's generator.
    pub fn read_or_create(path: &Path, random: &Zeroizing<[u8; 32]>) -> Result<Self, RingError> {
        match Self::create(path, random) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Self::read(path),
            Err(e) => Err(RingError::File(path.to_owned(), e)),
            Ok(()) => Self::read(path),
        }
    }

    /// Linked into place, so that of two starts at once one wins and both agree.
    fn create(path: &Path, random: &Zeroizing<[u8; 32]>) -> io::Result<()> {
        if path.try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let text = Self::first_text(random);
        let beside = write_beside(path, &text)?;
        let linked = std::fs::hard_link(&beside, path);
        std::fs::remove_file(&beside)?;
        linked?;
        sync_folder(path)
    }

    /// The text of a new ring with one key.
    pub(super) fn first_text(random: &Zeroizing<[u8; 32]>) -> Zeroizing<String> {
        Zeroizing::new(format!(
            "# Bodhi's master keys, oldest first. Whoever has this file and the store can read \
             the stored provider keys; without it nobody can. Keep a copy apart from the store.\n\
             {}",
            *line("k1", random)
        ))
    }

    /// Adds a line to the file, durably, and answers the new ring.
    pub(super) fn append(
        path: &Path,
        id: &str,
        random: &Zeroizing<[u8; 32]>,
    ) -> Result<Self, RingError> {
        let mut text = read_text(path)?;
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&line(id, random));
        Self::rewrite(path, &text)
    }

    /// Takes a line out of the file, durably, and answers the new ring.
    pub(super) fn remove(path: &Path, id: &str) -> Result<Self, RingError> {
        let text = read_text(path)?;
        let mut kept = Zeroizing::new(String::with_capacity(text.len()));
        for line in text.lines() {
            if parse_line(line.trim()).is_none_or(|(other, _)| other != id) {
                kept.push_str(line);
                kept.push('\n');
            }
        }
        Self::rewrite(path, &kept)
    }

    /// Judged before it is written: a file that cannot be read again must not come to be.
    fn rewrite(path: &Path, text: &str) -> Result<Self, RingError> {
        let ring = Self::parse(text)?;
        let write = || {
            std::fs::rename(write_beside(path, text)?, path)?;
            sync_folder(path)
        };
        write().map_err(|e| RingError::File(path.to_owned(), e))?;
        Ok(ring)
    }

    /// The ids, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|(id, _)| id.as_str())
    }

    /// An id of the form `k7` that none of them has.
    pub fn next_id(&self) -> String {
        let numbers = self
            .ids()
            .filter_map(|id| id.strip_prefix('k')?.parse::<u32>().ok());
        format!("k{}", numbers.max().unwrap_or(0).saturating_add(1))
    }

    /// The id of the key that was added last.
    pub fn newest(&self) -> &str {
        let (id, _) = self.keys.last().expect("parse refuses an empty ring");
        id
    }

    pub(super) fn get(&self, id: &str) -> Option<&[u8; 32]> {
        self.keys
            .iter()
            .find(|(own, _)| own == id)
            .map(|(_, key)| &**key)
    }

    /// Whether `id` names the key that was added last.
    pub fn is_newest(&self, id: &str) -> bool {
        self.newest() == id
    }
}

fn read_text(path: &Path) -> Result<Zeroizing<String>, RingError> {
    let fault = |e| RingError::File(path.to_owned(), e);
    let file = File::open(path).map_err(fault)?;
    let mode = file.metadata().map_err(fault)?.mode() & 0o777;
    if mode & 0o007 != 0 {
        return Err(RingError::Exposed(path.to_owned(), mode));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(fault)?;
    Ok(text)
}

/// Writes a private file beside `path`, durably, so that a crash leaves no half of a key.
fn write_beside(path: &Path, text: &str) -> io::Result<PathBuf> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    Ok(beside)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

fn line(id: &str, random: &Zeroizing<[u8; 32]>) -> Zeroizing<String> {
    let key = Zeroizing::new(STANDARD.encode(random.as_slice()));
    Zeroizing::new(format!("{id} {}\n", *key))
}

/// The length of a parsed id.
pub(super) fn id_len(id: &str) -> u8 {
    u8::try_from(id.len()).expect("parse_line allows 32 bytes at most")
}

fn parse_line(text: &str) -> Option<(&str, Zeroizing<[u8; 32]>)> {
    let (id, key) = text.split_once([' ', '\t'])?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(allowed) {
        return None;
    }
    let bytes = Zeroizing::new(STANDARD.decode(key.trim()).ok()?);
    let key = Zeroizing::new(<[u8; 32]>::try_from(bytes.as_slice()).ok()?);
    Some((id, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn texts_are_judged_line_by_line() {
        let ring = KeyRing::parse(&format!("# c\n\n a {KEY}\nb\t{KEY}\n")).unwrap();
        assert!(ring.is_newest("b") && ring.get("a").is_some() && ring.get("c").is_none());
        assert!(matches!(KeyRing::parse("# only\n"), Err(RingError::Empty)));
        let repeated = KeyRing::parse(&format!("a {KEY}\na {KEY}"));
        assert!(matches!(repeated, Err(RingError::Repeated(2))));
        for bad in [KEY, "a AAEC", "a/b AAEC", "a !"] {
            assert!(
                matches!(KeyRing::parse(bad), Err(RingError::Line(1))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_made_file_is_private_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        KeyRing::read_or_create(&path, &Zeroizing::new([7; 32])).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let again = KeyRing::read_or_create(&path, &Zeroizing::new([8; 32])).unwrap();
        assert_eq!((again.newest(), again.get("k1")), ("k1", Some(&[7; 32])));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        std::fs::write(&path, format!("k1 {KEY}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            KeyRing::read(&path),
            Err(RingError::Exposed(_, 0o644))
        ));
    }

    #[test]
    fn debug_shows_ids_only() {
        let ring = KeyRing::parse(&format!("k1 {KEY}")).unwrap();
        assert_eq!(format!("{ring:?}"), r#"KeyRing(["k1"])"#);
    }
}
