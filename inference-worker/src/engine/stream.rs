//! What comes back from a job, on its way from the engine's thread to a reader of any speed.
//!
//! It is a queue that never grows in length: what the reader has not taken joins what comes next. The
//! engine never waits for a reader, and a reader that is gone is seen in the next step.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bodhi_proto::chat::{FinishReason, Timings, TokenLogprob, Usage};

use super::Token;

/// More of one answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    /// Which answer.
    pub choice: u32,
    /// The tokens that were chosen, end tokens included.
    pub tokens: Vec<Token>,
    /// Their bytes; those of control and end tokens are left out.
    pub bytes: Vec<u8>,
    /// How likely each token was, if that was asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// The answer is complete.
    pub finish: Option<FinishReason>,
}

/// What a job sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// More of answers, at most one piece for each.
    Pieces(Vec<Piece>),
    /// All answers are complete.
    End(End),
}

/// What a job took.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct End {
    /// Tokens. Those that came after a reader had [stopped](JobStream::stop) an answer count.
    pub usage: Usage,
    /// Times.
    pub timings: Timings,
}

/// Why a job broke off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The model failed.
    #[error("the model failed: {0}")]
    Engine(String),
    /// No token could be chosen.
    #[error("{0}")]
    Sampler(String),
    /// The engine's thread has ended.
    #[error("the worker has stopped")]
    Stopped,
}

/// The reader's end. Dropping it cancels the job within one step.
#[derive(Debug)]
pub struct JobStream {
    shared: Arc<Shared>,
}

/// The engine's end.
#[derive(Debug)]
pub(super) struct Sender {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Answers that the reader no longer wants, a bit for each.
    stopped: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    pieces: Vec<Piece>,
    end: Option<Result<End, JobError>>,
    /// The end was read.
    over: bool,
    waker: Option<Waker>,
}

pub(super) fn channel() -> (Sender, JobStream) {
    let shared = Arc::new(Shared::default());
    let stream = JobStream {
        shared: Arc::clone(&shared),
    };
    (Sender { shared }, stream)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; and if it did, what is there is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JobStream {
    /// What came since the last call; waits where nothing did. `None` after the end or an error.
    /// May be dropped and called again without loss.
    pub async fn next(&mut self) -> Option<Result<Update, JobError>> {
        poll_fn(|context| {
            let mut state = self.shared.state();
            if !state.pieces.is_empty() {
                return Poll::Ready(Some(Ok(Update::Pieces(std::mem::take(&mut state.pieces)))));
            }
            match state.end.take() {
                Some(end) => {
                    state.over = true;
                    Poll::Ready(Some(end.map(Update::End)))
                }
                None if state.over => Poll::Ready(None),
                None => {
                    state.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Ends one answer, as after a stop text. It finishes as [`FinishReason::Stop`].
    pub fn stop(&self, choice: u32) {
        self.shared
            .stopped
            .fetch_or(1 << choice.min(63), Ordering::Relaxed);
    }
}

impl Drop for JobStream {
    fn drop(&mut self) {
        self.shared.stopped.store(u64::MAX, Ordering::Relaxed);
    }
}

impl Sender {
    /// Whether the reader no longer wants an answer.
    pub(super) fn is_stopped(&self, choice: u32) -> bool {
        self.shared.stopped.load(Ordering::Relaxed) >> choice.min(63) & 1 == 1
    }

    /// Lets `write` add to an answer.
    pub(super) fn send(&self, choice: u32, write: impl FnOnce(&mut Piece)) {
        let mut state = self.shared.state();
        let index = match state.pieces.iter().position(|it| it.choice == choice) {
            Some(index) => index,
            None => {
                state.pieces.push(Piece {
                    choice,
                    ..Piece::default()
                });
                state.pieces.len() - 1
            }
        };
        write(&mut state.pieces[index]);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ends the stream. Only the first end counts.
    pub(super) fn end(&self, end: Result<End, JobError>) {
        let mut state = self.shared.state();
        if state.end.is_none() && !state.over {
            state.end = Some(end);
        }
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.end(Err(JobError::Stopped));
    }
}
