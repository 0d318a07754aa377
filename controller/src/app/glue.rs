//! The reconciler's view of the world, as the admin API asks for it.

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::snapshot::Snapshot;
use bodhi_proto::sync::{Revision, Source};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::admin::{Applied, Health, Rescan, Resources, Revocations, Routing};
use crate::index::Name;
use crate::reconcile::World;
use crate::source::{FilesHandle, ObjectSource};
use crate::sync::Server;

/// How long a revocation waits for data planes before it answers.
const REVOCATION_WAIT: Duration = Duration::from_secs(1);

/// How long a written manifest may take to be compiled before the writer is answered.
const COMPILE_WAIT: Duration = Duration::from_millis(300);

pub(super) struct Glue {
    pub(super) world: watch::Receiver<Arc<World>>,
    pub(super) sync: Server,
    pub(super) source: Arc<dyn ObjectSource>,
}

impl Glue {
    fn world(&self) -> Arc<World> {
        Arc::clone(&self.world.borrow())
    }
}

impl World {
    /// An object as kubectl shows it, status included.
    fn manifest(&self, object: &ObjectRef) -> Option<Value> {
        let name = Name::new(&object.namespace, &object.name);
        let value = match object.kind {
            ObjectKind::ApiModel => self
                .index
                .api_model(&name)
                .map(|o| serde_json::to_value(&**o)),
            ObjectKind::Alias => self.index.alias(&name).map(|o| serde_json::to_value(&**o)),
        };
        // Objects are plain structs; they came from JSON.
        let mut value = value?.ok()?;
        if let Some(status) = self.statuses.get(object) {
            value["status"] = status.clone();
        }
        Some(value)
    }
}

impl Resources for Glue {
    fn list(&self, kind: ObjectKind) -> Vec<Value> {
        let world = self.world();
        let objects: Vec<ObjectRef> = match kind {
            ObjectKind::ApiModel => world
                .index
                .api_models()
                .map(|(n, _)| ObjectRef::api_model(&n.namespace, &n.name))
                .collect(),
            ObjectKind::Alias => world
                .index
                .aliases()
                .map(|(n, _)| ObjectRef::alias(&n.namespace, &n.name))
                .collect(),
        };
        objects.iter().filter_map(|o| world.manifest(o)).collect()
    }

    fn get(&self, object: &ObjectRef) -> Option<Value> {
        self.world().manifest(object)
    }
}

impl Routing for Glue {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.world().snapshot)
    }
}

impl Revocations for Glue {
    fn applied(&self, change_seq: u64) -> BoxFuture<'_, Applied> {
        Box::pin(async move {
            let incarnation = self
                .sync
                .mark()
                .at(Source::Store)
                .map_or(0, |r| r.incarnation);
            let revision = Revision {
                incarnation,
                number: change_seq,
            };
            let applied = self.sync.wait_applied(revision, REVOCATION_WAIT).await;
            Applied {
                applied: applied.applied,
                pending: applied.pending,
            }
        })
    }
}

impl Health for Glue {
    fn data_planes(&self) -> Value {
        let planes = self.sync.acks().planes;
        let plane = |p: &crate::sync::Plane| {
            json!({
                "name": p.node,
                "mark": p.mark.to_string(),
                "rejections": p.rejections.iter()
                    .map(|r| json!({"kind": format!("{:?}", r.kind), "name": r.name, "text": r.text}))
                    .collect::<Vec<_>>(),
                "divergences": p.divergences,
            })
        };
        planes.iter().map(plane).collect()
    }

    fn problems(&self) -> Value {
        self.source.problems()
    }
}

/// Reads the manifests again; done when what changed has been compiled. Where nothing did,
/// nothing comes, so the wait is short.
pub(super) fn rescan(files: FilesHandle, world: watch::Receiver<Arc<World>>) -> Rescan {
    Arc::new(move || {
        let (files, mut world) = (files.clone(), world.clone());
        world.mark_unchanged();
        Box::pin(async move {
            files.rescan().await;
            // Late or not, the file is written.
            let _ = tokio::time::timeout(COMPILE_WAIT, world.changed()).await;
        })
    })
}
