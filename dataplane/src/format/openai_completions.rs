//! OpenAI's older completions (<https://platform.openai.com/docs/api-reference/completions>).
//!
//! A request may have several prompts. Each is a generation of its own; choice `i` of prompt `p`
//! has the index `p * n + i`.

mod request;
mod response;
mod stream;
mod wire;

pub use self::request::{Request, parse};
pub use self::response::Collector;
pub use self::stream::Writer;

use bodhi_proto::chat::ReplyEvent;

use crate::format::BadReply;
use crate::format::openai::wire::Totals;
use crate::format::reply::Order;

/// Holds the replies to all prompts to their order, and sums up.
#[derive(Debug)]
struct Replies {
    orders: Vec<Order>,
    choices: u32,
    open: usize,
    totals: Totals,
}

impl Replies {
    fn new(request: &Request) -> Self {
        let choices = request.choices();
        let prompts = request.prompts();
        Self {
            orders: std::iter::repeat_with(|| Order::new(choices as usize))
                .take(prompts)
                .collect(),
            choices,
            open: prompts,
            totals: Totals::default(),
        }
    }

    fn is_complete(&self) -> bool {
        self.open == 0
    }

    /// Takes an event of the reply to a prompt; where it is one of a choice, says its index
    /// among all.
    fn take(&mut self, prompt: usize, event: &ReplyEvent) -> Result<Option<u32>, BadReply> {
        let order = self.orders.get_mut(prompt).ok_or(BadReply::Unexpected)?;
        order.take(event)?;
        match event {
            ReplyEvent::Choice { choice, .. } => {
                let before = u32::try_from(prompt).expect("prompts are few") * self.choices;
                Ok(Some(before + choice))
            }
            ReplyEvent::End { usage, timings, .. } => {
                self.open -= 1;
                match self.orders.len() {
                    1 => self.totals = Totals::new(*usage, *timings),
                    _ => self.totals.add(*usage),
                }
                Ok(None)
            }
        }
    }
}
