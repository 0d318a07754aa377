//! An object as the API server sends it, as the type it should be. What we never read is dropped
//! here, once, so that it is not kept in memory: managed fields, and the copy of the whole object
//! that `kubectl apply` leaves in an annotation.

use bodhi_proto::names::{ObjectKind, ObjectRef};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ApiResource, DynamicObject};
use kube::{Resource as _, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::{Alias, ApiModel, CREDENTIAL_LABEL};
use crate::index::Name;
use crate::source::{Malformed, ResourceKind};
use crate::validate::Validator;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Where a kind is found.
pub(super) fn resource(kind: ResourceKind) -> ApiResource {
    match kind {
        ResourceKind::ApiModel => ApiResource::erase::<ApiModel>(&()),
        ResourceKind::Alias => ApiResource::erase::<Alias>(&()),
        ResourceKind::Secret => ApiResource::erase::<Secret>(&()),
    }
}

/// Of Secrets only what is opted in is ever sent to us.
pub(super) fn selector(kind: ResourceKind) -> Option<String> {
    (kind == ResourceKind::Secret).then(|| format!("{CREDENTIAL_LABEL}=true"))
}

/// An object that was read.
pub(super) enum Object {
    ApiModel(Box<ApiModel>),
    Alias(Box<Alias>),
    Secret(Box<Secret>),
}

/// Reads an object. What is not as its type says is [`Malformed`]; a Secret has no status to say
/// so, and `None` stands for one that cannot be read.
pub(super) fn read(
    kind: ResourceKind,
    mut object: DynamicObject,
    validator: &Validator,
) -> Option<Result<Object, Malformed>> {
    object.metadata.managed_fields = None;
    if let Some(annotations) = &mut object.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let name = name_of(&object);
    let (uid, generation) = (object.uid(), object.metadata.generation);
    // Metadata and JSON: what was read can be written.
    let mut value = serde_json::to_value(object).ok()?;
    let status = value.get("status").cloned();
    let (read, kind) = match kind {
        ResourceKind::ApiModel => (
            declared(&mut value).map(Object::ApiModel),
            ObjectKind::ApiModel,
        ),
        ResourceKind::Alias => (declared(&mut value).map(Object::Alias), ObjectKind::Alias),
        ResourceKind::Secret => match typed(&value) {
            Ok(secret) => return Some(Ok(Object::Secret(secret))),
            // The error may quote a value.
            Err(_) => {
                let (namespace, name) = (&name.namespace, &name.name);
                tracing::warn!(%namespace, %name, "a Secret cannot be read");
                return None;
            }
        },
    };
    Some(read.map_err(|error| Malformed {
        object: ObjectRef {
            kind,
            namespace: name.namespace,
            name: name.name,
        },
        uid: uid.unwrap_or_default().into(),
        generation: generation.unwrap_or(0),
        message: faults(validator, kind, value).unwrap_or_else(|| error.to_string()),
        status,
    }))
}

/// What its owner declares is read even where the status (ours, of another release) cannot be.
fn declared<K: DeserializeOwned>(value: &mut Value) -> Result<Box<K>, serde_json::Error> {
    typed(value).or_else(|_| {
        value.as_object_mut().map(|fields| fields.remove("status"));
        typed(value)
    })
}

fn typed<K: DeserializeOwned>(value: &Value) -> Result<Box<K>, serde_json::Error> {
    K::deserialize(value).map(Box::new)
}

/// What the schema says against it, with the fields' paths.
fn faults(validator: &Validator, kind: ObjectKind, value: Value) -> Option<String> {
    let faults = validator.judge(kind, value, None).err()?;
    let faults: Vec<String> = faults
        .iter()
        .map(|fault| format!("{}: {}", fault.path, fault.message))
        .collect();
    Some(faults.join("; "))
}

pub(super) fn name_of(object: &DynamicObject) -> Name {
    let metadata = object.meta();
    Name::new(
        metadata.namespace.as_deref().unwrap_or_default(),
        metadata.name.as_deref().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).unwrap()
    }

    fn api_model(spec: Value) -> DynamicObject {
        object(json!({
            "apiVersion": "bodhi.dev/v1alpha1", "kind": "ApiModel",
            "metadata": {
                "name": "a", "namespace": "bodhi", "uid": "u", "generation": 3, "resourceVersion": "9",
                "annotations": {LAST_APPLIED: "{}", "team": "no"},
                "managedFields": [{"manager": "kubectl", "operation": "Update"}],
            },
            "spec": spec,
        }))
    }

    #[test]
    fn what_is_never_read_is_not_kept() {
        let spec = json!({"format": "openai", "auth": {"type": "None"}, "models": ["m"]});
        let Some(Ok(Object::ApiModel(model))) =
            read(ResourceKind::ApiModel, api_model(spec), &Validator::new())
        else {
            panic!("not read");
        };
        assert_eq!(model.metadata.managed_fields, None);
        let annotations = model.metadata.annotations.unwrap();
        assert_eq!(annotations.into_keys().collect::<Vec<_>>(), ["team"]);
        assert_eq!(model.metadata.resource_version.as_deref(), Some("9"));
    }

    #[test]
    fn f03_an_object_that_is_not_its_type_says_which_and_why() {
        let spec = json!({"format": "openai", "auth": {"type": "None"}, "models": 7});
        let Some(Err(malformed)) = read(ResourceKind::ApiModel, api_model(spec), &Validator::new())
        else {
            panic!("read");
        };
        assert_eq!(malformed.object, ObjectRef::api_model("bodhi", "a"));
        assert_eq!((&*malformed.uid, malformed.generation), ("u", 3));
        assert!(
            malformed.message.starts_with("spec.models: "),
            "{malformed:?}"
        );
    }

    #[test]
    fn a_status_of_another_release_keeps_nothing_from_being_read() {
        let spec = json!({"format": "openai", "auth": {"type": "None"}, "models": ["m"]});
        let mut object = api_model(spec);
        object.data["status"] = json!({"conditions": "none"});
        let Some(Ok(Object::ApiModel(model))) =
            read(ResourceKind::ApiModel, object, &Validator::new())
        else {
            panic!("not read");
        };
        assert_eq!(model.status, None);
    }

    #[test]
    fn secrets_are_selected_by_their_label() {
        let selectors = ResourceKind::ALL.map(selector);
        assert_eq!(
            selectors,
            [None, None, Some("bodhi.dev/credential=true".into())]
        );
    }
}
