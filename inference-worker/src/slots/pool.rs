//! The slots, what lies in each, and which of them a prompt goes to.

use super::{HostCache, shared};
use crate::engine::Token;
use crate::scheduler::TaskId;

/// A slot is chosen for its content from a tenth of the prompt on; else the longest unused one is taken,
/// so that a few common tokens do not drive out a conversation.
const WORTHWHILE_SHARE: usize = 10;
/// A copy must save so many tokens of reading.
const WORTHWHILE_COPY: usize = 16;
/// What is overwritten is put aside from so many tokens on.
const WORTHWHILE_SAVE: usize = 64;

/// The number of a slot, which is its sequence's in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl SlotId {
    /// For indexing.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// All slots.
#[derive(Debug)]
pub struct Pool {
    slots: Vec<Slot>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Slot {
    /// What the engine has read, by position.
    tokens: Vec<Token>,
    holder: Option<TaskId>,
    used: u64,
}

/// Where the beginning of a prompt comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It lies in the slot already, or nothing of it does.
    Own,
    /// It is copied from another slot.
    Slot(SlotId),
    /// It is restored from host memory.
    Saved(usize),
}

/// Where a prompt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The slot.
    pub slot: SlotId,
    /// Where its beginning comes from.
    pub source: Source,
    /// How many tokens of it need not be read again; fewer than the prompt has.
    pub keep: usize,
    /// Whether what lies in the slot is put aside first.
    pub save: bool,
}

impl Pool {
    /// So many empty slots.
    pub fn new(slots: u32) -> Self {
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            clock: 0,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// How many are in use.
    pub fn busy(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| slot.holder.is_some())
            .count()
    }

    /// What lies in a slot.
    pub fn tokens(&self, slot: SlotId) -> &[Token] {
        &self.slots[slot.index()].tokens
    }

    /// Tokens in all slots together; those that slots share count for each.
    pub fn used(&self) -> usize {
        self.slots.iter().map(|slot| slot.tokens.len()).sum()
    }

    /// Where `prompt` should go; `None`: every slot is in use.
    pub fn place<S>(&self, prompt: &[Token], cache: &HostCache<S>) -> Option<Placement> {
        // The last token is always read, since the choice of the next one needs its logits.
        let most = prompt.len().saturating_sub(1);
        let shares: Vec<usize> = self
            .slots
            .iter()
            .map(|slot| shared(&slot.tokens, prompt).min(most))
            .collect();
        let free = || (0..self.slots.len()).filter(|index| self.slots[*index].holder.is_none());
        let longest = free().max_by_key(|index| shares[*index])?;
        let target = if shares[longest] > 0 && shares[longest] * WORTHWHILE_SHARE >= prompt.len() {
            longest
        } else {
            free().min_by_key(|index| (self.gaps(*index), self.slots[*index].used))?
        };
        let mut keep = shares[target];
        let mut source = Source::Own;
        let other = (0..self.slots.len())
            .filter(|index| *index != target)
            .max_by_key(|index| shares[*index]);
        if let Some(other) = other
            && shares[other] >= keep + WORTHWHILE_COPY
        {
            keep = shares[other];
            source = Source::Slot(id(other));
        }
        if let Some((index, count)) = cache.find(prompt)
            && count.min(most) >= keep + WORTHWHILE_COPY
        {
            keep = count.min(most);
            source = Source::Saved(index);
        }
        let stays = if source == Source::Own { keep } else { 0 };
        Some(Placement {
            slot: id(target),
            source,
            keep,
            save: self.is_worth_saving(id(target), stays, cache),
        })
    }

    /// Of two slots the one with more neighbours in use makes fewer gaps between them: llama.cpp
    /// computes neighbours in one pass.
    fn gaps(&self, index: usize) -> usize {
        let is_used = |index: Option<usize>| {
            let slot = index.and_then(|index| self.slots.get(index));
            slot.is_some_and(|slot| slot.holder.is_some())
        };
        let neighbours = [index.checked_sub(1), index.checked_add(1)];
        2 - neighbours.into_iter().filter(|it| is_used(*it)).count()
    }

    /// Whether a slot's content should be put aside before all but the first `stays` tokens go.
    pub fn is_worth_saving<S>(&self, slot: SlotId, stays: usize, cache: &HostCache<S>) -> bool {
        let tokens = self.tokens(slot);
        cache.capacity() > 0
            && tokens.len() >= stays + WORTHWHILE_SAVE
            && !cache.covers(tokens)
            && !self
                .slots
                .iter()
                .enumerate()
                .any(|(index, other)| index != slot.index() && other.tokens.starts_with(tokens))
    }

    /// Gives a free slot to a task, with `content` in it.
    pub(crate) fn hold(&mut self, slot: SlotId, task: TaskId, content: &[Token]) {
        self.clock += 1;
        let slot = &mut self.slots[slot.index()];
        debug_assert!(slot.holder.is_none(), "a slot has one holder");
        slot.holder = Some(task);
        slot.used = self.clock;
        slot.tokens.clear();
        slot.tokens.extend_from_slice(content);
    }

    /// Takes a slot back. What lies in it stays for whoever can use it.
    pub(crate) fn release(&mut self, slot: SlotId) {
        self.clock += 1;
        let slot = &mut self.slots[slot.index()];
        slot.holder = None;
        slot.used = self.clock;
    }

    /// Notes that the engine has read more.
    pub(crate) fn extend(&mut self, slot: SlotId, tokens: &[Token]) {
        self.slots[slot.index()].tokens.extend_from_slice(tokens);
    }

    /// Notes that nothing lies in a slot any more.
    pub(crate) fn clear(&mut self, slot: SlotId) {
        self.slots[slot.index()].tokens.clear();
    }
}

fn id(index: usize) -> SlotId {
    SlotId(u32::try_from(index).expect("slots are counted in u32"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: HostCache<()> = HostCache::new(0);

    fn tokens(range: std::ops::Range<u32>) -> Vec<Token> {
        range.collect()
    }

    fn pool(contents: &[&[Token]]) -> Pool {
        let mut pool = Pool::new(contents.len() as u32);
        for (index, content) in contents.iter().enumerate() {
            pool.hold(id(index), TaskId(index as u64), content);
            pool.release(id(index));
        }
        pool
    }

    #[test]
    fn goes_where_most_of_the_prompt_lies() {
        let pool = pool(&[&tokens(0..50), &tokens(0..80), &[]]);
        let place = pool.place(&tokens(0..100), &NOTHING).unwrap();
        assert_eq!(
            (place.slot, place.source, place.keep),
            (id(1), Source::Own, 80)
        );
    }

    #[test]
    fn reads_the_last_token_again_when_all_is_cached() {
        let pool = pool(&[&tokens(0..50)]);
        assert_eq!(pool.place(&tokens(0..50), &NOTHING).unwrap().keep, 49);
        assert_eq!(pool.place(&tokens(0..40), &NOTHING).unwrap().keep, 39);
    }

    #[test]
    fn takes_the_longest_unused_when_little_is_shared() {
        let pool = pool(&[&tokens(500..600), &tokens(0..5)]);
        let place = pool.place(&tokens(0..100), &NOTHING).unwrap();
        assert_eq!((place.slot, place.keep), (id(0), 0));
    }

    #[test]
    fn copies_from_a_slot_in_use() {
        let mut pool = Pool::new(2);
        pool.hold(id(0), TaskId(1), &tokens(0..90));
        let place = pool.place(&tokens(0..100), &NOTHING).unwrap();
        assert_eq!(
            (place.slot, place.source, place.keep),
            (id(1), Source::Slot(id(0)), 90)
        );
    }

    #[test]
    fn restores_what_was_put_aside() {
        let mut cache = HostCache::new(100);
        cache.put(tokens(0..90), (), 10);
        let place = Pool::new(1).place(&tokens(0..100), &cache).unwrap();
        assert_eq!((place.source, place.keep), (Source::Saved(0), 90));
    }

    #[test]
    fn puts_aside_what_nobody_else_holds() {
        let cache = HostCache::<()>::new(100);
        let alone = pool(&[&tokens(0..90)]);
        assert!(alone.place(&tokens(500..600), &cache).unwrap().save);
        assert!(!alone.place(&tokens(500..600), &NOTHING).unwrap().save);
        assert!(!alone.place(&tokens(0..200), &cache).unwrap().save);
        let twice = pool(&[&tokens(0..90), &tokens(0..95)]);
        assert!(!twice.place(&tokens(500..600), &cache).unwrap().save);
    }

    #[test]
    fn has_no_place_when_all_are_in_use() {
        let mut pool = Pool::new(1);
        pool.hold(id(0), TaskId(1), &[]);
        assert!(pool.place(&[1, 2], &NOTHING).is_none());
        pool.release(id(0));
        assert!(pool.place(&[1, 2], &NOTHING).is_some());
    }
}
