//! The data plane: a stateless proxy that authenticates, routes, forwards and meters.
//!
//! It needs memory and the upstream, nothing else: configuration is pushed to it, and it goes
//! on serving from the last one it has. A request's life is told by [`proxy`].

pub mod active;
pub mod admin;
pub mod admission;
pub mod anonymous;
pub mod api;
pub mod app;
pub mod auth;
pub mod balance;
pub mod config;
pub mod control;
pub mod fallback;
pub mod format;
pub mod provider;
pub mod proxy;
pub mod serve;
pub mod telemetry;
pub mod upstream;
pub mod workers;
