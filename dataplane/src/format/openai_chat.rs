//! OpenAI's chat completions (<https://platform.openai.com/docs/api-reference/chat>), with
//! what llama.cpp adds to them.
//!
//! What a conversation has no place for is refused where it would change the answer (audio,
//! files, custom tools) and passed over where it would not (`store`, `metadata`, `user`,
//! `service_tier`, names of system and assistant messages, unknown keys).

mod request;
mod response;
mod stream;
mod wire;

pub use self::request::parse;
pub use self::response::Collector;
pub use self::stream::Writer;
