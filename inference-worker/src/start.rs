//! From flags to a model that can serve.

pub mod fake;
mod fetch;
#[cfg(feature = "llama")]
pub mod llama;

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::Phase;
use tokio::time::timeout;

use crate::config::{Feature, Flags};
use crate::engine::Purpose;
use crate::exit::{Fatal, Reason};
use crate::serving::Serving;
use crate::state::{State, describe};

/// Makes a model ready.
pub trait Starter: Send + 'static {
    /// Moves the state through its phases, up to [`Phase::WarmingUp`]. Dropping the future ends
    /// the start.
    fn start(
        self,
        flags: &Flags,
        state: &Arc<State>,
    ) -> impl Future<Output = Result<Serving, Fatal>> + Send;
}

/// Starts, unless nothing moves for the time that the flags allow.
///
/// # Errors
/// Why the model cannot serve.
pub async fn start(
    starter: impl Starter,
    flags: &Flags,
    state: &Arc<State>,
) -> Result<Serving, Fatal> {
    let patience = Duration::from_secs(flags.stall);
    tokio::select! {
        started = starter.start(flags, state) => started,
        phase = stands_still(state, patience) => Err(Fatal::new(
            Reason::StartStalled,
            format!("no progress for {} s: {}", flags.stall, describe(&phase)),
        )),
    }
}

/// What is served: all that the flags allow of what an engine of this purpose can.
pub fn features(flags: &Flags, purpose: Purpose) -> Vec<Feature> {
    let all: &[Feature] = match purpose {
        Purpose::Generate => &[Feature::Chat, Feature::Completions],
        Purpose::Embed(_) => &[Feature::Embeddings],
        Purpose::Rank => &[Feature::Rerank],
    };
    let allowed = |feature: &Feature| flags.features.is_empty() || flags.features.contains(feature);
    all.iter().copied().filter(allowed).collect()
}

/// Returns the phase when nothing has moved for so long. A download knows itself how long to
/// wait for what.
async fn stands_still(state: &State, patience: Duration) -> Phase {
    let mut phase = state.watch();
    let fetched = phase.wait_for(|phase| !matches!(phase, Phase::Downloading(_)));
    // The state lives: its sender is not gone.
    let _ = fetched.await;
    while timeout(patience, phase.changed()).await.is_ok() {}
    state.phase()
}
