//! How much memory this process may still take: the container's limit, or the machine's rest.

use std::fs;
use std::path::Path;

/// The numbers that [`available`] decides by; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryReport {
    /// The control group's limit, if it has one.
    pub limit: Option<u64>,
    /// What the control group uses, without file pages that the kernel would drop.
    pub used: u64,
    /// `MemAvailable` of the machine.
    pub machine: Option<u64>,
}

impl MemoryReport {
    /// Reads `/sys/fs/cgroup` (version 2, else 1) and `/proc/meminfo`. What cannot be read counts as no limit.
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    /// The same, of a system that lies below `root`.
    fn read_below(root: &Path) -> Self {
        let text = |path: &str| fs::read_to_string(root.join(path)).ok();
        let number = |path: &str| text(path)?.trim().parse::<u64>().ok();
        let v1 = "sys/fs/cgroup/memory";
        let (limit, used, stat, droppable) = match text("sys/fs/cgroup/memory.current") {
            Some(used) => (
                number("sys/fs/cgroup/memory.max"),
                used.trim().parse().unwrap_or(0),
                text("sys/fs/cgroup/memory.stat"),
                "inactive_file",
            ),
            None => (
                // Version 1 says "no limit" by a number beyond any machine.
                number(&format!("{v1}/memory.limit_in_bytes")).filter(|limit| *limit < 1 << 60),
                number(&format!("{v1}/memory.usage_in_bytes")).unwrap_or(0),
                text(&format!("{v1}/memory.stat")),
                "total_inactive_file",
            ),
        };
        let dropped = stat.and_then(|stat| field(&stat, droppable)).unwrap_or(0);
        let machine = text("proc/meminfo").and_then(|text| field(&text, "MemAvailable:"));
        Self {
            limit,
            used: used.saturating_sub(dropped),
            machine: machine.map(|kib| kib.saturating_mul(1024)),
        }
    }
}

/// The number behind a name at a line's beginning.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == name).then(|| words.next()?.parse().ok())?
    })
}

/// Bytes that may still be taken; `u64::MAX` where nothing limits.
pub fn available(report: &MemoryReport) -> u64 {
    let within = report.limit.map(|limit| limit.saturating_sub(report.used));
    let machine = report.machine.unwrap_or(u64::MAX);
    within.unwrap_or(u64::MAX).min(machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(files: &[(&str, &str)]) -> MemoryReport {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        MemoryReport::read_below(root.path())
    }

    #[test]
    fn a_containers_limit_counts_and_droppable_pages_do_not() {
        let machine = ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   1000 kB\n");
        let v2 = report(&[
            ("sys/fs/cgroup/memory.max", "500000\n"),
            ("sys/fs/cgroup/memory.current", "300000\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 1\ninactive_file 200000\n",
            ),
            machine,
        ]);
        assert_eq!(available(&v2), 400_000);
        let v1 = report(&[
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "500000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "300000\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "total_inactive_file 100000\n",
            ),
            machine,
        ]);
        assert_eq!(available(&v1), 300_000);
    }

    #[test]
    fn without_a_limit_the_machine_counts() {
        let machine = ("proc/meminfo", "MemAvailable: 1000 kB\n");
        let unlimited = [
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/memory.current", "5\n"),
            machine,
        ];
        assert_eq!(available(&report(&unlimited)), 1_024_000);
        let v1 = [
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            machine,
        ];
        assert_eq!(available(&report(&v1)), 1_024_000);
        assert_eq!(available(&report(&[])), u64::MAX);
    }
}
