//! Programs under test: where they are, how they start, what they print and how they end.
//!
//! Whatever a program printed is kept whole. When it ends, the output is searched for the
//! [secrets](Process::keep_secret) of the test; one that is found fails the test.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// How long anything may take to start or to stop before the test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The path of one of the workspace's programs.
///
/// It is looked for in `BODHI_BIN_DIR`, else beside the running test. What is missing there is
/// built, once.
///
/// # Errors
/// When there is no such program and it cannot be built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    if let Some(folder) = std::env::var_os("BODHI_BIN_DIR") {
        let path = PathBuf::from(folder).join(name);
        ensure!(
            path.is_file(),
            "{} does not exist, though BODHI_BIN_DIR says so",
            path.display()
        );
        return Ok(path);
    }
    let test = std::env::current_exe().context("the path of this test")?;
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM
    let folder = test
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps"))
        .context("no folder above")?;
    let path = folder.join(name);
    static BUILT: OnceLock<Result<(), String>> = OnceLock::new();
    if !path.is_file() {
        BUILT
            .get_or_init(|| build(folder))
            .clone()
            .map_err(anyhow::Error::msg)?;
        ensure!(
            path.is_file(),
            "{} is not one of the workspace's programs",
            path.display()
        );
    }
    Ok(path)
}

fn build(folder: &Path) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--workspace",
            "--exclude",
            "bodhi-worker",
            "--bins",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(target) = folder.parent() {
        command.env("CARGO_TARGET_DIR", target);
    }
    if folder.ends_with("release") {
        command.arg("--release");
    }
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!(
            "cargo build --workspace --bins ended with {status}"
        )),
        Err(why) => Err(format!("cannot run cargo: {why}")),
    }
}

#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Printed>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Printed {
    text: Vec<u8>,
    /// Streams that have not ended.
    open: usize,
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
    secrets: Vec<String>,
}

impl Process {
    /// Starts `command` with its output caught.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        let output = Arc::new(Output::default());
        output
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open = 2;
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child
                .stdout
                .take()
                .map(|stream| Box::new(stream) as Box<dyn Read + Send>),
            child
                .stderr
                .take()
                .map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        ];
        let readers = streams.into_iter().flatten().map(|stream| {
            let output = output.clone();
            std::thread::spawn(move || collect(stream, &output))
        });
        let readers = readers.collect();
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
            readers,
            secrets: Vec::new(),
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// From now on this text must not appear in what the program printed, nor will print.
    pub fn keep_secret(&mut self, secret: impl Into<String>) {
        self.secrets.push(secret.into());
    }

    /// Everything printed so far, both streams.
    pub fn printed(&self) -> String {
        let printed = self
            .output
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&printed.text).into_owned()
    }

    /// Waits until `find` finds what it looks for in the output.
    ///
    /// # Errors
    /// When the program ends, or [`PATIENCE`] does, before that. The message holds the output.
    pub fn wait_for<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
        let until = Instant::now() + PATIENCE;
        let mut printed = self
            .output
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let text = String::from_utf8_lossy(&printed.text);
            if let Some(found) = find(&text) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if printed.open == 0 || left.is_zero() {
                let why = if printed.open == 0 {
                    "ended"
                } else {
                    "is too slow"
                };
                bail!(
                    "{} {why} before it printed {what}. Its output:\n{text}",
                    self.name
                );
            }
            printed = self
                .output
                .more
                .wait_timeout(printed, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Asks the program to end (SIGTERM) without waiting for it.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&self) -> anyhow::Result<()> {
        signal(self.id(), "TERM")
    }

    /// The ids of the processes that it has started and that still run.
    ///
    /// # Errors
    /// When processes cannot be listed.
    pub fn children(&self) -> anyhow::Result<Vec<u32>> {
        let mut children = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // It may have ended meanwhile. Its name, in brackets, may hold anything
            // (<https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>).
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let rest = stat.rsplit(") ").next().unwrap_or_default();
            let mut fields = rest.split(' ');
            let state = fields.next();
            let parent = fields.next().and_then(|id| id.parse().ok());
            if parent == Some(self.id()) && state != Some("Z") {
                children.push(id);
            }
        }
        Ok(children)
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// When the program runs on beyond [`PATIENCE`].
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(
                Instant::now() < until,
                "{} does not end. Its output:\n{}",
                self.name,
                self.printed()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends the program at once (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Ends the program and looks for secrets in all that it printed.
    ///
    /// # Errors
    /// Names each secret that was printed, with the line.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        self.kill();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let printed = self.printed();
        for secret in self.secrets.drain(..) {
            let leak = printed.lines().find(|line| line.contains(&secret));
            ensure!(
                leak.is_none(),
                "{} printed the secret '{secret}': {}",
                self.name,
                leak.unwrap_or_default()
            );
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let leak = self.finish();
        if std::thread::panicking() {
            eprintln!("--- output of {} ---\n{}", self.name, tail(&self.printed()));
        } else if let Err(leak) = leak {
            panic!("{leak}");
        }
    }
}

/// The last part of an output, enough for a failed test.
fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn collect(stream: impl Read, output: &Output) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        output
            .lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .text
            .append(&mut line);
        output.more.notify_all();
    }
    output
        .lines
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .open -= 1;
    output.more.notify_all();
}

/// Sends a signal, such as `KILL`, to a process.
///
/// # Errors
/// When there is no such process.
pub fn signal(process: u32, name: &str) -> anyhow::Result<()> {
    // The standard library sends SIGKILL only, and a system call would need unsafe code.
    let (signal, process) = (format!("-{name}"), process.to_string());
    let status = Command::new("kill").args([&signal, &process]).status()?;
    ensure!(
        status.success(),
        "kill {signal} {process} ended with {status}"
    );
    Ok(())
}

/// Repeats `attempt` until it gives a value.
///
/// # Errors
/// When [`PATIENCE`] ends before that.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        ensure!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::start("sh", command).unwrap()
    }

    #[test]
    fn a_printed_secret_is_found_on_either_stream() {
        for script in ["echo before canary-1 after", "echo canary-1 >&2"] {
            let mut process = shell(script);
            process.keep_secret("canary-1");
            process
                .wait_for("a line", |text| text.contains("canary").then_some(()))
                .unwrap();
            assert!(
                process
                    .finish()
                    .unwrap_err()
                    .to_string()
                    .contains("canary-1")
            );
        }
    }

    #[test]
    fn a_program_that_ends_early_is_told_with_its_output() {
        let why = shell("echo cannot bind >&2")
            .wait_for("its address", |_| None::<()>)
            .unwrap_err()
            .to_string();
        assert!(
            why.contains("ended") && why.contains("cannot bind"),
            "{why}"
        );
    }
}
