//! `bodhi up` in a folder of its own, and calls to it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
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
            .arg("up")
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
        let anonymous = arguments.contains(&"--anonymous");
        let address = process.wait_for("its address", address_in)?;
        let token = if anonymous {
            String::new()
        } else {
            process.wait_for("a token", token_in)?
        };
        let gateway = Self {
            process,
            folder,
            address,
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

    /// Ends the program and looks for secrets in its output and in all files of its data folder.
    ///
    /// # Errors
    /// Names each secret that is found, and where.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let admin_token_kept = self.process.printed().matches(self.token.as_str()).count();
        ensure!(
            self.token.is_empty() || admin_token_kept <= 3,
            "the first token was printed again and again"
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

/// The first loopback address with a port that was bound.
fn address_in(text: &str) -> Option<SocketAddr> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
        .filter_map(|word| word.trim_matches(':').parse::<SocketAddr>().ok())
        .find(|address| address.ip().is_loopback() && address.port() != 0)
        .or_else(|| {
            let (_, after) = text.split_once("http://localhost:")?;
            let port = after
                .split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse()
                .ok()?;
            Some(SocketAddr::from(([127, 0, 0, 1], port)))
        })
}

fn token_in(text: &str) -> Option<String> {
    let at = text.find("bodhi_")?;
    let token: String = text[at..]
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
        .collect();
    (token.len() == "bodhi_".len() + 43 + 6).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_address_and_token_in_what_is_printed() {
        let token = format!("bodhi_{}", "A".repeat(49));
        let text =
            format!("Bodhi answers at http://127.0.0.1:41357 \n  Authorization: Bearer {token}\n");
        assert_eq!(
            address_in(&text),
            Some(SocketAddr::from(([127, 0, 0, 1], 41357)))
        );
        assert_eq!(token_in(&text), Some(token));
        assert_eq!(
            address_in("listening on http://localhost:8080/v1"),
            Some(SocketAddr::from(([127, 0, 0, 1], 8080)))
        );
        assert_eq!(token_in("bodhi_short"), None);
    }
}
