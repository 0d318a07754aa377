//! What clients write and read, in and out of the canonical conversation.
//!
//! A format knows bytes and values: no HTTP client, no provider, no clock. Formats know nothing
//! of one another; they meet in [`bodhi_proto::chat`]. Each has a `parse` for requests, a
//! `Collector` that makes one document of a reply's events, and a `Writer` that makes a stream
//! of them. What is wrong with a request is a [`Fault`], what is wrong with a reply a
//! [`BadReply`]; neither knows a status.

pub mod embeddings;
mod fault;
pub mod openai;
pub mod openai_chat;
pub mod openai_completions;
mod read;
mod reply;
pub mod rerank;
mod sse;
#[cfg(test)]
mod tests;

pub use self::fault::Fault;
pub use self::reply::{BadReply, Head};
