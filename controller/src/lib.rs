//! The controller: watches resources, compiles them and offers the result to data planes.
//!
//! The life of a change: a source sends an event ([`source`]), the index stores it
//! ([`index`]), everything is compiled anew ([`compile`]), the difference is pushed
//! ([`sync`]), and what data planes say becomes the object's conditions ([`status`]).
//! [`reconcile`] is the task that walks it along. People reach it through [`admin`].

pub mod admin;
pub mod api;
pub mod app;
pub mod authority;
pub mod compile;
pub mod config;
pub mod health;
pub mod index;
pub mod jwks;
pub mod leader;
pub mod pools;
pub mod reconcile;
pub mod runtime;
pub mod scaling;
pub mod source;
pub mod status;
pub mod store;
pub mod sync;
pub mod upstreams;
pub mod validate;
