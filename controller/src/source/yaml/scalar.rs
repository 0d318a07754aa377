//! Plain scalars as kubectl's YAML (go-yaml v2, YAML 1.1) resolves them.

use saphyr_parser::{ScalarStyle, Tag};
use serde_json::{Number, Value};

/// Resolves a scalar; a quoted or block scalar is text, and so is what resolves to nothing
/// else.
///
/// # Errors
/// A tag that contradicts the text, or one that we do not know.
pub(super) fn value(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => plain(text),
            _ => Value::from(text),
        });
    };
    let resolved = plain(text);
    let known = tag.is_yaml_core_schema();
    match (known, tag.suffix.as_str(), &resolved) {
        (true, "str", _) => Ok(Value::from(text)),
        (true, "null", Value::Null)
        | (true, "bool", Value::Bool(_))
        | (true, "float", Value::Number(_)) => Ok(resolved),
        (true, "int", Value::Number(number)) if !number.is_f64() => Ok(resolved),
        _ => Err(format!("the tag {tag} does not fit or is not known here")),
    }
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" | "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            Value::Bool(true)
        }
        "false" | "False" | "FALSE" | "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Value::Bool(false)
        }
        _ => number(text).map_or_else(|| Value::from(text), Value::Number),
    }
}

fn number(text: &str) -> Option<Number> {
    // Most scalars are words: look no further than the first character of those.
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return None;
    }
    integer(&text.replace('_', "")).or_else(|| float(text))
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', b'o' | b'O', ..] => (8, &digits[2..]),
        [b'0', b'b' | b'B', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    match negative {
        false => Some(magnitude.into()),
        true => 0i64.checked_sub_unsigned(magnitude).map(Number::from),
    }
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`; never infinite, as JSON has no such.
fn float(text: &str) -> Option<Number> {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = body.bytes().any(|b| b.is_ascii_digit());
    let allowed = |b: u8| b.is_ascii_digit() || b".eE+-".contains(&b);
    if !digits || !body.bytes().all(allowed) || body.starts_with(['e', 'E', '-', '+']) {
        return None;
    }
    text.parse().ok().and_then(Number::from_f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_scalars_resolve_as_kubectl_resolves_them() {
        for (text, expected) in [
            ("", json!(null)),
            ("~", json!(null)),
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("yEs", json!("yEs")),
            ("12", json!(12)),
            ("-12", json!(-12)),
            ("1_000", json!(1000)),
            ("0755", json!(493)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            (
                "18446744073709551615",
                json!(18_446_744_073_709_551_615_u64),
            ),
            ("-9223372036854775808", json!(i64::MIN)),
            ("0.7", json!(0.7)),
            (".5", json!(0.5)),
            ("1e3", json!(1000.0)),
            ("2.50", json!(2.5)),
            ("gpt-4o", json!("gpt-4o")),
            ("4o", json!("4o")),
            ("1.2.3", json!("1.2.3")),
            ("-", json!("-")),
            (".", json!(".")),
            ("1h30m", json!("1h30m")),
            ("089", json!(89.0)),
            ("1e999", json!("1e999")),
        ] {
            assert_eq!(
                value(text, ScalarStyle::Plain, None),
                Ok(expected),
                "{text:?}"
            );
        }
    }

    #[test]
    fn quoted_scalars_are_text() {
        for style in [
            ScalarStyle::SingleQuoted,
            ScalarStyle::DoubleQuoted,
            ScalarStyle::Literal,
        ] {
            assert_eq!(value("12", style, None), Ok(json!("12")));
        }
    }
}
