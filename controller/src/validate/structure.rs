//! Types, bounds, unknown fields and list keys.

use std::collections::HashSet;

use jsonschema::error::{TypeKind, ValidationError, ValidationErrorKind};
use serde_json::Value;

use super::schema::{child, keeps_unknown};
use super::{FAULTS_MAX, Fault, FieldPath};

/// What the walk found.
pub(super) struct Structural {
    pub(super) faults: Vec<Fault>,
    /// Something is longer than its bound.
    pub(super) out_of_bounds: bool,
}

/// Types and bounds by JSON Schema, then duplicates in sets and maps.
pub(super) fn faults(
    validator: &jsonschema::Validator,
    schema: &Value,
    object: &Value,
) -> Structural {
    use ValidationErrorKind::{MaxItems, MaxLength, MaxProperties};
    let mut found = Structural {
        faults: Vec::new(),
        out_of_bounds: false,
    };
    for error in validator.iter_errors(object) {
        found.out_of_bounds |= matches!(
            error.kind(),
            MaxItems { .. } | MaxLength { .. } | MaxProperties { .. }
        );
        if found.faults.len() < FAULTS_MAX {
            found.faults.push(fault(&error));
        }
    }
    duplicates(schema, object, &FieldPath::root(), &mut found.faults);
    found
}

/// Fields that the schema does not name, each with the name that may have been meant.
pub(super) fn unknown_fields(schema: &Value, object: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    walk_unknown(schema, object, &FieldPath::root(), &mut faults);
    faults
}

fn walk_unknown(schema: &Value, value: &Value, path: &FieldPath, faults: &mut Vec<Fault>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                let below = path.field(name.as_str());
                match child(schema, name) {
                    Some(property) => walk_unknown(property, value, &below, faults),
                    // Of a scalar's schema the type fault is enough.
                    None if keeps_unknown(schema) || schema.get("properties").is_none() => {}
                    None if faults.len() < FAULTS_MAX => faults.push(Fault {
                        path: below,
                        message: format!("unknown field{}", near(schema, name)),
                    }),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            if let Some(item_schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    walk_unknown(item_schema, item, &path.index(index), faults);
                }
            }
        }
        _ => {}
    }
}

fn near(schema: &Value, name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let known = schema.get("properties").and_then(Value::as_object);
    known
        .into_iter()
        .flatten()
        .map(|(known, _)| {
            (
                strsim::jaro_winkler(&lower, &known.to_ascii_lowercase()),
                known,
            )
        })
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or(String::new(), |(_, known)| {
            format!("; did you mean {known:?}?")
        })
}

fn duplicates(schema: &Value, value: &Value, path: &FieldPath, faults: &mut Vec<Fault>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if let Some(property) = child(schema, name) {
                    duplicates(property, value, &path.field(name.as_str()), faults);
                }
            }
        }
        Value::Array(items) => {
            let key_of: Box<dyn Fn(&Value) -> String> = match list_keys(schema) {
                ListKeys::None => return,
                ListKeys::Whole => Box::new(Value::to_string),
                ListKeys::Fields(keys) => Box::new(move |item| {
                    let fields = keys.iter().map(|key| &item[*key]);
                    fields.map(Value::to_string).collect::<Vec<_>>().join(" ")
                }),
            };
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                if !seen.insert(key_of(item)) && faults.len() < 2 * FAULTS_MAX {
                    faults.push(Fault {
                        path: path.index(index),
                        message: "Duplicate value".into(),
                    });
                }
            }
        }
        _ => {}
    }
}

enum ListKeys<'s> {
    None,
    Whole,
    Fields(Vec<&'s str>),
}

fn list_keys(schema: &Value) -> ListKeys<'_> {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => ListKeys::Whole,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys");
            let keys = keys.and_then(Value::as_array).into_iter().flatten();
            ListKeys::Fields(keys.filter_map(Value::as_str).collect())
        }
        _ => ListKeys::None,
    }
}

fn fault(error: &ValidationError<'_>) -> Fault {
    use ValidationErrorKind as Kind;
    let mut path = FieldPath::from(error.instance_path());
    let message = match error.kind() {
        Kind::Required { property } => {
            path = path.field(property.as_str().unwrap_or_default());
            "Required value".into()
        }
        Kind::Type { kind } => {
            let expected = match kind {
                TypeKind::Single(kind) => kind.to_string(),
                TypeKind::Multiple(kinds) => {
                    let names: Vec<String> = kinds.iter().map(|kind| kind.to_string()).collect();
                    names.join(" or ")
                }
            };
            format!(
                "must be of type {expected}, not {}",
                type_name(error.instance())
            )
        }
        Kind::Enum { options } => {
            let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
            let options: Vec<String> = options.iter().map(Value::to_string).collect();
            format!(
                "Unsupported value: supported values: {}",
                options.join(", ")
            )
        }
        Kind::MaxLength { limit } => format!("Too long: may not be more than {limit} characters"),
        Kind::MinLength { limit } => format!("Too short: must be at least {limit} characters"),
        Kind::MaxItems { limit } => format!("Too many: must have at most {limit} items"),
        Kind::MinItems { limit } => format!("Too few: must have at least {limit} items"),
        Kind::MaxProperties { limit } => format!("Too many: must have at most {limit} fields"),
        Kind::Minimum { limit } => format!("must be greater than or equal to {limit}"),
        Kind::Maximum { limit } => format!("must be less than or equal to {limit}"),
        Kind::Pattern { pattern } => format!("must match {pattern}"),
        other => format!("breaks the rule {:?} of the schema", other.keyword()),
    };
    Fault { path, message }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
