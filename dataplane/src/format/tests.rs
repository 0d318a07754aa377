//! Translation as data: bodies and what they mean, events and what is written for them.

mod replies;
mod requests;
mod streams;

use bodhi_proto::chat::{Event, ReplyEvent};

use super::Head;

fn head() -> Head {
    Head {
        id: "Fixture01".to_owned(),
        created: 1_717_171_717,
        model: "tiny/\"quoted\"".to_owned(),
        fingerprint: Some("fp_0123456789".to_owned()),
    }
}

fn of(choice: u32, event: Event) -> ReplyEvent {
    ReplyEvent::Choice { choice, event }
}

fn text(text: &str) -> Event {
    Event::Text(text.to_owned())
}
