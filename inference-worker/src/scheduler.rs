//! Which tokens go into the next step.
//!
//! The engine reads tokens in steps. A step carries either one token for each answer in progress, or
//! as much of one prompt as keeps the step short, in turn: an arriving prompt must not stall the
//! answers of others. They have no step together because every sequence has a part of the cache to
//! itself, and of those llama.cpp computes only neighbours of equal length in one pass. Answers of
//! which no more than the first token is out wait a little for the prompts that came with them, since
//! many answers in one step cost hardly more than one. The scheduler is pure. Whoever drives it asks for [admissions](Scheduler::admit), carries them out, asks for a
//! [step](Scheduler::step), has it computed, and tells what was chosen.

mod budget;
mod plan;
mod queue;

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::FinishReason;

use crate::engine::Token;
use crate::slots::{HostCache, Placement, Pool, SlotId};
use budget::Budget;
use queue::Queue;

pub use plan::{Output, Plan};

/// So many gaps answers may be held up between their first token and the second.
const FIRST_HOLD: u32 = 30;

/// One answer: a request for several is several tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(pub u64);

/// An answer to be computed.
#[derive(Debug, Clone)]
pub struct Task {
    /// Unique.
    pub id: TaskId,
    /// At least one token, fewer than the context holds.
    pub prompt: Arc<[Token]>,
    /// At most so many tokens of answer; at least one.
    pub most: usize,
    /// Waits until this one's prompt was read, which then need not be read again.
    pub after: Option<TaskId>,
}

/// What the engine can hold and do.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Sequences at once.
    pub slots: u32,
    /// Tokens in one sequence.
    pub context: usize,
    /// Tokens in one step; at least one for each slot, and one more.
    pub batch: usize,
    /// How long a step with a part of a prompt should take at most while answers are in progress.
    pub gap: Duration,
    /// Bytes of host memory for what no longer has a slot.
    pub cache: usize,
}

/// A task that was given a slot, with what must be done to the slot first, in this order: put aside
/// what lies there, bring in the beginning, drop what follows it.
#[derive(Debug)]
pub struct Admission {
    /// The task.
    pub task: TaskId,
    /// Where it goes.
    pub placement: Placement,
    /// What lay in the slot, if it is to be put aside.
    pub aside: Option<Vec<Token>>,
}

/// The tasks that wait and that run, the slots, and what lies in them.
#[derive(Debug)]
pub struct Scheduler<S> {
    limits: Limits,
    queue: Queue,
    pool: Pool,
    /// By slot.
    running: Vec<Option<Running>>,
    cache: HostCache<S>,
    budget: Budget,
    admissions: u64,
    /// Steps with parts of prompts.
    parts: u64,
    /// How long prompts have been read since answers last had a step; `None`: they had the last.
    held: Option<Duration>,
    plan: Plan,
}

#[derive(Debug)]
struct Running {
    task: Task,
    /// Chosen, but not yet read.
    next: Option<Token>,
    chosen: usize,
    /// The number of its admission.
    admission: u64,
}

/// A prompt that is not read to its end.
struct Waiting {
    slot: usize,
    unread: usize,
    admission: u64,
}

impl<S> Scheduler<S> {
    /// With nothing to do.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            queue: Queue::default(),
            pool: Pool::new(limits.slots),
            running: (0..limits.slots).map(|_| None).collect(),
            cache: HostCache::new(limits.cache),
            budget: Budget::new(limits.gap, limits.batch),
            admissions: 0,
            parts: 0,
            held: None,
            plan: Plan::default(),
        }
    }

    /// Lets a task wait for a slot.
    pub fn submit(&mut self, task: Task) {
        self.queue.push(task);
    }

    /// Ends a task, wherever it is.
    pub fn cancel(&mut self, task: TaskId) {
        self.queue.remove(task);
        if let Some(slot) = self.slot_of(task) {
            self.release(slot);
        }
    }

    /// Whether nothing waits and nothing runs.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.iter().all(Option::is_none)
    }

    /// Tasks that wait.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Slots and what lies in them.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What was put aside.
    pub fn cache(&mut self) -> &mut HostCache<S> {
        &mut self.cache
    }

    /// Gives the next task a slot, if there is one for it.
    pub fn admit(&mut self) -> Option<Admission> {
        let task = self.queue.first()?;
        let placement = self.pool.place(&task.prompt, &self.cache)?;
        let task = self.queue.pop().expect("the first was looked at");
        let slot = placement.slot;
        let aside = placement.save.then(|| self.pool.tokens(slot).to_vec());
        self.pool
            .hold(slot, task.id, &task.prompt[..placement.keep]);
        let admission = Admission {
            task: task.id,
            placement,
            aside,
        };
        self.running[slot.index()] = Some(Running {
            task,
            next: None,
            chosen: 0,
            admission: self.admissions,
        });
        self.admissions += 1;
        Some(admission)
    }

    /// Tells how many tokens of an admitted prompt are really there; the rest is read.
    pub fn settle(&mut self, slot: SlotId, kept: usize) {
        let Some(running) = &self.running[slot.index()] else {
            return;
        };
        if kept < self.pool.tokens(slot).len() {
            let prompt = Arc::clone(&running.task.prompt);
            self.pool.clear(slot);
            self.pool.extend(slot, &prompt[..kept]);
        }
    }

    /// The next step. It is the same until [`Self::read`] tells that it was computed.
    pub fn step(&mut self) -> &Plan {
        self.plan.clear();
        let answers = || self.running.iter().flatten().filter(|it| it.next.is_some());
        let flowing = answers().filter(|it| it.chosen > 1).count();
        let prompts_may = match self.held {
            None => true,
            Some(held) => flowing == 0 && held < self.limits.gap * FIRST_HOLD,
        } || answers().next().is_none();
        self.plan.waiting = flowing;
        match self.next_prompt().filter(|_| prompts_may) {
            Some(prompt) => self.plan_part(&prompt),
            None => self.plan_answers(),
        }
        &self.plan
    }

    /// The step that was last asked for.
    pub fn planned(&self) -> &Plan {
        &self.plan
    }

    /// Tells that the step was computed.
    pub fn read(&mut self, elapsed: Duration) {
        if self.plan.is_prompt {
            self.budget
                .observe(self.plan.waiting, self.plan.rows.len(), elapsed);
            self.parts += 1;
        }
        self.held = match self.plan.is_prompt {
            true => Some(self.held.unwrap_or_default() + elapsed),
            false => None,
        };
        for row in &self.plan.rows {
            self.pool.extend(row.slot, &[row.token]);
            if let Some(running) = &mut self.running[row.slot.index()] {
                running.next = None;
            }
        }
        for output in &self.plan.outputs {
            self.queue.unblock(output.task);
        }
    }

    /// Tells which token was chosen for a slot. `Some`: the answer is complete, and the slot free.
    pub fn chosen(&mut self, slot: SlotId, token: Token, is_end: bool) -> Option<FinishReason> {
        let running = self.running[slot.index()].as_mut()?;
        running.chosen += 1;
        let length = running.task.prompt.len() + running.chosen;
        let finish = if is_end {
            FinishReason::Stop
        } else if running.chosen >= running.task.most || length >= self.limits.context {
            FinishReason::Length
        } else {
            running.next = Some(token);
            return None;
        };
        self.release(slot);
        Some(finish)
    }

    /// Gives up all tasks of the step, which could not be computed. Nothing lies in their slots any
    /// more.
    pub fn fail(&mut self) -> Vec<(SlotId, TaskId)> {
        let mut failed: Vec<(SlotId, TaskId)> = Vec::new();
        for row in std::mem::take(&mut self.plan.rows) {
            if let Some(running) = &self.running[row.slot.index()] {
                failed.push((row.slot, running.task.id));
                self.release(row.slot);
                self.pool.clear(row.slot);
            }
        }
        self.plan.clear();
        failed
    }

    /// The prompt that is read next: what is nearly read, so that few wait for many; but in every
    /// other step the oldest, so that a long one is not passed over for ever.
    fn next_prompt(&self) -> Option<Waiting> {
        let waiting = (0..).zip(&self.running).filter_map(|(index, running)| {
            let running = running.as_ref().filter(|it| it.next.is_none())?;
            let read = self.pool.tokens(slot(index)).len();
            Some(Waiting {
                slot: index,
                unread: running.task.prompt.len() - read,
                admission: running.admission,
            })
        });
        match self.parts.is_multiple_of(2) {
            true => waiting.min_by_key(|it| (it.unread, it.admission)),
            false => waiting.min_by_key(|it| it.admission),
        }
    }

    /// A small rest is read with the part before it: small parts are dear.
    fn plan_part(&mut self, prompt: &Waiting) {
        let part = self.budget.prompt_tokens(self.plan.waiting);
        let part = match prompt.unread <= (part + part / 4).min(self.limits.batch) {
            true => prompt.unread,
            false => part,
        };
        let Some(running) = &self.running[prompt.slot] else {
            return;
        };
        let read = running.task.prompt.len() - prompt.unread;
        let tokens = &running.task.prompt[read..read + part];
        let slot = slot(prompt.slot);
        self.plan.is_prompt = true;
        self.plan.add(
            slot,
            running.task.id,
            read,
            tokens,
            running.task.prompt.len(),
        );
    }

    fn plan_answers(&mut self) {
        for (index, running) in (0..).zip(&self.running) {
            if let Some(running) = running
                && let Some(next) = running.next
            {
                let read = self.pool.tokens(slot(index)).len();
                let prompt = running.task.prompt.len();
                self.plan
                    .add(slot(index), running.task.id, read, &[next], prompt);
            }
        }
    }

    fn slot_of(&self, task: TaskId) -> Option<SlotId> {
        self.running
            .iter()
            .position(|running| running.as_ref().is_some_and(|it| it.task.id == task))
            .map(slot)
    }

    fn release(&mut self, slot: SlotId) {
        if let Some(running) = self.running[slot.index()].take() {
            // Whoever waited for the prompt must read it for itself.
            self.queue.unblock(running.task.id);
            self.pool.release(slot);
        }
    }
}

fn slot(index: usize) -> SlotId {
    SlotId(u32::try_from(index).expect("slots are counted in u32"))
}

#[cfg(test)]
mod tests;
