//! Reads little-endian values and knows how much of the file is left.

use std::io::{ErrorKind, Read};

use super::GgufError;

/// A head longer than this is refused; large vocabularies with merges and templates take some 15 MiB.
pub(super) const HEAD_LIMIT: u64 = 128 << 20;

/// A reader that counts. `size` is the whole file's.
pub(super) struct Cursor<R> {
    inner: R,
    at: u64,
    size: u64,
}

impl<R: Read> Cursor<R> {
    pub(super) fn new(inner: R, size: u64) -> Self {
        Self { inner, at: 0, size }
    }

    /// Bytes read so far: the offset of the next.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Fails unless the file has `len` more bytes and the head may be that long.
    pub(super) fn demand(&self, len: u64, what: &str) -> Result<(), GgufError> {
        let needed = self.at.saturating_add(len);
        if needed > self.size {
            return Err(GgufError::Truncated {
                size: self.size,
                needed,
                what: what.to_owned(),
            });
        }
        match needed > HEAD_LIMIT {
            true => Err(self.malformed(format!(
                "{what} of {len} bytes makes the head longer than {HEAD_LIMIT} bytes"
            ))),
            false => Ok(()),
        }
    }

    pub(super) fn malformed(&self, what: String) -> GgufError {
        GgufError::Malformed { at: self.at, what }
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], GgufError> {
        self.demand(N as u64, what)?;
        let mut bytes = [0; N];
        self.fill(&mut bytes, what)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string of at most `most` bytes, UTF-8.
    pub(super) fn string(&mut self, most: u64, what: &str) -> Result<String, GgufError> {
        let begins = self.at;
        let len = self.u64(what)?;
        self.demand(len, what)?;
        let bad = |what| GgufError::Malformed { at: begins, what };
        if len > most {
            return Err(bad(format!(
                "{what} has {len} bytes, at most {most} are taken"
            )));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(|_| bad(format!("{len} bytes")))?];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).map_err(|_| bad(format!("{what} is not UTF-8")))
    }

    /// Passes over a string of any length and content.
    pub(super) fn skip_string(&mut self, what: &str) -> Result<(), GgufError> {
        let len = self.u64(what)?;
        self.skip(len, what)
    }

    pub(super) fn skip(&mut self, len: u64, what: &str) -> Result<(), GgufError> {
        self.demand(len, what)?;
        let skipped = std::io::copy(&mut self.inner.by_ref().take(len), &mut std::io::sink());
        match skipped {
            Ok(n) if n == len => {
                self.at += len;
                Ok(())
            }
            Ok(_) => Err(self.shrunk(len, what)),
            Err(error) => Err(GgufError::Io(error.to_string())),
        }
    }

    fn fill(&mut self, bytes: &mut [u8], what: &str) -> Result<(), GgufError> {
        match self.inner.read_exact(bytes) {
            Ok(()) => {
                self.at += bytes.len() as u64;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                Err(self.shrunk(bytes.len() as u64, what))
            }
            Err(error) => Err(GgufError::Io(error.to_string())),
        }
    }

    /// The file ended although its size promised more: somebody cut it while it was read.
    fn shrunk(&self, len: u64, what: &str) -> GgufError {
        GgufError::Truncated {
            size: self.at,
            needed: self.at.saturating_add(len),
            what: what.to_owned(),
        }
    }
}
