//! apiVersion, kind and metadata: what a CRD's schema leaves to the API server.

use bodhi_proto::names::ObjectKind;
use serde_json::{Value, json};

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
