//! The contract that all of Bodhi's programs share: names, the routing snapshot
//! that a data plane serves from, and the wire form in which it travels.
//!
//! Nothing here knows Kubernetes, files, sockets or clocks. Values are parsed
//! once, at the border, into types that cannot be wrong; decisions (which model,
//! may this token, may this address be dialled) are plain functions over them.

pub mod chat;
pub mod digest;
pub mod egress;
pub mod names;
pub mod permission;
pub mod provider;
pub mod routing;
pub mod secret;
pub mod snapshot;
pub mod sync;
pub mod token;
pub mod wire;
