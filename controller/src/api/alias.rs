//! `Alias`: a served name, which a local model or other providers' models stand behind.

#![expect(
    unreachable_pub,
    reason = "KubeSchema copies each struct, visibility included, into a function body"
)]
#![expect(
    clippy::duplicated_attributes,
    reason = "kube takes one printcolumn attribute per column"
)]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conditions::Condition;
use super::shared::{KeyRef, Period, free_object, is_false};

/// The desired state of an Alias.
#[derive(Debug, Clone, PartialEq, CustomResource, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "bodhi.dev",
    version = "v1alpha1",
    kind = "Alias",
    plural = "aliases",
    shortname = "mal",
    category = "bodhi",
    namespaced,
    derive = "PartialEq",
    doc = "Alias is a served name: a local model, or models of providers.",
    status = "AliasStatus",
    selectable = ".spec.model",
    selectable = ".spec.target.type",
    scale(
        spec_replicas_path = ".spec.scaling.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.model"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target.type"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason"
    ),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Source",
        type_ = "string",
        json_path = ".spec.target.local.source",
        priority = 1
    ),
    printcolumn(
        name = "Size",
        type_ = "string",
        json_path = ".status.artifact.size",
        priority = 1
    )
)]
pub struct AliasSpec {
    /// The served name; absent: `metadata.name` (outside the release namespace with the
    /// namespace before it: `team-a/small`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub model: Option<String>,

    /// What serves the name. May change: clients keep the name.
    pub target: Target,

    /// How many workers (target Local).
    #[serde(default)]
    pub scaling: Scaling,

    /// How workers are replaced (target Local).
    #[serde(default)]
    pub rollout: Rollout,

    /// How requests are spread over workers (target Local).
    #[serde(default)]
    pub load_balancing: LoadBalancing,

    /// Request parameters that the request itself may override, key by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub defaults: Option<Map<String, Value>>,

    /// Put first when the request has no system message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32_768))]
    pub system_prompt: Option<String>,

    /// Caps the output limit and sets it where the request names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_output_tokens: Option<u32>,

    /// Internal: callable, not listed.
    #[serde(default)]
    pub visibility: Visibility,

    /// Stops serving; the name stays claimed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub suspend: bool,
}

/// What serves an Alias's name.
#[derive(Debug, Clone, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.local) == (self.type == 'Local')")
        .message("local is needed with type Local, and only there")
        .field_path(".local"),
    validation = Rule::new("has(self.api) == (self.type == 'Api')")
        .message("api is needed with type Api, and only there")
        .field_path(".api")
)]
pub struct Target {
    /// Local: a model on llama.cpp. Api: models of ApiModels.
    #[serde(rename = "type")]
    pub type_: TargetType,
    /// With type Local.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalTarget>,
    /// With type Api.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiTarget>,
}

/// The kinds of [`Target`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TargetType {
    /// A model that Bodhi runs.
    Local,
    /// Models of ApiModels.
    Api,
}

/// Routes to providers: a weighted choice among the lowest `priority`, then fallback.
#[derive(Debug, Clone, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiTarget {
    /// Where requests may go.
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new("self.all(r, self.exists_one(o, o.apiModel == r.apiModel && o.model == r.model))")
        .message("each pair of apiModel and model once"))]
    pub routes: Vec<Route>,
    /// Outcomes after which the next route is tried; default: only what was never written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub retry_on: Vec<RetryOn>,
}

/// One way to a provider's model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// An ApiModel of the same namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub api_model: String,
    /// The id as the provider spells it. Need not be among the ApiModel's `models`.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\x00-\x1f\x7f]+$"))]
    pub model: String,
    /// Share among routes of equal priority.
    #[serde(default = "Route::weight")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Lower comes first.
    #[serde(default)]
    #[schemars(range(min = 0, max = 15))]
    pub priority: u32,
}

impl Route {
    fn weight() -> u32 {
        1
    }
}

/// An outcome after which the next route is tried.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum RetryOn {
    /// Status 429.
    #[serde(rename = "429")]
    TooManyRequests,
    /// Any status from 500 to 599.
    #[serde(rename = "5xx")]
    ServerError,
    /// No first byte in time.
    #[serde(rename = "timeout")]
    Timeout,
}

/// A GGUF model that Bodhi runs on llama.cpp.
#[derive(Debug, Clone, PartialEq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.source.startsWith('hf://') || has(self.revision) || has(self.sha256) || self.allowFloating")
        .message("hf:// needs a revision or sha256, else the model may change by itself; allowFloating: true accepts that")
        .field_path(".revision")
        .reason(Reason::FieldValueRequired)
)]
pub struct LocalTarget {
    /// `hf://owner/repo/file.gguf`, `https://…`, `s3://…`, `oci://…@sha256:…`,
    /// `pvc://claim/path` or (standalone) `file:///path`.
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^[!-~]+$"))]
    #[x_kube(
        validation = Rule::new("self.matches('^(hf|https|s3|oci|pvc|file)://[^/]') || self.startsWith('file:///')")
            .message("must start with hf://, https://, s3://, oci://, pvc:// or file:///"),
        validation = Rule::new("!self.startsWith('hf://') || self.matches('^hf://[^/]+/[^/]+/.+$')")
            .message("must read hf://OWNER/REPOSITORY/FILE"),
        validation = Rule::new("!self.startsWith('oci://') || self.matches('@sha256:[0-9a-f]{64}$')")
            .message("oci:// needs a digest: @sha256:…"),
        validation = Rule::new("!self.startsWith('pvc://') || self.matches('^pvc://[^/]+/.+$')")
            .message("must read pvc://CLAIM/PATH"),
        validation = Rule::new("!self.startsWith('file://') || self.startsWith('file:///')")
            .message("must be an absolute path: file:///…")
    )]
    pub source: String,
    /// Commit, tag or branch of a Hugging Face repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9._/-]+$"))]
    pub revision: Option<String>,
    /// The file's SHA-256, in lower-case hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 64, max = 64), regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: Option<String>,
    /// Accepts a source that may change.
    #[serde(default)]
    pub allow_floating: bool,
    /// The token for the download: a key of a labelled Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials_ref: Option<KeyRef>,
    /// How llama.cpp runs it.
    #[serde(default)]
    pub engine: Engine,
    /// The endpoints it serves.
    #[serde(default = "LocalFeature::chat_and_completions")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub features: Vec<LocalFeature>,
    /// Where downloads are kept.
    #[serde(default)]
    pub cache: Cache,
    /// Of the worker's container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Nodes that may run it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that it tolerates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Kubernetes' `affinity`, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_object")]
    pub affinity: Option<Map<String, Value>>,
    /// Kubernetes' `runtimeClassName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Kubernetes' `priorityClassName`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub priority_class_name: Option<String>,
}

/// How llama.cpp runs a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Engine {
    /// Tokens per request, prompt and output together; absent: what the model was trained for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 128, max = 16_777_216))]
    pub context_length: Option<u32>,
    /// Requests served at the same time; absent: chosen by the worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    pub parallel_slots: Option<u32>,
    /// Layers on the GPU; -1: all that fit.
    #[schemars(range(min = -1, max = 10_000))]
    pub gpu_layers: i32,
    /// Tokens per logical batch.
    #[schemars(range(min = 32, max = 65_536))]
    pub batch_size: u32,
    /// Tokens per physical batch.
    #[schemars(range(min = 32, max = 65_536))]
    pub micro_batch_size: u32,
    /// Numbers in the KV cache.
    pub kv_cache_type: KvCacheType,
    /// Whether flash attention is used.
    pub flash_attention: FlashAttention,
    /// How embeddings are pooled; absent: as the model says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling_type: Option<PoolingType>,
    /// CPU threads; absent: all that the container has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub threads: Option<u32>,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            context_length: None,
            parallel_slots: None,
            gpu_layers: -1,
            batch_size: 2048,
            micro_batch_size: 512,
            kv_cache_type: KvCacheType::default(),
            flash_attention: FlashAttention::default(),
            pooling_type: None,
            threads: None,
        }
    }
}

/// Numbers in the KV cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KvCacheType {
    /// 16-bit floats.
    #[default]
    F16,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 8-bit blocks.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// 4-bit blocks.
    #[serde(rename = "q4_0")]
    Q4_0,
}

/// Whether flash attention is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FlashAttention {
    /// Where the backend has it.
    #[default]
    Auto,
    /// Always.
    Enabled,
    /// Never.
    Disabled,
}

/// How embeddings are pooled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum PoolingType {
    /// One vector per token.
    None,
    /// Their mean.
    Mean,
    /// The first token's.
    Cls,
    /// The last token's.
    Last,
    /// The reranking head's score.
    Rank,
}

/// Endpoints of a local model.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum LocalFeature {
    /// Conversations.
    Chat,
    /// Plain completions.
    Completions,
    /// Embeddings.
    Embeddings,
    /// Reranking.
    Rerank,
}

impl LocalFeature {
    fn chat_and_completions() -> Vec<Self> {
        vec![Self::Chat, Self::Completions]
    }
}

/// Where downloads are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.claimName) == (self.type == 'PersistentVolumeClaim')")
        .message("claimName is needed with type PersistentVolumeClaim, and only there")
        .field_path(".claimName"),
    validation = Rule::new("has(self.path) == (self.type == 'HostPath')")
        .message("path is needed with type HostPath, and only there")
        .field_path(".path")
)]
pub struct Cache {
    /// EmptyDir, PersistentVolumeClaim, or HostPath (which the operator must allow).
    #[serde(rename = "type", default)]
    pub type_: CacheType,
    /// The claim, with type PersistentVolumeClaim.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub claim_name: Option<String>,
    /// The node's folder, with type HostPath.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = r"^/"))]
    pub path: Option<String>,
}

/// The kinds of [`Cache`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CacheType {
    /// Lives as long as the pod.
    #[default]
    EmptyDir,
    /// Survives pods.
    PersistentVolumeClaim,
    /// A folder of the node.
    HostPath,
}

/// Resources of a container: Kubernetes' quantities by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// At most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub limits: BTreeMap<String, Value>,
    /// At least.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities")]
    pub requests: BTreeMap<String, Value>,
}

/// A taint that pods tolerate, as Kubernetes spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Taint key; absent with operator Exists: every taint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 316))]
    pub key: Option<String>,
    /// Exists or Equal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub operator: Option<String>,
    /// Taint value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// NoSchedule, PreferNoSchedule or NoExecute.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub effect: Option<String>,
    /// For NoExecute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

/// How many workers.
#[derive(Debug, Clone, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas")
        .message("must not be less than minReplicas")
        .field_path(".maxReplicas"),
    validation = Rule::new("has(self.activation.idleAfter) == (self.minReplicas == 0)")
        .message("idleAfter is needed with minReplicas: 0, and only there")
        .field_path(".activation.idleAfter")
)]
pub struct Scaling {
    /// What `kubectl scale` and KEDA set (mode External), and the start (mode Managed).
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: u32,
    /// Mode Managed stays at or above.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub min_replicas: u32,
    /// Mode Managed stays at or below; absent: `replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: Option<u32>,
    /// Managed: the controller sizes. External: `replicas` rules.
    #[serde(default)]
    pub mode: ScalingMode,
    /// Busy slots that mode Managed aims at, in percent.
    #[serde(default = "Scaling::target_utilization")]
    #[schemars(range(min = 1, max = 100))]
    pub target_utilization: u32,
    /// Scaling to and from zero.
    #[serde(default)]
    pub activation: Activation,
}

impl Scaling {
    fn target_utilization() -> u32 {
        75
    }
}

impl Default for Scaling {
    fn default() -> Self {
        Self {
            replicas: 1,
            min_replicas: 1,
            max_replicas: None,
            mode: ScalingMode::default(),
            target_utilization: Self::target_utilization(),
            activation: Activation::default(),
        }
    }
}

/// Who sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ScalingMode {
    /// The controller, between minReplicas and maxReplicas.
    #[default]
    Managed,
    /// Somebody else, through `replicas`.
    External,
}

/// Scaling to and from zero.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Activation {
    /// How long a request waits for the first worker.
    #[serde(default = "Activation::hold_timeout")]
    pub hold_timeout: Period,
    /// How many requests wait, per data plane.
    #[serde(default = "Activation::max_held")]
    #[schemars(range(min = 0, max = 10_000))]
    pub max_held: u32,
    /// Idle time after which the last worker stops; with minReplicas: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_after: Option<Period>,
}

impl Activation {
    fn hold_timeout() -> Period {
        Period::from_secs(300)
    }

    fn max_held() -> u32 {
        64
    }
}

impl Default for Activation {
    fn default() -> Self {
        Self {
            hold_timeout: Self::hold_timeout(),
            max_held: Self::max_held(),
            idle_after: None,
        }
    }
}

/// How workers are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rollout {
    /// Auto never needs a spare GPU.
    #[serde(default)]
    pub strategy: RolloutStrategy,
}

/// The ways of [`Rollout`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RolloutStrategy {
    /// Surge without GPUs, Recreate with them.
    #[default]
    Auto,
    /// The new worker first.
    Surge,
    /// The old worker stops first.
    Recreate,
}

/// How requests are spread over workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancing {
    /// PrefixHash keeps conversations where their prefix is cached.
    #[serde(default)]
    pub strategy: LoadBalancingStrategy,
    /// With PrefixHash: a worker above this share of the mean load is passed over.
    #[serde(default = "LoadBalancing::mean_load_percent")]
    #[schemars(range(min = 100, max = 1000))]
    pub mean_load_percent: u32,
}

impl LoadBalancing {
    fn mean_load_percent() -> u32 {
        125
    }
}

impl Default for LoadBalancing {
    fn default() -> Self {
        Self {
            strategy: LoadBalancingStrategy::default(),
            mean_load_percent: Self::mean_load_percent(),
        }
    }
}

/// The ways of [`LoadBalancing`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancingStrategy {
    /// By the prompt's first tokens, with bounded load.
    #[default]
    PrefixHash,
    /// The least busy worker.
    LeastLoad,
}

/// Who sees a name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Visibility {
    /// Listed.
    #[default]
    Public,
    /// Callable, not listed.
    Internal,
}

/// The observed state of an Alias.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AliasStatus {
    /// The generation that was judged last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs, Programmed, Ready and, of local models, more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
    /// The name as it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub model: Option<String>,
    /// Workers that exist.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<i32>,
    /// Selects the workers' pods, for the scale subresource.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub selector: Option<String>,
    /// The model file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<Artifact>,
}

/// A resolved model file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// For people: `2.3 GiB`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub size: Option<String>,
    /// `sha256:` and 64 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 80))]
    pub digest: Option<String>,
}

fn one() -> u32 {
    1
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "maxLength": 63 },
    })
}

fn quantities(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi|E|Ei)?$",
            "maxLength": 32,
        },
    })
}
