//! What operators see: counters and one log line per request.
//!
//! The request path only adds to atomics of its own thread and hands a [`Record`] to
//! another thread; nothing here makes a request wait.

pub mod access_log;
pub mod metrics;

use std::sync::Arc;

pub use access_log::{AccessLog, Record, RequestId};
pub use metrics::{Metrics, ProviderCounters, ThreadCounters};

/// Where one serving thread reports to.
#[derive(Debug)]
pub struct ThreadTelemetry {
    /// Its counters.
    pub counters: Arc<ThreadCounters>,
    /// Its way to the log.
    pub log: AccessLog,
}
