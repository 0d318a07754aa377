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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use kube::core::cel;

    use super::*;

    #[test]
    fn the_charts_crds_are_the_generated_ones() {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/bodhi-crds/templates");
        for (file, text) in crds_yaml() {
            let path = chart.join(&file);
            if std::env::var_os("BODHI_UPDATE_CRDS").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let kept = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                kept == text,
                "{file} in charts/bodhi-crds/templates is stale: run \
                 BODHI_UPDATE_CRDS=1 cargo test -p bodhi-controller --lib the_charts_crds"
            );
        }
    }

    #[test]
    fn the_yaml_reads_back_as_the_same_crds() {
        for ((_, text), crd) in crds_yaml().into_iter().zip(crds()) {
            let documents = crate::source::documents(&text).unwrap();
            let read: CustomResourceDefinition =
                serde_json::from_value(documents[0].to_value()).unwrap();
            assert_eq!(read, crd);
        }
    }

    /// What an API server demands of a structural schema, and what it needs to bound CEL.
    #[test]
    fn schemas_are_structural_and_bounded() {
        for schema in schemas() {
            walk(&schema["properties"]["spec"], "spec");
            walk(&schema["properties"]["status"], "status");
        }
    }

    fn walk(schema: &Value, path: &str) {
        let free = schema.get("x-kubernetes-preserve-unknown-fields").is_some();
        let int_or_string = schema.get("x-kubernetes-int-or-string").is_some();
        assert!(schema.get("nullable").is_none(), "{path} is nullable");
        let kind = schema.get("type").and_then(Value::as_str);
        match kind {
            Some("string") => {
                let bounded = schema.get("maxLength").is_some() || schema.get("enum").is_some();
                assert!(bounded, "{path} has no maxLength");
            }
            Some("array") => {
                assert!(schema.get("maxItems").is_some(), "{path} has no maxItems");
                walk(&schema["items"], &format!("{path}[]"));
            }
            Some("object") => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let values = schema.get("additionalProperties");
                assert!(
                    properties.is_some() || values.is_some() || free,
                    "{path} holds nothing"
                );
                assert!(
                    properties.is_none() || values.is_none(),
                    "{path} mixes fields and keys"
                );
                if values.is_some() {
                    assert!(
                        schema.get("maxProperties").is_some(),
                        "{path} has no maxProperties"
                    );
                }
                for (name, property) in properties.into_iter().flatten() {
                    walk(property, &format!("{path}.{name}"));
                }
                values.inspect(|values| walk(values, &format!("{path}.*")));
            }
            Some("integer" | "boolean") => {}
            other => assert!(int_or_string, "{path} has type {other:?}"),
        }
        rules(schema, path);
    }

    fn rules(schema: &Value, path: &str) {
        let compiled = cel::compile_schema(schema);
        let rules = schema
            .get("x-kubernetes-validations")
            .and_then(Value::as_array);
        for rule in rules.into_iter().flatten() {
            let text = rule["rule"].as_str().unwrap();
            let message = rule["message"].as_str().unwrap_or_default();
            assert!(
                !message.is_empty() && !message.contains('\n'),
                "{path}: {text}"
            );
            let scope = cel::ScopeContext::CrdValidation;
            let warnings = cel::analyze_rule(text, &compiled, scope);
            // (It takes the variables of macros for unknown ones, so only cost is asked.)
            let dear = warnings
                .iter()
                .any(|w| w.kind == cel::WarningKind::CostExceeded);
            assert!(!dear, "{path}: {warnings:?}");
            if let Some(field) = rule.get("fieldPath").and_then(Value::as_str) {
                // An API server refuses a fieldPath that leads nowhere.
                let mut place = schema;
                for name in field.split('.').skip(1) {
                    place = &place["properties"][name];
                    assert!(place.is_object(), "{path}: fieldPath {field} leads nowhere");
                }
            }
        }
        assert!(
            compiled.validations.iter().all(Result::is_ok),
            "{path}: a rule does not compile"
        );
    }

    #[test]
    fn names_scopes_and_subresources_are_as_documented() {
        let [api_model, alias] = <[_; 2]>::try_from(crds()).unwrap();
        for (crd, kind, short) in [(&api_model, "ApiModel", "am"), (&alias, "Alias", "mal")] {
            let names = &crd.spec.names;
            assert_eq!(names.kind, kind);
            assert_eq!(names.short_names.as_deref(), Some(&[short.to_owned()][..]));
            assert_eq!(names.categories.as_deref(), Some(&["bodhi".to_owned()][..]));
            assert_eq!(crd.spec.scope, "Namespaced");
            let subresources = crd.spec.versions[0].subresources.as_ref().unwrap();
            assert!(subresources.status.is_some());
            assert_eq!(subresources.scale.is_some(), kind == "Alias");
        }
    }
}
