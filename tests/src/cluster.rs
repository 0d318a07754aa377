//! A real API server with its etcd, for one test: on free loopback ports, with certificates of its
//! own, in a temporary folder. It is up in seconds and gone with the test.
//!
//! On request the controller manager, the scheduler and simulated nodes (kwok) run beside it, so
//! that Deployments get pods that seem to run. What needs pods that really run is
//! `tests/cluster/up.sh`'s.
//!
//! The programs are real ones, built by `make cluster`. Such tests are in files named
//! `cluster_*.rs` and marked `#[ignore = "needs a cluster: make test-cluster"]`.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use bodhi_tests::cluster::{Cluster, Part};
//!
//! let cluster = Cluster::start(&[Part::Controllers])?;
//! cluster.kubectl(&["create", "namespace", "bodhi"])?;
//! // For the kube crate: Kubeconfig::read_from(cluster.kubeconfig()), then
//! // Config::from_custom_kubeconfig.
//! println!("{}", cluster.kubeconfig().display());
//! # Ok(())
//! # }
//! ```

mod group;
mod kubeconfig;
mod programs;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;

use crate::process::{PATIENCE, Process, signal};
use group::Group;
use kubeconfig::{Credential, Pki};

/// A cluster without nodes that run anything. Dropping it ends all of it.
#[derive(Debug)]
pub struct Cluster {
    // In the order in which they end: an API server without etcd hangs in its shutdown.
    beside: Vec<Process>,
    api_server: Option<Process>,
    etcd: Process,
    group: Group,
    pki: Pki,
    address: SocketAddr,
    etcd_url: String,
    folder: TempDir,
}

/// What may run beside the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// kube-controller-manager: Deployments get pods, Services EndpointSlices, what has lost its
    /// owner goes, namespaces a ServiceAccount.
    Controllers,
    /// kube-scheduler: pods get nodes, if there are [some](Cluster::add_node).
    Scheduler,
    /// kwok: nodes are ready, and pods on them seem to run.
    Nodes,
}

/// How often a start is tried: another program may take a port that was just found free.
const ATTEMPTS: u32 = 3;

impl Cluster {
    /// Starts an API server and these parts, and waits until it is ready.
    ///
    /// # Errors
    /// When a program is missing or does not start; the message holds its output.
    pub fn start(parts: &[Part]) -> anyhow::Result<Self> {
        let mut attempt = 1;
        let mut cluster = loop {
            match Self::bare() {
                Err(why) if attempt < ATTEMPTS && format!("{why:#}").contains("in use") => {
                    attempt += 1;
                }
                outcome => break outcome?,
            }
        };
        for &part in parts {
            let process = cluster.part(part)?;
            cluster.beside.push(process);
        }
        Ok(cluster)
    }

    fn bare() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("bodhi-cluster-")
            .tempdir()?;
        let group = Group::new(folder.path())?;
        let pki = Pki::new(folder.path())?;
        let ports = free_ports::<3>()?;
        let etcd_url = format!("http://127.0.0.1:{}", ports[0]);
        let etcd = group.start("etcd", programs::etcd(folder.path(), &etcd_url, ports[1])?)?;
        let mut cluster = Self {
            beside: Vec::new(),
            api_server: None,
            etcd,
            group,
            pki,
            address: SocketAddr::from(([127, 0, 0, 1], ports[2])),
            etcd_url,
            folder,
        };
        let admin = cluster.pki.user("admin", "system:masters")?;
        cluster.write_kubeconfig("admin", &admin)?;
        cluster.start_api_server()?;
        Ok(cluster)
    }

    /// Starts an API server that was [stopped](Cluster::stop_api_server), at the address where it
    /// was, with all that it held, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start; the message holds its output.
    pub fn start_api_server(&mut self) -> anyhow::Result<()> {
        let command = programs::api_server(self.folder.path(), self.address, &self.etcd_url)?;
        let process = self.group.start("kube-apiserver", command)?;
        let process = self.api_server.insert(process);
        // The namespace is made after all else that a first start makes.
        let ready = [
            &["get", "--raw", "/readyz"][..],
            &["get", "namespace", "default"],
        ];
        let until = Instant::now() + PATIENCE * 3;
        for question in ready {
            while let Err(why) = kubectl(self.folder.path(), question, None) {
                if !process.is_running()? || Instant::now() > until {
                    bail!(
                        "the API server is not ready: {why:#}. Its output:\n{}\netcd's:\n{}",
                        process.printed(),
                        self.etcd.printed()
                    );
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Ends the API server at once. Whoever watches it loses the connection.
    pub fn stop_api_server(&mut self) {
        self.api_server = None;
    }

    /// Stops the API server without closing its connections, as a node does that hangs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze_api_server(&self) -> anyhow::Result<()> {
        signal(self.running()?.id(), "STOP")
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw_api_server(&self) -> anyhow::Result<()> {
        signal(self.running()?.id(), "CONT")
    }

    fn running(&self) -> anyhow::Result<&Process> {
        self.api_server
            .as_ref()
            .context("the API server is stopped")
    }

    fn part(&self, part: Part) -> anyhow::Result<Process> {
        let folder = self.folder.path();
        let (name, command) = match part {
            Part::Controllers => {
                let user = self
                    .pki
                    .user("system:kube-controller-manager", "system:authenticated")?;
                let config = self.write_kubeconfig("controller-manager", &user)?;
                (
                    "kube-controller-manager",
                    programs::controllers(folder, &config)?,
                )
            }
            Part::Scheduler => {
                let user = self
                    .pki
                    .user("system:kube-scheduler", "system:authenticated")?;
                let config = self.write_kubeconfig("scheduler", &user)?;
                ("kube-scheduler", programs::scheduler(&config)?)
            }
            Part::Nodes => ("kwok", programs::kwok(&self.kubeconfig())?),
        };
        self.group.start(name, command)
    }

    /// The kubeconfig of the user `admin`, who may do anything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.kubeconfig")
    }

    /// `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Where the API server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file (PEM) of the authority that signed the API server's certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// A kubeconfig of a user of this name in this group, who may do what bindings give them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn user(&self, name: &str, group: &str) -> anyhow::Result<PathBuf> {
        self.write_kubeconfig(name, &self.pki.user(name, group)?)
    }

    /// A kubeconfig of a ServiceAccount that exists.
    ///
    /// # Errors
    /// When it does not.
    pub fn service_account(&self, namespace: &str, name: &str) -> anyhow::Result<PathBuf> {
        let token = self.kubectl(&["create", "token", "-n", namespace, name])?;
        let token = Credential::Token(token.trim().to_owned());
        self.write_kubeconfig(&format!("{namespace}-{name}"), &token)
    }

    fn write_kubeconfig(&self, name: &str, as_whom: &Credential) -> anyhow::Result<PathBuf> {
        let path = self.folder.path().join(format!("{name}.kubeconfig"));
        std::fs::write(
            &path,
            kubeconfig::text(&self.url(), &self.pki.authority.pem, as_whom),
        )?;
        Ok(path)
    }

    /// Runs kubectl as `admin` and gives what it printed.
    ///
    /// # Errors
    /// With what it printed on standard error.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        kubectl(self.folder.path(), arguments, None)
    }

    /// `kubectl apply --server-side` of these documents.
    ///
    /// # Errors
    /// With what it printed on standard error.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        let arguments = ["apply", "--server-side", "-f", "-"];
        kubectl(self.folder.path(), &arguments, Some(yaml))
    }

    /// Applies Bodhi's CustomResourceDefinitions and waits until they are served.
    ///
    /// # Errors
    /// When they are not accepted.
    pub fn install_crds(&self) -> anyhow::Result<()> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/bodhi-crds/templates");
        let folder = folder.to_str().context("the path of the checkout")?;
        self.kubectl(&["apply", "--server-side", "-f", folder])?;
        let wait = [
            "wait",
            "crd",
            "--all",
            "--for=condition=Established",
            "--timeout=20s",
        ];
        self.kubectl(&wait)?;
        Ok(())
    }

    /// Adds a simulated node that takes pods, with this much for them, as in `[("cpu", "8")]`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub fn add_node(&self, name: &str, more: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut room = String::from("pods: '1000', cpu: '64', memory: 256Gi");
        for (resource, amount) in more {
            room.push_str(&format!(", {resource}: '{amount}'"));
        }
        self.apply(&format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: {name}\n  annotations: {{kwok.x-k8s.io/node: fake}}\n\
             status:\n  allocatable: {{{room}}}\n  capacity: {{{room}}}\n"
        ))?;
        let node = format!("node/{name}");
        self.kubectl(&["wait", &node, "--for=condition=Ready", "--timeout=20s"])?;
        Ok(())
    }

    /// What the API server printed so far.
    pub fn log(&self) -> String {
        self.api_server
            .as_ref()
            .map(Process::printed)
            .unwrap_or_default()
    }

    /// The path of another program of the cluster, such as `helm`.
    ///
    /// # Errors
    /// When it is not built.
    pub fn program(name: &str) -> anyhow::Result<PathBuf> {
        programs::path(name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.beside.clear();
        self.api_server = None;
        self.etcd.kill();
        self.group.end();
    }
}

fn kubectl(folder: &Path, arguments: &[&str], input: Option<&str>) -> anyhow::Result<String> {
    let mut command = Command::new(programs::path("kubectl")?);
    command
        .args(arguments)
        .env_clear()
        // Its cache of what the server knows belongs to this cluster.
        .env("HOME", folder)
        .env("KUBECONFIG", folder.join("admin.kubeconfig"))
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    if let Some(input) = input {
        let mut stdin = child.stdin.take().context("its standard input")?;
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "kubectl {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Ports of 127.0.0.1 that nobody listens on now.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut listeners = Vec::with_capacity(N);
    for _ in 0..N {
        listeners.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
