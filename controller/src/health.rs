//! What probes and Prometheus ask of a controller: `/livez`, `/readyz`, `/metrics`. No credential,
//! and nothing that needs one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bodhi_proto::sync::Source;
use tokio::sync::watch;

use crate::leader::Leadership;
use crate::reconcile::World;
use crate::source::ObjectSource;
use crate::sync::Server;

/// What is asked.
#[derive(Clone)]
pub struct Health {
    /// What is offered, and to whom.
    pub sync: Server,
    /// What is known.
    pub world: watch::Receiver<Arc<World>>,
    /// Where objects come from.
    pub source: Arc<dyn ObjectSource>,
    /// Who leads, where there may be several controllers.
    pub leadership: Option<watch::Receiver<Leadership>>,
}

/// The three paths.
pub fn router(health: Health) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(health)
}

/// A controller is ready when a data plane would get everything from it. That its database or the
/// API server is gone afterwards makes no difference to what it offers.
async fn ready(State(health): State<Health>) -> (StatusCode, &'static str) {
    let mark = health.sync.mark();
    match (mark.at(Source::Objects), mark.at(Source::Store)) {
        (Some(_), Some(_)) => (StatusCode::OK, "ok\n"),
        (None, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the objects have not been listed yet\n",
        ),
        (_, None) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the store has not been read yet\n",
        ),
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, text)], health.render())
}

impl Health {
    /// The exposition text (version 0.0.4).
    fn render(&self) -> String {
        let mut text = Text::default();
        let acks = self.sync.acks();
        let world = Arc::clone(&self.world.borrow());
        text.metric("bodhi_controller_info", "This controller's release.");
        text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        if let Some(leadership) = &self.leadership {
            let leadership = leadership.borrow();
            let help = "Whether this controller writes statuses and Deployments.";
            text.metric("bodhi_controller_leader", help);
            text.sample(&[], u64::from(leadership.is_ours()));
            let help = "How often the leading controller has changed.";
            text.metric("bodhi_controller_leader_epoch", help);
            text.sample(
                &[],
                leadership.leader.as_ref().map_or(0, |leader| leader.epoch),
            );
        }
        let help = "Data planes that are connected to this controller.";
        text.metric("bodhi_controller_data_planes", help);
        text.sample(&[], acks.planes.len() as u64);
        let help = "Resources that connected data planes reject.";
        text.metric("bodhi_controller_rejected_resources", help);
        text.sample(&[], acks.rejections().count() as u64);
        let help = "How often connected data planes held something else than they had been sent.";
        text.metric("bodhi_controller_divergences", help);
        text.sample(&[], acks.planes.iter().map(|plane| plane.divergences).sum());
        let help = "Objects by kind and by whether they serve as their owner declares.";
        text.metric("bodhi_controller_objects", help);
        for ((kind, accepted), count) in objects(&world) {
            text.sample(&[("kind", kind), ("accepted", accepted)], count);
        }
        let help =
            "What is wrong in the source of objects: files, watches, objects that cannot be read.";
        text.metric("bodhi_controller_source_problems", help);
        let problems = self.source.problems();
        text.sample(&[], problems.as_array().map_or(0, Vec::len) as u64);
        text.text
    }
}

/// Objects by kind and by whether all that was compiled of them is in order.
fn objects(world: &World) -> BTreeMap<(&'static str, &'static str), u64> {
    let mut counts = BTreeMap::new();
    for status in &world.compiled.statuses {
        let broken = status.conditions.iter().any(|c| c.is_problem());
        let accepted = if broken { "false" } else { "true" };
        *counts
            .entry((status.object.kind.as_str(), accepted))
            .or_insert(0) += 1;
    }
    counts
}

/// Metrics below one another. Label values are words of ours: nothing in them needs escapes.
#[derive(Default)]
struct Text {
    text: String,
    /// The metric that samples belong to.
    name: &'static str,
}

impl Text {
    fn metric(&mut self, name: &'static str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
        self.name = name;
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_in_prometheus_text_form() {
        let mut text = Text::default();
        text.metric("bodhi_controller_objects", "Objects.");
        text.sample(&[("kind", "Alias"), ("accepted", "true")], 3);
        text.sample(&[], 1);
        assert_eq!(
            text.text,
            "# HELP bodhi_controller_objects Objects.\n# TYPE bodhi_controller_objects gauge\n\
             bodhi_controller_objects{kind=\"Alias\",accepted=\"true\"} 3\n\
             bodhi_controller_objects 1\n"
        );
    }
}
