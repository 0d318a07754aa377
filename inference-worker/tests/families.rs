//! The chat templates of some seventy model families, through llama.cpp.
//!
//! They lie in llama.cpp's repository, not in its crate, and are not copied here:
//! `scripts/chat-templates.sh` fetches them and runs these tests.
#![cfg(feature = "llama")]

mod common;

use std::path::PathBuf;
use std::{env, fs};

use bodhi_proto::chat::{OutputFormat, Reasoning};
use bodhi_worker::template::{Pool, Source, Template, TemplateError};

use common::{asks, called, conversation, heard, says, system, tool_says, weather};

const ARGUMENTS: &str = r#"{"city":"Zürich","days":3}"#;

/// The template that takes users' and the model's messages only.
const WITHOUT_TOOLS: &str = "google-gemma-2-2b-it";

/// Templates that render no tool calls, and those whose calls llama.cpp does not understand:
/// they are heard as text.
const WITHOUT_CALLS: &[&str] = &[
    "Apriel-1.6-15b-Thinker-fixed",
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "HuggingFaceTB-SmolLM3-3B",
    "LFM2-8B-A1B",
    "LFM2.5-Instruct",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "ibm-granite-granite-3.3-2B-Instruct",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
    "upstage-Solar-Open-100B",
];

fn sources() -> Vec<(String, Source)> {
    let folder = env::var_os("BODHI_CHAT_TEMPLATES").expect("BODHI_CHAT_TEMPLATES names a folder");
    let mut found: Vec<_> = fs::read_dir(PathBuf::from(folder))
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "jinja"))
        .map(|path| {
            let name = path.file_stem().expect("a name").to_string_lossy();
            let source = Source {
                default: Some(fs::read_to_string(&path).expect("a template is text")),
                bos: "<s>".into(),
                eos: "</s>".into(),
                ..Source::default()
            };
            (name.into_owned(), source)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[tokio::test]
#[ignore = "needs the templates: scripts/chat-templates.sh"]
async fn every_family_renders_a_conversation_with_tools() {
    let pool = Pool::new(1);
    let mut faults = Vec::new();
    let sources = sources();
    assert!(sources.len() >= 70, "only {} templates", sources.len());
    for (name, source) in sources {
        let template = Template::load(source, pool.clone())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut conversation = conversation(vec![
            system("Be brief."),
            asks("How is the weather?"),
            called(&[("get_weather", ARGUMENTS)]),
            tool_says("call_0", "sunny"),
            says("It is sunny."),
            asks("And tomorrow?"),
        ]);
        conversation.tools = vec![weather()];
        match template.render(&conversation, &OutputFormat::Text).await {
            Err(TemplateError::Refused(_)) if name == WITHOUT_TOOLS => {}
            Ok(rendered) => {
                let prompt = rendered.prompt.concat();
                if !prompt.contains("And tomorrow?") {
                    faults.push(format!("{name}: {prompt}"));
                }
            }
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// A model writes a call as its template renders one, so that text is what must be read.
#[tokio::test]
#[ignore = "needs the templates: scripts/chat-templates.sh"]
async fn every_family_reads_its_own_calls() {
    let pool = Pool::new(1);
    let mut faults = Vec::new();
    let mut read = 0;
    for (name, source) in sources()
        .into_iter()
        .filter(|(name, _)| name != WITHOUT_TOOLS)
    {
        let template = Template::load(source, pool.clone())
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let render = async |messages| {
            let mut conversation = conversation(messages);
            conversation.tools = vec![weather()];
            conversation.reasoning = Reasoning::Off;
            template.render(&conversation, &OutputFormat::Text).await
        };
        let asked = render(vec![asks("How is the weather?")])
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let answered = render(vec![
            asks("How is the weather?"),
            called(&[("get_weather", ARGUMENTS)]),
            tool_says("call_0", "QQQ"),
        ])
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
        let (prompt, with_call) = (asked.prompt.concat(), answered.prompt.concat());
        let call = continuation(&prompt, &with_call);
        // A prompt that opens reasoning which the template does not close: the model does.
        let call = match &asked.reasoning {
            Some(tags) if prompt.trim_end().ends_with(&tags.start) => {
                format!("{}{call}", tags.ends[0])
            }
            _ => call.to_owned(),
        };
        let whole = heard(&asked, call.as_bytes().chunks(call.len().max(1))).await;
        let cut = heard(&asked, call.as_bytes().chunks(1)).await;
        let expected = serde_json::from_str::<serde_json::Value>(ARGUMENTS).expect("JSON");
        let right = whole.calls.iter().any(|(name, arguments)| {
            name == "get_weather" && serde_json::from_str(arguments).ok() == Some(expected.clone())
        });
        if whole != cut {
            faults.push(format!("{name}: cut otherwise\n  {whole:?}\n  {cut:?}"));
        }
        if right == WITHOUT_CALLS.contains(&name.as_str()) {
            faults.push(format!("{name}: {call:?}\n  {whole:?}"));
        }
        read += usize::from(right);
    }
    assert!(faults.is_empty(), "{read} read\n{}", faults.join("\n"));
}

/// What the template makes of the answer: from where the rendered conversation leaves the
/// prompt, a tag that both begin included, to the tool's result.
fn continuation<'a>(prompt: &str, rendered: &'a str) -> &'a str {
    let leaves = prompt
        .char_indices()
        .zip(rendered.chars())
        .find(|((_, a), b)| a != b)
        .map_or(prompt.len(), |((at, _), _)| at);
    let tag = rendered[..leaves].rfind('<');
    let within = tag.filter(|at| leaves < prompt.len() && !rendered[*at..leaves].contains('>'));
    rendered[within.unwrap_or(leaves)..]
        .split("QQQ")
        .next()
        .unwrap_or_default()
}
