//! What the relay must know of a response that it passes on unread.
//!
//! Bytes are forwarded as they come and never buffered. Three things are
//! looked at on the way: whether the last byte sent is between two events, so
//! that a failure may be told in one of our own ([`EventBoundary`],
//! [`terminal_event`]); and the id of a new response, whose owner is recorded
//! ([`ResponseIdFinder`]).

mod boundary;
mod response_id;
mod terminal;

pub use self::boundary::EventBoundary;
pub use self::response_id::ResponseIdFinder;
pub use self::terminal::terminal_event;
