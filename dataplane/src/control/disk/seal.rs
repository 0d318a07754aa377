//! AES-256-GCM (NIST SP 800-38D) over a sequence of frames, so that neither writing nor reading
//! ever holds the whole.
//!
//! A file begins with 8 bytes of magic, a version byte and 32 random bytes of salt. Its key is
//! HKDF-SHA-256 (RFC 5869) of the key file with that salt: no two files share one, so a
//! counter serves as the nonce. Each frame is `length (4, little-endian) | last (1) | sealed`; the
//! nonce holds the frame's number and whether it is the last, the header is authenticated
//! with each: frames cannot be swapped, dropped or cut off unnoticed. In a journal no frame
//! is the last.

use std::io::{self, Read, Write};

use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};
use zeroize::Zeroizing;

const HEADER: usize = 8 + 1 + 32;
const VERSION: u8 = 1;
/// No frame is larger: 64 KiB, or one resource with a bundle of roots.
const FRAME_MAX: usize = 2 << 20;

/// Why a sealed file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SealError {
    #[error("it is not a file of this kind")]
    Foreign,
    #[error("it is of version {0}, which this release does not know")]
    Version(u8),
    #[error("it is damaged, or was sealed under another key")]
    Damaged,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a file is for. Part of the key, so that one cannot pass for another.
#[derive(Debug, Clone, Copy)]
enum Purpose {
    Snapshot,
    Journal,
}

impl Purpose {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            Self::Snapshot => b"BODHISNP",
            Self::Journal => b"BODHIDNY",
        }
    }

    fn info(self) -> &'static [u8] {
        match self {
            Self::Snapshot => b"bodhi data plane snapshot",
            Self::Journal => b"bodhi data plane denials",
        }
    }
}

/// The key file's content.
pub(super) struct Sealer {
    key: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer(…)")
    }
}

impl Sealer {
    pub(super) fn new(key: Zeroizing<Vec<u8>>) -> Self {
        Self { key }
    }

    fn cipher(&self, purpose: Purpose, salt: &[u8]) -> Aes256Gcm {
        let mut key = Zeroizing::new([0; 32]);
        hkdf::Hkdf::<sha2::Sha256>::new(Some(salt), &self.key)
            .expand(purpose.info(), key.as_mut_slice())
            .expect("32 bytes are a length that HKDF-SHA-256 gives");
        Aes256Gcm::new_from_slice(key.as_slice()).expect("the key has 32 bytes")
    }
}

fn nonce(number: u64, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&number.to_be_bytes());
    nonce[8] = u8::from(last);
    nonce
}

/// Seals frames one after another.
struct FrameWriter<W> {
    out: W,
    cipher: Aes256Gcm,
    header: [u8; HEADER],
    number: u64,
}

impl<W: Write> FrameWriter<W> {
    fn new(sealer: &Sealer, purpose: Purpose, mut out: W) -> io::Result<Self> {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(purpose.magic());
        header[8] = VERSION;
        getrandom::fill(&mut header[9..]).map_err(io::Error::other)?;
        out.write_all(&header)?;
        Ok(Self {
            out,
            cipher: sealer.cipher(purpose, &header[9..]),
            header,
            number: 0,
        })
    }

    fn write(&mut self, frame: &[u8], last: bool) -> io::Result<()> {
        let payload = Payload {
            msg: frame,
            aad: &self.header,
        };
        let sealed = self
            .cipher
            .encrypt(&nonce(self.number, last).into(), payload)
            .map_err(|_| io::Error::other("the frame is too large to seal"))?;
        self.number += 1;
        let length = u32::try_from(sealed.len()).map_err(io::Error::other)?;
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&[u8::from(last)])?;
        self.out.write_all(&sealed)
    }
}

/// Opens frames one after another.
struct FrameReader<R> {
    input: R,
    cipher: Aes256Gcm,
    header: [u8; HEADER],
    number: u64,
}

impl<R: Read> FrameReader<R> {
    fn new(sealer: &Sealer, purpose: Purpose, mut input: R) -> Result<Self, SealError> {
        let mut header = [0; HEADER];
        input.read_exact(&mut header).map_err(cut_off)?;
        if header[..8] != *purpose.magic() {
            return Err(SealError::Foreign);
        }
        if header[8] != VERSION {
            return Err(SealError::Version(header[8]));
        }
        Ok(Self {
            input,
            cipher: sealer.cipher(purpose, &header[9..]),
            header,
            number: 0,
        })
    }

    /// The next frame and whether it is the last; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<(Vec<u8>, bool)>, SealError> {
        let mut head = [0; 5];
        match self.input.read(&mut head[..1])? {
            0 => return Ok(None),
            _ => self.input.read_exact(&mut head[1..]).map_err(cut_off)?,
        }
        let [a, b, c, d, last] = head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > FRAME_MAX || last > 1 {
            return Err(SealError::Damaged);
        }
        let mut sealed = vec![0; length];
        self.input.read_exact(&mut sealed).map_err(cut_off)?;
        let payload = Payload {
            msg: &sealed,
            aad: &self.header,
        };
        let nonce = nonce(self.number, last == 1);
        let frame = self.cipher.decrypt(&nonce.into(), payload);
        self.number += 1;
        Ok(Some((frame.map_err(|_| SealError::Damaged)?, last == 1)))
    }
}

fn cut_off(error: io::Error) -> SealError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => SealError::Damaged,
        _ => SealError::Io(error),
    }
}

/// Writes a whole snapshot; not whole until [`SnapshotWriter::finish`].
pub(super) struct SnapshotWriter<W> {
    frames: FrameWriter<W>,
}

impl<W: Write> SnapshotWriter<W> {
    pub(super) fn new(sealer: &Sealer, out: W) -> io::Result<Self> {
        let frames = FrameWriter::new(sealer, Purpose::Snapshot, out)?;
        Ok(Self { frames })
    }

    pub(super) fn frame(&mut self, frame: &[u8]) -> io::Result<()> {
        self.frames.write(frame, false)
    }

    /// An empty frame is the last.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.frames.write(&[], true)?;
        self.frames.out.flush()
    }
}

/// Reads a snapshot frame by frame; a file without its last frame is damaged.
pub(super) struct SnapshotReader<R> {
    frames: FrameReader<R>,
    frame: Vec<u8>,
}

impl<R: Read> SnapshotReader<R> {
    pub(super) fn new(sealer: &Sealer, input: R) -> Result<Self, SealError> {
        Ok(Self {
            frames: FrameReader::new(sealer, Purpose::Snapshot, input)?,
            frame: Vec::new(),
        })
    }

    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, SealError> {
        match self.frames.read()? {
            None => Err(SealError::Damaged),
            Some((_, true)) => Ok(None),
            Some((frame, false)) => {
                self.frame = frame;
                Ok(Some(&self.frame))
            }
        }
    }
}

/// Appends records.
pub(super) struct JournalWriter {
    frames: FrameWriter<std::fs::File>,
}

impl std::fmt::Debug for JournalWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JournalWriter({})", self.frames.number)
    }
}

impl JournalWriter {
    pub(super) fn new(sealer: &Sealer, file: std::fs::File) -> io::Result<Self> {
        let frames = FrameWriter::new(sealer, Purpose::Journal, file)?;
        Ok(Self { frames })
    }

    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.frames.write(record, false)
    }

    /// Waits until the disk has it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.frames.out.sync_data()
    }
}

/// Reads records up to the end, or to the one that was being written when the process died.
pub(super) struct JournalReader<R> {
    frames: FrameReader<R>,
}

impl<R: Read> JournalReader<R> {
    pub(super) fn new(sealer: &Sealer, input: R) -> Result<Self, SealError> {
        let frames = FrameReader::new(sealer, Purpose::Journal, input)?;
        Ok(Self { frames })
    }

    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, SealError> {
        Ok(self.frames.read()?.map(|(record, _)| record))
    }
}
