//! What a worker says of itself: to its controller, and to data planes that wait for it.

use std::num::NonZeroU64;

use super::Load;

/// A worker's state.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// How far it is.
    pub phase: Phase,
    /// How busy; from [`Phase::Ready`] on.
    pub load: Option<Load>,
    /// What it serves; from [`Phase::Ready`] on.
    pub model: Option<ModelInfo>,
}

/// The life of a worker, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// The model is fetched; progress in bytes.
    Downloading(Progress),
    /// The model is read into memory; progress in thousandths.
    Loading(Progress),
    /// A first token is computed.
    WarmingUp,
    /// Requests are served.
    Ready,
    /// Requests in flight run on, new ones are refused.
    Draining,
    /// The worker cannot serve and ends.
    Failed(Failure),
}

/// How much is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// So much.
    pub done: u64,
    /// Of so much; `None`: unknown.
    pub total: Option<NonZeroU64>,
}

/// Why a worker cannot serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// A condition's reason, such as `InsufficientMemory`.
    pub reason: String,
    /// For people, with the numbers: `needs 11.2 GiB, 8.0 GiB free`.
    pub message: String,
}

/// What a worker serves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelInfo {
    /// `general.architecture` of the GGUF file.
    pub architecture: String,
    /// Tokens of one request, prompt and answer together.
    pub context_length: u32,
    /// Bytes of the file, all parts together.
    pub file_bytes: u64,
    /// Length of a vector.
    pub embedding_length: u32,
    /// Of the file, in lower-case hex; empty where it was not computed.
    pub sha256: String,
    /// How many weights.
    pub parameters: u64,
}

impl Progress {
    /// So much of so much; a total of zero is unknown.
    pub fn new(done: u64, total: u64) -> Self {
        Self {
            done,
            total: NonZeroU64::new(total),
        }
    }

    /// 0 to 100; `None` while the total is unknown.
    pub fn percent(self) -> Option<u8> {
        let total = u128::from(self.total?.get());
        let percent = u128::from(self.done) * 100 / total;
        Some(u8::try_from(percent.min(100)).expect("at most 100"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_stay_between_none_and_all() {
        assert_eq!(Progress::new(7, 0).percent(), None);
        assert_eq!(Progress::new(0, 3).percent(), Some(0));
        assert_eq!(Progress::new(2, 3).percent(), Some(66));
        assert_eq!(Progress::new(9, 3).percent(), Some(100));
        assert_eq!(Progress::new(u64::MAX, u64::MAX).percent(), Some(100));
    }
}
