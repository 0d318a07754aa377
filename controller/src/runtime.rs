//! What runs the workers of local models.
//!
//! A runtime is told the whole of what is wanted, as often as that changes, and shows the whole
//! of what there is: neither side keeps a history of the other. It replaces workers whose spec
//! has changed, restarts those that end by themselves, and never ends one that data planes may
//! still choose: what it no longer shows must be acknowledged first.

pub mod kube;
pub mod process;

mod backoff;
mod flags;
mod plan;

use std::collections::BTreeMap;
use std::sync::Arc;

use bodhi_proto::chat::{Failure, ModelInfo, Phase};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::WorkerEndpoint;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use crate::compile::{Rollout, WorkerPod, WorkerSpec};

/// Runs workers.
pub trait Runtime: Send + Sync {
    /// From now on exactly these are wanted; others are drained and ended.
    fn want(&self, models: Vec<Wanted>);

    /// What there is.
    fn observed(&self) -> watch::Receiver<Arc<Observed>>;

    /// No data plane chooses a worker any more that [`Observed`] did not show at `version`.
    fn acknowledge(&self, version: u64);

    /// Ends with the controller: processes in good order, while pods run on for the next one.
    /// Nothing may be wanted afterwards.
    fn stop(&self) -> BoxFuture<'_, ()>;
}

/// The workers of one local model, as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The Alias.
    pub object: ObjectRef,
    /// The Alias's identity.
    pub uid: Arc<str>,
    /// What each worker is started with.
    pub worker: WorkerSpec,
    /// What else its pods are, where workers are pods.
    pub pod: WorkerPod,
    /// How many.
    pub replicas: u32,
    /// The most there will be while this spec holds: what one machine has is divided by it.
    pub ceiling: u32,
    /// How workers of another spec are replaced.
    pub rollout: Rollout,
}

/// All workers as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Grows with each change, over restarts of the controller too. Of processes it begins with the
    /// time, in Unix milliseconds; of pods it is the resourceVersion up to which they are known, the
    /// same in every controller, and 0 until they have been listed.
    pub version: u64,
    /// Another controller sizes models: what they were [sized](ModelState::sized) to rules.
    pub follows: bool,
    /// Those of each model that has any or wants any.
    pub models: BTreeMap<ObjectRef, ModelState>,
}

/// The workers of one local model as they are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModelState {
    /// Those that take requests, in order of their ids.
    pub ready: Vec<WorkerEndpoint>,
    /// How many exist or are being started, those that are going away left out.
    pub replicas: u32,
    /// Of those on their way, how far the first is.
    pub starting: Option<Phase>,
    /// Why none is ready: what the last one that ended by itself said.
    pub failure: Option<Trouble>,
    /// The model file, once a worker has read it.
    pub model: Option<ModelInfo>,
    /// How many it was last told to be, where workers outlive their controller.
    pub sized: Option<u32>,
    /// Selects its pods, where workers are pods.
    pub selector: Option<Arc<str>>,
}

/// Workers that end by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What the last one said.
    pub failure: Failure,
    /// How many in a row.
    pub times: u32,
}
