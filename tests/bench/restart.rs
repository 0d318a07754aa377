//! How long a data plane takes from its start to readiness when all it has is its sealed file.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use crate::gateway::{DataPlane, Gateway};
use crate::measure::median;

/// Starts of one data plane from its file.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Restarts {
    /// Of the sealed file, in bytes.
    pub(crate) file: u64,
    pub(crate) starts: Vec<Start>,
}

/// One of them.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Start {
    /// From before the program is run until `/readyz` answers 200.
    pub(crate) wall_millis: f64,
    /// What it had used by then, all threads together.
    pub(crate) cpu_millis: f64,
}

/// Stops the gateway, its controller for good, and starts the data plane so many times.
pub(crate) async fn measure(gateway: Gateway, count: usize) -> anyhow::Result<Restarts> {
    let DataPlane { setup, program } = gateway.dataplane;
    // It writes its file when it is told to stop.
    drop(program);
    drop(gateway.controller);
    let file = setup.data.join("snapshot.sealed");
    let mut restarts = Restarts {
        file: size(&file)?,
        starts: Vec::new(),
    };
    for _ in 0..count {
        let began = Instant::now();
        let program = setup.run().await?;
        let wall = began.elapsed();
        restarts.starts.push(Start {
            wall_millis: wall.as_secs_f64() * 1e3,
            cpu_millis: program.tree().cpu_nanos()? as f64 / 1e6,
        });
    }
    Ok(restarts)
}

fn size(file: &Path) -> anyhow::Result<u64> {
    let metadata = fs::metadata(file).with_context(|| file.display().to_string())?;
    Ok(metadata.len())
}

impl Restarts {
    pub(crate) fn table(&self) -> String {
        let row = |name: &str, read: fn(&Start) -> f64| {
            let best = self.starts.iter().map(read).fold(f64::INFINITY, f64::min);
            let middle = median(self.starts.iter().map(read));
            format!("| {name} | {best:.0} | {middle:.0} |\n")
        };
        format!(
            "\n### From start to readiness, sealed file of {:.1} MiB, {} starts\n\n\
             | ms | best | median |\n|---|--:|--:|\n{}{}",
            self.file as f64 / f64::from(1 << 20),
            self.starts.len(),
            row("wall", |start| start.wall_millis),
            row("CPU", |start| start.cpu_millis),
        )
    }
}
