//! The way of a request through the data plane.

pub mod body;
pub mod stream;
