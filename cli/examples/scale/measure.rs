//! Figures: of times, of the process and of the machine.

use std::time::Duration;

use anyhow::Context as _;

/// Times, sorted.
pub(crate) struct Spread(Vec<Duration>);

impl Spread {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort();
        Self(times)
    }

    fn at(&self, part: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index, rounded up"
        )]
        let rank = (self.0.len() as f64 * part).ceil() as usize;
        self.0[rank.clamp(1, self.0.len()) - 1]
    }

    pub(crate) fn last(&self) -> Duration {
        self.at(1.0)
    }

    pub(crate) fn middle(&self) -> Duration {
        self.at(0.5)
    }

    pub(crate) fn ends(&self) -> String {
        format!("{:.2?}, {:.2?}", self.at(0.0), self.last())
    }

    pub(crate) fn percentiles(&self) -> String {
        let (p50, p99) = (self.middle(), self.at(0.99));
        format!("p50 {p50:.0?}, p99 {p99:.0?}, most {:.0?}", self.last())
    }
}

/// A size for people.
pub(crate) fn bytes(count: usize) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<usize> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.context("no VmRSS")?.trim().trim_end_matches(" kB");
    Ok(kib.parse::<usize>()? * 1024)
}

/// CPU time that a process has used, in seconds (proc(5): fields 14 and 15, in ticks of 10 ms).
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("no command name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |n: usize| {
        fields
            .get(n)
            .context("too few fields")?
            .parse::<f64>()
            .map_err(anyhow::Error::from)
    };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

/// What this ran on.
pub(crate) fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |m| m.trim_start_matches([' ', '\t', ':']));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{cores} cores of {model}; load {}", load.trim())
}
