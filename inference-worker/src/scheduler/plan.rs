//! One step of the engine.

use super::TaskId;
use crate::engine::{Row, Token};
use crate::slots::SlotId;

/// What the engine reads in one step.
#[derive(Debug, Default)]
pub struct Plan {
    /// The tokens, by slot and position.
    pub rows: Vec<Row>,
    /// The places after which a token is to be chosen.
    pub outputs: Vec<Output>,
    /// A part of a prompt, not answers.
    pub(super) is_prompt: bool,
    /// Answers that flow and that a part of a prompt holds up.
    pub(super) waiting: usize,
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
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.outputs.clear();
        self.is_prompt = false;
        self.waiting = 0;
    }

    /// Adds what a slot reads next, from position `read` on. An output comes after the last token of
    /// its prompt, which has `prompt` of them, and after each token of an answer.
    pub(super) fn add(
        &mut self,
        slot: SlotId,
        task: TaskId,
        read: usize,
        tokens: &[Token],
        prompt: usize,
    ) {
        for (token, position) in tokens.iter().zip(read..) {
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
