//! What may enter: room for a request before it is worked on. Pure arithmetic; what was
//! granted is a guard that gives itself back.

pub mod memory;
