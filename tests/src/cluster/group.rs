//! Programs that end with the test, however it ends.
//!
//! A test that is killed runs no destructor. So a shell leads the process group of all
//! programs and reads from a pipe that only the test holds open: at its end it kills the group.

use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::process::Process;

/// The group.
#[derive(Debug)]
pub(super) struct Group {
    leader: Child,
}

impl Group {
    /// A new one. When the test is killed, `folder` is removed too.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let mut leader = Command::new("sh")
            .args([
                "-c",
                r#"echo; cat >/dev/null; rm -rf "$1"; kill -KILL 0"#,
                "sh",
            ])
            .arg(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start sh")?;
        // A group can be joined once its leader leads it.
        let mut started = leader.stdout.take().context("its standard output")?;
        started.read_exact(&mut [0])?;
        Ok(Self { leader })
    }

    /// Starts a program in the group.
    pub(super) fn start(&self, name: &str, mut command: Command) -> anyhow::Result<Process> {
        let leader = i32::try_from(self.leader.id()).context("a process id")?;
        command.process_group(leader);
        Process::start(name, command)
    }

    /// Ends the leader, once the others are gone.
    pub(super) fn end(&mut self) {
        let _ = self.leader.kill();
        let _ = self.leader.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_end_with_a_test_that_runs_no_destructor() {
        let folder = tempfile::tempdir().unwrap();
        let mut group = Group::new(folder.path()).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut process = group.start("sleep", command).unwrap();
        assert!(process.is_running().unwrap());
        // What the system does when the test is killed.
        drop(group.leader.stdin.take());
        process.wait().unwrap();
        group.leader.wait().unwrap();
        assert!(!folder.path().exists());
    }
}
