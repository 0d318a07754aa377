//! Resources of a cluster, written by server-side apply under a name of our own: what kubectl,
//! Helm or a GitOps program has set stays theirs, and the API server says whose it is.

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::{ObjectKind, ObjectRef};
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::core::Status;
use kube::{Client, Error, ResourceExt as _};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{ResourceWriter, WriteError, Written, own_part};
use crate::api::{Alias, ApiModel};
use crate::index::{Index, Name};
use crate::reconcile::World;
use crate::validate::{Fault, FieldPath, Validator};

/// Whose the fields are that the admin API sets.
const MANAGER: &str = "bodhi-admin";
/// The most that a call to the API server may take.
const MOST: Duration = Duration::from_secs(10);
/// How long a written object may take to come back before the writer is answered.
const SEEN_WAIT: Duration = Duration::from_secs(1);

/// Resources of an API server.
pub struct ApplyWriter {
    client: Client,
    validator: Arc<Validator>,
    world: watch::Receiver<Arc<World>>,
}

impl ApplyWriter {
    /// `world` shows when what was written has come back.
    pub fn new(
        client: Client,
        validator: Arc<Validator>,
        world: watch::Receiver<Arc<World>>,
    ) -> Self {
        Self {
            client,
            validator,
            world,
        }
    }

    fn api(&self, object: &ObjectRef) -> Api<DynamicObject> {
        let resource = match object.kind {
            ObjectKind::ApiModel => ApiResource::erase::<ApiModel>(&()),
            ObjectKind::Alias => ApiResource::erase::<Alias>(&()),
        };
        Api::namespaced_with(self.client.clone(), &object.namespace, &resource)
    }

    /// Waits until the index holds the object at this version, or without it.
    async fn seen(&self, object: &ObjectRef, version: Option<String>) {
        let version = version.map(|version| version.parse::<u64>().unwrap_or(0));
        let mut world = self.world.clone();
        let seen = world.wait_for(|world| match (version, version_of(&world.index, object)) {
            (Some(written), Some(held)) => held >= written,
            (None, None) => true,
            _ => false,
        });
        // Late or not, it is written.
        let _ = timeout(SEEN_WAIT, seen).await;
    }
}

impl ResourceWriter for ApplyWriter {
    fn put(&self, object: ObjectRef, manifest: Value, old: Option<Value>) -> Written<'_> {
        Box::pin(async move {
            let manifest = own_part(&object, manifest);
            // Ours says all that is wrong, and does so without repeating a value.
            self.validator
                .judge(object.kind, manifest.clone(), old.as_ref())
                .map_err(WriteError::Faults)?;
            let api = self.api(&object);
            let params = PatchParams::apply(MANAGER);
            let patch = Patch::Apply(manifest);
            let applied = within(&object, api.patch(&object.name, &params, &patch)).await?;
            self.seen(&object, applied.resource_version()).await;
            Ok(())
        })
    }

    fn delete(&self, object: ObjectRef, _: Option<Value>) -> Written<'_> {
        Box::pin(async move {
            let api = self.api(&object);
            within(&object, api.delete(&object.name, &DeleteParams::default())).await?;
            self.seen(&object, None).await;
            Ok(())
        })
    }
}

fn version_of(index: &Index, object: &ObjectRef) -> Option<u64> {
    let name = Name::new(&object.namespace, &object.name);
    let version = match object.kind {
        ObjectKind::ApiModel => index.api_model(&name)?.resource_version(),
        ObjectKind::Alias => index.alias(&name)?.resource_version(),
    };
    Some(version?.parse().unwrap_or(0))
}

async fn within<T>(
    object: &ObjectRef,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, WriteError> {
    match timeout(MOST, call).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Error::Api(status))) => Err(refusal(object, *status)),
        Ok(Err(error)) => Err(WriteError::Unavailable(error.to_string())),
        Err(_) => Err(WriteError::Unavailable(format!("no answer in {MOST:?}"))),
    }
}

fn refusal(object: &ObjectRef, status: Status) -> WriteError {
    match status.code {
        404 => WriteError::NotFound(object.clone()),
        409 => WriteError::Managed {
            object: object.clone(),
            message: status.message,
        },
        400 | 422 => WriteError::Faults(faults(status)),
        401 | 403 => WriteError::Forbidden(status.message),
        _ => WriteError::Unavailable(status.message),
    }
}

/// The API server's causes, each with its field.
fn faults(status: Status) -> Vec<Fault> {
    let causes = status.details.map(|details| details.causes);
    let causes: Vec<Fault> = causes
        .unwrap_or_default()
        .into_iter()
        .map(|cause| Fault {
            path: FieldPath::parse(&cause.field),
            message: cause.message,
        })
        .collect();
    match causes.is_empty() {
        false => causes,
        true => vec![Fault {
            path: FieldPath::root(),
            message: status.message,
        }],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(code: u16, details: Value) -> Status {
        let status = json!({"status": "Failure", "message": "no", "reason": "R", "code": code, "details": details});
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn what_the_api_server_refuses_is_told_with_its_fields() {
        let object = ObjectRef::api_model("bodhi", "a");
        let causes = json!({"causes": [{"reason": "FieldValueInvalid", "message": "Invalid value", "field": "spec.models[0]"}]});
        match refusal(&object, status(422, causes)) {
            WriteError::Faults(faults) => {
                assert_eq!(faults[0].to_string(), "spec.models[0]: Invalid value");
            }
            other => panic!("{other:?}"),
        }
        let conflict = refusal(&object, status(409, json!({})));
        assert_eq!(
            conflict.to_string(),
            "ApiModel/bodhi/a is managed elsewhere: no; change it there"
        );
        assert!(matches!(
            refusal(&object, status(403, json!({}))),
            WriteError::Forbidden(_)
        ));
        assert!(matches!(
            refusal(&object, status(503, json!({}))),
            WriteError::Unavailable(_)
        ));
    }
}
