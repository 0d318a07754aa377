//! Strategies for JSON text.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// White space as JSON has it.
pub(super) fn space() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => Just(String::new()),
        1 => select(vec![" ", "\n", "\r\n  ", "\t", "   "]).prop_map(str::to_owned),
    ]
}

/// Strings, with quotes. With `odd` ones too: lone surrogates.
pub(super) fn string(odd: bool) -> impl Strategy<Value = String> + Clone {
    let pieces = vec![
        "a",
        "Z",
        "0",
        " ",
        "é",
        "€",
        "🦀",
        "\u{7f}",
        "\u{2028}",
        "\\n",
        "\\\\",
        "\\\"",
        "\\/",
        "\\u0000",
        "\\u00e9",
        "\\ud83e\\udd80",
        "model",
        "0123456789abcdef",
    ];
    let odd_pieces = vec!["\\ud800", "\\udfff", "\\ud800\\u0041"];
    let all = [pieces.clone(), odd_pieces].concat();
    let text = vec(select(if odd { all } else { pieces }), 0..12);
    text.prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

/// Numbers; `odd` ones do not fit a double.
pub(super) fn number(odd: bool) -> impl Strategy<Value = String> {
    let numbers = vec![
        "0",
        "-0",
        "1",
        "1.0",
        "-1.50",
        "10",
        "0.1",
        "1e3",
        "1E-2",
        "2.5e+10",
        "9007199254740993",
        "9223372036854775808",
        "18446744073709551615",
        "123456",
    ];
    let all = [numbers.clone(), vec!["1e400", "-1E+999", "1e-400"]].concat();
    select(if odd { all } else { numbers }).prop_map(str::to_owned)
}

/// Any value, a few levels deep, with keys of `key`.
pub(super) fn value(
    odd: bool,
    key: impl Strategy<Value = String> + Clone + 'static,
) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        3 => string(odd),
        2 => number(odd),
        1 => select(vec!["true", "false", "null", "{}", "[]", "{ }", "[\n]"])
            .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            object(key.clone(), inner.clone()),
            vec((space(), inner, space()), 0..5).prop_map(|items| {
                let items: Vec<_> = items.iter().map(|(a, v, b)| format!("{a}{v}{b}")).collect();
                format!("[{}]", items.join(","))
            }),
        ]
    })
    .boxed()
}

/// An object; a key may occur more than once.
pub(super) fn object(
    key: impl Strategy<Value = String>,
    value: impl Strategy<Value = String>,
) -> impl Strategy<Value = String> {
    vec((space(), key, space(), value, space()), 0..6).prop_map(|members| {
        let members: Vec<_> = members
            .iter()
            .map(|(a, key, b, value, c)| format!("{a}{key}{b}:{b}{value}{c}"))
            .collect();
        format!("{{{}}}", members.join(","))
    })
}
