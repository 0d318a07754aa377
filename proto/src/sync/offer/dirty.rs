//! What a stream's data plane does not know yet: keys, or whole buckets.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::Offer;
use crate::digest::{BucketSet, bucket};
use crate::snapshot::Kind;
use crate::sync::state::{Key, State};

/// Fewer dirty keys than this are always kept one by one.
const KEYS_KEPT: usize = 1024;

/// What is dirty, by kind, and since when.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    kinds: [Places; Kind::ALL.len()],
    since: Option<Since>,
}

#[derive(Debug, Clone, Copy)]
struct Since {
    first: Duration,
    last: Duration,
    hasty: bool,
}

/// The dirty places of one kind.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) keys: HashSet<Arc<str>>,
    pub(super) buckets: BucketSet,
}

impl Places {
    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.buckets.is_empty()
    }
}

impl Dirty {
    /// Adds keys. Once they are more than the state holds, their buckets take their place, so a
    /// reader that never reads costs no more than one that has nothing.
    pub(super) fn add<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k Key>,
        state: &State,
        now: Duration,
    ) {
        for key in keys {
            self.touch(now);
            let places = &mut self.kinds[key.kind.index()];
            let bucket = bucket(&key.name);
            if places.buckets.contains(bucket) {
                continue;
            }
            places.keys.insert(Arc::clone(&key.name));
            if places.keys.len() > KEYS_KEPT.max(state.count(key.kind)) {
                for name in places.keys.drain() {
                    places.buckets.insert(crate::digest::bucket(&name));
                }
            }
        }
    }

    /// Makes these buckets all that is dirty of a kind.
    pub(super) fn replace(&mut self, kind: Kind, buckets: BucketSet, now: Duration) {
        let keys = HashSet::new();
        self.kinds[kind.index()] = Places { keys, buckets };
        if !buckets.is_empty() {
            self.touch(now);
            self.hasten();
        }
    }

    fn touch(&mut self, now: Duration) {
        let since = self.since.get_or_insert(Since {
            first: now,
            last: now,
            hasty: false,
        });
        since.last = now;
    }

    pub(super) fn hasten(&mut self) {
        if let Some(since) = &mut self.since {
            since.hasty = true;
        }
    }

    /// When what is dirty may be sent.
    pub(super) fn due(&self) -> Option<Duration> {
        self.since.map(|since| match since.hasty {
            true => since.first,
            false => Offer::due(since.first, since.last),
        })
    }

    /// How many resources a transaction would name.
    pub(super) fn len(&self, state: &State) -> usize {
        let of = |kind: Kind| {
            let places = &self.kinds[kind.index()];
            match places.buckets.is_empty() {
                true => places.keys.len(),
                false => places.keys.len() + state.count(kind),
            }
        };
        Kind::ALL.into_iter().map(of).sum()
    }

    /// Drops what is dirty of a kind: it is about to be compared.
    pub(super) fn forget(&mut self, kind: Kind) {
        self.kinds[kind.index()] = Places::default();
        if self.kinds.iter().all(Places::is_empty) {
            self.since = None;
        }
    }

    /// Takes out what is dirty.
    pub(super) fn take(&mut self) -> Vec<(Kind, Places)> {
        self.since = None;
        Kind::ALL
            .into_iter()
            .map(|kind| (kind, std::mem::take(&mut self.kinds[kind.index()])))
            .filter(|(_, places)| !places.is_empty())
            .collect()
    }
}
