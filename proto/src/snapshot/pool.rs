//! The workers of a local model as a data plane calls them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use crate::names::{NameError, ObjectRef};

/// A local Alias, compiled: what its workers offer and how requests are spread over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The Alias it was compiled from; a route to this object leads here.
    pub object: ObjectRef,
    /// What its workers offer.
    pub features: LocalFeatures,
    /// How a worker is chosen.
    pub balancing: Balancing,
    /// How long a request waits for a first worker.
    pub hold_timeout: Duration,
    /// Most requests that wait, per data plane.
    pub max_held: u32,
    /// Put first when a conversation has no system message.
    pub system_prompt: Option<Arc<str>>,
    /// What to expect while there is no worker.
    pub state: PoolState,
}

/// The endpoints that a local model offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalFeatures {
    /// Conversations, in every format that is translated.
    pub chat: bool,
    /// Plain completions.
    pub completions: bool,
    /// Embeddings.
    pub embeddings: bool,
    /// Reranking.
    pub rerank: bool,
}

/// How a worker is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    /// By the head of the prompt, so that caches are met again, as long as the worker's load
    /// stays below this percentage of the mean (consistent hashing with bounded loads).
    PrefixHash {
        /// At least 100.
        mean_load_percent: u32,
    },
    /// The least busy one.
    LeastLoad,
}

/// What to expect of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolState {
    /// It has workers.
    Ready,
    /// Workers are starting: requests wait.
    Starting,
    /// There is none on purpose: requests wait, and their waiting wakes one.
    Asleep,
    /// Workers cannot start: requests are refused with the reason.
    Failed(Refusal),
}

/// One worker that is ready. Its text is `Alias/namespace/name/worker`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId {
    /// The pool it belongs to.
    pub pool: ObjectRef,
    /// Unique within the pool and never used again: a process or pod id.
    pub worker: Arc<str>,
}

impl WorkerId {
    /// The inverse of `Display`.
    ///
    /// # Errors
    /// Not four parts, or one that is empty, too long or holds a control character.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (pool, worker) = text.rsplit_once('/').ok_or(NameError::Empty)?;
        if worker.is_empty() {
            return Err(NameError::Empty);
        }
        if let Some(c) = worker.chars().find(|c| c.is_control()) {
            return Err(NameError::Character(c));
        }
        Ok(Self {
            pool: ObjectRef::parse(pool)?,
            worker: worker.into(),
        })
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.worker)
    }
}

/// Where a worker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerEndpoint {
    /// Which worker.
    pub id: WorkerId,
    /// Where it listens.
    pub address: WorkerAddress,
    /// Requests it serves at once; at least 1.
    pub slots: u32,
}

/// Where a worker listens. Its text is `unix:PATH` or `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WorkerAddress {
    /// A Unix socket of mode 0600, by absolute path.
    Unix(Arc<Path>),
    /// Mutual TLS over TCP: host and port.
    Tcp(Arc<str>),
}

impl WorkerAddress {
    /// The inverse of `Display`; `None` where it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("unix:") {
            Some(path) if Path::new(path).is_absolute() => Some(Self::Unix(Path::new(path).into())),
            Some(_) => None,
            None => {
                let (host, port) = text.rsplit_once(':')?;
                let valid = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
                valid.then(|| Self::Tcp(text.into()))
            }
        }
    }
}

impl fmt::Display for WorkerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_and_addresses_round_trip() {
        let id = WorkerId::parse("Alias/bodhi/qwen/4711-1").unwrap();
        assert_eq!((&*id.pool.name, &*id.worker), ("qwen", "4711-1"));
        assert_eq!(id.to_string(), "Alias/bodhi/qwen/4711-1");
        for bad in ["", "Alias/bodhi/qwen", "Alias/bodhi/qwen/", "Alias/a/b/c/d"] {
            assert!(WorkerId::parse(bad).is_err(), "{bad}");
        }
        for text in [
            "unix:/run/w.sock",
            "10.0.0.1:50051",
            "[::1]:50051",
            "w.pool:1",
        ] {
            assert_eq!(WorkerAddress::parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "unix:w.sock", "host", "host:0", ":1", "host:x"] {
            assert!(WorkerAddress::parse(bad).is_none(), "{bad}");
        }
    }
}
