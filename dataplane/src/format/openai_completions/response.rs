//! From the replies' events to a `text_completion` object.

use bodhi_proto::chat::{Event, FinishReason, ReplyEvent, TokenLogprob};
use bytes::{Bytes, BytesMut};

use super::wire::{Choice, Logprobs};
use super::{Replies, Request};
use crate::format::openai::Calls;
use crate::format::openai::wire::{beginning, finish_reason};
use crate::format::{BadReply, Head, sse};

/// Takes the events of the replies to all prompts and makes one document of them.
#[derive(Debug)]
pub struct Collector {
    head: Head,
    replies: Replies,
    answers: Vec<Answer>,
}

#[derive(Debug, Default)]
struct Answer {
    text: String,
    logprobs: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

impl Collector {
    /// For a request.
    #[must_use]
    pub fn new(head: Head, request: &Request) -> Self {
        let answers = request.prompts() * request.choices() as usize;
        Self {
            head,
            replies: Replies::new(request),
            answers: std::iter::repeat_with(Answer::default)
                .take(answers)
                .collect(),
        }
    }

    /// Takes the next event of the reply to a prompt, in whatever order prompts are answered.
    ///
    /// # Errors
    /// See [`BadReply`]; the reply is over then.
    pub fn push(&mut self, prompt: usize, event: ReplyEvent) -> Result<(), BadReply> {
        let index = self.replies.take(prompt, &event)?;
        if let (Some(index), ReplyEvent::Choice { event, .. }) = (index, event) {
            let answer = &mut self.answers[index as usize];
            match event {
                Event::Text(text) => answer.text.push_str(&text),
                Event::Logprobs(tokens) => answer.logprobs.extend(tokens),
                Event::Finish(reason) => answer.finish = Some(reason),
                _ => return Err(BadReply::Unexpected),
            }
        }
        Ok(())
    }

    /// The document, once all ends have come.
    ///
    /// # Errors
    /// [`BadReply::Unfinished`].
    pub fn finish(self) -> Result<Bytes, BadReply> {
        if !self.replies.is_complete() {
            return Err(BadReply::Unfinished);
        }
        let mut out = BytesMut::new();
        out.extend_from_slice(beginning(&self.head, "cmpl-", "text_completion").as_bytes());
        for (index, answer) in (0..).zip(&self.answers) {
            if index > 0 {
                out.extend_from_slice(b",");
            }
            let finish = answer.finish.ok_or(BadReply::Unfinished)?;
            let some = !answer.logprobs.is_empty();
            let choice = Choice {
                text: &answer.text,
                index,
                logprobs: some.then(|| Logprobs::new(&answer.logprobs, &mut 0)),
                finish_reason: Some(finish_reason(finish, Calls::Tools)),
            };
            sse::json(&choice, &mut out);
        }
        out.extend_from_slice(b"]");
        self.replies.totals.write(&mut out);
        out.extend_from_slice(b"}");
        Ok(out.freeze())
    }
}
