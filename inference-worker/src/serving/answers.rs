//! The answers to one prompt, as they come.

use bodhi_proto::chat::{Event, Fault, FinishReason, ReplyEvent, TokenLogprob};
use futures_util::Stream;
use rand::rngs::StdRng;

use crate::engine::{End, JobStream, Piece, Runner, Special, Update};
use crate::template::Syntax;
use crate::text::Reader;

/// All answers to one request. Dropping them ends the job.
pub struct Answers {
    job: JobStream,
    runner: Runner,
    choices: Vec<Choice>,
    /// What is told before anything was computed.
    ahead: Vec<ReplyEvent>,
}

/// One of the answers.
struct Choice {
    number: u32,
    /// `None`: the answer is complete.
    reader: Option<Reader>,
    /// What was thought, to be counted at the end.
    reasoning: String,
    /// Of tokens whose text was not told yet.
    logprobs: Vec<TokenLogprob>,
}

impl Answers {
    pub(super) fn new(
        job: JobStream,
        runner: Runner,
        choices: u32,
        syntax: &Syntax,
        stops: &[String],
    ) -> Self {
        let choice = |number| Choice {
            number,
            reader: Some(Reader::new(
                syntax.clone(),
                stops,
                rand::make_rng::<StdRng>(),
            )),
            reasoning: String::new(),
            logprobs: Vec::new(),
        };
        Self {
            job,
            runner,
            choices: (0..choices).map(choice).collect(),
            ahead: Vec::new(),
        }
    }

    /// Each answer begins with this text.
    pub(super) fn begin_with(&mut self, text: &str) {
        let echo = |choice: &Choice| choice.told(Event::Text(text.to_owned()));
        self.ahead = self.choices.iter().map(echo).collect();
    }

    /// What happened since the last call; waits where nothing did. The last is
    /// [`ReplyEvent::End`]; after it, or after an error, there is `None`.
    pub async fn next(&mut self) -> Option<Result<Vec<ReplyEvent>, Fault>> {
        if !self.ahead.is_empty() {
            return Some(Ok(std::mem::take(&mut self.ahead)));
        }
        loop {
            let events = match self.job.next().await? {
                Ok(Update::Pieces(pieces)) => self.read(pieces).await,
                Ok(Update::End(end)) => Ok(vec![self.end(end)]),
                Err(error) => Err(error.into()),
            };
            // Part of a character, perhaps, or of a stop text.
            if !matches!(&events, Ok(events) if events.is_empty()) {
                return Some(events);
            }
        }
    }

    /// The same, as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Vec<ReplyEvent>, Fault>> {
        futures_util::stream::unfold(self, |mut answers| async {
            let events = answers.next().await?;
            Some((events, answers))
        })
    }

    async fn read(&mut self, pieces: Vec<Piece>) -> Result<Vec<ReplyEvent>, Fault> {
        let mut events = Vec::new();
        for piece in pieces {
            let Some(choice) = self.choices.get_mut(piece.choice as usize) else {
                continue;
            };
            if choice.read(piece, &mut events).await? == Wanted::NoMore {
                self.job.stop(choice.number);
            }
        }
        Ok(events)
    }

    fn end(&self, end: End) -> ReplyEvent {
        let mut usage = end.usage;
        let model = self.runner.model();
        let thought = |choice: &Choice| model.tokenize(&choice.reasoning, Special::Text).len();
        let reasoning: usize = self.choices.iter().map(thought).sum();
        usage.reasoning =
            u32::try_from(reasoning).map_or(usage.completion, |n| n.min(usage.completion));
        ReplyEvent::End {
            usage,
            timings: Some(end.timings),
            load: Some(self.runner.load()),
        }
    }
}

/// Whether more of an answer is of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    More,
    NoMore,
}

impl Choice {
    fn told(&self, event: Event) -> ReplyEvent {
        ReplyEvent::Choice {
            choice: self.number,
            event,
        }
    }

    async fn read(&mut self, piece: Piece, events: &mut Vec<ReplyEvent>) -> Result<Wanted, Fault> {
        let Some(reader) = &mut self.reader else {
            // What came after a stop text.
            return Ok(Wanted::NoMore);
        };
        let read = reader.push(&piece.bytes).await?;
        let stopped = reader.stopped().is_some();
        self.logprobs.extend(piece.logprobs);
        self.tell(read, events);
        let finish = match stopped {
            true => Some(FinishReason::Stop),
            false => piece.finish,
        };
        if let (Some(finish), Some(reader)) = (finish, self.reader.take_if(|_| finish.is_some())) {
            self.finish(reader, finish, events).await?;
        }
        Ok(match stopped {
            true => Wanted::NoMore,
            false => Wanted::More,
        })
    }

    async fn finish(
        &mut self,
        reader: Reader,
        finish: FinishReason,
        events: &mut Vec<ReplyEvent>,
    ) -> Result<(), Fault> {
        let finished = reader.finish().await?;
        self.tell(finished.events, events);
        // Tokens without text, such as part of a character that was cut off.
        self.tell_logprobs(events);
        let finish = match finish {
            FinishReason::Stop if finished.called_tools => FinishReason::ToolCalls,
            finish => finish,
        };
        events.push(self.told(Event::Finish(finish)));
        Ok(())
    }

    fn tell(&mut self, read: Vec<Event>, events: &mut Vec<ReplyEvent>) {
        let said = !read.is_empty();
        for event in read {
            if let Event::Reasoning(text) = &event {
                self.reasoning.push_str(text);
            }
            events.push(self.told(event));
        }
        if said {
            self.tell_logprobs(events);
        }
    }

    fn tell_logprobs(&mut self, events: &mut Vec<ReplyEvent>) {
        let logprobs = std::mem::take(&mut self.logprobs);
        if !logprobs.is_empty() {
            events.push(self.told(Event::Logprobs(logprobs)));
        }
    }
}
