//! How much of the prompts a step may carry.

use std::time::Duration;

/// Before anything was measured, and at least in every step, so that prompts make progress however slow
/// the machine is.
const LEAST: usize = 16;
/// How much a new measurement counts.
const WEIGHT: f64 = 0.3;

/// Estimates what a step costs from how long steps took.
#[derive(Debug)]
pub(super) struct Budget {
    gap: f64,
    batch: usize,
    /// Seconds of a step that carries answers only.
    answers: Option<f64>,
    /// Seconds for each token of a prompt.
    token: Option<f64>,
}

impl Budget {
    pub(super) fn new(gap: Duration, batch: usize) -> Self {
        Self {
            gap: gap.as_secs_f64(),
            batch,
            answers: None,
            token: None,
        }
    }

    /// Tokens of prompts that fit into a step beside so many answers.
    pub(super) fn prompt_tokens(&self, answering: usize) -> usize {
        if answering == 0 {
            return self.batch;
        }
        let Some(token) = self.token else {
            return LEAST.min(self.batch);
        };
        let rest = (self.gap - self.answers.unwrap_or(0.0)).max(0.0);
        // Saturates where a token costs next to nothing.
        ((rest / token) as usize).clamp(LEAST.min(self.batch), self.batch)
    }

    /// Learns from a step.
    pub(super) fn observe(&mut self, answering: usize, prompt_tokens: usize, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64();
        if prompt_tokens == 0 {
            average(&mut self.answers, elapsed);
        } else if prompt_tokens >= LEAST {
            let answers = if answering == 0 {
                0.0
            } else {
                self.answers.unwrap_or(0.0)
            };
            let rest = (elapsed - answers).max(elapsed / 10.0);
            average(&mut self.token, rest / prompt_tokens as f64);
        }
    }
}

fn average(value: &mut Option<f64>, new: f64) {
    *value = Some(value.map_or(new, |old| old + WEIGHT * (new - old)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(steps: &[(usize, usize, u64)]) -> Budget {
        let mut budget = Budget::new(Duration::from_millis(100), 512);
        for (answering, prompts, millis) in steps {
            budget.observe(*answering, *prompts, Duration::from_millis(*millis));
        }
        budget
    }

    #[test]
    fn gives_prompts_the_whole_step_when_nobody_is_answered() {
        assert_eq!(after(&[(0, 512, 10_000)]).prompt_tokens(0), 512);
    }

    #[test]
    fn begins_carefully_beside_answers() {
        assert_eq!(after(&[]).prompt_tokens(1), LEAST);
    }

    #[test]
    fn fills_the_gap_that_answers_leave() {
        // A step of answers takes 20 ms, a prompt token 1 ms: 80 fit into 100 ms.
        let budget = after(&[(4, 0, 20), (0, 500, 500)]);
        assert_eq!(budget.prompt_tokens(4), 80);
    }

    #[test]
    fn lets_prompts_creep_on_when_answers_alone_take_too_long() {
        assert_eq!(after(&[(4, 0, 300), (0, 500, 500)]).prompt_tokens(4), LEAST);
    }

    #[test]
    fn follows_a_machine_that_becomes_slower() {
        let mut budget = after(&[(1, 0, 10), (0, 512, 512)]);
        let before = budget.prompt_tokens(1);
        for _ in 0..20 {
            budget.observe(1, 64, Duration::from_millis(10 + 64 * 4));
        }
        assert!(budget.prompt_tokens(1) * 3 < before);
    }
}
