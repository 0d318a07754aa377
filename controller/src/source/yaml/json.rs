//! The one thing in which JSON is no YAML: characters beyond U+FFFF as surrogate pairs.

use std::borrow::Cow;

/// Rewrites `\ud83d\ude00` to `\U0001f600` in a text that is JSON (it begins with a brace or a
/// bracket, as kubectl tells it). YAML texts and lone surrogates stay as they are.
pub(super) fn without_surrogates(text: &str) -> Cow<'_, str> {
    let json = text.trim_start().starts_with(['{', '[']);
    if !json || !text.contains("\\u") {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let pair = unit(rest).zip(rest.get(6..).and_then(unit));
        let (taken, character) = match pair {
            Some((high, low)) => (12, char::decode_utf16([high, low]).next()),
            None => (0, None),
        };
        match character {
            Some(Ok(character)) if character > '\u{FFFF}' => {
                out.push_str(&format!("\\U{:08x}", u32::from(character)));
                rest = &rest[taken..];
            }
            // Another escape: itself and what it escapes, so that `\\\\u` is not misread.
            _ => {
                let length = 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                out.push_str(&rest[..length]);
                rest = &rest[length..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// The UTF-16 unit of a `\uXXXX` at the beginning.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_one_escape_and_nothing_else_changes() {
        for (text, expected) in [
            (r#"{"a":"\ud83d\ude00!"}"#, r#"{"a":"\U0001f600!"}"#),
            (r#"["\u00e9\/\""]"#, r#"["\u00e9\/\""]"#),
            (r#"["\\ud83d\\ude00"]"#, r#"["\\ud83d\\ude00"]"#),
            (r#"["\ud83d"]"#, r#"["\ud83d"]"#),
            (r#"["\ud83dx\ude00"]"#, r#"["\ud83dx\ude00"]"#),
            (r#"a: "\ud83d\ude00""#, r#"a: "\ud83d\ude00""#),
            ("[\"\\", "[\"\\"),
        ] {
            assert_eq!(without_surrogates(text), expected);
        }
    }
}
