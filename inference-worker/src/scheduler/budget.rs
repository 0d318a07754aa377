//! How much of a prompt a step may carry while answers wait for it.
//!
//! Steps are steered by how long they took, not computed from a price for each token: a few tokens cost
//! nearly as much as many, so that a price that was learnt from small steps would keep them small.

use std::time::Duration;

/// At least, so that prompts make progress however slow the machine is: every step passes over all
/// weights, and below 64 tokens llama.cpp's attention goes row by row on CPUs, which takes several
/// times longer for each.
const LEAST: usize = 128;
/// By so much it grows at once at most.
const GROWTH: f64 = 1.5;
/// And shrinks: a single slow step may be somebody else's doing.
const SHRINKAGE: f64 = 0.5;

/// The number of tokens that keeps a step about as long as answers may be held up.
#[derive(Debug)]
pub(super) struct Budget {
    gap: f64,
    batch: usize,
    tokens: f64,
    /// Seconds for each token, of steps without answers; what is begun with.
    price: Option<f64>,
    /// Steps that answers waited for were seen.
    is_steered: bool,
}

impl Budget {
    pub(super) fn new(gap: Duration, batch: usize) -> Self {
        Self {
            gap: gap.as_secs_f64(),
            batch,
            tokens: LEAST as f64,
            price: None,
            is_steered: false,
        }
    }

    /// Tokens that fit into a step that so many answers wait for.
    pub(super) fn prompt_tokens(&self, answering: usize) -> usize {
        if answering == 0 {
            return self.batch;
        }
        let tokens = match self.price {
            // Saturates where a token costs next to nothing.
            Some(price) if !self.is_steered => (self.gap / price) as usize,
            _ => self.tokens as usize,
        };
        tokens.max(LEAST).min(self.batch)
    }

    /// Learns from a step with a part of a prompt.
    pub(super) fn observe(&mut self, answering: usize, prompt_tokens: usize, elapsed: Duration) {
        let elapsed = elapsed.as_secs_f64().max(f64::EPSILON);
        if answering == 0 {
            if prompt_tokens >= LEAST {
                self.price = Some(elapsed / prompt_tokens as f64);
            }
            return;
        }
        let planned = self.prompt_tokens(answering);
        let factor = (self.gap / elapsed).clamp(SHRINKAGE, GROWTH);
        // A step that was not full says nothing about a larger one.
        if prompt_tokens >= planned || (factor < 1.0 && prompt_tokens >= LEAST) {
            let tokens = planned as f64 * factor;
            self.tokens = tokens.max(LEAST as f64).min(self.batch as f64);
            self.is_steered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Budget {
        Budget::new(Duration::from_millis(100), 512)
    }

    /// Steps of full budgets on a machine on which so many tokens take so many milliseconds.
    fn settle(budget: &mut Budget, millis: impl Fn(usize) -> usize) -> usize {
        for _ in 0..50 {
            let tokens = budget.prompt_tokens(1);
            budget.observe(1, tokens, Duration::from_millis(millis(tokens) as u64));
        }
        budget.prompt_tokens(1)
    }

    #[test]
    fn gives_prompts_the_whole_step_when_nobody_is_answered() {
        assert_eq!(budget().prompt_tokens(0), 512);
    }

    #[test]
    fn begins_with_what_prompts_alone_took() {
        let mut budget = budget();
        assert_eq!(budget.prompt_tokens(1), LEAST);
        budget.observe(0, 500, Duration::from_millis(250));
        assert_eq!(budget.prompt_tokens(1), 200);
    }

    #[test]
    fn fills_the_gap() {
        // Answers take 20 ms, a prompt token half of one: 160 fit into 100 ms.
        let tokens = settle(&mut budget(), |tokens| 20 + tokens / 2);
        assert!((155..=165).contains(&tokens), "{tokens}");
    }

    #[test]
    fn is_not_kept_small_by_what_a_few_tokens_cost() {
        // Any number up to 128 takes 60 ms; then a token takes 1 ms.
        let tokens = settle(&mut budget(), |tokens| 60 + tokens.saturating_sub(128));
        assert!((160..=175).contains(&tokens), "{tokens}");
    }

    #[test]
    fn lets_prompts_creep_on_when_answers_alone_take_too_long() {
        assert_eq!(settle(&mut budget(), |tokens| 300 + tokens), LEAST);
    }

    #[test]
    fn fills_the_batch_when_tokens_cost_nothing() {
        assert_eq!(settle(&mut budget(), |_| 0), 512);
    }

    #[test]
    fn learns_nothing_from_steps_that_were_not_full() {
        let mut budget = budget();
        for _ in 0..10 {
            budget.observe(1, 5, Duration::from_millis(1));
            budget.observe(1, 0, Duration::from_millis(1));
        }
        assert_eq!(budget.prompt_tokens(1), LEAST);
    }
}
