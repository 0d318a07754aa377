//! For the unit tests of other rooms.

use std::sync::Arc;

use clap::Parser;

use super::Fake;
use crate::config::Flags;
use crate::serving::Serving;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

/// A fake model that is ready.
pub(crate) fn serving() -> Arc<Serving> {
    let flags = ["worker", "--model", "fake", "--listen", "unix:/nowhere"];
    let serving = Fake::default().serving(&Cli::parse_from(flags).flags);
    Arc::new(serving.expect("a thread"))
}
