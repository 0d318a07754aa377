//! An engine without a model: predictable, of any speed, for tests of everything above it.
//!
//! A token is a byte. What it answers is in the prompt: `<<text>>` makes it say `text`, `<<40>>` makes
//! it say forty tokens, and without either it repeats the prompt's last line (the last occurrence in the
//! prompt counts, so that a conversation goes on). `<<!panic>>` makes its thread panic. It notices when
//! its cache holds anything but what the answer is based on, and fails then, as no real model would.

use std::sync::Arc;
use std::time::Duration;

use super::{
    DecodeError, Engine, Infill, Model, Purpose, Row, Sampler, SamplerRequest, Shape, Special,
    Token,
};
use crate::sampling::{Params, SamplerError};
use crate::slots::SlotId;

/// Ends an answer, as does any turn of a conversation.
pub const END: Token = 256;
/// How [`END`] is spelled.
pub const END_TEXT: &str = "<|end|>";
/// A control token that ends nothing, as families of models mark tool calls with.
pub const MARK: Token = 257;
/// How [`MARK`] is spelled.
pub const MARK_TEXT: &str = "<|mark|>";
const SIZE: Token = 258;
/// What is never said.
const PANIC: &str = "!panic";

/// What it is like.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What it can hold.
    pub shape: Shape,
    /// What a step takes.
    pub step: Duration,
    /// What each token of a step takes besides.
    pub token: Duration,
    /// Length of vectors.
    pub dimensions: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            shape: Shape {
                purpose: Purpose::Generate,
                slots: 4,
                context: 4096,
                batch: 512,
            },
            step: Duration::ZERO,
            token: Duration::ZERO,
            dimensions: 8,
        }
    }
}

/// An engine without a model.
#[derive(Debug)]
pub struct FakeEngine {
    settings: Settings,
    /// What lies in each slot.
    slots: Vec<Vec<Token>>,
    /// By row.
    logits: Vec<Vec<f32>>,
}

impl FakeEngine {
    /// With nothing in its cache.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            slots: vec![Vec::new(); settings.shape.slots as usize],
            logits: Vec::new(),
        }
    }
}

impl Engine for FakeEngine {
    type Saved = Vec<Token>;

    fn shape(&self) -> Shape {
        self.settings.shape
    }

    fn model(&self) -> Arc<dyn Model> {
        Arc::new(Bytes)
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), DecodeError> {
        let work = self.settings.step + self.settings.token * rows.len() as u32;
        if !work.is_zero() {
            std::thread::sleep(work);
        }
        self.logits.clear();
        for row in rows {
            let slot = &mut self.slots[row.slot.index()];
            if row.position as usize != slot.len() {
                return Err(DecodeError::Failed(format!(
                    "slot {} has {} tokens, and is to read at {}",
                    row.slot.0,
                    slot.len(),
                    row.position
                )));
            }
            slot.push(row.token);
            let logits = if row.output {
                let mut logits = vec![0.0; SIZE as usize];
                logits[0] = mark(slot);
                logits
            } else {
                Vec::new()
            };
            self.logits.push(logits);
        }
        if let Some(slot) = self
            .slots
            .iter()
            .find(|it| it.len() > self.settings.shape.context)
        {
            let used = slot.len();
            return Err(DecodeError::Failed(format!("{used} tokens are too many")));
        }
        Ok(())
    }

    fn logits(&self, row: usize) -> &[f32] {
        &self.logits[row]
    }

    fn keep(&mut self, slot: SlotId, keep: usize) -> usize {
        self.slots[slot.index()].truncate(keep);
        self.slots[slot.index()].len()
    }

    fn copy(&mut self, from: SlotId, to: SlotId, keep: usize) -> usize {
        self.slots[to.index()] = self.slots[from.index()].clone();
        self.keep(to, keep)
    }

    fn save(&mut self, slot: SlotId, most: usize) -> Option<(Vec<Token>, usize)> {
        let tokens = self.slots[slot.index()].clone();
        let bytes = tokens.len() * size_of::<Token>();
        (bytes <= most).then_some((tokens, bytes))
    }

    fn restore(&mut self, slot: SlotId, saved: &Vec<Token>) -> bool {
        self.slots[slot.index()].clone_from(saved);
        true
    }

    fn embed(&mut self, inputs: &[&[Token]]) -> Result<Vec<Vec<f32>>, DecodeError> {
        let length = match self.settings.shape.purpose {
            Purpose::Rank => 1,
            _ => self.settings.dimensions,
        };
        // Words count, not their order, so that similar texts have similar vectors.
        Ok(inputs
            .iter()
            .map(|input| {
                let mut vector = vec![0.0_f32; length];
                for word in input.split(|token| *token == Token::from(b' ')) {
                    vector[hash(word) as usize % length] += 1.0;
                }
                vector
            })
            .collect())
    }
}

#[derive(Debug)]
struct Bytes;

impl Model for Bytes {
    fn size(&self) -> u32 {
        SIZE
    }

    fn tokenize(&self, text: &str, special: Special) -> Vec<Token> {
        let bytes = |text: &str| text.bytes().map(Token::from).collect::<Vec<_>>();
        match special {
            Special::Text => bytes(text),
            Special::Parse | Special::ParseAndAdd => text
                .split(END_TEXT)
                .map(|turn| {
                    turn.split(MARK_TEXT)
                        .map(bytes)
                        .collect::<Vec<_>>()
                        .join(&MARK)
                })
                .collect::<Vec<_>>()
                .join(&END),
        }
    }

    fn piece(&self, token: Token) -> &[u8] {
        static BYTES: [u8; 256] = {
            let mut bytes = [0; 256];
            let mut byte = 0;
            while byte < 256 {
                bytes[byte] = byte as u8;
                byte += 1;
            }
            bytes
        };
        match token {
            END => END_TEXT.as_bytes(),
            MARK => MARK_TEXT.as_bytes(),
            token => BYTES.get(token as usize).map_or(&[], std::slice::from_ref),
        }
    }

    fn is_control(&self, token: Token) -> bool {
        token >= END
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn sampler(&self, request: SamplerRequest<'_>) -> Result<Box<dyn Sampler>, SamplerError> {
        Params::resolve(request.sampling, request.choice, request.context)?;
        let mut answer = answer(request.prompt);
        let panics = answer == self.tokenize(PANIC, Special::Text);
        if request.choice > 0 {
            answer.extend(format!(" ({})", request.choice).bytes().map(Token::from));
        }
        Ok(Box::new(Reciter {
            read: request.prompt.to_vec(),
            answer: answer.into_iter(),
            panics,
        }))
    }

    fn infill(&self) -> Option<Infill> {
        None
    }

    fn pair(&self, query: &str, document: &str) -> Vec<Token> {
        let mut tokens = self.tokenize(query, Special::Text);
        tokens.push(END);
        tokens.extend(self.tokenize(document, Special::Text));
        tokens
    }
}

/// Recites an answer, as long as the engine has read what it is based on.
struct Reciter {
    read: Vec<Token>,
    answer: std::vec::IntoIter<Token>,
    panics: bool,
}

impl Sampler for Reciter {
    fn choose(&mut self, logits: &[f32]) -> Result<Token, SamplerError> {
        if logits.first() != Some(&mark(&self.read)) {
            return Err(SamplerError::NotANumber);
        }
        assert!(!self.panics, "the prompt asks for a panic");
        let token = self.answer.next().unwrap_or(END);
        self.read.push(token);
        Ok(token)
    }
}

fn answer(prompt: &[Token]) -> Vec<Token> {
    let find = |pattern: [u8; 2], within: &[Token]| {
        let pattern = pattern.map(Token::from);
        within.windows(2).rposition(|pair| pair == pattern)
    };
    if let Some(end) = find(*b">>", prompt)
        && let Some(start) = find(*b"<<", &prompt[..end])
    {
        let script = &prompt[start + 2..end];
        let count = script.iter().try_fold(0_usize, |count, token| {
            let digit = char::from_u32(*token)?.to_digit(10)?;
            Some(count.saturating_mul(10).saturating_add(digit as usize))
        });
        return match count {
            Some(count) if !script.is_empty() => b"word "
                .iter()
                .copied()
                .cycle()
                .take(count.min(1 << 20))
                .map(Token::from)
                .collect(),
            _ => script.to_vec(),
        };
    }
    let is_break = |token: &Token| *token == Token::from(b'\n') || *token >= END;
    prompt
        .split(is_break)
        .rfind(|line| !line.is_empty())
        .unwrap_or_default()
        .to_vec()
}

/// Tells contents apart; from 0 to 1.
fn mark(tokens: &[Token]) -> f32 {
    (hash(tokens) % 65_536) as f32 / 65_536.0
}

/// FNV-1a, the same on every machine.
fn hash(tokens: &[Token]) -> u64 {
    tokens.iter().fold(0xcbf2_9ce4_8422_2325, |hash, token| {
        (hash ^ u64::from(*token)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
