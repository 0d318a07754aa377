//! The controller put together: the only place that constructs its rooms and connects them.

mod glue;
mod standalone;

pub use standalone::{Controller, FirstStart};
