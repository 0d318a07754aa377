//! Who holds which part of the cache.
//!
//! The model keeps, for every token it has read, what later tokens need of it (keys and values). A
//! *slot* is one sequence of such tokens. A request whose prompt begins like something that was read
//! before, in its own slot, in another's or in one that was put aside in host memory, starts where
//! they part. This room knows which tokens lie where and decides where a prompt goes; the keys and
//! values themselves are the engine's.

mod cache;
mod pool;
mod prefix;

pub use cache::HostCache;
pub use pool::{Placement, Pool, SlotId, Source};
pub use prefix::shared;
