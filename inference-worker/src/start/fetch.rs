//! The first step of a start: the model's file is brought here, or found here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bodhi_proto::chat;
use bodhi_proto::secret::Secret;

use crate::config::{DownloadFlags, Flags};
use crate::exit::{Fatal, Reason};
use crate::models::endpoints::Settings;
use crate::models::progress::{Observer as _, Progress, Terminal};
use crate::models::source::{Floating, PlainHttp, Spec};
use crate::models::{self, Artifact, Cache};
use crate::state::State;

/// Obtains what `--model` names, and tells the state how far it is.
///
/// # Errors
/// Why it could not be had.
pub(super) async fn fetch(flags: &Flags, state: &Arc<State>) -> Result<Artifact, Fatal> {
    let spec = spec(flags)?;
    let settings = settings(&flags.download)?;
    let cache = Cache::at(&flags.download.cache);
    let terminal = Terminal::new();
    let observer = |progress: &Progress| {
        state.move_to(chat::Phase::Downloading(whole(progress)));
        terminal.observe(progress);
    };
    Ok(models::obtain(&spec, &settings, &cache, &observer).await?)
}

/// Progress of the whole model: parts are taken to be of one size.
fn whole(progress: &Progress) -> chat::Progress {
    let size = progress.total.unwrap_or(0);
    let before = u64::from(progress.part.saturating_sub(1));
    let done = size.saturating_mul(before).saturating_add(progress.done);
    chat::Progress::new(done, size.saturating_mul(u64::from(progress.parts)))
}

fn spec(flags: &Flags) -> Result<Spec, Fatal> {
    let floating = match flags.download.allow_floating {
        true => Floating::Allowed,
        false => Floating::Refused,
    };
    let parsed = Spec::parse(
        &source(&flags.model)?,
        flags.download.revision.as_deref(),
        flags.download.sha256.as_deref(),
        floating,
        plain_http(&flags.download),
    );
    let mut spec = parsed.map_err(invalid)?;
    spec.token = token(&flags.download)?;
    Ok(spec)
}

/// A path is a file:// source.
fn source(model: &str) -> Result<String, Fatal> {
    if model.contains("://") {
        return Ok(model.to_owned());
    }
    let path = absolute(Path::new(model)).map_err(|error| invalid(format!("--model: {error}")))?;
    match path.to_str() {
        Some(path) => Ok(format!("file://{path}")),
        None => Err(invalid("--model: the path is not UTF-8")),
    }
}

/// Without `..`. The file's own name stays, even if it is a link: the parts of a split model find
/// one another by it.
fn absolute(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    Ok(match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => match folder.canonicalize() {
            Ok(folder) => folder.join(name),
            // It is not there; that is found out, and told with this path.
            Err(_) => path,
        },
        _ => path,
    })
}

fn token(flags: &DownloadFlags) -> Result<Option<Secret>, Fatal> {
    let text = match (&flags.token_env, &flags.token_file) {
        (Some(name), _) => std::env::var(name)
            .map_err(|_| invalid(format!("--token-env: the variable {name} is not set")))?,
        (None, Some(file)) => read(file)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(Secret::new(text.trim())))
}

fn read(file: &Path) -> Result<String, Fatal> {
    std::fs::read_to_string(file)
        .map_err(|error| invalid(format!("--token-file {}: {error}", file.display())))
}

fn settings(flags: &DownloadFlags) -> Result<Settings, Fatal> {
    let read = |name: &str| std::env::var(name).ok();
    let settings = Settings::from_variables(
        read,
        flags.claims.clone(),
        flags.egress.clone(),
        plain_http(flags),
    );
    settings.map_err(invalid)
}

fn plain_http(flags: &DownloadFlags) -> PlainHttp {
    match flags.allow_plain_http {
        true => PlainHttp::Anywhere,
        false => PlainHttp::Loopback,
    }
}

fn invalid(error: impl ToString) -> Fatal {
    Fatal::new(Reason::InvalidSettings, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_is_a_file_here_and_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::create_dir(folder.join("sub")).unwrap();
        symlink("blob", folder.join("m-00001-of-00002.gguf")).unwrap();
        let path = folder.join("sub/../m-00001-of-00002.gguf");
        let expected = format!("file://{}/m-00001-of-00002.gguf", folder.display());
        assert_eq!(source(path.to_str().unwrap()).unwrap(), expected);
        assert_eq!(source("hf://a/b/c.gguf").unwrap(), "hf://a/b/c.gguf");
        assert_eq!(source("/none/m.gguf").unwrap(), "file:///none/m.gguf");
    }
}
