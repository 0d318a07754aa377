//! What is refused before llama.cpp sees it: schemas and grammars that would cost too much.

use serde_json::Value;

/// Schemas within schemas.
pub(super) const MAX_DEPTH: usize = 16;
/// Schemas in one document.
pub(super) const MAX_SCHEMAS: usize = 2_000;
/// Bytes of a document, written compactly.
pub(super) const MAX_BYTES: usize = 256 << 10;
/// Values of an `enum`.
pub(super) const MAX_ENUM: usize = 1_000;
/// Bytes of a `pattern`.
pub(super) const MAX_PATTERN: usize = 512;
/// `minLength`, `minItems`: llama.cpp's own limit on repetitions.
pub(super) const MAX_REPETITION: u64 = 2_000;
/// Bytes of a GBNF grammar.
pub(super) const MAX_GRAMMAR: usize = 64 << 10;
/// Rules of a GBNF grammar.
pub(super) const MAX_RULES: usize = 1_000;
/// Groups within groups of a GBNF grammar.
pub(super) const MAX_GROUPS: usize = 64;
/// Arrays and objects within one another, where any JSON may stand.
pub(super) const MAX_NESTING: usize = 64;

/// A limit that a request exceeds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}")]
pub struct Exceeded {
    /// Where, as a JSON pointer within `what` was checked, such as `/properties/city`.
    pub path: String,
    /// Which limit.
    pub rule: Rule,
}

/// A limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// Neither an object nor `true` or `false`.
    #[error("a schema is an object, true or false")]
    NotASchema,
    /// Schemas within schemas.
    #[error("schemas are nested more than {MAX_DEPTH} deep")]
    Depth,
    /// Schemas in one document.
    #[error("there are more than {MAX_SCHEMAS} schemas")]
    Schemas,
    /// Bytes of a document.
    #[error("the document is longer than {MAX_BYTES} bytes")]
    Bytes,
    /// Values of an `enum`.
    #[error("there are more than {MAX_ENUM} values")]
    Enum,
    /// Bytes of a `pattern`.
    #[error("the pattern is longer than {MAX_PATTERN} bytes")]
    Pattern,
    /// `minLength`, `minItems`.
    #[error("the minimum is greater than {MAX_REPETITION}")]
    Repetition,
    /// A `$ref` out of the document.
    #[error("only references within the document (#/…) are followed")]
    RemoteReference,
    /// Values within values, where any JSON may stand.
    #[error("values are nested more than {MAX_NESTING} deep")]
    Nesting,
    /// Bytes of a grammar.
    #[error("the grammar is longer than {MAX_GRAMMAR} bytes")]
    Grammar,
    /// Rules of a grammar.
    #[error("the grammar has more than {MAX_RULES} rules")]
    Rules,
    /// Groups within groups of a grammar.
    #[error("groups are nested more than {MAX_GROUPS} deep")]
    Groups,
}

/// Checks a JSON Schema. `path` says where it stands in the request.
///
/// # Errors
/// The first limit that it exceeds.
pub(super) fn check_schema(schema: &Value, path: &str) -> Result<(), Exceeded> {
    if schema.to_string().len() > MAX_BYTES {
        return Err(exceeded(path, Rule::Bytes));
    }
    check_nesting(schema, path)?;
    Walk { schemas: 0 }.schema(schema, path, 1)
}

/// Checks the nesting of any JSON.
///
/// # Errors
/// [`Rule::Nesting`].
pub(super) fn check_nesting(value: &Value, path: &str) -> Result<(), Exceeded> {
    fn deeper_than(value: &Value, levels: usize) -> bool {
        match value {
            Value::Array(items) => {
                levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1))
            }
            Value::Object(fields) => {
                levels == 0 || fields.values().any(|value| deeper_than(value, levels - 1))
            }
            _ => false,
        }
    }
    if deeper_than(value, MAX_NESTING) {
        return Err(exceeded(path, Rule::Nesting));
    }
    Ok(())
}

/// Checks a GBNF grammar's size. Whether it can be compiled, llama.cpp says.
///
/// # Errors
/// The first limit that it exceeds.
pub(super) fn check_grammar(grammar: &str, path: &str) -> Result<(), Exceeded> {
    if grammar.len() > MAX_GRAMMAR {
        return Err(exceeded(path, Rule::Grammar));
    }
    if grammar.matches("::=").count() > MAX_RULES {
        return Err(exceeded(path, Rule::Rules));
    }
    // Counts parentheses in literals too: it errs to the safe side.
    let mut open = 0usize;
    for byte in grammar.bytes() {
        match byte {
            b'(' => open += 1,
            b')' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_GROUPS {
            return Err(exceeded(path, Rule::Groups));
        }
    }
    Ok(())
}

struct Walk {
    schemas: usize,
}

impl Walk {
    fn schema(&mut self, schema: &Value, path: &str, depth: usize) -> Result<(), Exceeded> {
        self.schemas += 1;
        if self.schemas > MAX_SCHEMAS {
            return Err(exceeded(path, Rule::Schemas));
        }
        if depth > MAX_DEPTH {
            return Err(exceeded(path, Rule::Depth));
        }
        let fields = match schema {
            Value::Object(fields) => fields,
            Value::Bool(_) => return Ok(()),
            _ => return Err(exceeded(path, Rule::NotASchema)),
        };
        for (key, value) in fields {
            let path = format!("{path}/{}", escaped(key));
            match (key.as_str(), value) {
                // Keywords of JSON Schema 2020-12 and draft 7 that hold schemas.
                (
                    "properties" | "$defs" | "definitions" | "patternProperties"
                    | "dependentSchemas",
                    Value::Object(named),
                ) => {
                    for (name, schema) in named {
                        self.schema(schema, &format!("{path}/{}", escaped(name)), depth + 1)?;
                    }
                }
                ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(schemas)) => {
                    for (index, schema) in schemas.iter().enumerate() {
                        self.schema(schema, &format!("{path}/{index}"), depth + 1)?;
                    }
                }
                (
                    "items"
                    | "additionalProperties"
                    | "additionalItems"
                    | "not"
                    | "if"
                    | "then"
                    | "else"
                    | "contains"
                    | "propertyNames"
                    | "unevaluatedItems"
                    | "unevaluatedProperties",
                    schema,
                ) => self.schema(schema, &path, depth + 1)?,
                ("$ref" | "$dynamicRef", Value::String(target)) if !target.starts_with('#') => {
                    return Err(exceeded(&path, Rule::RemoteReference));
                }
                ("pattern", Value::String(pattern)) if pattern.len() > MAX_PATTERN => {
                    return Err(exceeded(&path, Rule::Pattern));
                }
                ("enum", Value::Array(values)) if values.len() > MAX_ENUM => {
                    return Err(exceeded(&path, Rule::Enum));
                }
                ("minLength" | "minItems", Value::Number(number))
                    if number.as_u64().is_some_and(|n| n > MAX_REPETITION) =>
                {
                    return Err(exceeded(&path, Rule::Repetition));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn exceeded(path: &str, rule: Rule) -> Exceeded {
    Exceeded {
        path: path.to_owned(),
        rule,
    }
}

/// A key as a part of a JSON pointer (RFC 6901, section 3).
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(schema: &Value) -> Exceeded {
        check_schema(schema, "").expect_err("the schema exceeds a limit")
    }

    /// A schema of so many levels.
    fn nested(levels: usize) -> Value {
        (1..levels).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}))
    }

    #[test]
    fn lets_ordinary_schemas_pass() {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string", "minLength": 1, "maxLength": 100_000},
                "days": {"type": "array", "items": {"$ref": "#/$defs/day"}},
            },
            "required": ["city"],
            "additionalProperties": false,
            "$defs": {"day": {"enum": ["mon", "tue"]}},
        });
        assert_eq!(check_schema(&schema, ""), Ok(()));
        assert_eq!(check_schema(&json!(true), ""), Ok(()));
    }

    #[test]
    fn counts_levels_of_schemas() {
        assert_eq!(check_schema(&nested(MAX_DEPTH), ""), Ok(()));
        let error = refused(&nested(MAX_DEPTH + 1));
        assert_eq!(error.rule, Rule::Depth);
        assert_eq!(error.path, "/properties/a".repeat(MAX_DEPTH));
    }

    #[test]
    fn names_the_place_and_the_limit() {
        let schema = json!({"properties": {"a/b": {"$ref": "http://example.com/x"}}});
        assert_eq!(
            refused(&schema).to_string(),
            "/properties/a~1b/$ref: only references within the document (#/…) are followed"
        );
    }

    #[test]
    fn holds_every_limit() {
        let many: serde_json::Map<_, _> = (0..=MAX_SCHEMAS)
            .map(|n| (n.to_string(), json!({})))
            .collect();
        let cases = [
            (json!(7), Rule::NotASchema),
            (json!({"items": 7}), Rule::NotASchema),
            (json!({"properties": many}), Rule::Schemas),
            (json!({"description": "x".repeat(MAX_BYTES)}), Rule::Bytes),
            (json!({"enum": vec![0; MAX_ENUM + 1]}), Rule::Enum),
            (
                json!({"pattern": "a".repeat(MAX_PATTERN + 1)}),
                Rule::Pattern,
            ),
            (json!({"minItems": MAX_REPETITION + 1}), Rule::Repetition),
            (
                (0..MAX_NESTING).fold(json!([]), |inner, _| json!([inner])),
                Rule::Nesting,
            ),
        ];
        for (schema, rule) in cases {
            assert_eq!(refused(&schema).rule, rule);
        }
    }

    #[test]
    fn holds_the_limits_of_grammars() {
        let cases = [
            ("a".repeat(MAX_GRAMMAR + 1), Rule::Grammar),
            ("a ::= b\n".repeat(MAX_RULES + 1), Rule::Rules),
            ("(".repeat(MAX_GROUPS + 1), Rule::Groups),
        ];
        for (grammar, rule) in cases {
            assert_eq!(
                check_grammar(&grammar, "grammar").map_err(|e| e.rule),
                Err(rule)
            );
        }
        assert_eq!(
            check_grammar(r#"root ::= "a" ("b" | "c")"#, "grammar"),
            Ok(())
        );
    }
}
