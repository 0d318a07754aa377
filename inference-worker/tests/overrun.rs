//! A template that never ends. In a program of its own, since its thread burns a core until the
//! program does.
#![cfg(feature = "llama")]

use bodhi_proto::chat::{Conversation, Message, OutputFormat, Part};
use bodhi_worker::template::{Overrun, Pool, Source, Template, TemplateError};

const ENDLESS: &str = "\
{%- if messages[0].content == 'loop' -%}
{%- for a in range(1000) -%}{%- for b in range(1000) -%}{%- for c in range(1000) -%}
{%- endfor -%}{%- endfor -%}{%- endfor -%}
{%- endif -%}
{{ messages[0].content }}";

#[tokio::test]
async fn an_endless_rendering_fails_its_request_only() {
    let source = Source {
        default: Some(ENDLESS.into()),
        ..Source::default()
    };
    let template = Template::load(source, Pool::new(1)).await.expect("valid");
    let render = async |text: &str| {
        let conversation = Conversation {
            messages: vec![Message::User {
                name: None,
                content: vec![Part::Text(text.into())],
            }],
            ..Conversation::default()
        };
        template.render(&conversation, &OutputFormat::Text).await
    };
    assert_eq!(
        render("loop").await.err(),
        Some(TemplateError::Overrun(Overrun))
    );
    assert!(render("Hello").await.is_ok());
}
