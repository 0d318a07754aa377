//! Program logs: one line per event on standard error, in JSON where nobody watches.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` chooses what is logged, by default `info`.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,refinery_core=warn,llama-cpp-2=warn,kube_client::client::builder=off")
    });
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start (tests) changes nothing.
    let _ = match std::io::stderr().is_terminal() {
        true => logs.with_target(false).compact().try_init(),
        false => logs.json().flatten_event(true).try_init(),
    };
}
