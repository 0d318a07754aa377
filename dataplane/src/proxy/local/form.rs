//! The forms of text that a client can ask for, with one way in and two ways out.

use bytes::{Bytes, BytesMut};

use bodhi_proto::chat::{Generation, ReplyEvent};

use crate::format::openai::Delivery;
use crate::format::{BadReply, Head, openai_chat, openai_completions};

/// A request for text.
pub(super) enum Form {
    Chat(Box<Generation>, Delivery),
    Completions(Box<openai_completions::Request>),
}

impl Form {
    pub(super) fn is_stream(&self) -> bool {
        match self {
            Self::Chat(_, delivery) => delivery.stream,
            Self::Completions(request) => request.delivery.stream,
        }
    }

    /// What workers are asked for, one for each prompt, each made when it is its turn.
    pub(super) fn into_generations(self) -> impl Iterator<Item = Generation> {
        let (chat, completions) = match self {
            Self::Chat(generation, _) => (Some(*generation), None),
            Self::Completions(request) => (None, Some(request)),
        };
        let prompts = completions.into_iter().flat_map(|request| {
            (0..request.prompts()).filter_map(move |prompt| request.generation(prompt))
        });
        chat.into_iter().chain(prompts)
    }
}

/// Events to one document.
pub(super) enum Collector {
    Chat(openai_chat::Collector),
    Completions(openai_completions::Collector),
}

impl Collector {
    pub(super) fn new(head: Head, form: &Form) -> Self {
        match form {
            Form::Chat(generation, delivery) => {
                Self::Chat(openai_chat::Collector::new(head, generation, *delivery))
            }
            Form::Completions(request) => {
                Self::Completions(openai_completions::Collector::new(head, request))
            }
        }
    }

    /// `prompt` is the number of the generation that answers.
    pub(super) fn push(&mut self, prompt: usize, event: ReplyEvent) -> Result<(), BadReply> {
        match self {
            Self::Chat(collector) => collector.push(event),
            Self::Completions(collector) => collector.push(prompt, event),
        }
    }

    pub(super) fn finish(self) -> Result<Bytes, BadReply> {
        match self {
            Self::Chat(collector) => collector.finish(),
            Self::Completions(collector) => collector.finish(),
        }
    }
}

/// Events to a stream.
pub(super) enum Writer {
    Chat(openai_chat::Writer),
    Completions(openai_completions::Writer),
}

impl Writer {
    pub(super) fn new(head: &Head, form: &Form) -> Self {
        match form {
            Form::Chat(generation, delivery) => {
                Self::Chat(openai_chat::Writer::new(head, generation, *delivery))
            }
            Form::Completions(request) => {
                Self::Completions(openai_completions::Writer::new(head, request))
            }
        }
    }

    /// Writes whole events at the end of `out`.
    pub(super) fn push(
        &mut self,
        prompt: usize,
        event: &ReplyEvent,
        out: &mut BytesMut,
    ) -> Result<(), BadReply> {
        match self {
            Self::Chat(writer) => writer.push(event, out),
            Self::Completions(writer) => writer.push(prompt, event, out),
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        match self {
            Self::Chat(writer) => writer.is_complete(),
            Self::Completions(writer) => writer.is_complete(),
        }
    }
}
