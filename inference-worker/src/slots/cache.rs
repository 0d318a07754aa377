//! Sequences that were put aside in host memory, the least recently used of which go first.

use super::shared;
use crate::engine::Token;

/// Every prompt is compared with each of them.
const MOST: usize = 256;

/// Sequences with their keys and values, of at most so many bytes together.
#[derive(Debug)]
pub struct HostCache<S> {
    entries: Vec<Entry<S>>,
    capacity: usize,
    bytes: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry<S> {
    tokens: Vec<Token>,
    state: S,
    bytes: usize,
    used: u64,
}

impl<S> HostCache<S> {
    /// Empty; `capacity` in bytes, 0 for none.
    pub const fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::new(),
            capacity,
            bytes: 0,
            clock: 0,
        }
    }

    /// Bytes that it holds at most.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entry that begins most like `prompt`, and how many tokens they share.
    pub fn find(&self, prompt: &[Token]) -> Option<(usize, usize)> {
        self.entries
            .iter()
            .enumerate()
            .map(|(index, entry)| (index, shared(&entry.tokens, prompt)))
            .filter(|(_, count)| *count > 0)
            .max_by_key(|(_, count)| *count)
    }

    /// Whether all of `tokens` can be had from here.
    pub fn covers(&self, tokens: &[Token]) -> bool {
        self.entries
            .iter()
            .any(|entry| entry.tokens.starts_with(tokens))
    }

    /// The state and tokens of an entry that [`Self::find`] named; they count as used.
    pub fn take_up(&mut self, index: usize) -> Option<(&S, &[Token])> {
        self.clock += 1;
        let entry = self.entries.get_mut(index)?;
        entry.used = self.clock;
        Some((&entry.state, &entry.tokens))
    }

    /// Keeps a sequence. What it makes superfluous goes, and what there is no longer room for.
    pub fn put(&mut self, tokens: Vec<Token>, state: S, bytes: usize) {
        if bytes > self.capacity {
            return;
        }
        self.clock += 1;
        self.entries
            .retain(|entry| !tokens.starts_with(&entry.tokens));
        self.entries.push(Entry {
            tokens,
            state,
            bytes,
            used: self.clock,
        });
        self.bytes = self.entries.iter().map(|entry| entry.bytes).sum();
        while self.bytes > self.capacity || self.entries.len() > MOST {
            let oldest = self
                .entries
                .iter()
                .enumerate()
                .min_by_key(|(_, entry)| entry.used)
                .map(|(index, _)| index)
                .expect("there are entries, or nothing would be too much");
            self.bytes -= self.entries.swap_remove(oldest).bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_the_least_recently_used_when_full() {
        let mut cache = HostCache::new(10);
        cache.put(vec![1, 1], 'a', 5);
        cache.put(vec![2, 2], 'b', 5);
        let (index, count) = cache.find(&[1, 1, 9]).unwrap();
        assert_eq!(count, 2);
        assert_eq!(cache.take_up(index).unwrap().0, &'a');
        cache.put(vec![3, 3], 'c', 5);
        assert!(cache.find(&[2, 2]).is_none());
        assert!(cache.covers(&[1, 1]) && cache.covers(&[3]));
        assert_eq!(cache.bytes(), 10);
    }

    #[test]
    fn keeps_one_entry_where_one_continues_another() {
        let mut cache = HostCache::new(10);
        cache.put(vec![1, 2], 'a', 3);
        cache.put(vec![1, 2, 3], 'b', 4);
        assert_eq!(cache.bytes(), 4);
        assert_eq!(cache.find(&[1, 2, 3, 4]).unwrap().1, 3);
    }

    #[test]
    fn refuses_what_does_not_fit_alone() {
        let mut cache = HostCache::new(10);
        cache.put(vec![1], 'a', 3);
        cache.put(vec![2], 'b', 11);
        assert!(cache.covers(&[1]) && !cache.covers(&[2]));
    }
}
