//! What operators see: counters and one log line per request.
//!
//! The request path only adds to atomics of its own thread and hands a [`Record`] to
//! another thread; nothing here makes a request wait.

pub mod access_log;
pub mod metrics;

pub use access_log::{AccessLog, Record, RequestId};
pub use metrics::{Metrics, ProviderCounters, ThreadCounters};
