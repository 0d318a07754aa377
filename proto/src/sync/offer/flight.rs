//! One transaction on its way: what it names was fixed when it began, so that it is one
//! moment of the state however long the reader takes.

use std::sync::Arc;

use super::dirty::Places;
use crate::digest::{BucketSet, Digests, Version, bucket};
use crate::snapshot::{Kind, KindSet};
use crate::sync::mark::Mark;
use crate::sync::message::{Chunk, Commit, Put};
use crate::sync::state::{Entry, Key, State};

/// A chunk is full at this many bytes.
const CHUNK: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) transaction: u64,
    /// The state's mark when the transaction began.
    pub(super) mark: Mark,
    /// The state's edition at that time.
    pub(super) edition: u64,
    /// The kinds of which the data plane lacks nothing after it.
    pub(super) complete: KindSet,
    /// What the data plane's digests must be after it, of the kinds that it names.
    pub(super) expected: Digests,
    items: Vec<(Key, Option<Entry>)>,
    replacements: Vec<(Kind, BucketSet)>,
    sent: usize,
    finished: bool,
}

impl Flight {
    pub(super) fn new(
        transaction: u64,
        changes: Vec<(Kind, Places)>,
        complete: KindSet,
        state: &State,
        is_rejected: impl Fn(&Key, Version) -> bool,
    ) -> Self {
        let mut items = Vec::new();
        let mut replacements = Vec::new();
        for (kind, places) in changes {
            for name in places.keys {
                let entry = state.get(kind, &name).cloned();
                let key = Key { kind, name };
                // It was offered this very version before and did not accept it.
                if !entry.as_ref().is_some_and(|e| is_rejected(&key, e.version)) {
                    items.push((key, entry));
                }
            }
            if !places.buckets.is_empty() {
                replacements.push((kind, places.buckets));
                let within = state
                    .iter(kind)
                    .filter(|(name, _)| places.buckets.contains(bucket(name)));
                items.extend(within.map(|(name, entry)| {
                    let name = Arc::clone(name);
                    (Key { kind, name }, Some(entry.clone()))
                }));
            }
        }
        let mut expected = Digests::default();
        let named = items.iter().map(|(key, _)| key.kind);
        for kind in named.chain(replacements.iter().map(|(kind, _)| *kind)) {
            if expected.get(kind).is_none() {
                expected.set(kind, state.sums(kind).total());
            }
        }
        Self {
            transaction,
            mark: *state.mark(),
            edition: state.edition(),
            complete,
            expected,
            items,
            replacements,
            sent: 0,
            finished: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether the last chunk is out.
    pub(super) fn is_sent(&self) -> bool {
        self.finished
    }

    /// Everything that the transaction names.
    pub(super) fn keys(&self) -> impl Iterator<Item = (Kind, &Arc<str>)> {
        self.items.iter().map(|(key, _)| (key.kind, &key.name))
    }

    /// Whether it says what there is of this name by leaving it out.
    pub(super) fn replaces(&self, kind: Kind, name: &str) -> bool {
        let buckets = self.replacements.iter().find(|(k, _)| *k == kind);
        buckets.is_some_and(|(_, set)| set.contains(bucket(name)))
    }

    /// The next part; the last one has the commit.
    pub(super) fn next_chunk(&mut self) -> Option<Chunk> {
        if self.finished {
            return None;
        }
        let mut chunk = Chunk {
            transaction: self.transaction,
            ..Chunk::default()
        };
        let mut size = 0;
        while let Some((key, entry)) = self.items.get_mut(self.sent) {
            let name = key.name.to_string();
            match entry {
                Some(value) => {
                    let body = value.resource.encode();
                    let more = body.len() + name.len() + 24;
                    if size > 0 && size + more > CHUNK {
                        return Some(chunk);
                    }
                    size += more;
                    chunk.puts.push(Put {
                        kind: key.kind,
                        name,
                        version: value.version,
                        body,
                    });
                    // The value may be the last of an old state: it need not wait for the rest.
                    *entry = None;
                }
                None => {
                    size += name.len() + 8;
                    if size > CHUNK && !chunk.removals.is_empty() {
                        return Some(chunk);
                    }
                    chunk.removals.push((key.kind, name));
                }
            }
            self.sent += 1;
        }
        self.finished = true;
        chunk.commit = Some(Commit {
            mark: self.mark,
            complete: self.complete,
            replacements: self.replacements.clone(),
        });
        Some(chunk)
    }
}
