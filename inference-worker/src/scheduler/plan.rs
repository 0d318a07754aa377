//! One step of the engine.

use super::TaskId;
use crate::engine::{Row, Token};
use crate::slots::SlotId;

/// What the engine reads in one step.
#[derive(Debug, Default)]
pub struct Plan {
    /// Slots to be emptied first.
    pub evict: Vec<SlotId>,
    /// The tokens, by slot and position.
    pub rows: Vec<Row>,
    /// The places after which a token is to be chosen.
    pub outputs: Vec<Output>,
    /// Tokens of answers among the rows.
    pub(super) answering: usize,
}

/// A place after which a token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// Whose.
    pub task: TaskId,
    /// Where.
    pub slot: SlotId,
    /// The row whose logits tell.
    pub row: usize,
}

impl Plan {
    /// Tokens of prompts among the rows.
    pub fn prompt_tokens(&self) -> usize {
        self.rows.len() - self.answering
    }

    pub(super) fn clear(&mut self) {
        self.evict.clear();
        self.rows.clear();
        self.outputs.clear();
        self.answering = 0;
    }

    /// Adds what a slot reads next, from position `read` on: the token that was chosen, or a part of
    /// a prompt of `prompt` tokens.
    pub(super) fn add(
        &mut self,
        slot: SlotId,
        task: TaskId,
        read: usize,
        chosen: Option<Token>,
        part: &[Token],
        prompt: usize,
    ) {
        for (token, position) in chosen.iter().chain(part).zip(read..) {
            let output = position + 1 >= prompt;
            if output {
                self.outputs.push(Output {
                    task,
                    slot,
                    row: self.rows.len(),
                });
            }
            self.rows.push(Row {
                slot,
                token: *token,
                position: u32::try_from(position).expect("contexts are counted in u32"),
                output,
            });
        }
    }
}
