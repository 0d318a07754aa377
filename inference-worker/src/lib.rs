//! One GGUF model on llama.cpp, spoken to over gRPC (`bodhi.inference.v1`).
//!
//! A request is the canonical conversation of [`bodhi_proto::chat`]; it becomes a prompt
//! ([`template`]), waits for a slot ([`scheduler`], [`slots`]), is decoded ([`engine`],
//! [`sampling`]) and comes back as events ([`text`]). One process serves one model and may be
//! killed at any moment without harm to others.

pub mod admin;
pub mod app;
pub mod config;
pub mod engine;
pub mod exit;
pub mod grpc;
pub mod metrics;
pub mod models;
pub mod sampling;
pub mod scheduler;
pub mod serving;
pub mod slots;
pub mod start;
pub mod state;
pub mod template;
pub mod text;
