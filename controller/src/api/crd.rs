//! The CRDs as a cluster installs them, generated from the Rust types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::CustomResourceExt as _;
use serde_json::{Map, Value};

use super::{Alias, ApiModel};

/// Formats that an API server knows; it warns about others (schemars writes `uint32`).
const KNOWN_FORMATS: [&str; 5] = ["date-time", "int32", "int64", "double", "float"];

/// Both CRDs, ready to apply.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [ApiModel::crd(), Alias::crd()].map(tidy).into()
}

/// Each CRD as a YAML document: name of the file in the chart, and text.
pub fn crds_yaml() -> Vec<(String, String)> {
    crds()
        .into_iter()
        .map(|crd| {
            let file = format!("{}.yaml", crd.spec.names.plural);
            let value = serde_json::to_value(crd).expect("a CRD is plain data");
            (file, yaml::document(&value))
        })
        .collect()
}

/// The openAPIV3Schema of ApiModel and of Alias, as the CRDs hold them.
pub(crate) fn schemas() -> [Value; 2] {
    [ApiModel::crd(), Alias::crd()].map(|crd| {
        let crd = serde_json::to_value(tidy(crd)).expect("a CRD is plain data");
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    })
}

fn tidy(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.take().and_then(|s| s.open_api_v3_schema);
        let mut value = serde_json::to_value(schema).expect("a schema is plain data");
        tidy_schema(&mut value);
        let schema: JSONSchemaProps =
            serde_json::from_value(value).expect("tidying keeps a schema's shape");
        version.schema.get_or_insert_default().open_api_v3_schema = Some(schema);
    }
    crd
}

/// `nullable` goes: an explicit null means "absent" (an API server prunes it, or puts the
/// default there), so that YAML such as `threads: null` reads as people mean it.
fn tidy_schema(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.remove("nullable");
    if let Some(Value::String(format)) = map.get("format")
        && !KNOWN_FORMATS.contains(&format.as_str())
    {
        map.remove("format");
    }
    if let Some(Value::String(text)) = map.get_mut("description") {
        *text = text.replace('\n', " ");
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(tidy_schema);
    }
    for child in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(child) {
            tidy_schema(child);
        }
    }
}

/// Just enough YAML to write a CRD: block style, every string that could be misread quoted.
mod yaml {
    use super::{Map, Value};

    pub(super) fn document(value: &Value) -> String {
        let mut out = String::new();
        match value {
            Value::Object(map) => object(map, 0, &mut out),
            other => out.push_str(&scalar(other)),
        }
        out
    }

    fn object(map: &Map<String, Value>, indent: usize, out: &mut String) {
        for (key, value) in map {
            out.push_str(&" ".repeat(indent));
            out.push_str(&scalar(&Value::from(key.as_str())));
            out.push(':');
            nested(value, indent, out);
        }
    }

    fn nested(value: &Value, indent: usize, out: &mut String) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                out.push('\n');
                object(map, indent + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                for item in items {
                    list_item(item, indent, out);
                }
            }
            other => {
                out.push(' ');
                out.push_str(&scalar(other));
                out.push('\n');
            }
        }
    }

    fn list_item(item: &Value, indent: usize, out: &mut String) {
        if let Value::Object(map) = item
            && !map.is_empty()
        {
            let mut inner = String::new();
            object(map, indent + 2, &mut inner);
            out.push_str(&" ".repeat(indent));
            out.push_str("- ");
            out.push_str(&inner[indent + 2..]);
        } else {
            out.push_str(&" ".repeat(indent));
            out.push('-');
            nested(item, indent, out);
        }
    }

    /// JSON's double-quoted strings are YAML's; plain words stay plain. The CRD types hold
    /// bounds as floats: `100000.0` is written as the integer it is.
    fn scalar(value: &Value) -> String {
        match value {
            Value::String(text) if is_plain(text) => text.clone(),
            Value::Number(number) => {
                let text = number.to_string();
                text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
            }
            other => other.to_string(),
        }
    }

    fn is_plain(text: &str) -> bool {
        let mut chars = text.chars();
        let starts_plain = chars.next().is_some_and(|c| c.is_ascii_alphabetic());
        let word = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        let misread = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
        starts_plain && chars.all(word) && !misread.contains(&text.to_ascii_lowercase().as_str())
    }
}
