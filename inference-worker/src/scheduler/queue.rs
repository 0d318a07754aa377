//! The tasks that wait for a slot, in the order in which they came.

use std::collections::VecDeque;

use super::{Task, TaskId};

#[derive(Debug, Default)]
pub(super) struct Queue {
    ready: VecDeque<Task>,
    /// Wait for another's prompt.
    blocked: Vec<Task>,
}

impl Queue {
    pub(super) fn push(&mut self, task: Task) {
        if task.after.is_some() {
            self.blocked.push(task);
        } else {
            self.ready.push_back(task);
        }
    }

    pub(super) fn first(&self) -> Option<&Task> {
        self.ready.front()
    }

    pub(super) fn pop(&mut self) -> Option<Task> {
        self.ready.pop_front()
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len() + self.blocked.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn remove(&mut self, id: TaskId) {
        self.ready.retain(|task| task.id != id);
        self.blocked.retain(|task| task.id != id);
        self.unblock(id);
    }

    /// Lets those go on that waited for a task. They belong to a request that had its turn, so they
    /// come first.
    pub(super) fn unblock(&mut self, id: TaskId) {
        let mut freed: Vec<Task> = self
            .blocked
            .extract_if(.., |task| task.after == Some(id))
            .collect();
        while let Some(mut task) = freed.pop() {
            task.after = None;
            self.ready.push_front(task);
        }
    }
}
