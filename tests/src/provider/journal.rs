//! What the provider was sent, byte for byte, and how each request ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The whole answer was written.
    Answered,
    /// The script cut the answer short.
    Cut,
    /// The client left before the end of its request or of the answer.
    ClientLeft,
}

/// One request in the list of the admin port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 0 over the life of the provider.
    pub n: usize,
    /// Which connection it came on.
    pub connection: usize,
    /// Method as spelled.
    pub method: String,
    /// Request target as spelled.
    pub target: String,
    /// Header names as spelled and values, in order.
    pub headers: Vec<(String, String)>,
    /// Length of the head with its empty line, in bytes.
    pub head_len: usize,
    /// Length of the decoded body, in bytes.
    pub body_len: usize,
    /// Whether the whole body arrived.
    pub complete: bool,
    /// When the head was complete, in microseconds since 1970.
    pub received_us: u64,
    /// How it ended; `None` while it is being answered.
    pub outcome: Option<Outcome>,
    /// When it ended, in microseconds since 1970.
    pub ended_us: Option<u64>,
}

#[derive(Debug)]
struct Record {
    entry: Entry,
    raw: Vec<u8>,
    body: Vec<u8>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The number of the first record that is kept.
    first: usize,
    records: VecDeque<Record>,
    active: usize,
    connections: usize,
}

/// The records of one provider, shared by its connections and its admin port.
#[derive(Debug, Clone)]
pub(super) struct Journal {
    inner: Arc<Mutex<Inner>>,
    /// How many records are kept; 0 keeps none (bench mode).
    keep: usize,
}

/// Counts that do not need a record.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Active {
    /// Requests whose answer has not ended.
    pub active: usize,
    /// Open connections.
    pub connections: usize,
}

pub(super) fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl Journal {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            inner: Arc::default(),
            keep,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the record of a request whose head has arrived.
    pub(super) fn begin(&self, connection: usize, head: &super::conn::Head) -> Ticket {
        let mut inner = self.lock();
        inner.active += 1;
        let n = inner.first + inner.records.len();
        if self.keep > 0 {
            if inner.records.len() == self.keep {
                inner.records.pop_front();
                inner.first += 1;
            }
            inner.records.push_back(Record {
                entry: Entry {
                    n,
                    connection,
                    method: head.method.clone(),
                    target: head.target.clone(),
                    headers: head.headers.clone(),
                    head_len: head.raw.len(),
                    body_len: 0,
                    complete: false,
                    received_us: now_us(),
                    outcome: None,
                    ended_us: None,
                },
                raw: head.raw.clone(),
                body: Vec::new(),
            });
        }
        drop(inner);
        Ticket {
            journal: self.clone(),
            n,
            outcome: Outcome::ClientLeft,
        }
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn connected(&self) -> Connected {
        self.lock().connections += 1;
        Connected(self.clone())
    }

    pub(super) fn entries(&self) -> Vec<Entry> {
        self.lock()
            .records
            .iter()
            .map(|record| record.entry.clone())
            .collect()
    }

    /// The bytes of request `n` as they were on the wire.
    pub(super) fn raw(&self, n: usize) -> Option<Vec<u8>> {
        self.with(n, |record| record.raw.clone())
    }

    /// The body of request `n`, without transfer coding.
    pub(super) fn body(&self, n: usize) -> Option<Vec<u8>> {
        self.with(n, |record| record.body.clone())
    }

    pub(super) fn active(&self) -> Active {
        let inner = self.lock();
        Active {
            active: inner.active,
            connections: inner.connections,
        }
    }

    /// Forgets all records; numbers go on from where they were.
    pub(super) fn clear(&self) {
        let mut inner = self.lock();
        inner.first += inner.records.len();
        inner.records.clear();
    }

    fn with<T>(&self, n: usize, f: impl FnOnce(&mut Record) -> T) -> Option<T> {
        let mut inner = self.lock();
        let at = n.checked_sub(inner.first)?;
        inner.records.get_mut(at).map(f)
    }
}

/// A request that is being answered. Dropped without [`Ticket::ended`], it counts as one whose
/// client left.
#[derive(Debug)]
pub(super) struct Ticket {
    journal: Journal,
    n: usize,
    outcome: Outcome,
}

impl Ticket {
    pub(super) fn received(&self, raw: &[u8], decoded: &[u8]) {
        self.journal.with(self.n, |record| {
            record.raw.extend_from_slice(raw);
            record.body.extend_from_slice(decoded);
            record.entry.body_len = record.body.len();
        });
    }

    pub(super) fn complete(&self) {
        self.journal
            .with(self.n, |record| record.entry.complete = true);
    }

    pub(super) fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.journal.lock().active -= 1;
        self.journal.with(self.n, |record| {
            record.entry.outcome = Some(self.outcome);
            record.entry.ended_us = Some(now_us());
        });
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Connected(Journal);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.lock().connections -= 1;
    }
}
