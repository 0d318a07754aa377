//! Query strings: read by decoded names, forwarded as they were written.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// One `name=value`, as it stands in the query.
#[derive(Debug, Clone, Copy)]
pub struct Pair<'a>(&'a str);

/// The pairs of a query in order, repeats included.
pub fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    query.split('&').map(Pair)
}

impl<'a> Pair<'a> {
    /// The decoded name (`application/x-www-form-urlencoded`, WHATWG URL 5.1).
    pub fn name(&self) -> Cow<'a, str> {
        decode(self.0.split_once('=').map_or(self.0, |(name, _)| name))
    }

    /// The decoded value; empty where there is none.
    pub fn value(&self) -> Cow<'a, str> {
        decode(self.0.split_once('=').map_or("", |(_, value)| value))
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    match text.contains(['%', '+']) {
        false => Cow::Borrowed(text),
        true => {
            let spaced = text.replace('+', " ");
            Cow::Owned(percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
        }
    }
}

/// The query without the pairs whose decoded name is `dropped`; `None` if nothing is left.
pub fn without(query: &str, dropped: &str) -> Option<String> {
    let mut kept = String::with_capacity(query.len());
    for pair in pairs(query).filter(|p| p.name() != dropped) {
        if !kept.is_empty() {
            kept.push('&');
        }
        kept.push_str(pair.0);
    }
    (!kept.is_empty()).then_some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_repeats_and_spelling_survive() {
        let query = "b=1&a=%2f&b=2&key=secret&flag&c=x+y";
        assert_eq!(without(query, "key").unwrap(), "b=1&a=%2f&b=2&flag&c=x+y");
    }

    #[test]
    fn names_are_compared_decoded() {
        for query in ["key=x", "%6bey=x", "k%65y", "key=x&%6B%65%79=y", "key"] {
            assert_eq!(without(query, "key"), None, "{query}");
        }
        assert_eq!(without("keys=x&Key=y", "key").unwrap(), "keys=x&Key=y");
    }
}
