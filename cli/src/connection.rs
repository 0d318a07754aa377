//! Which gateway a command speaks to, and as whom.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use bodhi_proto::secret::Secret;
use url::{Host, Url};

/// File in the data folder in which `bodhi up` keeps the token of this machine's CLI.
pub(crate) const ADMIN_TOKEN_FILE: &str = "admin-token";

/// The variable with the token to present.
const TOKEN: &str = "BODHI_TOKEN";

/// Options that every command takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Gateway")]
pub(crate) struct Connection {
    /// Address of the gateway to manage. The token is taken from BODHI_TOKEN, or, for a
    /// gateway on this machine, from the data folder of `bodhi up`
    /// [default: http://localhost:1135]
    #[arg(long, global = true, env = "BODHI_SERVER", value_name = "URL")]
    server: Option<Url>,

    /// Socket of a controller of this user's. It is asked, without a token, where neither --server
    /// nor BODHI_TOKEN is given
    #[arg(long, global = true, env = "BODHI_ADMIN_SOCKET", value_name = "FILE")]
    admin_socket: Option<PathBuf>,

    /// Folder in which `bodhi up` keeps its database, keys and admin token
    /// [default: $XDG_DATA_HOME/bodhi or ~/.local/share/bodhi]
    #[arg(long, global = true, env = "BODHI_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

/// Where nothing else is said.
const USUAL_SERVER: &str = "http://localhost:1135";

/// The gateway that is meant.
pub(crate) enum Gateway {
    /// By its address, with a token.
    Server(Url, Secret),
    /// By a socket that only its user opens.
    Socket(PathBuf),
}

impl Connection {
    /// The gateway, and the token to present.
    pub(crate) fn gateway(&self) -> anyhow::Result<Gateway> {
        match &self.admin_socket {
            Some(path) if self.server.is_none() && std::env::var_os(TOKEN).is_none() => {
                Ok(Gateway::Socket(path.clone()))
            }
            _ => Ok(Gateway::Server(self.server()?, self.token()?)),
        }
    }

    /// The gateway's address, judged.
    pub(crate) fn server(&self) -> anyhow::Result<Url> {
        let usual = || Url::parse(USUAL_SERVER).expect("a URL");
        let server = self.server.clone().unwrap_or_else(usual);
        if !matches!(server.scheme(), "http" | "https") || server.host().is_none() {
            bail!("'{server}' is no gateway's address: write http://HOST:PORT or https://HOST");
        }
        Ok(server)
    }

    /// The data folder that was named, else the usual one.
    pub(crate) fn data(&self) -> anyhow::Result<PathBuf> {
        let named = self.data.clone();
        named
            .or_else(|| usual_data_folder(|name| std::env::var_os(name).map(PathBuf::from)))
            .context("no data folder: set HOME or XDG_DATA_HOME, or name one with --data DIR")
    }

    /// The token to present: BODHI_TOKEN, else the one kept on this machine.
    fn token(&self) -> anyhow::Result<Secret> {
        if let Some(token) = std::env::var_os(TOKEN) {
            let token = token
                .into_string()
                .ok()
                .context("BODHI_TOKEN is not text")?;
            let token = token.trim();
            if token.is_empty() {
                bail!("BODHI_TOKEN is empty: put a token there, or unset it");
            }
            return Ok(Secret::new(token));
        }
        let server = self.server()?;
        if !is_this_machine(&server) {
            bail!("BODHI_TOKEN is not set. A token kept on this machine is not sent to {server}");
        }
        read_kept_token(&self.data()?)
    }
}

fn read_kept_token(data: &Path) -> anyhow::Result<Secret> {
    let file = data.join(ADMIN_TOKEN_FILE);
    let text = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "BODHI_TOKEN is not set, and no token is kept in {}. Start a gateway with \
             `bodhi up`, or set BODHI_TOKEN",
            file.display()
        )
    })?;
    Ok(Secret::new(text.trim()))
}

/// `$XDG_DATA_HOME/bodhi`, else `~/.local/share/bodhi`. Relative values are void, as the
/// XDG Base Directory Specification says.
fn usual_data_folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path: &PathBuf| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|folder| folder.join("bodhi"))
}

/// Whether a URL leads to a loopback address.
pub(crate) fn is_this_machine(server: &Url) -> bool {
    match server.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_folder_follows_the_xdg_specification() {
        let folder = |xdg: Option<&str>, home: Option<&str>| {
            usual_data_folder(|name| match name {
                "XDG_DATA_HOME" => xdg.map(PathBuf::from),
                "HOME" => home.map(PathBuf::from),
                _ => None,
            })
        };
        let expected = |path: &str| Some(PathBuf::from(path));
        assert_eq!(folder(Some("/x"), Some("/h")), expected("/x/bodhi"));
        assert_eq!(
            folder(Some("x"), Some("/h")),
            expected("/h/.local/share/bodhi")
        );
        assert_eq!(folder(None, Some("/h")), expected("/h/.local/share/bodhi"));
        assert_eq!(folder(None, None), None);
    }

    #[test]
    fn only_loopback_addresses_are_this_machine() {
        for (text, here) in [
            ("http://localhost:1135", true),
            ("http://127.3.2.1", true),
            ("http://[::1]:80/x", true),
            ("https://localhost.example.com", false),
            ("http://10.0.0.1", false),
            ("http://127.0.0.1.example.com", false),
        ] {
            assert_eq!(is_this_machine(&Url::parse(text).unwrap()), here, "{text}");
        }
    }
}
