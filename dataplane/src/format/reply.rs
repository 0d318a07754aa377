//! What all replies have: what they say of themselves, and events in an order.

use bodhi_proto::chat::{Event, ReplyEvent};
use smallvec::{SmallVec, smallvec};
use thiserror::Error;

/// What a reply says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Tells this reply from all others; each format puts its prefix before it.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model, as the client asked for it.
    pub model: String,
    /// What the reply was made with, where that is known.
    pub fingerprint: Option<String>,
}

/// A backend that does not keep to the contract. A reply that has begun ends there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadReply {
    /// A choice that was not asked for.
    #[error("it answered with choice {0}, which was not asked for")]
    Choice(u32),
    /// Something followed the end of an answer or of all.
    #[error("it went on after the end")]
    AfterEnd,
    /// The end came before every answer was complete.
    #[error("it ended before its answer was complete")]
    Unfinished,
    /// Tool calls that are not numbered from 0, or arguments of none.
    #[error("its tool calls are out of order")]
    ToolCall,
    /// An event that such a request cannot have.
    #[error("it sent what was not asked for")]
    Unexpected,
    /// Other than one result for each input.
    #[error("it gave {found} results for {expected} inputs")]
    Count {
        /// Inputs.
        expected: usize,
        /// Results.
        found: usize,
    },
    /// A result that is no number.
    #[error("it gave a result that is not a number")]
    NotANumber,
}

/// Holds a reply to its order, so that nobody after it needs to.
#[derive(Debug)]
pub(super) struct Order {
    choices: SmallVec<[Progress; 1]>,
    unfinished: usize,
    ended: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    finished: bool,
    calls: u32,
}

impl Order {
    pub(super) fn new(choices: usize) -> Self {
        Self {
            choices: smallvec![Progress::default(); choices],
            unfinished: choices,
            ended: false,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.ended
    }

    pub(super) fn take(&mut self, event: &ReplyEvent) -> Result<(), BadReply> {
        if self.ended {
            return Err(BadReply::AfterEnd);
        }
        let (choice, event) = match event {
            ReplyEvent::Choice { choice, event } => (*choice, event),
            ReplyEvent::End { .. } if self.unfinished > 0 => return Err(BadReply::Unfinished),
            ReplyEvent::End { .. } => {
                self.ended = true;
                return Ok(());
            }
        };
        let progress = self.choices.get_mut(choice as usize);
        let progress = progress.ok_or(BadReply::Choice(choice))?;
        if progress.finished {
            return Err(BadReply::AfterEnd);
        }
        match event {
            Event::ToolCallStart { index, .. } if *index == progress.calls => progress.calls += 1,
            Event::ToolCallArguments { index, .. } if *index < progress.calls => {}
            Event::ToolCallStart { .. } | Event::ToolCallArguments { .. } => {
                return Err(BadReply::ToolCall);
            }
            Event::Finish(_) => {
                progress.finished = true;
                self.unfinished -= 1;
            }
            Event::Text(_) | Event::Reasoning(_) | Event::Refusal(_) | Event::Logprobs(_) => {}
        }
        Ok(())
    }
}
