//! Answers that depend on the request and on nothing else, so that the same request gives the
//! same answer whether it came straight or through a gateway.

use serde_json::{Map, Value, json};

/// 2023-11-14T22:13:20Z, the time at which everything here happens.
pub(super) const CREATED: u64 = 1_700_000_000;

/// A stable identifier: FNV-1a over the parts, in hex.
pub(super) fn id(prefix: &str, parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for part in parts {
        for byte in part.bytes().chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{prefix}{hash:016x}")
}

/// The text that a stream sends piece by piece: words with the white space behind them.
pub(super) fn words(text: &str) -> Vec<&str> {
    text.split_inclusive(char::is_whitespace).collect()
}

/// Tokens as this provider counts them: words.
pub(super) fn tokens(text: &str) -> usize {
    text.split_whitespace().count().max(1)
}

/// Pieces of an argument string as they are streamed.
pub(super) fn pieces(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters
        .chunks(7)
        .map(|piece| piece.iter().collect())
        .collect()
}

/// A unit-free embedding of four numbers that binary floating point holds exactly, so that the
/// float and the base64 spelling say the same.
pub(super) fn embedding(text: &str) -> Vec<f32> {
    let sum: u32 = text.bytes().map(u32::from).sum();
    [0.5, 0.25, 0.125, 1.0]
        .iter()
        .map(|scale| (sum % 64) as f32 / 64.0 * scale - 0.25)
        .collect()
}

/// An instance of a JSON schema (also in Gemini's upper-case spelling of types).
pub(super) fn instance(schema: &Value, text: &str) -> Value {
    value_of(schema, schema, text, 0)
}

fn value_of(schema: &Value, root: &Value, text: &str, depth: usize) -> Value {
    if depth > 16 {
        return Value::Null;
    }
    let next = |inner: &Value| value_of(inner, root, text, depth + 1);
    if let Some(reference) = schema["$ref"].as_str() {
        return root
            .pointer(reference.trim_start_matches('#'))
            .map_or(Value::Null, next);
    }
    if let Some(constant) = schema.get("const").or_else(|| schema["enum"].get(0)) {
        return constant.clone();
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        if let Some(first) = schema[choice].get(0) {
            return next(first);
        }
    }
    let kind = schema["type"]
        .as_str()
        .or_else(|| schema["type"][0].as_str())
        .unwrap_or("object");
    match kind.to_ascii_lowercase().as_str() {
        "object" => {
            let properties = schema["properties"]
                .as_object()
                .cloned()
                .unwrap_or_default();
            Value::Object(
                properties
                    .iter()
                    .map(|(name, inner)| (name.clone(), next(inner)))
                    .collect::<Map<_, _>>(),
            )
        }
        "array" => {
            let count = schema["minItems"].as_u64().unwrap_or(2).min(8);
            Value::Array((0..count).map(|_| next(&schema["items"])).collect())
        }
        "string" => json!(text),
        "integer" => json!(schema["minimum"].as_i64().unwrap_or(0).max(7)),
        "number" => json!(schema["minimum"].as_f64().unwrap_or(0.0).max(2.5)),
        "boolean" => json!(true),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_follows_references_and_choices() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"$ref": "#/$defs/City"},
                "unit": {"enum": ["celsius", "kelvin"]},
                "days": {"type": "ARRAY", "minItems": 1, "items": {"type": "INTEGER"}},
            },
            "$defs": {"City": {"type": "string"}},
        });
        assert_eq!(
            instance(&schema, "Oslo"),
            json!({"city": "Oslo", "unit": "celsius", "days": [7]})
        );
    }

    #[test]
    fn a_recursive_schema_ends() {
        let schema = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
        assert!(instance(&schema, "x").is_object());
    }
}
