//! Where a model comes from, and whether it can be run here.
//!
//! [`obtain`] brings what an Alias names into the cache, once however many workers want it, and
//! answers where it lies. [`inspect`] reads what the file says of itself, with suspicion, before
//! llama.cpp sees it. [`preflight::plan`] compares what it needs with what there is. Each failure
//! has a [`Reason`], the word that an Alias's conditions show, and a message with the numbers.

mod cache;
mod download;
pub mod endpoints;
pub mod gguf;
pub mod preflight;
pub mod progress;
pub mod source;

use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use cache::Cache;
pub use download::Patience;
use endpoints::{Place, Settings};
use gguf::{GgufError, Header};
use progress::{Bytes, Observer, Phase, Progress};
use source::{Digest, Source, Spec, SplitName};

/// Why an Alias's model is not there, in one word; resources, logs and metrics spell it alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The source has no such file.
    NotFound,
    /// The source wants another credential.
    Unauthorized,
    /// The source wants to be left alone for longer than is waited.
    RateLimited,
    /// The bytes are not those that were pinned.
    ChecksumMismatch,
    /// The file is something else.
    NotGguf,
    /// The cache has no room.
    CacheFull,
    /// The cache cannot be used.
    CacheUnavailable,
    /// The source leads to where it must not, or refuses.
    DownloadDenied,
    /// The source could not be reached, or not long enough.
    DownloadInterrupted,
    /// The file is damaged.
    ArtifactCorrupted,
    /// The model needs more memory than there is.
    InsufficientMemory,
    /// The model is of a kind that llama.cpp does not know.
    UnsupportedArchitecture,
}

impl Reason {
    /// As conditions spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "NotFound",
            Self::Unauthorized => "Unauthorized",
            Self::RateLimited => "RateLimited",
            Self::ChecksumMismatch => "ChecksumMismatch",
            Self::NotGguf => "NotGguf",
            Self::CacheFull => "CacheFull",
            Self::CacheUnavailable => "CacheUnavailable",
            Self::DownloadDenied => "DownloadDenied",
            Self::DownloadInterrupted => "DownloadInterrupted",
            Self::ArtifactCorrupted => "ArtifactCorrupted",
            Self::InsufficientMemory => "InsufficientMemory",
            Self::UnsupportedArchitecture => "UnsupportedArchitecture",
        }
    }
}

/// Why a model could not be had. The text is for people and holds no credential.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// See [`Reason::NotFound`].
    #[error("{what} is not there: {detail}")]
    NotFound {
        /// The source.
        what: String,
        /// Who says so.
        detail: String,
    },
    /// See [`Reason::Unauthorized`].
    #[error("{what} is not given to us: {detail}")]
    Unauthorized {
        /// The source.
        what: String,
        /// Who says so, and what to do.
        detail: String,
    },
    /// See [`Reason::RateLimited`].
    #[error("{what}: too many requests, after {tries} tries{}", wanted(*asked))]
    RateLimited {
        /// The source.
        what: String,
        /// Requests made.
        tries: u32,
        /// How long the server wants to be left alone.
        asked: Option<Duration>,
    },
    /// See [`Reason::ChecksumMismatch`].
    #[error("{what}: the SHA-256 of its {size} bytes is {found}, not {expected}")]
    ChecksumMismatch {
        /// The source.
        what: String,
        /// Bytes hashed.
        size: u64,
        /// As pinned, or as the hub says.
        expected: Digest,
        /// Of what is there.
        found: Digest,
    },
    /// See [`Reason::NotGguf`].
    #[error("{what} is not a GGUF model: {fault}")]
    NotGguf {
        /// The source.
        what: String,
        /// What it is instead.
        fault: GgufError,
    },
    /// See [`Reason::CacheFull`].
    #[error("{} needs {} more, {} free", folder.display(), Bytes(*needed), Bytes(*free))]
    CacheFull {
        /// Where.
        folder: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes that may be.
        free: u64,
    },
    /// See [`Reason::CacheUnavailable`].
    #[error("the cache folder {} cannot be used: {error}", folder.display())]
    Cache {
        /// Where.
        folder: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// See [`Reason::DownloadDenied`].
    #[error("{what} is not downloaded: {detail}")]
    DownloadDenied {
        /// The source.
        what: String,
        /// Why.
        detail: String,
    },
    /// See [`Reason::DownloadInterrupted`].
    #[error("{what}: {} of {} after {tries} tries: {why}", Bytes(*done), total_of(*total))]
    DownloadInterrupted {
        /// The source.
        what: String,
        /// Bytes that are here; the next worker goes on from there.
        done: u64,
        /// The file's size; 0 if no answer told it.
        total: u64,
        /// Requests made.
        tries: u32,
        /// What ended the last one.
        why: String,
    },
    /// See [`Reason::ArtifactCorrupted`].
    #[error("{what} is damaged: {detail}")]
    ArtifactCorrupted {
        /// The source or file.
        what: String,
        /// What does not fit.
        detail: String,
    },
}

fn wanted(asked: Option<Duration>) -> String {
    asked.map_or_else(String::new, |asked| {
        format!("; the server wants {} s without", asked.as_secs())
    })
}

fn total_of(total: u64) -> String {
    match total {
        0 => "an unknown size".to_owned(),
        total => Bytes(total).to_string(),
    }
}

impl ModelError {
    /// The word for the Alias's condition.
    pub fn reason(&self) -> Reason {
        match self {
            Self::NotFound { .. } => Reason::NotFound,
            Self::Unauthorized { .. } => Reason::Unauthorized,
            Self::RateLimited { .. } => Reason::RateLimited,
            Self::ChecksumMismatch { .. } => Reason::ChecksumMismatch,
            Self::NotGguf { .. } => Reason::NotGguf,
            Self::CacheFull { .. } => Reason::CacheFull,
            Self::Cache { .. } => Reason::CacheUnavailable,
            Self::DownloadDenied { .. } => Reason::DownloadDenied,
            Self::DownloadInterrupted { .. } => Reason::DownloadInterrupted,
            Self::ArtifactCorrupted { .. } => Reason::ArtifactCorrupted,
        }
    }
}

/// A model that is here.
#[derive(Debug, Clone, PartialEq)]
pub struct Artifact {
    /// The file, or the first of a split model's: what llama.cpp is given.
    pub path: PathBuf,
    /// All files, in order.
    pub parts: Vec<Part>,
    /// The hub's commit, where it told.
    pub commit: Option<String>,
    /// What the files say of themselves.
    pub header: Header,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Where it lies.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
    /// Known for what was downloaded, and for local files that are pinned.
    pub sha256: Option<Digest>,
}

/// Brings the model here, or finds it here, and reads its head.
///
/// A pinned model that is in the cache needs no network. One that may have moved on is asked for; if
/// its server does not answer, what is here is used. May be dropped at any await: what has arrived is kept
/// and the next call goes on from there.
///
/// # Errors
/// [`ModelError`].
pub async fn obtain(
    spec: &Spec,
    settings: &Settings,
    cache: &Cache,
    observer: &dyn Observer,
) -> Result<Artifact, ModelError> {
    let sources = spec.source.parts();
    let count = u32::try_from(sources.len()).unwrap_or(u32::MAX);
    let shelf = cache.shelf(&sources[0], spec.revision.as_deref(), store(spec, settings));
    let mut parts = Vec::with_capacity(sources.len());
    let mut commit = None;
    for (source, number) in sources.iter().zip(1..) {
        let part = match endpoints::place(source, settings) {
            Place::Here(path) => local(source, path, spec, (number, count), observer).await?,
            Place::There => {
                let errand = download::Errand {
                    source,
                    spec,
                    // A branch may move between two parts; the first one's commit does not.
                    revision: commit.as_deref().or(spec.revision.as_deref()),
                    settings,
                    shelf: &shelf,
                    part: (number, count),
                    observer,
                };
                let (part, at) = remote(errand).await?;
                commit = commit.or(at);
                part
            }
        };
        parts.push(part);
    }
    let size = parts.last().map_or(0, |part| part.size);
    let path = match parts.first() {
        Some(part) => part.path.clone(),
        None => PathBuf::new(),
    };
    let inspected = path.clone();
    let header = tokio::task::spawn_blocking(move || inspect(&inspected));
    let header = header
        .await
        .map_err(|error| ModelError::ArtifactCorrupted {
            what: spec.source.to_string(),
            detail: format!("its head could not be read: {error}"),
        })??;
    observer.observe(&Progress {
        phase: Phase::Done,
        part: count,
        parts: count,
        done: size,
        total: Some(size),
    });
    Ok(Artifact {
        path,
        parts,
        commit,
        header,
    })
}

/// A file that lies here already: it is never copied, and hashed only if it is pinned.
async fn local(
    source: &Source,
    path: PathBuf,
    spec: &Spec,
    (part, parts): (u32, u32),
    observer: &dyn Observer,
) -> Result<Part, ModelError> {
    let metadata = match tokio::fs::metadata(&path).await {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Err(missing(source, "it is not a file")),
        Err(error) => return Err(missing(source, &error.to_string())),
    };
    let size = metadata.len();
    if let Some(expected) = spec.sha256 {
        let total = Some(size);
        observer.observe(&Progress {
            phase: Phase::Verifying,
            part,
            parts,
            done: 0,
            total,
        });
        let digest = download::digest(&path).await;
        let (found, size) = digest.map_err(|error| missing(source, &error.to_string()))?;
        if found != expected {
            let what = source.to_string();
            return Err(ModelError::ChecksumMismatch {
                what,
                size,
                expected,
                found,
            });
        }
    }
    Ok(Part {
        path,
        size,
        sha256: spec.sha256,
    })
}

fn missing(source: &Source, detail: &str) -> ModelError {
    ModelError::NotFound {
        what: source.to_string(),
        detail: detail.to_owned(),
    }
}

/// The object store's address, which tells buckets of one name apart.
fn store<'a>(spec: &Spec, settings: &'a Settings) -> &'a str {
    match (&spec.source, &settings.s3.endpoint) {
        (Source::S3 { .. }, Some(endpoint)) => endpoint.as_str(),
        _ => "",
    }
}

async fn remote(errand: download::Errand<'_>) -> Result<(Part, Option<String>), ModelError> {
    let download::Errand { spec, shelf, .. } = errand;
    let name = errand.source.file_name();
    let pinned = |record: &cache::Record| {
        let right = spec
            .sha256
            .is_none_or(|sha256| sha256.to_string() == record.sha256);
        spec.is_pinned() && right
    };
    let here = |record: &cache::Record| {
        let part = Part {
            path: shelf.file(&name),
            size: record.size,
            sha256: record.sha256.parse().ok(),
        };
        (part, record.commit.clone())
    };
    if let Some(record) = shelf.record(&name).filter(pinned) {
        return Ok(here(&record));
    }
    let waiting = || errand.report(Phase::Waiting, 0, None);
    let _lock = shelf.lock(waiting).await?;
    reconsider(shelf, &name, spec).await?;
    let known = shelf.record(&name);
    if let Some(record) = known.as_ref().filter(|record| pinned(record)) {
        return Ok(here(record));
    }
    let known = known.filter(|_| !spec.is_pinned());
    match errand.run(known.as_ref()).await {
        Ok(record) => Ok(here(&record)),
        Err(error) => match known.filter(|_| error.reason() == Reason::DownloadInterrupted) {
            Some(record) => {
                tracing::warn!(%error, "cannot ask for news: the model in the cache is used");
                Ok(here(&record))
            }
            None => Err(error),
        },
    }
}

/// A file that was touched since it was recorded is hashed again: right, it is kept, else it is
/// downloaded anew.
async fn reconsider(shelf: &cache::Shelf, name: &str, spec: &Spec) -> Result<(), ModelError> {
    let Some(record) = shelf.doubtful(name) else {
        return Ok(());
    };
    let recorded = record
        .as_ref()
        .and_then(|record| record.sha256.parse().ok());
    let path = shelf.file(name);
    let (found, size) = download::digest(&path).await.map_err(|e| shelf.fault(e))?;
    if spec.sha256.or(recorded) == Some(found) {
        let (etag, commit) = record.map_or((None, None), |record| (record.etag, record.commit));
        let sha256 = found.to_string();
        let record = cache::Record {
            sha256,
            size,
            modified: 0,
            etag,
            commit,
        };
        shelf.stamped(name, record).map_err(|e| shelf.fault(e))?;
        return Ok(());
    }
    tracing::warn!(file = %path.display(), "damaged in the cache: it is downloaded again");
    std::fs::remove_file(&path).map_err(|e| shelf.fault(e))
}

/// Reads the head of a model's file; of a split model's first file, the heads of all.
///
/// Blocking; some milliseconds for a large vocabulary. The file's tensors are not read.
///
/// # Errors
/// [`ModelError::NotGguf`], [`ModelError::ArtifactCorrupted`], and [`ModelError::NotFound`] if there is no
/// such file.
pub fn inspect(path: &Path) -> Result<Header, ModelError> {
    let paths = match path.to_str().and_then(SplitName::parse) {
        Some(split) => split.all().into_iter().map(PathBuf::from).collect(),
        None => vec![path.to_owned()],
    };
    let parts = u32::try_from(paths.len()).unwrap_or(u32::MAX);
    let mut whole: Option<Header> = None;
    for (path, number) in paths.iter().zip(0..) {
        let header = head(path)?;
        let split = header
            .split
            .map_or((0, 1), |split| (split.number, split.count.max(1)));
        if split != (number, parts) {
            return Err(ModelError::ArtifactCorrupted {
                what: path.display().to_string(),
                detail: format!(
                    "it says that it is part {} of {}, its name part {} of {parts}",
                    split.0.saturating_add(1),
                    split.1,
                    number + 1,
                ),
            });
        }
        match &mut whole {
            None => whole = Some(header),
            Some(whole) => whole.absorb(&header),
        }
    }
    whole.ok_or_else(|| ModelError::NotFound {
        what: path.display().to_string(),
        detail: "it has no parts".to_owned(),
    })
}

fn head(path: &Path) -> Result<Header, ModelError> {
    let what = || path.display().to_string();
    let missing = |error: io::Error| ModelError::NotFound {
        what: path.display().to_string(),
        detail: error.to_string(),
    };
    let file = File::open(path).map_err(missing)?;
    let size = file.metadata().map_err(missing)?.len();
    let read = gguf::read(BufReader::with_capacity(1 << 16, file), size);
    read.map_err(|fault| match fault {
        GgufError::NotGguf { .. } | GgufError::Version(_) => ModelError::NotGguf {
            what: what(),
            fault,
        },
        fault => ModelError::ArtifactCorrupted {
            what: what(),
            detail: fault.to_string(),
        },
    })
}
