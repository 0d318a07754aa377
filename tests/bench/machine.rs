//! Where the figures were taken.

use std::fs;
use std::path::Path;
use std::process::Command;

/// What a figure depends on besides the programs.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) nginx: String,
    pub(crate) rustc: String,
    /// `release` or `debug`, by the folder the programs were found in.
    pub(crate) profile: String,
    pub(crate) commit: String,
    /// RFC 3339, UTC.
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn describe(programs: &Path) -> Self {
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .trim_end_matches(" kB")
                .parse::<u64>()
                .unwrap_or(0)
                / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .unwrap_or_default()
                .trim()
                .to_owned(),
            nginx: said(Command::new(super::nginx::PROGRAM).arg("-v"))
                .trim_start_matches("nginx version: ")
                .to_owned(),
            rustc: said(Command::new("rustc").arg("--version")),
            profile: programs
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            commit: said(Command::new("git").args(["describe", "--always", "--dirty"])),
            date: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%MZ")
                .to_string(),
        }
    }
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

/// The first line a command prints, on either stream; empty when it cannot run.
fn said(command: &mut Command) -> String {
    let output = command
        .output()
        .map(|out| [out.stdout, out.stderr].concat());
    let text = String::from_utf8_lossy(&output.unwrap_or_default()).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}
