//! What a structural schema does to an object, and the schema as plain JSON Schema.

use serde_json::{Map, Number, Value};

/// The schema of the field `name`, if the schema knows it; `None` where anything goes.
pub(super) fn child<'s>(schema: &'s Value, name: &str) -> Option<&'s Value> {
    let property = schema.get("properties").and_then(|p| p.get(name));
    property.or_else(|| schema.get("additionalProperties").filter(|a| a.is_object()))
}

/// Whether fields that the schema does not name are kept.
pub(super) fn keeps_unknown(schema: &Value) -> bool {
    schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
}

/// Prunes nulls, fills in defaults and turns `1.0` into `1` where an integer is wanted.
///
/// Kubernetes: a null in a field that is not nullable (none of ours is) is pruned before
/// defaulting (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#defaulting-and-nullable>).
pub(super) fn settle(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => settle_object(schema, map),
        Value::Array(items) => {
            if let Some(item_schema) = schema.get("items") {
                items.iter_mut().for_each(|item| settle(item_schema, item));
            }
        }
        Value::Number(number) if schema.get("type") == Some(&Value::from("integer")) => {
            if let Some(whole) = whole(number) {
                *value = Value::from(whole);
            }
        }
        _ => {}
    }
}

fn settle_object(schema: &Value, map: &mut Map<String, Value>) {
    map.retain(|name, value| !(value.is_null() && child(schema, name).is_some()));
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        if let Some(default) = property.get("default")
            && !map.contains_key(name)
        {
            map.insert(name.clone(), default.clone());
        }
    }
    for (name, value) in map.iter_mut() {
        if let Some(property) = child(schema, name) {
            settle(property, value);
        }
    }
}

fn whole(number: &Number) -> Option<i64> {
    let float = number.as_f64().filter(|_| number.is_f64())?;
    let exact = float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0;
    exact.then_some(float as i64)
}

/// The schema without Kubernetes' extensions, for the `jsonschema` crate.
pub(super) fn json_schema(schema: &Value) -> Value {
    let Value::Object(map) = schema else {
        return schema.clone();
    };
    let int_or_string = map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    let mut plain = Map::new();
    for (keyword, value) in map {
        let value = match keyword.as_str() {
            "properties" => match value {
                Value::Object(properties) => properties
                    .iter()
                    .map(|(name, property)| (name.clone(), json_schema(property)))
                    .collect(),
                other => other.clone(),
            },
            "items" | "additionalProperties" => json_schema(value),
            "anyOf" if int_or_string => continue,
            "description" | "default" | "format" => continue,
            // The CRD types hold bounds as floats; messages shall name the integer.
            "minimum" | "maximum" => match value {
                Value::Number(number) => whole(number).map_or(value.clone(), Value::from),
                other => other.clone(),
            },
            extension if extension.starts_with("x-kubernetes-") => continue,
            _ => value.clone(),
        };
        plain.insert(keyword.clone(), value);
    }
    if int_or_string {
        plain.insert("type".into(), ["integer", "string"].as_slice().into());
    }
    Value::Object(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settled(schema: &Value, mut value: Value) -> Value {
        settle(schema, &mut value);
        value
    }

    #[test]
    fn nulls_give_way_to_defaults_or_vanish() {
        let schema = json!({ "properties": {
            "a": { "type": "integer", "default": 1 },
            "b": { "type": "string" },
            "c": { "type": "object", "default": {}, "properties": { "d": { "default": true } } },
            "free": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
        }});
        assert_eq!(
            settled(
                &schema,
                json!({ "a": null, "b": null, "free": { "x": null } })
            ),
            json!({ "a": 1, "c": { "d": true }, "free": { "x": null } })
        );
    }

    #[test]
    fn whole_floats_become_integers_where_integers_are_wanted() {
        let schema =
            json!({ "properties": { "n": { "type": "integer" }, "x": { "type": "number" } }});
        assert_eq!(
            settled(&schema, json!({ "n": 2.0, "x": 2.0 })),
            json!({ "n": 2, "x": 2.0 })
        );
        assert_eq!(settled(&schema, json!({ "n": 2.5 })), json!({ "n": 2.5 }));
    }
}
