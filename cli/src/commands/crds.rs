//! `bodhi crds`: what a cluster must know to hold ApiModels and Aliases.

use bodhi_controller::api;

use crate::output::Answer;

/// Arguments of `bodhi crds`.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Both CRDs: as YAML documents to pipe into `kubectl apply -f -`, or a JSON list.
pub(crate) fn run(_: &Args) -> anyhow::Result<Answer> {
    let documents: Vec<String> = api::crds_yaml().into_iter().map(|(_, text)| text).collect();
    Ok(Answer::new(
        serde_json::to_value(api::crds())?,
        documents.join("---\n"),
    ))
}
