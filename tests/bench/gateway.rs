//! Bodhi as a cluster runs it: controller and data plane apart, so that the data plane's figures
//! are its own.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use crate::client::{Conn, request};
use crate::program::{Program, free_address};

/// A key of scope `user`, set by the environment.
pub(crate) const KEY: &str = "bench-key-0123456789abcdef";

/// What stands before the names of the provider's models.
pub(crate) const PREFIX: &str = "b/";

/// How many ids one ApiModel may list.
const IDS: usize = 50;

/// Connections over which tokens are made.
const MAKERS: usize = 16;

/// A running controller with a data plane.
#[derive(Debug)]
pub(crate) struct Gateway {
    // The data plane first, so that it ends first.
    pub(crate) dataplane: DataPlane,
    pub(crate) controller: Program,
    data: PathBuf,
    admin: SocketAddr,
    /// The public API.
    pub(crate) address: SocketAddr,
}

/// A running data plane, and how to start it again.
#[derive(Debug)]
pub(crate) struct DataPlane {
    pub(crate) program: Program,
    pub(crate) setup: DataPlaneSetup,
}

/// Its arguments.
#[derive(Debug)]
pub(crate) struct DataPlaneSetup {
    program: PathBuf,
    /// Where its output goes.
    folder: PathBuf,
    socket: PathBuf,
    /// Where its sealed file is.
    pub(crate) data: PathBuf,
    address: SocketAddr,
    health: SocketAddr,
    threads: usize,
    access_log: bool,
}

impl DataPlaneSetup {
    /// With a thread per core and no access log.
    pub(crate) fn new(
        programs: &Path,
        folder: &Path,
        socket: PathBuf,
        address: SocketAddr,
        health: SocketAddr,
    ) -> Self {
        Self {
            program: programs.join("bodhi-dataplane"),
            folder: folder.to_owned(),
            socket,
            data: folder.join("dataplane"),
            address,
            health,
            threads: 0,
            access_log: false,
        }
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn run(&self) -> anyhow::Result<Program> {
        let mut command = Command::new(&self.program);
        command
            .arg("--controller")
            .arg(format!("unix:{}", self.socket.display()))
            .arg("--data")
            .arg(&self.data);
        command
            .args(["--listen", &self.address.to_string()])
            .args(["--admin-listen", &self.health.to_string()])
            .args(["--threads", &self.threads.to_string()])
            .args(["--lame-duck", "0", "--drain", "0"])
            .args([
                "--access-log",
                if self.access_log { "stdout" } else { "off" },
            ]);
        let program = Program::start("bodhi-dataplane", command, &self.folder)?;
        program.answers(self.health, "/readyz").await?;
        Ok(program)
    }
}

/// How it is set up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Where the programs are.
    pub(crate) programs: &'a Path,
    pub(crate) upstream: SocketAddr,
    pub(crate) threads: usize,
    pub(crate) access_log: bool,
    /// Names served besides everything under [`PREFIX`].
    pub(crate) routes: usize,
}

impl Gateway {
    /// Starts both in `folder` and waits until requests are served.
    pub(crate) async fn start(folder: &Path, setup: Setup<'_>) -> anyhow::Result<Self> {
        let manifests = folder.join("manifests");
        let data = folder.join("data");
        fs::create_dir_all(&manifests)?;
        fs::write(manifests.join("bench.yaml"), forwarding(setup.upstream))?;
        if setup.routes > 0 {
            fs::write(
                manifests.join("routes.yaml"),
                routes(setup.upstream, setup.routes),
            )?;
        }
        let (admin, address, health) = (free_address()?, free_address()?, free_address()?);
        let socket = folder.join("sync.sock");
        let mut command = Command::new(setup.programs.join("bodhi-controller"));
        command
            .env("API_KEYS", KEY)
            .arg("--manifests")
            .arg(&manifests)
            .arg("--data")
            .arg(&data)
            .arg("--listen-sync")
            .arg(format!("unix:{}", socket.display()))
            .args(["--listen", &admin.to_string()]);
        let controller = Program::start("bodhi-controller", command, folder)?;
        controller.answers(admin, "/openapi.json").await?;
        let plane = DataPlaneSetup {
            threads: setup.threads,
            access_log: setup.access_log,
            ..DataPlaneSetup::new(setup.programs, folder, socket, address, health)
        };
        let dataplane = DataPlane {
            program: plane.run().await?,
            setup: plane,
        };
        Ok(Self {
            dataplane,
            controller,
            data,
            admin,
            address,
        })
    }

    /// What the controller costs.
    pub(crate) fn controller(&self) -> crate::measure::Tree {
        self.controller.tree()
    }

    /// Makes `count` tokens through the admin API.
    pub(crate) async fn make_tokens(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let admin = fs::read_to_string(self.data.join("admin-token"))
            .context("the controller keeps no admin token")?;
        let (address, admin) = (self.admin, admin.trim());
        let maker = |first: usize| async move {
            let mut connection = Conn::open(address).await?;
            let mut tokens = Vec::new();
            for number in (first..count).step_by(MAKERS) {
                let body = format!(r#"{{"name":"bench-{number}"}}"#);
                let mut answer = Vec::new();
                let call = request(address, admin, "/bodhi/v1/tokens", &body);
                let head = connection
                    .call(&call, |piece| answer.extend_from_slice(piece))
                    .await?;
                ensure!(
                    head.status == 201,
                    "making a token answers {}: {}",
                    head.status,
                    String::from_utf8_lossy(&answer)
                );
                let answer: Value = serde_json::from_slice(&answer)?;
                tokens.push(answer["token"].as_str().context("no token")?.to_owned());
            }
            anyhow::Ok(tokens)
        };
        let made: Vec<Vec<String>> = stream::iter((0..MAKERS).map(maker))
            .buffer_unordered(MAKERS)
            .try_collect()
            .await?;
        Ok(made.into_iter().flatten().collect())
    }
}

/// The served name of route `number`; the provider knows it as `bench:size=N`.
pub(crate) fn route_name(number: usize) -> String {
    format!("p{}/bench:size={}", number / IDS, 400 + number % IDS)
}

fn forwarding(upstream: SocketAddr) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: bench, labels: {{bodhi.dev/credential: \"true\"}}}}\n\
         stringData: {{apiKey: sk-bench}}\n---\n\
         apiVersion: bodhi.dev/v1alpha1\nkind: ApiModel\nmetadata: {{name: bench}}\nspec:\n  \
         format: openai\n  baseUrl: http://{upstream}/v1\n  insecureHttp: true\n  \
         auth: {{type: SecretRef, secretRef: {{name: bench, key: apiKey}}}}\n  \
         prefix: {PREFIX}\n  forwardAll: true\n  maxInFlight: 100000\n"
    )
}

fn routes(upstream: SocketAddr, count: usize) -> String {
    let mut yaml = String::new();
    for first in (0..count).step_by(IDS) {
        let object = first / IDS;
        let ids: Vec<String> = (first..count.min(first + IDS))
            .map(|number| format!("'bench:size={}'", 400 + number % IDS))
            .collect();
        // Writing to a String cannot fail.
        let _ = write!(
            yaml,
            "---\napiVersion: bodhi.dev/v1alpha1\nkind: ApiModel\nmetadata: {{name: p{object}}}\nspec:\n  \
             format: openai\n  baseUrl: http://{upstream}/v1\n  insecureHttp: true\n  \
             auth: {{type: SecretRef, secretRef: {{name: bench, key: apiKey}}}}\n  \
             prefix: p{object}/\n  models: [{}]\n  maxInFlight: 100000\n",
            ids.join(", ")
        );
    }
    yaml
}
