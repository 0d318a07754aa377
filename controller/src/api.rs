//! The custom resources of `bodhi.dev/v1alpha1`: what a platform team declares.
//!
//! The Rust types are the single source: their schemas, defaults and CEL rules become the
//! CRDs that a cluster installs ([`crds`], [`crds_yaml`]) and the very same schemas judge
//! manifests on a laptop (`validate`). So every string here has a `maxLength` and every
//! list a `maxItems`: an API server refuses CEL rules whose cost it cannot bound.

mod alias;
mod api_model;
mod conditions;
mod crd;
mod shared;

pub use alias::{
    Activation, Alias, AliasSpec, AliasStatus, ApiTarget, Artifact, Cache, CacheType, Engine,
    FlashAttention, KvCacheType, LoadBalancing, LoadBalancingStrategy, LocalFeature, LocalTarget,
    PoolingType, Resources, RetryOn, Rollout, RolloutStrategy, Route, Scaling, ScalingMode, Target,
    TargetType, Toleration, Visibility,
};
pub use api_model::{
    ApiModel, ApiModelSpec, ApiModelStatus, Auth, AuthType, Discovery, Feature, Header,
    HealthCheck, HealthCheckMode, OutputLimitField, Price, Retry, Timeouts,
};
pub use conditions::{Condition, ConditionStatus, ConditionType, Reason};
pub(crate) use crd::schemas;
pub use crd::{crds, crds_yaml};
pub use shared::{KeyRef, Period};

/// The API group of both kinds.
pub const GROUP: &str = "bodhi.dev";
/// The one served version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of a manifest.
pub const API_VERSION: &str = "bodhi.dev/v1alpha1";

/// A Secret is usable (and visible) only with this label set to `"true"`.
pub const CREDENTIAL_LABEL: &str = "bodhi.dev/credential";
/// On a Secret: comma-separated origins (scheme, host, port; `*.` for one label or more)
/// where its keys may go.
pub const ALLOWED_ORIGINS_ANNOTATION: &str = "bodhi.dev/allowed-origins";
/// On an Alias: asks for new workers, as `kubectl rollout restart` does of a Deployment. Its value is
/// anything that it was not before. In a cluster they also take on what has changed in Bodhi itself
/// since, such as their image.
pub const RESTARTED_AT_ANNOTATION: &str = "bodhi.dev/restarted-at";

/// Keys that `spec.extraBody` and an Alias's `spec.defaults` may not set: they belong to
/// the request.
pub const FORBIDDEN_BODY_KEYS: [&str; 5] = ["model", "stream", "messages", "input", "contents"];
/// Largest `spec.extraBody` and `spec.defaults`, in bytes of compact JSON.
pub const EXTRA_BODY_MAX: usize = 16 * 1024;
