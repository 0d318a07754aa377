//! Controller and data plane as programs of their own, joined by a Unix socket or by mutual TLS, so
//! that tests can kill and restart either.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context as _;
use serde::Deserialize;
use tempfile::TempDir;

use crate::authority::Authority;
use crate::gateway::{PROMPT, token_in};
use crate::process::{Process, binary, eventually};
use crate::scripted::KEY;
use crate::wire::{self, Response};

/// Both programs with their folders.
#[derive(Debug)]
pub struct Apart {
    /// `bodhi-controller`.
    pub controller: Process,
    /// `bodhi-dataplane`.
    pub data_plane: Process,
    /// Where the API answers.
    pub address: SocketAddr,
    /// Where the data plane's probes and metrics answer.
    pub admin: SocketAddr,
    /// The first token.
    pub token: String,
    folder: TempDir,
    link: Link,
    controller_arguments: Vec<String>,
    arguments: Vec<String>,
}

/// How the two are joined.
#[derive(Debug, Clone, Copy)]
enum Link {
    Unix,
    /// Where the controller listens. Its files are `controller.crt`, `.key` and `.ca`, the data
    /// plane's `plane.crt`, `.key` and `.ca`.
    Tls(SocketAddr),
}

impl Apart {
    /// Starts both with these documents as manifests, and these arguments for the data plane, and
    /// waits until the API answers.
    ///
    /// # Errors
    /// When one of them does not start; the message holds its output.
    pub fn start(manifests: &[impl AsRef<str>], arguments: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        Self::start_in(folder, Link::Unix, manifests, &[], arguments)
    }

    /// Likewise, with these arguments for the controller.
    ///
    /// # Errors
    /// When one of them does not start; the message holds its output.
    pub fn with_controller(
        manifests: &[impl AsRef<str>],
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        Self::start_in(folder, Link::Unix, manifests, arguments, &[])
    }

    /// Likewise, with certificates of this authority on both ends.
    ///
    /// # Errors
    /// When one of them does not start; the message holds its output.
    pub fn over_tls(authority: &Authority, manifests: &[impl AsRef<str>]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let issued = authority.issue(&["127.0.0.1"])?;
        issued.write(folder.path(), "controller")?;
        std::fs::write(folder.path().join("controller.ca"), &authority.pem)?;
        let issued = authority.issue(&["node-1", "dataplane"])?;
        issued.write(folder.path(), "plane")?;
        std::fs::write(folder.path().join("plane.ca"), &authority.pem)?;
        // A controller that is restarted has to be found again.
        let sync = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Self::start_in(folder, Link::Tls(sync), manifests, &[], &[])
    }

    fn start_in(
        folder: TempDir,
        link: Link,
        manifests: &[impl AsRef<str>],
        controller_arguments: &[&str],
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        std::fs::create_dir(folder.path().join("manifests"))?;
        for (index, manifest) in manifests.iter().enumerate() {
            let name = format!("manifests/{index:03}.yaml");
            std::fs::write(folder.path().join(name), manifest.as_ref())?;
        }
        let owned = |arguments: &[&str]| arguments.iter().map(|&a| a.to_owned()).collect();
        let controller_arguments: Vec<String> = owned(controller_arguments);
        let arguments: Vec<String> = owned(arguments);
        let controller = start_controller(folder.path(), link, &controller_arguments)?;
        let token = controller.wait_for("a token", token_in)?;
        let (data_plane, listening) = start_data_plane(folder.path(), link, &arguments)?;
        let (address, admin) = (listening.address, listening.admin);
        let apart = Self {
            controller,
            data_plane,
            address,
            admin,
            token,
            folder,
            link,
            controller_arguments,
            arguments,
        };
        apart
            .ready()
            .with_context(|| format!("the controller's output:\n{}", apart.controller.printed()))?;
        Ok(apart)
    }

    /// Starts the controller again, after it was killed.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_controller(&mut self) -> anyhow::Result<()> {
        self.controller.finish()?;
        self.controller =
            start_controller(self.folder.path(), self.link, &self.controller_arguments)?;
        Ok(())
    }

    /// Kills the data plane and starts it again, at another address, without waiting until it is
    /// ready; when it was started.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_data_plane(&mut self) -> anyhow::Result<Instant> {
        self.data_plane.finish()?;
        let started = Instant::now();
        let (data_plane, listening) =
            start_data_plane(self.folder.path(), self.link, &self.arguments)?;
        self.data_plane = data_plane;
        (self.address, self.admin) = (listening.address, listening.admin);
        Ok(started)
    }

    /// What the data plane's readiness probe answers.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn readiness(&self) -> anyhow::Result<u16> {
        Ok(wire::call(self.admin, &wire::request("GET", "/readyz", &[], b""))?.status)
    }

    /// Waits until the data plane is ready.
    ///
    /// # Errors
    /// When it never is; the message holds its output.
    pub fn ready(&self) -> anyhow::Result<()> {
        eventually("the data plane to be ready", || {
            self.readiness().ok().filter(|status| *status == 200)
        })
        .map(|_| ())
        .with_context(|| format!("the data plane's output:\n{}", self.data_plane.printed()))
    }

    /// The folder of everything, certificates among it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where data planes connect.
    ///
    /// # Errors
    /// When that is a Unix socket.
    pub fn sync_address(&self) -> anyhow::Result<SocketAddr> {
        match self.link {
            Link::Tls(address) => Ok(address),
            Link::Unix => anyhow::bail!("the programs are joined by a Unix socket"),
        }
    }

    /// The folder of manifests, watched by the controller.
    pub fn manifests(&self) -> std::path::PathBuf {
        self.folder.path().join("manifests")
    }

    /// POST of JSON with the token, on a connection of its own.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post(&self, target: &str, body: &str) -> anyhow::Result<Response> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        wire::call(
            self.address,
            &wire::request("POST", target, &headers, body.as_bytes()),
        )
    }
}

/// The line in which a data plane tells its addresses.
#[derive(Debug, Deserialize)]
struct Listening {
    address: SocketAddr,
    admin: SocketAddr,
}

fn start_controller(folder: &Path, link: Link, arguments: &[String]) -> anyhow::Result<Process> {
    let mut command = Command::new(binary("bodhi-controller")?);
    command
        .env_clear()
        .arg("--manifests")
        .arg(folder.join("manifests"));
    command
        .arg("--data")
        .arg(folder.join("controller"))
        .args(["--listen", "127.0.0.1:0"])
        .args(arguments);
    match link {
        Link::Unix => {
            command.arg("--listen-sync").arg(socket(folder));
        }
        Link::Tls(address) => {
            command.args(["--listen-sync", &address.to_string()]);
            files(&mut command, "--sync", &folder.join("controller"));
        }
    }
    start("bodhi-controller", command)
}

fn socket(folder: &Path) -> String {
    format!("unix:{}", folder.join("sync.sock").display())
}

/// The three files of one end.
fn files(command: &mut Command, flags: &str, stem: &Path) {
    for (flag, ending) in [("cert", "crt"), ("key", "key"), ("ca", "ca")] {
        command
            .arg(format!("{flags}-{flag}"))
            .arg(stem.with_extension(ending));
    }
}

fn start_data_plane(
    folder: &Path,
    link: Link,
    arguments: &[String],
) -> anyhow::Result<(Process, Listening)> {
    let mut command = Command::new(binary("bodhi-dataplane")?);
    command.env_clear().arg("--controller");
    match link {
        Link::Unix => {
            command.arg(socket(folder));
        }
        Link::Tls(address) => {
            command.arg(format!("https://{address}"));
            files(&mut command, "--controller", &folder.join("plane"));
        }
    }
    command
        .arg("--data")
        .arg(folder.join("data-plane"))
        .args(["--node", "test"]);
    command
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(arguments);
    let process = start("bodhi-dataplane", command)?;
    let find = |text: &str| {
        text.lines()
            .find_map(|line| serde_json::from_str(line).ok())
    };
    let listening = process.wait_for("its addresses", find)?;
    Ok((process, listening))
}

fn start(name: &str, command: Command) -> anyhow::Result<Process> {
    let mut process = Process::start(name, command)?;
    process.keep_secret(KEY);
    process.keep_secret(PROMPT);
    Ok(process)
}
