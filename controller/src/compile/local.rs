//! A local model: what data planes know of it, and what its workers are started with.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::sync::Arc;

use bodhi_proto::names::ObjectRef;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{
    Balancing, BaseUrl, EgressScope, LocalFeatures, Origin, Pool, PoolState,
};
use kube::ResourceExt as _;
use serde_json::{Map, Value};

use super::problem::Problem;
use super::references::{Lookup, allowed_origins};
use super::{Deployment, HostPathGrant, Settings};
use crate::api::{
    Alias, Cache, CacheType, Engine, KeyRef, LoadBalancingStrategy, LocalFeature, LocalTarget,
    PoolingType, RESTARTED_AT_ANNOTATION, Reason, Resources, RolloutStrategy, Toleration,
};
use crate::scaling::Sizing;

/// Where hf:// sources lie, unless the worker's environment says otherwise.
const HUB: &str = "https://huggingface.co";

/// A local model that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalModel {
    /// For data planes; its state is what the workers make of it.
    pub pool: Pool,
    /// The Alias's identity, which a new object of the same name does not share.
    pub uid: Arc<str>,
    /// What each worker is started with. Where it differs, workers are replaced.
    pub worker: WorkerSpec,
    /// What else its pods are, in a cluster. Where it differs, they are replaced.
    pub pod: WorkerPod,
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
    pub credentials: Option<Credentials>,
    /// Addresses that the download may lead to.
    pub egress: EgressScope,
    /// How llama.cpp runs it.
    pub engine: Engine,
    /// What it serves.
    pub features: LocalFeatures,
}

/// The token for a download, which may go where the model lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// The token itself, for a process of ours.
    Token(Secret),
    /// The Secret that holds it, in the Alias's namespace, from which a pod takes it.
    Reference(KeyRef),
}

/// What a pod is besides a worker, as the Alias says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerPod {
    /// Where downloads are kept.
    pub cache: Cache,
    /// Of its container.
    pub resources: Resources,
    /// Nodes that may run it.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Kubernetes' `affinity`.
    pub affinity: Option<Map<String, Value>>,
    /// Kubernetes' `runtimeClassName`.
    pub runtime_class_name: Option<String>,
    /// Kubernetes' `priorityClassName`.
    pub priority_class_name: Option<String>,
    /// The Alias's annotation [`RESTARTED_AT_ANNOTATION`]: another value means new pods.
    pub restarted_at: Option<String>,
}

/// How workers of one spec follow those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollout {
    /// A new worker is ready before an old one goes.
    Surge,
    /// An old one goes before the new one comes, one after the other: there is no room for one more.
    InPlace,
    /// All old ones go first.
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
    alias: &Alias,
    local: &LocalTarget,
    lookup: &Lookup<'_>,
    settings: &Settings,
) -> Local {
    let spec = &alias.spec;
    if let Some(problem) = refusal(object, local, settings) {
        return Local::Refused(problem);
    }
    let credentials = match credentials(local, lookup, settings) {
        Ok(credentials) => credentials,
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
        uid: alias.uid().unwrap_or_default().into(),
        worker: WorkerSpec {
            source: local.source.clone(),
            revision: local.revision.clone(),
            sha256: local.sha256.clone(),
            allow_floating: local.allow_floating,
            credentials,
            egress: settings.egress(&object.namespace),
            engine: local.engine.clone(),
            features,
        },
        pod: WorkerPod {
            cache: local.cache.clone(),
            resources: local.resources.clone().unwrap_or_default(),
            node_selector: local.node_selector.clone(),
            tolerations: local.tolerations.clone(),
            affinity: local.affinity.clone(),
            runtime_class_name: local.runtime_class_name.clone(),
            priority_class_name: local.priority_class_name.clone(),
            restarted_at: alias.annotations().get(RESTARTED_AT_ANNOTATION).cloned(),
        },
        sizing: Sizing::of(&spec.scaling),
        rollout: match spec.rollout.strategy {
            RolloutStrategy::Surge => Rollout::Surge,
            RolloutStrategy::Recreate => Rollout::Recreate,
            RolloutStrategy::Auto if wants_device(local) => Rollout::InPlace,
            RolloutStrategy::Auto => Rollout::Surge,
        },
    }))
}

/// What cannot be run here, whatever else exists.
fn refusal(object: &ObjectRef, local: &LocalTarget, settings: &Settings) -> Option<Problem> {
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
    if let (Deployment::Cluster, CacheType::HostPath, Some(path)) =
        (settings.deployment, local.cache.type_, &local.cache.path)
        && !settings.may_mount(&object.namespace, path)
    {
        let namespace = &object.namespace;
        let message = format!(
            "the operator lets no cache of namespace {namespace} be in {path} of a node \
             (--host-path {namespace}=FOLDER): use EmptyDir or PersistentVolumeClaim"
        );
        return Some(Problem::new(Reason::InvalidSettings, message));
    }
    None
}

impl Settings {
    /// Whether pods of a namespace may have this folder of their node.
    fn may_mount(&self, namespace: &str, path: &str) -> bool {
        let path = Path::new(path);
        let is_plain = |part| matches!(part, Component::RootDir | Component::Normal(_));
        let is_granted = |grant: &HostPathGrant| {
            *grant.namespace == *namespace && path.starts_with(&grant.folder)
        };
        path.components().all(is_plain) && self.host_paths.iter().any(is_granted)
    }
}

/// What `credentialsRef` names, which may go where the source lies.
fn credentials(
    local: &LocalTarget,
    lookup: &Lookup<'_>,
    settings: &Settings,
) -> Result<Option<Credentials>, Problem> {
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
            Ok(Some(match settings.deployment {
                Deployment::Standalone => Credentials::Token(Secret::new(text)),
                Deployment::Cluster => Credentials::Reference(reference.clone()),
            }))
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

/// Whether its container asks for a device, of which no machine is sure to have one to spare: an
/// extended resource, such as `nvidia.com/gpu`.
/// <https://kubernetes.io/docs/concepts/configuration/manage-resources-containers/#extended-resources>
fn wants_device(local: &LocalTarget) -> bool {
    let resources = local.resources.as_ref();
    resources.is_some_and(|resources| resources.limits.keys().any(|name| is_extended(name)))
}

fn is_extended(resource: &str) -> bool {
    let domain = resource.split_once('/').map(|(domain, _)| domain);
    domain.is_some_and(|d| d != "kubernetes.io" && !d.ends_with(".kubernetes.io"))
}
