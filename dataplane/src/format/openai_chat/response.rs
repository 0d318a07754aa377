//! From a reply's events to a `chat.completion` object.

use bodhi_proto::chat::{self, Event, FinishReason, Generation, ReplyEvent, TokenLogprob};
use bytes::{Bytes, BytesMut};

use super::wire::{Choice, Function, Message, ToolCall};
use crate::format::openai::wire::{Logprobs, Totals, beginning, finish_reason};
use crate::format::openai::{Calls, Delivery};
use crate::format::reply::Order;
use crate::format::{BadReply, Head, sse};

/// Takes all events of a reply and makes one document of them.
#[derive(Debug)]
pub struct Collector {
    head: Head,
    calls: Calls,
    order: Order,
    answers: Vec<Answer>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Answer {
    content: String,
    refusal: String,
    reasoning: String,
    calls: Vec<chat::ToolCall>,
    logprobs: Vec<TokenLogprob>,
    finish: Option<FinishReason>,
}

impl Collector {
    /// For the answer to `generation`.
    #[must_use]
    pub fn new(head: Head, generation: &Generation, delivery: Delivery) -> Self {
        let choices = generation.choices.get() as usize;
        Self {
            head,
            calls: delivery.calls,
            order: Order::new(choices),
            answers: std::iter::repeat_with(Answer::default)
                .take(choices)
                .collect(),
            totals: Totals::default(),
        }
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// See [`BadReply`]; the reply is over then.
    pub fn push(&mut self, event: ReplyEvent) -> Result<(), BadReply> {
        self.order.take(&event)?;
        match event {
            ReplyEvent::Choice { choice, event } => self.answers[choice as usize].push(event),
            ReplyEvent::End { usage, timings, .. } => self.totals = Totals::new(usage, timings),
        }
        Ok(())
    }

    /// The document, once the end has come.
    ///
    /// # Errors
    /// [`BadReply::Unfinished`].
    pub fn finish(self) -> Result<Bytes, BadReply> {
        if !self.order.is_complete() {
            return Err(BadReply::Unfinished);
        }
        let mut out = BytesMut::new();
        out.extend_from_slice(beginning(&self.head, "chatcmpl-", "chat.completion").as_bytes());
        for (index, answer) in (0..).zip(&self.answers) {
            if index > 0 {
                out.extend_from_slice(b",");
            }
            let finish = answer.finish.ok_or(BadReply::Unfinished)?;
            sse::json(&answer.choice(index, finish, self.calls), &mut out);
        }
        out.extend_from_slice(b"]");
        self.totals.write(&mut out);
        out.extend_from_slice(b"}");
        Ok(out.freeze())
    }
}

impl Answer {
    fn push(&mut self, event: Event) {
        match event {
            Event::Text(text) => self.content.push_str(&text),
            Event::Reasoning(text) => self.reasoning.push_str(&text),
            Event::Refusal(text) => self.refusal.push_str(&text),
            Event::ToolCallStart { id, name, .. } => self.calls.push(chat::ToolCall {
                id,
                name,
                arguments: String::new(),
            }),
            Event::ToolCallArguments { index, text } => {
                self.calls[index as usize].arguments.push_str(&text);
            }
            Event::Logprobs(tokens) => self.logprobs.extend(tokens),
            Event::Finish(reason) => self.finish = Some(reason),
        }
    }

    fn choice(&self, index: u32, finish: FinishReason, kind: Calls) -> Choice<'_> {
        let content = match self.calls.is_empty() && self.refusal.is_empty() {
            true => Some(&*self.content),
            false => said(&self.content),
        };
        let tool_calls = || {
            let calls = self.calls.iter().map(|call| ToolCall {
                id: &call.id,
                r#type: "function",
                function: function(call),
            });
            calls.collect()
        };
        Choice {
            index,
            message: Message {
                role: "assistant",
                content,
                refusal: said(&self.refusal),
                reasoning_content: said(&self.reasoning),
                tool_calls: (kind == Calls::Tools && !self.calls.is_empty()).then(tool_calls),
                function_call: match kind {
                    Calls::Function => self.calls.first().map(function),
                    Calls::Tools => None,
                },
            },
            logprobs: (!self.logprobs.is_empty()).then(|| Logprobs::new(&self.logprobs)),
            finish_reason: finish_reason(finish, kind),
        }
    }
}

fn said(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn function(call: &chat::ToolCall) -> Function<'_> {
    Function {
        name: Some(&call.name),
        arguments: &call.arguments,
    }
}
