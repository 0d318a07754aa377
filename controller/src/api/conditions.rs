//! Conditions: how an object says what became of it (kstatus).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One condition of an object's status, shaped like Kubernetes' own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What is judged, such as `Accepted` or `Ready`.
    #[serde(rename = "type")]
    #[schemars(length(min = 1, max = 64))]
    pub type_: String,
    /// True, False or Unknown.
    pub status: ConditionStatus,
    /// One word for programs.
    #[schemars(length(min = 1, max = 64))]
    pub reason: String,
    /// A sentence for people.
    #[schemars(length(max = 1024))]
    pub message: String,
    /// The `metadata.generation` that was judged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// When `status` last changed (RFC 3339).
    #[schemars(length(max = 40), extend("format" = "date-time"))]
    pub last_transition_time: String,
}

/// The three values of a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Not known (yet).
    Unknown,
}

/// What a condition judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionType {
    /// The object is valid and holds its names.
    Accepted,
    /// Everything it refers to exists and may be used.
    ResolvedRefs,
    /// A data plane serves this generation and none rejects it.
    Programmed,
    /// The provider answers (ApiModel; not part of Ready).
    UpstreamHealthy,
    /// The model file is there, and is what it should be (local models).
    ArtifactResolved,
    /// A worker is ready, or there is none on purpose (local models).
    Available,
    /// All that is needed to serve.
    Ready,
}

impl ConditionType {
    /// The condition's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::UpstreamHealthy => "UpstreamHealthy",
            Self::ArtifactResolved => "ArtifactResolved",
            Self::Available => "Available",
            Self::Ready => "Ready",
        }
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Why a condition has its status: one word for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every reason there is.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The word itself.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// The reason that is spelled so.
            pub fn parse(word: &str) -> Option<Self> {
                match word {
                    $(stringify!($name) => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reasons! {
    /// Accepted: the object is valid and holds its names.
    Accepted,
    /// ResolvedRefs: all references are usable.
    ResolvedRefs,
    /// Programmed: data planes serve this generation.
    Programmed,
    /// Ready: everything holds.
    Ready,
    /// The object breaks a rule of its schema.
    Malformed,
    /// `extraBody` or `defaults` sets what belongs to the request, or is too large.
    InvalidExtraBody,
    /// The prefix belongs to another object.
    PrefixConflict,
    /// Ids or a served name belong to other objects.
    ModelConflict,
    /// The operator did not grant these names to the namespace.
    NameNotGranted,
    /// The controller does not serve this namespace.
    NamespaceNotServed,
    /// `spec.suspend` is set.
    Suspended,
    /// An Alias mixes openai_responses routes with others.
    MixedFormats,
    /// A model's source cannot be used here.
    SourceNotSupported,
    /// No such Secret.
    SecretNotFound,
    /// The Secret has no such key.
    SecretKeyMissing,
    /// The Secret lacks the label that opts it in.
    SecretNotOptedIn,
    /// The Secret may not go to this origin.
    SecretOriginNotAllowed,
    /// No key was stored for this object and origin.
    KeyNotStored,
    /// No such CA bundle.
    CABundleNotFound,
    /// A route names an ApiModel that does not exist.
    ApiModelNotFound,
    /// A route names an ApiModel that cannot serve.
    ApiModelNotReady,
    /// A data plane refused the compiled resource.
    RejectedByDataPlane,
    /// No data plane is connected.
    NoDataPlane,
    /// Not acknowledged yet.
    Pending,
    /// Another condition is not true.
    NotReady,
    /// ArtifactResolved: the model file is there.
    ArtifactResolved,
    /// The model file is being fetched.
    Downloading,
    /// Available: a worker is ready.
    Available,
    /// Available: there is no worker on purpose.
    ScaledToZero,
    /// Workers are starting.
    Starting,
    /// The model file does not exist.
    NotFound,
    /// The source wants credentials, or others.
    Unauthorized,
    /// The source asks to come back later.
    RateLimited,
    /// The download is not allowed to go there.
    DownloadDenied,
    /// The download broke off.
    DownloadInterrupted,
    /// There is no room for the model file.
    CacheFull,
    /// The folder of downloads cannot be used.
    CacheUnavailable,
    /// The file is not the one that was pinned.
    ChecksumMismatch,
    /// The file is no GGUF file.
    NotGguf,
    /// The file is damaged.
    ArtifactCorrupted,
    /// llama.cpp does not know the model's architecture.
    UnsupportedArchitecture,
    /// The chat template cannot be rendered.
    ChatTemplateInvalid,
    /// Settings that this model or this machine cannot have.
    InvalidSettings,
    /// The model does not fit into memory.
    InsufficientMemory,
    /// The system ended the worker because memory ran out.
    OutOfMemoryKilled,
    /// Layers were to go to a GPU, and there is none.
    GpuUnavailable,
    /// A worker cannot listen.
    CannotListen,
    /// The engine failed.
    EngineFailed,
    /// The engine did nothing although there was work.
    EngineHung,
    /// The start made no progress.
    StartStalled,
    /// The worker did not answer its controller.
    WorkerHung,
    /// The worker ended without a word.
    WorkerCrashed,
    /// There is no program to run workers with.
    WorkerNotInstalled,
    /// No node takes a worker's pod.
    Unschedulable,
    /// A node cannot get the worker's image.
    ImageUnavailable,
    /// A node cannot start a worker's container.
    PodNotStarted,
    /// The API server refuses a worker's Deployment or its pods.
    PodRefused,
}

impl Reason {
    /// Whether a worker that ends with it lacks its model file, rather than what it needs to run
    /// it.
    pub fn concerns_artifact(self) -> bool {
        matches!(
            self,
            Self::NotFound
                | Self::Unauthorized
                | Self::RateLimited
                | Self::DownloadDenied
                | Self::DownloadInterrupted
                | Self::CacheFull
                | Self::CacheUnavailable
                | Self::ChecksumMismatch
                | Self::NotGguf
                | Self::ArtifactCorrupted
                | Self::UnsupportedArchitecture
        )
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_explained_to_operators() {
        let page = include_str!("../../../docs/reasons.md");
        let explained: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
            .collect();
        for reason in Reason::ALL {
            let word = format!("`{reason}`");
            let rows = explained.iter().filter(|row| row.contains(&word)).count();
            assert!(rows > 0, "docs/reasons.md has no row for {reason}");
        }
    }
}
