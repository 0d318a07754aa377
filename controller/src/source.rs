//! Where resources come from: a folder of manifests here, an API server in a cluster.
//!
//! Every source speaks kube's [`watcher::Event`]: a first list (`Init`, `InitApply`…,
//! `InitDone`), then single changes, and after a lost watch a list again. What comes after
//! (index, compile, sync) cannot tell the sources apart.

mod files;
mod yaml;

use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher;

pub use files::{
    BuiltIn, FileProblem, FilesConfig, FilesError, FilesHandle, Inspection, inspect, watch_files,
};
pub use yaml::{Content, Node, Position, YamlError, documents};

use crate::api::{Alias, ApiModel};

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
    /// Everything that the source holds at this revision has been sent.
    Settled {
        /// Grows with each change, also over restarts: the source's part of a mark.
        revision: u64,
    },
}
