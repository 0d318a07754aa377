//! JSON values as the block YAML that people write.

use std::fmt::Write as _;

use serde_json::Value;

/// One document, ending in a line feed. Reads as the same value under YAML 1.1 and 1.2.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut text, value, 0),
        _ => {
            text.push_str(&inline(value));
            text.push('\n');
        }
    }
    text
}

fn block(text: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let _ = write!(text, "{:indent$}{}:", "", scalar_text(key));
                nested(text, value, indent + 2);
            }
        }
        Value::Array(items) => {
            for item in items {
                let _ = write!(text, "{:indent$}-", "");
                nested(text, item, indent + 2);
            }
        }
        _ => {}
    }
}

fn nested(text: &mut String, value: &Value, indent: usize) {
    let empty = match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => true,
    };
    if empty {
        let _ = writeln!(text, " {}", inline(value));
    } else {
        text.push('\n');
        block(text, value, indent);
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::String(string) => scalar_text(string),
        other => other.to_string(),
    }
}

/// Plain where no reader can take it for anything but text, else quoted as JSON, with the
/// characters escaped that YAML does not print.
fn scalar_text(string: &str) -> String {
    const WORDS: [&str; 10] = [
        "null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan",
    ];
    let plain = string
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic())
        && string
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_./+-".contains(&b))
        && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(string));
    if plain {
        return string.to_owned();
    }
    let mut quoted = String::new();
    for c in Value::from(string).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::documents;
    use serde_json::json;

    fn read(text: &str) -> Value {
        documents(text).unwrap()[0].to_value()
    }

    #[test]
    fn people_can_read_it() {
        let value = json!({"kind": "ApiModel", "spec": {"models": ["a/b", "qwen3:4b"], "on": "no", "n": 5, "x": {}, "l": []}});
        assert_eq!(
            document(&value),
            "kind: ApiModel\nspec:\n  l: []\n  models:\n    - a/b\n    - \"qwen3:4b\"\n  \"n\": 5\n  \"on\": \"no\"\n  x: {}\n"
        );
    }

    #[test]
    fn whatever_it_holds_reads_as_the_same_value() {
        let strings = [
            "",
            " ",
            "a: b",
            "- a",
            "0755",
            "1_000",
            "1:30",
            "~",
            "NULL",
            "Yes",
            ".inf",
            "é",
            "\u{85}",
            "\u{2028}",
            "\u{7f}",
            "\"\\\n\t",
            "2001-01-01",
            "#x",
            "a #b",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "{a}",
            "[a]",
            "|",
            ">",
            "=",
            "<<",
            "\u{feff}x",
            "😀",
            "1e3",
            "0x1f",
            "NaN",
            "n",
        ];
        let mut map = serde_json::Map::new();
        for string in strings {
            map.insert(
                format!("k{string}"),
                json!([string, {string: [[string], []]}, [[1, -2.5, true, null]]]),
            );
        }
        let value = Value::Object(map);
        assert_eq!(read(&document(&value)), value);
    }
}
