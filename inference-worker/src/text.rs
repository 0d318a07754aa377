//! From tokens back to text, reasoning and tool calls.
//!
//! [`Reader`] takes the bytes of tokens and gives events, in four steps: bytes become
//! characters ([`Utf8`]), the answer ends at a stop text ([`Stop`]), the model's syntax is
//! parsed, and what is new becomes events. llama.cpp's parsers read an answer from its beginning
//! each time, which for every token of a long answer would be quadratic. So text that a marker
//! of the syntax cannot be part of passes through unparsed.

mod growth;
mod stop;
mod utf8;
mod watch;

pub use stop::Stop;
pub use utf8::Utf8;

use bodhi_proto::chat::Event;
use rand::RngExt as _;
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use serde::Deserialize;

use crate::template::{Overrun, Syntax};
use growth::Growth;
use watch::Watch;

/// What a model has said, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Said {
    pub(crate) reasoning: String,
    pub(crate) content: String,
    pub(crate) calls: Vec<Call>,
}

/// A tool call, perhaps incomplete.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Call {
    /// Empty where the syntax has none.
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// Reads one answer.
pub struct Reader {
    utf8: Utf8,
    stop: Stop,
    syntax: Syntax,
    markers: Watch,
    ids: StdRng,
    /// All that was said, up to a stop text.
    said: String,
    state: State,
    /// How much of `said` was parsed or passed through.
    seen: usize,
    /// How much of `said` is behind what was told of `text`, and how much that was: from here
    /// on, what turns out to be no syntax at all is text.
    anchor: (usize, usize),
    text: Growth,
    reasoning: Growth,
    /// The calls that were begun.
    calls: Vec<Growth>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was read yet.
    New,
    /// Anything may come: it takes the parser to know.
    Parsing,
    /// What comes is more of the same, up to a marker.
    Running(Channel),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Channel {
    Text,
    Reasoning,
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Finished {
    /// What was held back until now.
    pub events: Vec<Event>,
    /// Whether the answer holds tool calls: a model that stopped by itself then waits for them.
    pub called_tools: bool,
}

/// Follows what was said to learn what runs on. It is in no syntax.
const PROBE: &str = "\u{2021}";

/// While a parser is needed, it is called when the answer has grown by this part of its length
/// (by each byte at first). That bounds the work at a multiple of what one parse costs.
const GROWN: usize = 256;

impl Reader {
    /// A reader of an answer that `stops` end too, besides the template's. `ids` makes the ids
    /// of tool calls that have none.
    pub fn new(syntax: Syntax, stops: &[String], ids: StdRng) -> Self {
        Self {
            utf8: Utf8::default(),
            stop: Stop::new(stops),
            markers: Watch::new(syntax.markers()),
            syntax,
            ids,
            said: String::new(),
            state: State::New,
            seen: 0,
            anchor: (0, 0),
            text: Growth::default(),
            reasoning: Growth::default(),
            calls: Vec::new(),
        }
    }

    /// Takes the bytes of one or more tokens.
    ///
    /// # Errors
    /// The parser overran its time: the answer cannot be read on. Must be called within a
    /// tokio runtime.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Overrun> {
        let characters = self.utf8.push(bytes);
        let passed = self.stop.push(&characters);
        let mut events = Vec::new();
        self.take(&passed, &mut events).await?;
        Ok(events)
    }

    /// The stop text that ended the answer; what is pushed after it is ignored.
    pub fn stopped(&self) -> Option<&str> {
        self.stop.hit()
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// As [`Reader::push`].
    pub async fn finish(mut self) -> Result<Finished, Overrun> {
        let mut events = Vec::new();
        let last = self.utf8.finish();
        let mut passed = self.stop.push(&last);
        passed += &self.stop.finish();
        self.take(&passed, &mut events).await?;
        if !self.syntax.is_text() {
            self.end(&mut events).await?;
        }
        Ok(Finished {
            events,
            called_tools: !self.calls.is_empty(),
        })
    }

    async fn take(&mut self, passed: &str, events: &mut Vec<Event>) -> Result<(), Overrun> {
        if self.syntax.is_text() {
            if !passed.is_empty() {
                events.push(Event::Text(passed.to_owned()));
            }
            return Ok(());
        }
        self.said.push_str(passed);
        if self.state == State::New {
            self.begin().await?;
        }
        let grown = match self.state {
            State::Running(channel) => !self.run(channel, events),
            State::New | State::Parsing => self.has_grown(),
        };
        if grown {
            self.parse(events).await?;
        }
        Ok(())
    }

    /// Where the answer goes on with a message that the client has, that was told already.
    async fn begin(&mut self) -> Result<(), Overrun> {
        self.state = State::Parsing;
        if self.syntax.continues()
            && let Some(said) = self.syntax.parse("").await?
        {
            self.text = Growth::told(said.content);
            self.reasoning = Growth::told(said.reasoning);
            self.anchor = (0, self.text.count());
        }
        Ok(())
    }

    /// Passes on what no marker can be part of. `false`: there is a marker, and the parser has
    /// to say what it means.
    fn run(&mut self, channel: Channel, events: &mut Vec<Event>) -> bool {
        let fresh = &self.said[self.seen..];
        if self.markers.find(fresh).is_some() {
            let held = match channel {
                Channel::Text => self.text.held(),
                Channel::Reasoning => 0,
            };
            self.anchor = (self.seen - held, self.text.count());
            return false;
        }
        let passes = fresh.len() - self.markers.held(fresh);
        match channel {
            Channel::Text => self.text.append(&fresh[..passes]),
            Channel::Reasoning => self.reasoning.append(&fresh[..passes]),
        }
        self.seen += passes;
        self.tell(events);
        true
    }

    fn has_grown(&self) -> bool {
        self.said.len() - self.seen >= (self.said.len() / GROWN).max(1)
    }

    async fn parse(&mut self, events: &mut Vec<Event>) -> Result<(), Overrun> {
        self.state = State::Parsing;
        self.seen = self.said.len();
        let Some(said) = self.syntax.parse(&self.said).await? else {
            return Ok(());
        };
        let in_call = !said.calls.is_empty();
        self.hear(said.clone(), events);
        if self.syntax.runs() && !in_call {
            self.probe(said).await?;
            self.tell(events);
        }
        Ok(())
    }

    /// Learns whether text that follows now, which no marker is part of, is more of the same.
    async fn probe(&mut self, said: Said) -> Result<(), Overrun> {
        let probe = format!("{}{PROBE}", self.said);
        let Some(probed) = self.syntax.parse(&probe).await? else {
            return Ok(());
        };
        // Only within text: at its beginning, space may still be the syntax's.
        let last = self.said.trim_end().chars().next_back();
        let ran = |before: &str, after: &str| {
            let text = after.strip_suffix(PROBE)?;
            let space = text.strip_prefix(before)?;
            let within = space.trim().is_empty() && text.trim_end().chars().next_back() == last;
            within.then(|| text.to_owned())
        };
        if !probed.calls.is_empty() {
            return Ok(());
        }
        if probed.reasoning == said.reasoning
            && let Some(content) = ran(&said.content, &probed.content)
        {
            self.text.set(content);
            self.state = State::Running(Channel::Text);
        } else if probed.content == said.content
            && let Some(reasoning) = ran(&said.reasoning, &probed.reasoning)
        {
            self.reasoning.set(reasoning);
            self.state = State::Running(Channel::Reasoning);
        }
        Ok(())
    }

    async fn end(&mut self, events: &mut Vec<Event>) -> Result<(), Overrun> {
        if let Some(said) = self.syntax.parse(&self.said).await? {
            self.hear(said, events);
        } else {
            let readable = self.readable(events).await?;
            let leftover = if self.calls.is_empty() {
                self.leftover()
            } else {
                &self.said[readable..]
            };
            let leftover = leftover.to_owned();
            self.text.forget_held();
            self.text.append(&leftover);
        }
        self.reasoning.end(events, Event::Reasoning);
        self.text.end(events, Event::Text);
        Ok(())
    }

    /// Hears the longest beginning of the answer that is of the syntax; returns its length.
    async fn readable(&mut self, events: &mut Vec<Event>) -> Result<usize, Overrun> {
        // What follows a mistake does not mend it, so the place of the mistake can be bisected.
        let (mut good, mut bad) = (0, self.said.len() + 1);
        let mut best = None;
        while bad - good > 1 {
            let middle = self.said.floor_char_boundary(good + (bad - good) / 2);
            if middle <= good {
                break;
            }
            match self.syntax.parse(&self.said[..middle]).await? {
                Some(said) => (good, best) = (middle, Some(said)),
                None => bad = middle,
            }
        }
        if let Some(said) = best {
            self.hear(said, events);
        }
        Ok(good)
    }

    /// What is behind all that was told as text: calls that turned out to be none.
    fn leftover(&self) -> &str {
        let (from, told) = self.anchor;
        let rest = &self.said[from..];
        let since = &self.text.so_far()[told..];
        rest.find(since).map_or("", |at| &rest[at + since.len()..])
    }

    fn hear(&mut self, said: Said, events: &mut Vec<Event>) {
        let calls = !said.calls.is_empty();
        let content = !said.content.trim().is_empty();
        self.reasoning.set(said.reasoning);
        self.text.set(said.content);
        // What follows a text shows that it is complete.
        if content || calls {
            self.reasoning.end(events, Event::Reasoning);
        }
        if calls {
            self.text.end(events, Event::Text);
        }
        self.tell(events);
        for (index, call) in said.calls.into_iter().enumerate() {
            // Before its arguments begin, a call's name and id may be incomplete.
            if call.name.is_empty() || call.arguments.is_empty() {
                break;
            }
            let number = u32::try_from(index).unwrap_or(u32::MAX);
            if index == self.calls.len() {
                let id = if call.id.is_empty() {
                    self.new_id()
                } else {
                    call.id
                };
                self.calls.push(Growth::default());
                events.push(Event::ToolCallStart {
                    index: number,
                    id,
                    name: call.name,
                });
            }
            self.calls[index].set(call.arguments);
            self.calls[index].end(events, |text| Event::ToolCallArguments {
                index: number,
                text,
            });
        }
    }

    fn tell(&mut self, events: &mut Vec<Event>) {
        self.reasoning.tell(events, Event::Reasoning);
        self.text.tell(events, Event::Text);
    }

    /// As OpenAI's look.
    fn new_id(&mut self) -> String {
        let random = (0..24).map(|_| char::from(self.ids.sample(Alphanumeric)));
        format!("call_{}", random.collect::<String>())
    }
}
