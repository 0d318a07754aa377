//! `bodhi up`: controller and data plane in one process.

use std::path::PathBuf;

use bodhi_dataplane::config::ServeFlags;

use crate::output::Answer;

/// Arguments of `bodhi up`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Folder of ApiModels, Aliases and Secrets in YAML, watched for change
    /// [default: `manifests` in the data folder]
    #[arg(long, env = "BODHI_MANIFESTS", value_name = "DIR")]
    pub(crate) manifests: Option<PathBuf>,

    /// Serve without credentials, to this machine only
    #[arg(long, env = "BODHI_ANONYMOUS")]
    pub(crate) anonymous: bool,

    #[command(flatten)]
    pub(crate) serve: ServeFlags,
}

/// Runs until it is told to stop. `data` is the folder of the database, keys and admin token.
pub(crate) fn run(_: Args, _: PathBuf) -> anyhow::Result<Answer> {
    anyhow::bail!("this build cannot start a gateway")
}
