//! `bodhi up` in a folder of its own, and calls to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, binary, eventually};
use crate::scripted::KEY;
use crate::wire::{self, Response, Wire};

/// Text that stands for what people ask: no program may print it, no file may hold it.
pub const PROMPT: &str = "canary-prompt-7f3a91";

/// A running gateway with its folders, removed in the end.
#[derive(Debug)]
pub struct Gateway {
    // First, so that the program ends before its folders go.
    process: Process,
    folder: TempDir,
    /// Where the API answers.
    pub address: SocketAddr,
    /// Where probes and metrics answer.
    pub admin: SocketAddr,
    /// The first token that was printed; empty with `--anonymous`.
    pub token: String,
}

impl Gateway {
    /// Starts `bodhi up` with these documents as manifests and waits until it answers.
    ///
    /// # Errors
    /// When it does not start; the message holds its output.
    pub fn up(manifests: &[impl AsRef<str>]) -> anyhow::Result<Self> {
        Self::with(manifests, &[], &[])
    }

    /// Likewise, with more arguments of `bodhi up` and more environment.
    ///
    /// # Errors
    /// When it does not start; the message holds its output.
    pub fn with(
        manifests: &[impl AsRef<str>],
        arguments: &[&str],
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let path = folder.path().join("manifests");
        std::fs::create_dir(&path)?;
        for (index, manifest) in manifests.iter().enumerate() {
            std::fs::write(path.join(format!("{index:03}.yaml")), manifest.as_ref())?;
        }
        let mut command = Command::new(binary("bodhi")?);
        // The environment of whoever runs the tests must not configure the gateway.
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs(env.iter().copied()).env("HOME", folder.path());
        command
            .args(["--output", "json", "up"])
            .arg("--manifests")
            .arg(&path)
            .arg("--data")
            .arg(folder.path().join("data"));
        command
            .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            .args(arguments);
        let mut process = Process::start("bodhi up", command)?;
        process.keep_secret(KEY);
        process.keep_secret(PROMPT);
        let banner = process.wait_for("its address", Banner::find)?;
        let address = loopback(&banner.address)?;
        let admin = loopback(&banner.admin_address)?;
        let token = banner.token.unwrap_or_default();
        let gateway = Self {
            process,
            folder,
            address,
            admin,
            token,
        };
        eventually("the gateway to answer", || {
            gateway
                .get("/v1/models")
                .ok()
                .filter(|answer| answer.status == 200)
        })
        .with_context(|| format!("the output of bodhi up:\n{}", gateway.process.printed()))?;
        Ok(gateway)
    }

    /// Starts one in front of [everything](crate::manifests::everything) that the provider has.
    ///
    /// # Errors
    /// When it does not start, or does not serve a name of each object.
    pub fn in_front_of(provider: &crate::scripted::Scripted) -> anyhow::Result<Self> {
        let gateway = Self::up(&crate::manifests::everything(&provider.url()))?;
        for name in [
            "gpt-4o-mini",
            "gpt-4o",
            "claude-sonnet-4-5",
            "gemini-2.5-flash",
            "fast",
        ] {
            gateway.serves(name)?;
        }
        Ok(gateway)
    }

    /// Waits until the list of models holds this name.
    ///
    /// # Errors
    /// When it never does; the message holds the list and the gateway's output.
    pub fn serves(&self, name: &str) -> anyhow::Result<()> {
        let listed = || {
            self.get("/v1/models")
                .ok()
                .filter(|list| list.text().contains(&format!("\"{name}\"")))
        };
        eventually(&format!("the model {name}"), listed)
            .map(|_| ())
            .with_context(|| {
                let list = self
                    .get("/v1/models")
                    .map(|list| list.text())
                    .unwrap_or_default();
                format!(
                    "the list: {list}\nthe output of bodhi up:\n{}",
                    self.process.printed()
                )
            })
    }

    /// The folder of manifests, watched by the gateway.
    pub fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The program itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A connection to the API.
    ///
    /// # Errors
    /// When it is refused.
    pub fn connect(&self) -> anyhow::Result<Wire> {
        Wire::connect(self.address)
    }

    /// The bytes of a request with the token and a JSON body.
    pub fn request(&self, method: &str, target: &str, body: &[u8]) -> Vec<u8> {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", bearer.as_str())];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        wire::request(method, target, &headers, body)
    }

    /// GET with the token, on a connection of its own.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, target: &str) -> anyhow::Result<Response> {
        wire::call(self.address, &self.request("GET", target, b""))
    }

    /// POST of JSON with the token, on a connection of its own.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn post(&self, target: &str, body: impl AsRef<[u8]>) -> anyhow::Result<Response> {
        wire::call(self.address, &self.request("POST", target, body.as_ref()))
    }

    /// A request with another token than the first, on a connection of its own.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn call_as(
        &self,
        token: &str,
        method: &str,
        target: &str,
        body: impl AsRef<[u8]>,
    ) -> anyhow::Result<Response> {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("authorization", bearer.as_str())];
        if !body.as_ref().is_empty() {
            headers.push(("content-type", "application/json"));
        }
        let request = wire::request(method, target, &headers, body.as_ref());
        wire::call(self.address, &request)
    }

    /// The admin token that the data folder keeps.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn admin_token(&self) -> anyhow::Result<String> {
        let path = self.data().join("admin-token");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// Makes the token that `wish` describes, as `POST /bodhi/v1/tokens` reads it, and waits until
    /// it is served.
    ///
    /// # Errors
    /// When it is refused or never served.
    pub fn mint(&self, wish: &Value) -> anyhow::Result<String> {
        let admin = self.admin_token()?;
        let minted = self.call_as(&admin, "POST", "/bodhi/v1/tokens", wish.to_string())?;
        let answer = minted.json();
        let token = answer["token"]
            .as_str()
            .with_context(|| format!("{}: {}", minted.status, minted.text()))?;
        eventually("the new token to be served", || {
            self.call_as(token, "GET", "/v1/models", b"")
                .ok()
                .filter(|answer| answer.status == 200)
        })?;
        Ok(token.to_owned())
    }

    /// Ends the program and looks for secrets in its output and in all files of its data folder.
    ///
    /// # Errors
    /// Names each secret that is found, and where.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let shown = self.process.printed().matches(self.token.as_str()).count();
        ensure!(
            self.token.is_empty() || shown <= 1,
            "the first token was printed {shown} times"
        );
        self.process.finish()?;
        search(&self.data(), &[KEY, PROMPT])
    }
}

/// Fails when a file below the folder holds one of the texts.
fn search(folder: &Path, secrets: &[&str]) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            search(&path, secrets)?;
        } else if path.is_file() {
            let bytes = std::fs::read(&path)?;
            for secret in secrets {
                let found = memchr::memmem::find(&bytes, secret.as_bytes());
                ensure!(
                    found.is_none(),
                    "{} holds the secret '{secret}'",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// What `bodhi up --output json` says when it serves.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Banner {
    address: String,
    admin_address: String,
    token: Option<String>,
}

impl Banner {
    fn find(text: &str) -> Option<Self> {
        text.lines()
            .find_map(|line| serde_json::from_str(line).ok())
    }
}

/// The first whole token in a text; `bodhi_` begins other words as well.
pub(crate) fn token_in(text: &str) -> Option<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut words = text.split(|c| !part(c));
    words
        .find(|word| word.starts_with("bodhi_") && word.len() == "bodhi_".len() + 43 + 6)
        .map(str::to_owned)
}

/// The loopback address of a URL; names stand for 127.0.0.1.
fn loopback(url: &str) -> anyhow::Result<SocketAddr> {
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
    Ok(SocketAddr::from((
        [127, 0, 0, 1],
        port.with_context(|| format!("no port in {url}"))?,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_is_found_among_other_lines() -> anyhow::Result<()> {
        let text = "INFO listening\n{\"status\":200}\n{\"address\":\"http://localhost:41357\",\"adminAddress\":\"http://127.0.0.1:2\",\"token\":null,\"manifests\":\"m\"}\n";
        let banner = Banner::find(text).context("no banner")?;
        ensure!(loopback(&banner.address)? == SocketAddr::from(([127, 0, 0, 1], 41357)));
        ensure!(banner.token.is_none());
        Ok(())
    }
}
