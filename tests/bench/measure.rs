//! What processes cost, as the kernel counts it.

use std::fs;

use anyhow::Context as _;

/// A process with all its descendants: nginx is a master and workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tree {
    root: u32,
}

/// Resident memory of a tree, in bytes.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Memory {
    /// All of it; pages that processes share count for each.
    pub(crate) resident: u64,
    /// Without mapped files, which is mostly the program's own text.
    pub(crate) anonymous: u64,
}

impl Tree {
    pub(crate) fn of(root: u32) -> Self {
        Self { root }
    }

    /// Nanoseconds on a CPU since the start, over all living threads: the first field of `schedstat`
    /// (Documentation/scheduler/sched-stats.rst), where `stat` would count in ticks of 10 ms.
    pub(crate) fn cpu_nanos(self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for pid in self.pids()? {
            let tasks = format!("/proc/{pid}/task");
            for task in fs::read_dir(&tasks).with_context(|| format!("{tasks} (did it end?)"))? {
                // A thread may end between the listing and the reading.
                let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
                let nanos = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
                sum += nanos.unwrap_or(0);
            }
        }
        Ok(sum)
    }

    /// What it holds in memory now.
    pub(crate) fn memory(self) -> anyhow::Result<Memory> {
        let mut sum = Memory {
            resident: 0,
            anonymous: 0,
        };
        for pid in self.pids()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            sum.resident += kibibytes(&status, "VmRSS:")? * 1024;
            sum.anonymous += kibibytes(&status, "RssAnon:")? * 1024;
        }
        Ok(sum)
    }

    fn pids(self) -> anyhow::Result<Vec<u32>> {
        let mut pids = vec![self.root];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children =
                fs::read_to_string(&path).with_context(|| format!("{path} (did it end?)"))?;
            pids.extend(
                children
                    .split_whitespace()
                    .filter_map(|c| c.parse::<u32>().ok()),
            );
            next += 1;
        }
        Ok(pids)
    }
}

fn kibibytes(status: &str, field: &str) -> anyhow::Result<u64> {
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix(field)?
                .trim()
                .strip_suffix(" kB")?
                .parse()
                .ok()
        })
        .with_context(|| format!("no {field} in /proc/PID/status"))
}

/// The middle value; of an even number the mean of the two. 0 of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => values[half],
        _ => (values[half - 1] + values[half]) / 2.0,
    }
}

/// The value that `share` of the sorted values do not exceed (nearest rank). 0 of nothing.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(
            (percentile(&hundred, 0.5), percentile(&hundred, 0.99)),
            (50.0, 99.0)
        );
        assert_eq!((median([]), percentile(&[], 0.5)), (0.0, 0.0));
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let tree = Tree::of(std::process::id());
        assert!(tree.cpu_nanos().unwrap() > 0);
        let memory = tree.memory().unwrap();
        assert!(memory.resident > memory.anonymous && memory.anonymous > 0);
    }
}
