//! Requests that mean harm: each gets a prompt or an error, none stops the worker.
//!
//! `PROPTEST_CASES=10000` makes the run as long as it was before a release.
#![cfg(feature = "llama")]

use std::sync::LazyLock;

use bodhi_proto::chat::{
    AssistantPart, Conversation, Message, OutputFormat, Part, Tool, ToolCall, ToolChoice,
};
use bodhi_worker::template::{Pool, Source, Template, TemplateError};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const CONTROL: [&str; 4] = ["<|im_start|>", "<|im_end|>", "<s>", "[TOOL_CALLS]"];

/// Uses every part of a request, directly and as JSON.
const TEMPLATE: &str = "\
{%- for tool in tools or [] -%}<|im_start|>{{ tool | tojson }}{%- endfor -%}
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{{ message.content }}{% for call in message.tool_calls or [] %}<tool_call>
{\"name\": \"{{ call.function.name }}\", \"arguments\": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor -%}
{{ extra | default('') | tojson }}{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}";

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

static LOADED: LazyLock<Template> = LazyLock::new(|| {
    let source = Source {
        default: Some(TEMPLATE.into()),
        control: CONTROL.map(String::from).to_vec(),
        ..Source::default()
    };
    RUNTIME
        .block_on(Template::load(source, Pool::new(2)))
        .expect("the template is valid")
});

fn text() -> impl Strategy<Value = String> {
    let token = prop::sample::select(CONTROL.to_vec()).prop_map(str::to_owned);
    prop_oneof![
        any::<String>(),
        token,
        "[<|a-z_>\\[\\]{}%#\"'\\\\\u{0}\u{7f}\u{fdd0}\u{feff}\u{202e}]{0,40}",
        Just("{{ messages }}{% raw %}".to_owned()),
        (0usize..100_000).prop_map(|length| "x".repeat(length)),
        (1usize..300).prop_map(|depth| "[".repeat(depth) + &"]".repeat(depth)),
        prop::collection::vec(prop::sample::select(CONTROL.to_vec()), 0..8)
            .prop_map(|tokens| tokens.concat()),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(80, 200, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn message() -> impl Strategy<Value = Message> {
    let parts = || prop::collection::vec(text().prop_map(Part::Text), 0..3);
    let call = (
        text(),
        text(),
        prop_oneof![text(), value().prop_map(|v| v.to_string())],
    );
    let call = call.prop_map(|(id, name, arguments)| {
        AssistantPart::ToolCall(ToolCall {
            id,
            name,
            arguments,
        })
    });
    prop_oneof![
        parts().prop_map(Message::System),
        (prop::option::of(text()), parts())
            .prop_map(|(name, content)| Message::User { name, content }),
        prop::collection::vec(
            prop_oneof![text().prop_map(AssistantPart::Text), call],
            0..3
        )
        .prop_map(Message::Assistant),
        (text(), parts(), any::<bool>()).prop_map(|(call, content, failed)| Message::Tool {
            call,
            name: None,
            content,
            failed,
        }),
    ]
}

fn tool() -> impl Strategy<Value = Tool> {
    let name = prop_oneof![Just("tool".to_owned()), "[a-z]{1,8}", text()];
    let parameters = prop_oneof![
        text(),
        value().prop_map(|v| v.to_string()),
        schema().prop_map(|schema| schema.to_string())
    ];
    (name, text(), prop::option::of(parameters)).prop_map(|(name, description, parameters)| Tool {
        name,
        description: Some(description),
        parameters,
        strict: false,
    })
}

fn requests() -> impl Strategy<Value = Conversation> {
    (
        prop::collection::vec(message(), 0..5),
        prop::collection::vec(tool(), 0..3),
        prop_oneof![
            Just(ToolChoice::Auto),
            Just(ToolChoice::Required),
            Just(ToolChoice::None),
            text().prop_map(ToolChoice::Named)
        ],
        prop::option::of(prop_oneof![
            text(),
            value().prop_map(|value| json!({ "extra": value }).to_string())
        ]),
    )
        .prop_map(
            |(messages, tools, tool_choice, template_arguments)| Conversation {
                messages,
                tools,
                tool_choice,
                template_arguments,
                ..Conversation::default()
            },
        )
}

/// Schemas as people write them, and some keywords that llama.cpp may not know.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({})),
        Just(json!({"type": "string"})),
        Just(json!({"type": ["string", "null"]})),
        (0u32..50, 0u32..50).prop_map(|(low, more)| {
            json!({"type": "string", "minLength": low, "maxLength": low + more})
        }),
        (-50i32..50, 0i32..100).prop_map(
            |(low, more)| json!({"type": "integer", "minimum": low, "maximum": low + more})
        ),
        Just(json!({"type": "number"})),
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "string", "format": "date-time"})),
        Just(json!({"type": "string", "pattern": "^[a-z]{2,4}(-[0-9]+)?$"})),
        prop::collection::vec("[a-zé\"\\\\]{0,6}", 1..5).prop_map(|values| json!({"enum": values})),
        "[a-z]{0,5}".prop_map(|text| json!({"const": text})),
        Just(json!({"$ref": "#/$defs/tree"})),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (
                prop::collection::btree_map("[a-zé_]{1,6}", inner.clone(), 0..4),
                any::<bool>()
            )
                .prop_map(|(properties, closed)| {
                    let required: Vec<_> = properties.keys().step_by(2).cloned().collect();
                    json!({
                        "type": "object",
                        "properties": properties,
                        "required": required,
                        "additionalProperties": !closed,
                    })
                }),
            (inner.clone(), 0u32..4, 0u32..4).prop_map(|(items, low, more)| {
                json!({"type": "array", "items": items, "minItems": low, "maxItems": low + more})
            }),
            prop::collection::vec(inner.clone(), 1..4).prop_map(|any| json!({"anyOf": any})),
        ]
    })
}

/// The control tokens that a tokeniser would recognise in the pieces of a prompt.
fn recognised(prompt: &[String]) -> usize {
    let count =
        |piece: &String| -> usize { CONTROL.iter().map(|t| piece.matches(t).count()).sum() };
    prompt.iter().map(count).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_gets_a_prompt_or_an_error(request in requests()) {
        let rendered = RUNTIME.block_on(LOADED.render(&request, &OutputFormat::Text));
        match rendered {
            Ok(rendered) => {
                // Two for each message, one for each tool and one for the answer.
                let most = 2 * request.messages.len() + request.tools.len() + 1;
                prop_assert!(recognised(&rendered.prompt) <= most, "{:?}", rendered.prompt);
            }
            Err(TemplateError::Overrun(_)) => prop_assert!(false, "an overrun"),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn schemas_become_grammars_that_compile(schema in schema()) {
        let object = json!({
            "type": "object",
            "properties": {"value": schema},
            "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
        });
        let output = OutputFormat::JsonSchema { name: None, schema: object.to_string() };
        let hello = Conversation {
            messages: vec![Message::System(vec![Part::Text("Hello".into())])],
            ..Conversation::default()
        };
        let grammar = RUNTIME.block_on(LOADED.grammar(&output));
        prop_assert!(matches!(grammar, Ok(Some(_))), "{}: {:?}", object, grammar);
        let rendered = RUNTIME.block_on(LOADED.render(&hello, &output));
        prop_assert!(rendered.is_ok_and(|rendered| rendered.grammar.is_some()));
    }
}
