//! Where resources come from: a folder of manifests here, an API server in a cluster.
//!
//! Every source speaks kube's [`watcher::Event`]: a first list (`Init`, `InitApply`…,
//! `InitDone`), then single changes. What comes after (index, compile, sync) cannot tell the
//! sources apart.

mod files;
mod kube;
mod yaml;

use std::sync::Arc;

use ::kube::runtime::watcher;
use bodhi_proto::names::{ObjectKind, ObjectRef};
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

pub use self::kube::{KubeConfig, KubeHandle, watch_cluster};
pub use files::{
    BuiltIn, FileProblem, FilesConfig, FilesError, FilesHandle, Inspection, inspect, watch_files,
};
pub use yaml::{Content, Node, Position, YamlError, documents};

use crate::api::{Alias, ApiModel};
use crate::index::Name;

/// A source, as others ask it.
pub trait ObjectSource: Send + Sync {
    /// Reads everything again, soon: the next [`ResourceEvent::Settled`] with `reread` says that
    /// it has been done.
    fn reread(&self);

    /// What is wrong in it, as `/bodhi/v1/status` shows it: a list.
    fn problems(&self) -> Value;
}

/// The kinds of objects that a source holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A provider.
    ApiModel,
    /// A served name.
    Alias,
    /// A labelled Secret.
    Secret,
}

impl ResourceKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ApiModel, Self::Alias, Self::Secret];
}

impl From<ObjectKind> for ResourceKind {
    fn from(kind: ObjectKind) -> Self {
        match kind {
            ObjectKind::ApiModel => Self::ApiModel,
            ObjectKind::Alias => Self::Alias,
        }
    }
}

/// An object that is there and does not read as its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// Which.
    pub object: ObjectRef,
    /// Its identity.
    pub uid: Arc<str>,
    /// The generation that was read.
    pub generation: i64,
    /// What is wrong with it.
    pub message: String,
    /// The status that it brings along, as it is.
    pub status: Option<Value>,
}

/// A change of one resource, or the end of a batch.
///
/// `Debug` is left out on purpose: a Secret's would print its keys.
#[expect(
    clippy::large_enum_variant,
    reason = "one event is on its way at a time"
)]
pub enum ResourceEvent {
    /// Of an ApiModel.
    ApiModel(watcher::Event<ApiModel>),
    /// Of an Alias.
    Alias(watcher::Event<Alias>),
    /// Of a Secret.
    Secret(watcher::Event<Secret>),
    /// An object that took the place of a readable one of its name, if there was one.
    Malformed(Malformed),
    /// An object that is no more, readable or not.
    Gone(ResourceKind, Name),
    /// Everything that the source holds at this revision has been sent.
    Settled {
        /// Never falls, also over restarts: the source's part of a mark.
        revision: u64,
        /// Whether everything was read again because somebody asked for that
        /// ([`ObjectSource::reread`]).
        reread: bool,
    },
}

impl ResourceEvent {
    /// The object that is not malformed any more after this.
    pub(crate) fn heals(&self) -> Option<ObjectRef> {
        use watcher::Event;
        let of = |kind, metadata: &::kube::api::ObjectMeta| ObjectRef {
            kind,
            namespace: metadata.namespace.as_deref().unwrap_or_default().into(),
            name: metadata.name.as_deref().unwrap_or_default().into(),
        };
        match self {
            Self::ApiModel(Event::Apply(o) | Event::InitApply(o) | Event::Delete(o)) => {
                Some(of(ObjectKind::ApiModel, &o.metadata))
            }
            Self::Alias(Event::Apply(o) | Event::InitApply(o) | Event::Delete(o)) => {
                Some(of(ObjectKind::Alias, &o.metadata))
            }
            Self::Gone(ResourceKind::ApiModel, name) => {
                Some(ObjectRef::api_model(&name.namespace, &name.name))
            }
            Self::Gone(ResourceKind::Alias, name) => {
                Some(ObjectRef::alias(&name.namespace, &name.name))
            }
            _ => None,
        }
    }
}
