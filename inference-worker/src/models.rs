//! Where a model comes from, and whether it can be run here.

pub mod gguf;
