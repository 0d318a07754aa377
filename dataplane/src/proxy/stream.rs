//! What the relay must know of a streamed response.
