//! Which worker serves a request: plain functions over how busy each one is.
//!
//! [`prefix_hash`] sends prompts that begin alike to the same worker, whose cache then holds
//! their beginning, as long as that worker is not busier than the others by more than the pool
//! allows. [`least_load`] looks at the load alone.

mod least_load;
mod prefix_hash;

pub use prefix_hash::{Head, head_of};

use bodhi_proto::snapshot::Balancing;

/// One candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// The worker's id, unique within the pool.
    pub id: &'a str,
    /// Requests that it has, in slots and waiting.
    pub load: u32,
    /// Requests that it serves at once.
    pub slots: u32,
}

/// Chooses among `candidates`; `None` where there is none. `head` is what the prompt begins
/// with.
pub fn choose(balancing: Balancing, head: Head, candidates: &[Candidate<'_>]) -> Option<usize> {
    match balancing {
        Balancing::PrefixHash { mean_load_percent } => {
            prefix_hash::choose(head, mean_load_percent, candidates)
        }
        Balancing::LeastLoad => least_load::choose(candidates),
    }
}
