//! apiVersion, kind and metadata: what a CRD's schema leaves to the API server.

use bodhi_proto::names::ObjectKind;
use serde_json::{Value, json};

use super::{Fault, FieldPath};
use crate::api::API_VERSION;

/// DNS-1123 label and subdomain, as Kubernetes checks namespaces and names.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
const SUBDOMAIN: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// Completes a CRD's schema to that of a whole manifest.
pub(super) fn with_metadata(kind: ObjectKind, mut schema: Value) -> Value {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let anything =
        json!({ "type": "array", "items": { "x-kubernetes-preserve-unknown-fields": true } });
    schema["properties"]["apiVersion"] = json!({ "type": "string", "enum": [API_VERSION] });
    schema["properties"]["kind"] = json!({ "type": "string", "enum": [kind.as_str()] });
    schema["properties"]["metadata"] = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "maxLength": 253, "pattern": SUBDOMAIN },
            "namespace": { "type": "string", "maxLength": 63, "pattern": LABEL },
            "labels": texts,
            "annotations": texts,
            "uid": { "type": "string" },
            "generation": { "type": "integer" },
            "resourceVersion": { "type": "string" },
            "selfLink": { "type": "string" },
            "creationTimestamp": { "type": "string" },
            "deletionTimestamp": { "type": "string" },
            "deletionGracePeriodSeconds": { "type": "integer" },
            "finalizers": { "type": "array", "items": { "type": "string" } },
            "ownerReferences": anything,
            "managedFields": anything,
        },
    });
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    schema
}

/// Labels and annotations that are not as Kubernetes spells them, each told of the whole map as an
/// API server does.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set>
pub(super) fn label_faults(object: &Value) -> Vec<Fault> {
    let metadata = FieldPath::root().field("metadata");
    let map = |field: &str| object.pointer(&format!("/metadata/{field}"))?.as_object();
    let mut faults = Vec::new();
    let mut tell = |field: &str, message: &str| {
        faults.push(Fault {
            path: metadata.field(field),
            message: message.to_owned(),
        });
    };
    for field in ["labels", "annotations"] {
        if map(field).is_some_and(|map| !map.keys().all(|key| is_key(key))) {
            tell(
                field,
                "a key must be a name of at most 63 letters, digits, '-', '_' and '.', with a domain and '/' before it if any",
            );
        }
    }
    let is_value = |value: &Value| value.as_str().is_none_or(|v| v.is_empty() || is_name(v));
    if map("labels").is_some_and(|map| !map.values().all(is_value)) {
        tell(
            "labels",
            "a label's value must be at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit",
        );
    }
    faults
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_name(key),
        Some((domain, name)) => is_domain(domain) && is_name(name),
    }
}

fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let lower = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        label.bytes().all(lower) && is_name(label)
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
