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
            /// The word itself.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
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
    /// This release cannot run local models.
    LocalNotSupported,
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
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
