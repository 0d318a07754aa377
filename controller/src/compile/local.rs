//! A local model: what data planes know of it, and what its workers are started with.

use bodhi_proto::names::ObjectRef;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{Balancing, BaseUrl, LocalFeatures, Origin, Pool, PoolState};

use super::problem::Problem;
use super::references::{Lookup, allowed_origins};
use super::{Deployment, Settings};
use crate::api::{
    AliasSpec, Engine, LoadBalancingStrategy, LocalFeature, LocalTarget, PoolingType, Reason,
    RolloutStrategy,
};
use crate::scaling::Sizing;

/// Where hf:// sources lie, unless the worker's environment says otherwise.
const HUB: &str = "https://huggingface.co";

/// A local model that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// For data planes; its state is what the workers make of it.
    pub pool: Pool,
    /// What each worker is started with. Where it differs, workers are replaced.
    pub worker: WorkerSpec,
    /// How many workers.
    pub sizing: Sizing,
    /// How workers are replaced.
    pub rollout: Rollout,
}

impl LocalModel {
    /// The Alias.
    pub fn object(&self) -> &ObjectRef {
        &self.pool.object
    }
}

/// What a worker is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerSpec {
    /// `hf://…`, `https://…`, `s3://…`, `file:///…`, `pvc://…`.
    pub source: String,
    /// Of a hf:// source.
    pub revision: Option<String>,
    /// What the file must be, in lower-case hex.
    pub sha256: Option<String>,
    /// Accepts a hf:// source that may change.
    pub allow_floating: bool,
    /// The token for the download.
    pub token: Option<Secret>,
    /// How llama.cpp runs it.
    pub engine: Engine,
    /// What it serves.
    pub features: LocalFeatures,
}

/// How workers of one spec follow those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// A new worker is ready before an old one goes.
    Surge,
    /// The old ones go first: there is no room for both.
    Recreate,
}

/// An Alias's local target.
pub(super) enum Local {
    /// It can be run.
    Model(Box<LocalModel>),
    /// `Accepted=False`.
    Refused(Problem),
    /// `ResolvedRefs=False`: its credentials.
    Unresolved(Problem),
}

pub(super) fn resolve(
    object: &ObjectRef,
    spec: &AliasSpec,
    local: &LocalTarget,
    lookup: &Lookup<'_>,
    settings: &Settings,
) -> Local {
    if let Some(problem) = refusal(local, settings) {
        return Local::Refused(problem);
    }
    let token = match token(local, lookup, settings) {
        Ok(token) => token,
        Err(problem) => return Local::Unresolved(problem),
    };
    let offers = |feature| local.features.contains(&feature);
    let features = LocalFeatures {
        chat: offers(LocalFeature::Chat),
        completions: offers(LocalFeature::Completions),
        embeddings: offers(LocalFeature::Embeddings),
        rerank: offers(LocalFeature::Rerank),
    };
    let activation = &spec.scaling.activation;
    Local::Model(Box::new(LocalModel {
        pool: Pool {
            object: object.clone(),
            features,
            balancing: match spec.load_balancing.strategy {
                LoadBalancingStrategy::PrefixHash => Balancing::PrefixHash {
                    mean_load_percent: spec.load_balancing.mean_load_percent,
                },
                LoadBalancingStrategy::LeastLoad => Balancing::LeastLoad,
            },
            hold_timeout: activation.hold_timeout.get(),
            max_held: activation.max_held,
            system_prompt: spec.system_prompt.as_deref().map(Into::into),
            state: PoolState::Starting,
        },
        worker: WorkerSpec {
            source: local.source.clone(),
            revision: local.revision.clone(),
            sha256: local.sha256.clone(),
            allow_floating: local.allow_floating,
            token,
            engine: local.engine.clone(),
            features,
        },
        sizing: Sizing::of(&spec.scaling),
        rollout: match spec.rollout.strategy {
            RolloutStrategy::Surge => Rollout::Surge,
            RolloutStrategy::Recreate => Rollout::Recreate,
            RolloutStrategy::Auto if wants_gpu(local) => Rollout::Recreate,
            RolloutStrategy::Auto => Rollout::Surge,
        },
    }))
}

/// What cannot be run here, whatever else exists.
fn refusal(local: &LocalTarget, settings: &Settings) -> Option<Problem> {
    let problem = |message: &str| Some(Problem::new(Reason::SourceNotSupported, message));
    let scheme = local.source.split_once("://").map(|(scheme, _)| scheme);
    match (scheme, settings.deployment) {
        (Some("oci"), _) => {
            return problem("oci:// sources cannot be fetched yet: use hf://, https:// or s3://");
        }
        (Some("pvc"), Deployment::Standalone) => {
            return problem(
                "pvc:// names a volume of a cluster: on one machine write file:///PATH",
            );
        }
        (Some("file"), Deployment::Cluster) => {
            return problem(
                "file:// is for one machine: in a cluster write pvc://CLAIM/PATH, hf://, https:// \
                 or s3://",
            );
        }
        _ => {}
    }
    if local.engine.pooling_type == Some(PoolingType::None) {
        let message = "spec.target.local.engine.poolingType None gives a vector per token, which \
                       no endpoint carries: leave it out, or write Mean, Cls, Last or Rank";
        return Some(Problem::new(Reason::InvalidSettings, message));
    }
    None
}

/// The token of `credentialsRef`, which may go where the source lies.
fn token(
    local: &LocalTarget,
    lookup: &Lookup<'_>,
    settings: &Settings,
) -> Result<Option<Secret>, Problem> {
    let Some(reference) = &local.credentials_ref else {
        return Ok(None);
    };
    let (secret, text) = lookup.secret_text(reference)?;
    let origin = match local.source.split_once("://") {
        Some(("hf", _)) => origin_of(HUB),
        Some(("https", _)) => url::Url::parse(&local.source)
            .ok()
            .and_then(|url| origin_of(&url.origin().ascii_serialization())),
        _ => None,
    };
    match origin {
        Some(origin) => {
            allowed_origins(secret, &reference.name, &origin, settings)?;
            Ok(Some(Secret::new(text)))
        }
        None => Err(Problem::new(
            Reason::SecretOriginNotAllowed,
            "spec.target.local.credentialsRef is for hf:// and https:// sources",
        )),
    }
}

fn origin_of(address: &str) -> Option<Origin> {
    BaseUrl::parse(address).ok().map(|url| url.origin)
}

/// Whether its container asks for a GPU.
fn wants_gpu(local: &LocalTarget) -> bool {
    let resources = local.resources.as_ref();
    resources.is_some_and(|r| r.limits.keys().any(|name| name.contains("gpu")))
}
