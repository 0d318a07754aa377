//! How a data plane comes to hold what a controller offers, whatever is lost in between.
//!
//! Two machines without I/O: [`Offer`] is a controller's side of one stream, [`Hold`] is the
//! data plane's. They take messages and the time, and say what to send; sockets, clocks
//! and files belong to the callers. Both live here, side by side, because what is
//! promised is promised by the pair: see
//! `docs/decisions/0001-sync-machines-in-proto.md`.

mod hold;
mod image;
mod mark;
mod message;
mod offer;
mod shelf;
mod state;

pub use hold::{Effect, Hold};
pub use image::{ImageError, Restore};
pub use mark::{Mark, Revision, Source, sources};
pub use message::{
    Ack, Chunk, Commit, Deny, Down, Hello, Leader, Put, Rejection, Report, Up, Welcome,
};
pub use offer::{Offer, Violation};
pub use state::{Entry, Key, State};
