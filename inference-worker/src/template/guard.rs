//! Keeps a request's text from becoming control tokens.
//!
//! A rendered prompt mixes the template's control tokens with text of strangers, and is then
//! tokenised as one. A user who writes `<|im_start|>system` would open a message of the system.
//! So before rendering, a mark is put inside every control token that a request spells out; the
//! rendered prompt is cut at the marks, and the pieces are tokenised one by one. No token can
//! span a cut.
//!
//! What is left: a template that itself cuts out the middle of a text (as some do with the
//! reasoning of earlier answers) can join what a request kept apart.

use aho_corasick::AhoCorasick;
use serde_json::Value;

/// The 32 code points of a block that Unicode keeps out of all text.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Knows the texts of a model's control tokens.
pub(super) struct Guard {
    /// Sorted.
    tokens: Vec<String>,
    longest: usize,
    search: AhoCorasick,
}

impl Guard {
    /// Guards against these control tokens.
    pub(super) fn new(control: &[String]) -> Self {
        // A token of one character has no inside to cut; no known model has such a one.
        let long = |token: &&String| token.chars().nth(1).is_some();
        let mut tokens: Vec<String> = control.iter().filter(long).cloned().collect();
        tokens.sort_unstable();
        tokens.dedup();
        // Fails only beyond the gigabytes that a vocabulary cannot have.
        let search = AhoCorasick::new(&tokens).expect("a vocabulary's texts are few");
        Self {
            longest: tokens.iter().map(String::len).max().unwrap_or(0),
            tokens,
            search,
        }
    }

    /// Marks control tokens in every text within `values`, keys included. Returns the mark: a
    /// character that the values did not hold (were all 32 in use, one of them is lost).
    pub(super) fn protect(&self, values: &mut [&mut Value]) -> char {
        let mut used = 0u32;
        for value in values.iter() {
            each_text(value, &mut |text| {
                for c in text.chars().filter(|c| NONCHARACTERS.contains(c)) {
                    used |= 1 << (u32::from(c) - u32::from(*NONCHARACTERS.start()));
                }
            });
        }
        let mark = NONCHARACTERS
            .clone()
            .nth(used.trailing_ones() as usize)
            .unwrap_or(*NONCHARACTERS.start());
        for value in values.iter_mut() {
            self.mark(value, mark);
        }
        mark
    }

    fn mark(&self, value: &mut Value, mark: char) {
        match value {
            Value::String(text) => {
                if let Some(marked) = self.marked(text, mark) {
                    *text = marked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark(item, mark)),
            Value::Object(fields) => {
                let old = std::mem::take(fields);
                for (key, mut value) in old {
                    self.mark(&mut value, mark);
                    fields.insert(self.marked(&key, mark).unwrap_or(key), value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// `None`: nothing to mark.
    fn marked(&self, text: &str, mark: char) -> Option<String> {
        let mut cuts: Vec<usize> = self
            .search
            .find_overlapping_iter(text)
            .map(|found| {
                let first = text[found.start()..].chars().next();
                found.start() + first.map_or(1, char::len_utf8)
            })
            .collect();
        // A beginning of a token at the end might be completed by what is rendered next.
        if self.ends_within_a_token(text) {
            cuts.push(text.len());
        }
        if cuts.is_empty() {
            return None;
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut marked = String::with_capacity(text.len() + cuts.len() * mark.len_utf8());
        let mut from = 0;
        for cut in cuts {
            marked.push_str(&text[from..cut]);
            marked.push(mark);
            from = cut;
        }
        marked.push_str(&text[from..]);
        Some(marked)
    }

    fn ends_within_a_token(&self, text: &str) -> bool {
        let from = text.len().saturating_sub(self.longest);
        (from..text.len())
            .filter(|start| text.is_char_boundary(*start))
            .any(|start| {
                let end = &text[start..];
                let next = self.tokens.partition_point(|token| token.as_str() <= end);
                self.tokens
                    .get(next)
                    .is_some_and(|token| token.starts_with(end))
            })
    }
}

fn each_text(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, see)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            see(key);
            each_text(value, see);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn guard(tokens: &[&str]) -> Guard {
        Guard::new(&tokens.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn leaves_ordinary_text_alone() {
        let mut text = json!("a < b, <im_start> and [INST");
        guard(&["<|im_start|>", "<|im_end|>"]).protect(&mut [&mut text]);
        assert_eq!(text, json!("a < b, <im_start> and [INST"));
    }

    #[test]
    fn cuts_tokens_in_texts_and_keys() {
        let mut value = json!({"<s>": ["x<s>y"]});
        guard(&["<s>"]).protect(&mut [&mut value]);
        assert_eq!(value, json!({"<\u{fdd0}s>": ["x<\u{fdd0}s>y"]}));
    }

    #[test]
    fn cuts_off_the_beginning_of_a_token_at_the_end() {
        let mut value = json!(["<|im_", "start|>"]);
        guard(&["<|im_start|>"]).protect(&mut [&mut value]);
        assert_eq!(value, json!(["<|im_\u{fdd0}", "start|>"]));
    }

    #[test]
    fn marks_with_a_character_that_is_not_in_use() {
        let mut value = json!("\u{fdd0}<s>");
        let mark = guard(&["<s>"]).protect(&mut [&mut value]);
        assert_eq!(mark, '\u{fdd1}');
        assert_eq!(value, json!("\u{fdd0}<\u{fdd1}s>"));
    }

    #[test]
    fn stands_a_request_with_every_noncharacter() {
        let all: String = NONCHARACTERS.collect();
        let mut value = json!(all + "<s>");
        let mark = guard(&["<s>"]).protect(&mut [&mut value]);
        let text = value.as_str().expect("still a text");
        assert!(text.split(mark).all(|piece| !piece.contains("<s>")));
    }

    proptest! {
        /// However texts follow one another, no piece between the marks holds a control token,
        /// and nothing but the marks was added.
        #[test]
        fn no_piece_of_joined_texts_holds_a_control_token(
            texts in prop::collection::vec("[<|a/>é]{0,6}", 0..6),
        ) {
            let tokens = ["<|a|>", "<a>", "</a>", "|>", "é<"];
            let mut values: Vec<Value> = texts.iter().map(|text| json!(text)).collect();
            let mark = guard(&tokens).protect(&mut values.iter_mut().collect::<Vec<_>>());
            let joined: String = values.iter().filter_map(Value::as_str).collect();
            prop_assert_eq!(joined.replace(mark, ""), texts.concat());
            for piece in joined.split(mark) {
                for token in &tokens {
                    prop_assert!(!piece.contains(token), "{:?} in {:?}", token, piece);
                }
            }
        }
    }
}
