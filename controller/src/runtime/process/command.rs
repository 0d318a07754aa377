//! A worker's program, flags and environment.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bodhi_proto::chat::Failure;
use bodhi_proto::names::ObjectRef;
use tokio::process::Command;

use crate::api::Reason;
use crate::compile::{Credentials, WorkerSpec};
use crate::runtime::flags::{TOKEN, flags};

/// The program's name, beside our own.
const PROGRAM: &str = "bodhi-worker";
/// What a worker may need of our environment. The rest is left out: keys of providers are
/// nothing to a program that reads files of strangers.
const VARIABLES: [&str; 13] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "XDG_CACHE_HOME",
    "LD_LIBRARY_PATH",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTPS_PROXY",
    "https_proxy",
    "NO_PROXY",
];
/// The same by how it begins: the model runtime's, the sources', the worker's own flags.
const PREFIXES: [&str; 8] = [
    "GGML_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "HF_",
    "AWS_",
    "BODHI_WORKER_",
];

/// What one process is started with.
pub(super) struct Start<'a> {
    pub(super) program: &'a Path,
    pub(super) object: &'a ObjectRef,
    pub(super) spec: &'a WorkerSpec,
    pub(super) socket: &'a Path,
    pub(super) threads: usize,
    pub(super) drain: Duration,
}

/// The program: beside the running one, else where the operator says.
pub(super) fn find(configured: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(path) = configured {
        return match path.is_file() {
            true => Ok(path.to_owned()),
            false => Err(not_installed(format!(
                "there is no file {}",
                path.display()
            ))),
        };
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(PROGRAM)))
        .filter(|path| path.is_file());
    beside.ok_or_else(|| not_installed(format!("there is no {PROGRAM} beside this program")))
}

fn not_installed(what: String) -> Failure {
    Failure {
        reason: Reason::WorkerNotInstalled.as_str().into(),
        message: format!("{what}: build it with `make worker`, or name it with --worker-binary"),
    }
}

impl Start<'_> {
    /// A command in a process group of its own, so that a Ctrl-C in the terminal reaches the
    /// gateway alone. The worker goes when its standard input ends: it ends with us, however we
    /// end.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(self.flags())
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| is_passed_on(name)))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(Credentials::Token(token)) = &self.spec.credentials {
            command.env(TOKEN, token.expose());
        }
        command
    }

    fn flags(&self) -> Vec<OsString> {
        let common = flags(self.object, self.spec).into_iter();
        let mut flags: Vec<OsString> = vec!["--exit-with-parent".into()];
        flags.extend(common.map(OsString::from));
        flags.push(format!("--drain={}", self.drain.as_secs()).into());
        flags.push(format!("--threads={}", self.threads).into());
        let mut listen = OsString::from("--listen=unix:");
        listen.push(self.socket);
        flags.push(listen);
        flags
    }
}

fn is_passed_on(name: &OsString) -> bool {
    let Some(name) = name.to_str() else {
        return false;
    };
    VARIABLES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
