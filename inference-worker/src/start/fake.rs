//! The fake engine as a model, for tests of what is above: it is ready at once, or after
//! delays that a test asks for, or never.

#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::{ModelInfo, Phase, Progress};
use tokio::time::sleep;

use super::Starter;
use super::fetch::fetch;
use crate::config::{Feature, Flags, PoolingType};
use crate::engine::fake::{FakeEngine, Settings};
use crate::engine::{Options, Pooling, Purpose, Runner, Shape};
use crate::exit::{Fatal, Reason};
use crate::serving::Serving;
use crate::state::State;
use crate::template::Template;

/// Steps in which a pretended download or load goes on.
const STEPS: u32 = 10;

/// A start with the fake engine.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    /// Where its model comes from.
    pub file: File,
    /// How long it pretends to load.
    pub load: Duration,
    /// What a step of the engine takes.
    pub step: Duration,
    /// What each token of a step takes besides.
    pub token: Duration,
    /// Fails instead of becoming ready.
    pub fail: Option<Reason>,
}

/// The file of a fake model, which the fake engine does not read.
#[derive(Debug, Clone)]
pub enum File {
    /// There is none; a download is pretended.
    Pretended(Duration),
    /// What `--model` names is obtained, as for a real engine.
    Obtained,
}

impl Default for File {
    fn default() -> Self {
        Self::Pretended(Duration::ZERO)
    }
}

impl Starter for Fake {
    async fn start(self, flags: &Flags, state: &Arc<State>) -> Result<Serving, Fatal> {
        match self.file {
            File::Obtained => drop(fetch(flags, state).await?),
            File::Pretended(time) => {
                for step in 0..=STEPS {
                    state.move_to(Phase::Downloading(part(step, 1 << 30)));
                    sleep(time / STEPS).await;
                }
            }
        }
        for step in 0..=STEPS {
            state.move_to(Phase::Loading(part(step, 1000)));
            sleep(self.load / STEPS).await;
        }
        if let Some(reason) = self.fail {
            return Err(Fatal::new(reason, "asked to fail"));
        }
        state.move_to(Phase::WarmingUp);
        self.serving(flags)
    }
}

impl Fake {
    fn serving(&self, flags: &Flags) -> Result<Serving, Fatal> {
        let engine = &flags.engine;
        let slots = engine.parallel_slots.map_or(4, |n| n.get());
        let context = engine.context_length.map_or(4096, |n| n.get()) as usize;
        let settings = Settings {
            shape: Shape {
                purpose: purpose(flags),
                slots,
                context,
                batch: engine.batch_size.get() as usize,
            },
            step: self.step,
            token: self.token,
            ..Settings::default()
        };
        let options = Options {
            queue: engine.queue,
            gap: Duration::from_millis(engine.prefill_gap),
            cache: usize::try_from(engine.prompt_cache).unwrap_or(usize::MAX),
        };
        let runner = Runner::start(FakeEngine::new(settings), options)
            .map_err(|error| Fatal::new(Reason::EngineFailed, error.to_string()))?;
        Ok(Serving {
            info: ModelInfo {
                architecture: "fake".to_owned(),
                context_length: u32::try_from(context).unwrap_or(u32::MAX),
                file_bytes: 1 << 30,
                embedding_length: u32::try_from(settings.dimensions).unwrap_or(u32::MAX),
                sha256: String::new(),
                parameters: 1_000_000,
            },
            runner,
            template: Template::plain(),
            pool: None,
            features: super::features(flags, settings.shape.purpose),
        })
    }
}

/// What the engine is for, by the features that are asked for: it can only be for one thing.
fn purpose(flags: &Flags) -> Purpose {
    let pooling = match flags.engine.pooling_type {
        Some(PoolingType::Mean) => Pooling::Mean,
        Some(PoolingType::Cls) => Pooling::First,
        Some(PoolingType::Last) => Pooling::Last,
        _ => Pooling::Model,
    };
    match flags.features.first() {
        Some(Feature::Embeddings) => Purpose::Embed(pooling),
        Some(Feature::Rerank) => Purpose::Rank,
        _ => Purpose::Generate,
    }
}

fn part(step: u32, total: u64) -> Progress {
    Progress::new(total * u64::from(step) / u64::from(STEPS), total)
}
