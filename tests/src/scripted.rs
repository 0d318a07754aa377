//! A scripted provider that runs as a program of its own, and what it was sent.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::process::{Process, binary, eventually};
use crate::provider::{Active, Entry, Outcome};
use crate::wire;

/// The key that scripted providers expect unless told otherwise. No program may print it.
pub const KEY: &str = "sk-canary-provider-key-0123456789";

/// A running scripted provider.
#[derive(Debug)]
pub struct Scripted {
    process: Process,
    /// Where clients connect.
    pub listen: SocketAddr,
    admin: SocketAddr,
    /// The certificate of its authority (PEM), with `--tls`.
    pub authority: Option<String>,
}

impl Scripted {
    /// Starts one that expects [`KEY`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn start() -> anyhow::Result<Self> {
        Self::with(&["--key", KEY])
    }

    /// Starts one with these arguments, see `scripted-provider --help`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn with(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(binary("scripted-provider")?);
        command.args(arguments).arg("--until-stdin-ends");
        let process = Process::start("scripted-provider", command)?;
        let line: Value = process.wait_for("its addresses", |text| {
            serde_json::from_str(text.lines().next()?).ok()
        })?;
        let address = |name: &str| {
            line[name]
                .as_str()
                .and_then(|text| text.parse().ok())
                .context("its address")
        };
        let authority = line["authority"].as_str().map(str::to_owned);
        Ok(Self {
            listen: address("listen")?,
            admin: address("admin")?,
            authority,
            process,
        })
    }

    /// `http://ADDRESS`, to which `/openai/v1` and the like are added.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.listen)
    }

    /// All requests that were received and not forgotten.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub fn requests(&self) -> anyhow::Result<Vec<Entry>> {
        Ok(serde_json::from_slice(&self.admin("GET", "/_requests")?)?)
    }

    /// The only request that was received since the last [`Scripted::clear`].
    ///
    /// # Errors
    /// When there was none or more than one.
    pub fn only_request(&self) -> anyhow::Result<Entry> {
        let mut requests = self.requests()?;
        ensure!(
            requests.len() == 1,
            "expected one upstream request, found {}: {requests:#?}",
            requests.len()
        );
        Ok(requests.remove(0))
    }

    /// Request `n` as it was on the wire.
    ///
    /// # Errors
    /// When it is not kept.
    pub fn raw(&self, n: usize) -> anyhow::Result<Vec<u8>> {
        self.admin("GET", &format!("/_requests/{n}/raw"))
    }

    /// The body of request `n` without its transfer coding.
    ///
    /// # Errors
    /// When it is not kept.
    pub fn body(&self, n: usize) -> anyhow::Result<Vec<u8>> {
        self.admin("GET", &format!("/_requests/{n}/body"))
    }

    /// What goes on now.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub fn active(&self) -> anyhow::Result<Active> {
        Ok(serde_json::from_slice(&self.admin("GET", "/_active")?)?)
    }

    /// Waits until request `n` has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn ended(&self, n: usize) -> anyhow::Result<(Entry, Outcome)> {
        eventually("the end of an upstream request", || {
            let entry = self
                .requests()
                .ok()?
                .into_iter()
                .find(|entry| entry.n == n)?;
            let outcome = entry.outcome?;
            Some((entry, outcome))
        })
    }

    /// Forgets all requests.
    ///
    /// # Errors
    /// When the provider does not answer.
    pub fn clear(&self) -> anyhow::Result<()> {
        self.admin("DELETE", "/_requests").map(|_| ())
    }

    /// Ends it at once; its port refuses connections afterwards.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn admin(&self, method: &str, path: &str) -> anyhow::Result<Vec<u8>> {
        let answer = wire::call(self.admin, &wire::request(method, path, &[], b""))?;
        ensure!(
            answer.status == 200,
            "{method} {path} answered {}",
            answer.status
        );
        Ok(answer.body)
    }
}
