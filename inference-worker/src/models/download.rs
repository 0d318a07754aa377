//! Brings one file into the cache, whatever breaks on the way.
//!
//! Bytes go to a partial file and into the hash as they come. When the connection is lost, the server
//! is busy or this process is killed, the next try goes on where the last one ended, provided that
//! the server still has the same file (`If-Range`, RFC 9110 §13.1.5). The file gets its name when it
//! is whole, its digest is right and it is on disk.

mod exchange;
mod retry;

use std::io::{self, SeekFrom};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::cache::{Notes, Record, Shelf};
use super::endpoints::{self, Settings};
use super::progress::{Observer, Phase, Progress};
use super::source::{Digest, Source, Spec};
use super::{ModelError, gguf};
use exchange::{Answer, Caller, Failure, Question};
pub use retry::Patience;

/// One part of a model on its way.
pub(super) struct Errand<'a> {
    pub(super) source: &'a Source,
    pub(super) spec: &'a Spec,
    /// The hub's revision to ask for.
    pub(super) revision: Option<&'a str>,
    pub(super) settings: &'a Settings,
    pub(super) shelf: &'a Shelf,
    /// Which part, counted from 1, of how many.
    pub(super) part: (u32, u32),
    pub(super) observer: &'a dyn Observer,
}

/// The bytes that are here, and their hash.
struct Partial {
    file: File,
    hash: Sha256,
    at: u64,
    notes: Notes,
    /// Not every byte came with one answer: what is wrong may be how the pieces were put together.
    pieced: bool,
}

impl Notes {
    /// Whether it can be told that a rest belongs to what is here.
    fn can_go_on(&self, spec: &Spec) -> bool {
        self.etag.is_some() || self.sha256.is_some() || spec.sha256.is_some()
    }
}

/// What a try ended with.
enum Outcome {
    /// All bytes are here.
    Whole,
    /// The file that is in the cache is still the server's.
    Unchanged(Record),
}

impl Errand<'_> {
    /// The record of the whole, verified file. `known` is what the cache has, if its source may have moved on.
    ///
    /// # Errors
    /// Each of a download's variants of [`ModelError`].
    pub(super) async fn run(&self, known: Option<&Record>) -> Result<Record, ModelError> {
        let name = self.source.file_name();
        let caller = Caller::new(
            self.settings.egress.clone(),
            self.settings.plain_http,
            self.settings.patience.silence,
        )
        .map_err(|detail| self.denied(detail))?;
        let mut partial = self.open(&name).await.map_err(|e| self.shelf.fault(e))?;
        let mut commit = None;
        let mut failed = 0;
        let mut tries = 0;
        let mut doubted = false;
        loop {
            let before = partial.at;
            tries += 1;
            let failure = match self
                .attempt(&caller, &mut partial, &mut commit, known)
                .await
            {
                Ok(Outcome::Unchanged(record)) => {
                    self.shelf
                        .discard_partial(&name)
                        .map_err(|e| self.shelf.fault(e))?;
                    return Ok(record);
                }
                Ok(Outcome::Whole) => match self.finish(&name, &mut partial, commit.take()).await {
                    Ok(record) => return Ok(record),
                    // Once: another download tells whether it was the pieces or the file.
                    Err(ModelError::ChecksumMismatch { .. }) if partial.pieced && !doubted => {
                        doubted = true;
                        self.restart(&mut partial)
                            .await
                            .map_err(|e| self.shelf.fault(e))?;
                        continue;
                    }
                    Err(error) => {
                        self.shelf
                            .discard_partial(&name)
                            .map_err(|e| self.shelf.fault(e))?;
                        return Err(error);
                    }
                },
                Err(failure) => failure,
            };
            let (why, asked, limited) = match failure {
                Failure::Final(error) => {
                    if partial.at == 0 {
                        self.shelf
                            .discard_partial(&name)
                            .map_err(|e| self.shelf.fault(e))?;
                    }
                    return Err(error);
                }
                Failure::Again {
                    why,
                    asked,
                    limited,
                } => (why, asked, limited),
            };
            failed = if partial.at > before { 1 } else { failed + 1 };
            let wait = self.settings.patience.wait(failed, asked, rand::random());
            let Some(wait) = wait else {
                return Err(match limited {
                    true => ModelError::RateLimited {
                        what: self.source.to_string(),
                        tries,
                        asked,
                    },
                    false => ModelError::DownloadInterrupted {
                        what: self.source.to_string(),
                        done: partial.at,
                        total: partial.notes.total,
                        tries,
                        why,
                    },
                });
            };
            tracing::warn!(source = %self.source, tries, ?wait, why, "download interrupted");
            self.told(Phase::Retrying { wait, why }, &partial);
            tokio::time::sleep(wait).await;
        }
    }

    fn denied(&self, detail: String) -> ModelError {
        ModelError::DownloadDenied {
            what: self.source.to_string(),
            detail,
        }
    }

    pub(super) fn report(&self, phase: Phase, done: u64, total: Option<u64>) {
        self.observer.observe(&Progress {
            phase,
            part: self.part.0,
            parts: self.part.1,
            done,
            total,
        });
    }

    fn told(&self, phase: Phase, partial: &Partial) {
        let total = partial.notes.total;
        self.report(phase, partial.at, (total > 0).then_some(total));
    }

    /// What an earlier worker left, hashed again; else nothing.
    async fn open(&self, name: &str) -> io::Result<Partial> {
        let path = self.shelf.partial(name);
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let mut partial = Partial {
            file: options.open(&path).await?,
            hash: Sha256::new(),
            at: 0,
            notes: Notes::default(),
            pieced: false,
        };
        let len = partial.file.metadata().await?.len();
        let notes = self
            .shelf
            .notes(name)
            .filter(|notes| len > 0 && len <= notes.total);
        match notes.filter(|notes| notes.can_go_on(self.spec)) {
            Some(notes) => {
                partial.notes = notes;
                partial.pieced = true;
                self.told(Phase::Verifying, &partial);
                (partial.hash, partial.at) = hash(&mut partial.file).await?;
            }
            None => partial.file.set_len(0).await?,
        }
        Ok(partial)
    }

    async fn restart(&self, partial: &mut Partial) -> io::Result<()> {
        partial.file.set_len(0).await?;
        partial.file.seek(SeekFrom::Start(0)).await?;
        partial.hash = Sha256::new();
        partial.at = 0;
        partial.notes = Notes::default();
        partial.pieced = false;
        Ok(())
    }

    /// One request and as much of its body as comes.
    async fn attempt(
        &self,
        caller: &Caller,
        partial: &mut Partial,
        commit: &mut Option<String>,
        known: Option<&Record>,
    ) -> Result<Outcome, Failure> {
        if partial.at > 0 && partial.at == partial.notes.total {
            return Ok(Outcome::Whole);
        }
        if !partial.notes.can_go_on(self.spec) {
            let restarted = self.restart(partial).await;
            restarted.map_err(|e| Failure::Final(self.shelf.fault(e)))?;
        }
        let is_hub = matches!(self.source, Source::Hub { .. });
        let what = self.source.to_string();
        let url = endpoints::url(self.source, self.revision, self.settings)
            .map_err(|detail| Failure::Final(self.denied(detail)))?;
        let hub_token = self.settings.hub_token.as_ref().filter(|_| is_hub);
        let mut answer = caller
            .ask(Question {
                url,
                token: self.spec.token.as_ref().or(hub_token),
                what: &what,
                is_hub,
                from: partial.at,
                if_range: partial.notes.etag.as_deref(),
                unless: known.and_then(|record| record.etag.as_deref()),
            })
            .await?;
        *commit = answer.linked.commit.take().or(commit.take());
        if let Some(record) = known {
            let digest = answer.linked.sha256.map(|digest| digest.to_string());
            if answer.response.status() == 304 || digest.as_ref() == Some(&record.sha256) {
                let commit = commit.take().or_else(|| record.commit.clone());
                return Ok(Outcome::Unchanged(Record {
                    commit,
                    ..record.clone()
                }));
            }
        }
        self.settle(&answer, partial).await?;
        self.take(answer, partial).await
    }

    /// Makes the partial file fit the answer: what is here goes on, or begins anew.
    async fn settle(&self, answer: &Answer, partial: &mut Partial) -> Result<(), Failure> {
        let fault = |error| Failure::Final(self.shelf.fault(error));
        let headers = answer.response.headers();
        let range = exchange::content_range(headers);
        let total = match answer.response.status().as_u16() {
            200 => {
                if partial.at > 0 {
                    tracing::info!(source = %self.source, "the file changed or the server sends no ranges: from the beginning");
                }
                self.restart(partial).await.map_err(fault)?;
                answer.response.content_length()
            }
            206 => match range {
                Some((Some(first), total)) if first == partial.at => Some(total),
                _ => {
                    self.restart(partial).await.map_err(fault)?;
                    return Err(Failure::again(
                        "the server sent another range than was asked for",
                    ));
                }
            },
            // 304 without a cached file, or 416: what is here is not of this file.
            _ => {
                self.restart(partial).await.map_err(fault)?;
                return Err(Failure::again("the server's file is another one by now"));
            }
        };
        let Some(total) = total.or(answer.linked.size).filter(|total| *total > 0) else {
            return Err(Failure::Final(
                self.denied("the server does not say how long the file is".to_owned()),
            ));
        };
        let digest = answer.linked.sha256.map(|digest| digest.to_string());
        let moved = partial.at > 0
            && (partial.notes.total != total
                || (digest.is_some()
                    && partial.notes.sha256.is_some()
                    && digest != partial.notes.sha256)
                || (answer.etag.is_some()
                    && partial.notes.etag.is_some()
                    && answer.etag != partial.notes.etag
                    && digest.is_none()));
        if moved {
            self.restart(partial).await.map_err(fault)?;
            return Err(Failure::again("the file changed while it was downloaded"));
        }
        partial.notes = Notes {
            total,
            etag: answer.etag.clone(),
            sha256: digest,
        };
        partial.pieced |= partial.at > 0;
        let free = self.shelf.free().map_err(fault)?;
        if free < total - partial.at {
            return Err(Failure::Final(self.full(total - partial.at, free)));
        }
        let name = self.source.file_name();
        self.shelf
            .note(&name, &partial.notes)
            .map_err(|e| self.unwritten(e, partial))
    }

    fn full(&self, needed: u64, free: u64) -> ModelError {
        ModelError::CacheFull {
            folder: self.shelf.folder().to_owned(),
            needed,
            free,
        }
    }

    /// No space is the one fault of the file system that has a name of its own.
    fn unwritten(&self, error: io::Error, partial: &Partial) -> Failure {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        );
        Failure::Final(match full {
            true => {
                let needed = partial.notes.total.saturating_sub(partial.at);
                self.full(needed, self.shelf.free().unwrap_or(0))
            }
            false => self.shelf.fault(error),
        })
    }

    async fn take(&self, mut answer: Answer, partial: &mut Partial) -> Result<Outcome, Failure> {
        let total = partial.notes.total;
        let mut head = Vec::new();
        self.told(Phase::Downloading, partial);
        let broken = loop {
            let chunk = match answer.response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => {
                    break format!("the answer ended after {} of {total} bytes", partial.at);
                }
                Err(error) if error.is_timeout() => break "no bytes arrive".to_owned(),
                Err(error) => break exchange::innermost(&error),
            };
            if chunk.len() as u64 > total - partial.at {
                self.restart(partial)
                    .await
                    .map_err(|e| Failure::Final(self.shelf.fault(e)))?;
                return Err(Failure::again(
                    "the server sent more bytes than it announced",
                ));
            }
            // An error page must not be downloaded for hours before anybody looks at it.
            if partial.at < 4 {
                head.extend(chunk.iter().take(4));
                if !b"GGUF".starts_with(&head[..head.len().min(4)]) {
                    head.truncate(4);
                    return Err(Failure::Final(ModelError::NotGguf {
                        what: self.source.to_string(),
                        fault: gguf::GgufError::NotGguf { found: head },
                    }));
                }
            }
            if let Err(error) = partial.push(&chunk).await {
                return Err(self.unwritten(error, partial));
            }
            self.told(Phase::Downloading, partial);
            if partial.at == total {
                return Ok(Outcome::Whole);
            }
        };
        // What the system still buffers is written before it is counted on.
        match partial.file.flush().await {
            Ok(()) => Err(Failure::again(broken)),
            Err(error) => Err(self.unwritten(error, partial)),
        }
    }

    /// Verifies, brings to disk and names the file.
    async fn finish(
        &self,
        name: &str,
        partial: &mut Partial,
        commit: Option<String>,
    ) -> Result<Record, ModelError> {
        let found = Digest(partial.hash.clone().finalize().into());
        let hubs = partial
            .notes
            .sha256
            .as_ref()
            .and_then(|text| text.parse().ok());
        for expected in [self.spec.sha256, hubs].into_iter().flatten() {
            if expected != found {
                return Err(ModelError::ChecksumMismatch {
                    what: self.source.to_string(),
                    size: partial.at,
                    expected,
                    found,
                });
            }
        }
        let synced = async {
            partial.file.flush().await?;
            partial.file.sync_all().await
        };
        synced.await.map_err(|e| self.shelf.fault(e))?;
        let record = Record {
            sha256: found.to_string(),
            size: partial.at,
            modified: 0,
            etag: partial.notes.etag.clone(),
            commit,
        };
        self.shelf
            .keep(name, record)
            .map_err(|e| self.shelf.fault(e))
    }
}

impl Partial {
    async fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.file.write_all(chunk).await?;
        self.hash.update(chunk);
        self.at += chunk.len() as u64;
        Ok(())
    }
}

/// Hashes from where the file stands to its end, and counts.
async fn hash(file: &mut File) -> io::Result<(Sha256, u64)> {
    let mut hash = Sha256::new();
    let mut counted = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).await? {
            0 => return Ok((hash, counted)),
            n => {
                hash.update(&buffer[..n]);
                counted += n as u64;
            }
        }
    }
}

/// The digest of a whole file, and its size.
///
/// # Errors
/// The system's.
pub(super) async fn digest(path: &Path) -> io::Result<(Digest, u64)> {
    let (hash, size) = hash(&mut File::open(path).await?).await?;
    Ok((Digest(hash.finalize().into()), size))
}

#[cfg(test)]
mod tests;
