//! From a reply's events to a stream of `chat.completion.chunk` objects.

use bodhi_proto::chat::{Event, Generation, ReplyEvent, TokenLogprob};
use bytes::BytesMut;

use super::wire::{ChunkChoice, Delta, Function, ToolCallDelta};
use crate::format::openai::wire::{Logprobs, Totals, beginning, finish_reason};
use crate::format::openai::{Calls, Delivery};
use crate::format::reply::Order;
use crate::format::{BadReply, Head, sse};

/// Turns each event into the bytes that a client gets.
///
/// Chunks of a choice come in this order: the role, deltas, the finish. A stream that fails has
/// no finish and no `[DONE]`; its last event is [`terminal_event`](crate::proxy::stream::terminal_event)'s.
#[derive(Debug)]
pub struct Writer {
    frame: sse::Frame,
    delivery: Delivery,
    /// Whether deltas wait for the probabilities of their tokens, to go out in one chunk.
    joins: bool,
    order: Order,
    answers: Vec<Answer>,
}

#[derive(Debug, Default, Clone)]
struct Answer {
    begun: bool,
    /// Waits for its probabilities.
    waiting: Waiting,
}

#[derive(Debug, Default, Clone)]
enum Waiting {
    #[default]
    Nothing,
    Text(String),
    Reasoning(String),
}

impl Writer {
    /// For the answer to `generation`.
    #[must_use]
    pub fn new(head: &Head, generation: &Generation, delivery: Delivery) -> Self {
        let after: &[u8] = match delivery.include_usage {
            true => b"],\"usage\":null}",
            false => b"]}",
        };
        let before = beginning(head, "chatcmpl-", "chat.completion.chunk");
        let choices = generation.choices.get() as usize;
        Self {
            frame: sse::Frame::new(&before, after),
            delivery,
            joins: generation.logprobs.is_some(),
            order: Order::new(choices),
            answers: vec![Answer::default(); choices],
        }
    }

    /// Whether the end was written.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.order.is_complete()
    }

    /// Writes what an event says, if anything yet, at the end of `out`. Whole events only.
    ///
    /// # Errors
    /// See [`BadReply`]; nothing is written then, and the stream is to end.
    pub fn push(&mut self, event: &ReplyEvent, out: &mut BytesMut) -> Result<(), BadReply> {
        self.order.take(event)?;
        match event {
            ReplyEvent::Choice { choice, event } => self.event(*choice, event, out),
            ReplyEvent::End { usage, timings, .. } => {
                if self.delivery.include_usage {
                    let totals = Totals::new(*usage, *timings);
                    let end = |out: &mut BytesMut| {
                        out.extend_from_slice(b"]");
                        totals.write(out);
                    };
                    self.frame.write_last(end, out);
                }
                out.extend_from_slice(sse::DONE);
            }
        }
        Ok(())
    }

    fn event(&mut self, index: u32, event: &Event, out: &mut BytesMut) {
        if !std::mem::replace(&mut self.answers[index as usize].begun, true) {
            let first = Delta {
                role: Some("assistant"),
                content: Some(""),
                ..Delta::default()
            };
            self.delta(index, first, &[], out);
        }
        let delta = match event {
            Event::Text(text) | Event::Reasoning(text) | Event::Refusal(text)
                if text.is_empty() =>
            {
                return;
            }
            Event::Text(text) if self.joins => return self.wait(index, text, Waiting::Text, out),
            Event::Reasoning(text) if self.joins => {
                return self.wait(index, text, Waiting::Reasoning, out);
            }
            Event::Logprobs(tokens) => return self.flush(index, tokens, out),
            Event::Text(text) => text_delta(text),
            Event::Reasoning(text) => reasoning_delta(text),
            Event::Refusal(text) => Delta {
                refusal: Some(text),
                ..Delta::default()
            },
            // The older kind has room for one call, and one was asked for.
            Event::ToolCallStart { index, .. } | Event::ToolCallArguments { index, .. }
                if self.delivery.calls == Calls::Function && *index > 0 =>
            {
                return;
            }
            Event::ToolCallStart { index, id, name } => self.call(*index, Some((id, name)), ""),
            Event::ToolCallArguments { index, text } => self.call(*index, None, text),
            Event::Finish(reason) => {
                self.flush(index, &[], out);
                let choice = ChunkChoice {
                    index,
                    delta: Delta::default(),
                    logprobs: None,
                    finish_reason: Some(finish_reason(*reason, self.delivery.calls)),
                };
                return self.frame.write(&choice, out);
            }
        };
        self.flush(index, &[], out);
        self.delta(index, delta, &[], out);
    }

    /// A piece of a tool call, under the name by which calls were asked for.
    fn call<'a>(
        &self,
        index: u32,
        start: Option<(&'a str, &'a str)>,
        arguments: &'a str,
    ) -> Delta<'a> {
        let function = Function {
            name: start.map(|(_, name)| name),
            arguments,
        };
        match self.delivery.calls {
            Calls::Function => Delta {
                function_call: Some(function),
                ..Delta::default()
            },
            Calls::Tools => Delta {
                tool_calls: Some([ToolCallDelta {
                    index,
                    id: start.map(|(id, _)| id),
                    r#type: start.map(|_| "function"),
                    function,
                }]),
                ..Delta::default()
            },
        }
    }

    /// Keeps text until its probabilities come, or something else does.
    fn wait(&mut self, index: u32, text: &str, kind: fn(String) -> Waiting, out: &mut BytesMut) {
        let new = kind(text.to_owned());
        let waiting = &mut self.answers[index as usize].waiting;
        match (waiting, &new) {
            (Waiting::Text(before), Waiting::Text(_))
            | (Waiting::Reasoning(before), Waiting::Reasoning(_)) => before.push_str(text),
            _ => {
                self.flush(index, &[], out);
                self.answers[index as usize].waiting = new;
            }
        }
    }

    /// Writes what waits, with the probabilities that have come. Those of a tool call's tokens
    /// have nothing that waits for them and go out alone.
    fn flush(&mut self, index: u32, tokens: &[TokenLogprob], out: &mut BytesMut) {
        let waiting = std::mem::take(&mut self.answers[index as usize].waiting);
        let delta = match &waiting {
            Waiting::Nothing if tokens.is_empty() => return,
            Waiting::Nothing => Delta::default(),
            Waiting::Text(text) => text_delta(text),
            Waiting::Reasoning(text) => reasoning_delta(text),
        };
        self.delta(index, delta, tokens, out);
    }

    fn delta(&self, index: u32, delta: Delta<'_>, tokens: &[TokenLogprob], out: &mut BytesMut) {
        let choice = ChunkChoice {
            index,
            delta,
            logprobs: (!tokens.is_empty()).then(|| Logprobs::new(tokens)),
            finish_reason: None,
        };
        self.frame.write(&choice, out);
    }
}

fn text_delta(text: &str) -> Delta<'_> {
    Delta {
        content: Some(text),
        ..Delta::default()
    }
}

fn reasoning_delta(text: &str) -> Delta<'_> {
    Delta {
        reasoning_content: Some(text),
        ..Delta::default()
    }
}
