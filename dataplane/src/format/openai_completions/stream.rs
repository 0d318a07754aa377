//! From the replies' events to a stream of `text_completion` objects.

use bodhi_proto::chat::{Event, ReplyEvent, TokenLogprob};
use bytes::BytesMut;

use super::wire::{Choice, Logprobs};
use super::{Replies, Request};
use crate::format::openai::Calls;
use crate::format::openai::wire::{beginning, finish_reason};
use crate::format::{BadReply, Head, sse};

/// Turns each event into the bytes that a client gets. A stream that fails has no finish and no
/// `[DONE]`; its last event is [`terminal_event`](crate::proxy::stream::terminal_event)'s.
#[derive(Debug)]
pub struct Writer {
    frame: sse::Frame,
    include_usage: bool,
    /// Whether text waits for the probabilities of its tokens, to go out in one chunk.
    joins: bool,
    replies: Replies,
    answers: Vec<Answer>,
}

#[derive(Debug, Default, Clone)]
struct Answer {
    /// Waits for its probabilities.
    waiting: String,
    /// Characters of the tokens told of.
    offset: usize,
}

impl Writer {
    /// For a request.
    #[must_use]
    pub fn new(head: &Head, request: &Request) -> Self {
        let include_usage = request.delivery.include_usage;
        let after: &[u8] = match include_usage {
            true => b"],\"usage\":null}",
            false => b"]}",
        };
        let answers = request.prompts() * request.choices() as usize;
        Self {
            frame: sse::Frame::new(&beginning(head, "cmpl-", "text_completion"), after),
            include_usage,
            joins: request.has_logprobs(),
            replies: Replies::new(request),
            answers: vec![Answer::default(); answers],
        }
    }

    /// Whether the end was written.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.replies.is_complete()
    }

    /// Writes what an event of the reply to a prompt says, if anything yet, at the end of `out`.
    /// Whole events only.
    ///
    /// # Errors
    /// See [`BadReply`]; nothing is written then, and the stream is to end.
    pub fn push(
        &mut self,
        prompt: usize,
        event: &ReplyEvent,
        out: &mut BytesMut,
    ) -> Result<(), BadReply> {
        let index = self.replies.take(prompt, event)?;
        match (index, event) {
            (Some(index), ReplyEvent::Choice { event, .. }) => self.event(index, event, out),
            _ if self.is_complete() => {
                self.end(out);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn event(&mut self, index: u32, event: &Event, out: &mut BytesMut) -> Result<(), BadReply> {
        let answer = &mut self.answers[index as usize];
        match event {
            Event::Text(text) if self.joins => answer.waiting.push_str(text),
            Event::Text(text) => self.chunk(index, text, None, out),
            Event::Logprobs(tokens) => self.flush(index, tokens, out),
            Event::Finish(reason) => {
                self.flush(index, &[], out);
                let reason = finish_reason(*reason, Calls::Tools);
                self.chunk(index, "", Some(reason), out);
            }
            _ => return Err(BadReply::Unexpected),
        }
        Ok(())
    }

    fn chunk(&self, index: u32, text: &str, finish: Option<&'static str>, out: &mut BytesMut) {
        let choice = Choice {
            text,
            index,
            logprobs: None,
            finish_reason: finish,
        };
        self.frame.write(&choice, out);
    }

    /// Writes what waits, with the probabilities that have come.
    fn flush(&mut self, index: u32, tokens: &[TokenLogprob], out: &mut BytesMut) {
        let answer = &mut self.answers[index as usize];
        if answer.waiting.is_empty() && tokens.is_empty() {
            return;
        }
        let some = !tokens.is_empty();
        let choice = Choice {
            text: &answer.waiting,
            index,
            logprobs: some.then(|| Logprobs::new(tokens, &mut answer.offset)),
            finish_reason: None,
        };
        self.frame.write(&choice, out);
        answer.waiting.clear();
    }

    fn end(&self, out: &mut BytesMut) {
        if self.include_usage {
            let end = |out: &mut BytesMut| {
                out.extend_from_slice(b"]");
                self.replies.totals.write(out);
            };
            self.frame.write_last(end, out);
        }
        out.extend_from_slice(sse::DONE);
    }
}
