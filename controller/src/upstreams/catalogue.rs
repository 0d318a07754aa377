//! Which models are there? The provider's own list, page by page.

use std::collections::HashSet;
use std::time::Duration;

use bodhi_proto::provider::Format;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::call::Caller;
use super::{Failure, Reason, Target};

/// All pages together.
const DEADLINE: Duration = Duration::from_secs(60);
/// All pages together; OpenRouter's list, the longest known, has 1.5 MB.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pages of 1,000.
const PAGES_MAX: usize = 50;
/// Ids kept; more than any provider has.
const IDS_MAX: usize = 10_000;
/// Longest id that an ApiModel may list.
const ID_LEN_MAX: usize = 256;

/// What a provider lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    /// Ids in the provider's order and spelling, each once; Gemini's without `models/`.
    pub models: Vec<String>,
    /// There were more than are taken.
    pub truncated: bool,
}

/// Fetches the whole list.
pub async fn fetch(target: &Target) -> Result<Catalogue, Failure> {
    tokio::time::timeout(DEADLINE, pages(target))
        .await
        .unwrap_or_else(|_| {
            Err(Failure {
                reason: Reason::NetworkError,
                message: format!("no complete list within {} s", DEADLINE.as_secs()),
                upstream: None,
            })
        })
}

async fn pages(target: &Target) -> Result<Catalogue, Failure> {
    let caller = Caller::new(target)?;
    let mut catalogue = Catalogue::default();
    let (mut known, mut cursors) = (HashSet::new(), HashSet::new());
    let mut bytes_left = BYTES_MAX;
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let mut url = caller.url(&["models"])?;
        let (size, after) = match target.format {
            Format::OpenAi | Format::OpenAiResponses => (None, None),
            Format::Anthropic | Format::AnthropicOauth => (Some("limit"), Some("after_id")),
            Format::Gemini => (Some("pageSize"), Some("pageToken")),
        };
        if let Some(size) = size {
            url.query_pairs_mut().append_pair(size, "1000");
        }
        if let (Some(after), Some(cursor)) = (after, &cursor) {
            url.query_pairs_mut().append_pair(after, cursor);
        }
        let (status, bytes) = caller.exchange(Method::GET, url, None, bytes_left).await?;
        bytes_left -= bytes.len();
        let misshapen = |why: &str| caller.misshapen(status, &bytes, why);
        let page = parse(target.format, &bytes).map_err(misshapen)?;
        for id in page.ids {
            if known.insert(id.clone()) {
                catalogue.models.push(id);
            }
        }
        if catalogue.models.len() > IDS_MAX {
            catalogue.models.truncate(IDS_MAX);
            catalogue.truncated = true;
            return Ok(catalogue);
        }
        let Some(next) = page.next else {
            return Ok(catalogue);
        };
        if !cursors.insert(next.clone()) {
            return Err(misshapen("its pages lead in a circle"));
        }
        cursor = Some(next);
    }
    catalogue.truncated = true;
    Ok(catalogue)
}

#[derive(Debug, PartialEq, Eq)]
struct Page {
    ids: Vec<String>,
    next: Option<String>,
}

fn parse(format: Format, bytes: &[u8]) -> Result<Page, &'static str> {
    let json: Value = serde_json::from_slice(bytes).map_err(|_| "it is not JSON")?;
    match format {
        Format::OpenAi | Format::OpenAiResponses => openai(&json),
        Format::Anthropic | Format::AnthropicOauth => anthropic(json),
        Format::Gemini => gemini(json),
    }
}

/// Servers that call themselves compatible list models in many ways: `{"data": […]}`,
/// `{"models": […]}` or the bare list; objects with `id` or `name`, or plain strings.
fn openai(json: &Value) -> Result<Page, &'static str> {
    let list = [json.get("data"), json.get("models"), Some(json)]
        .into_iter()
        .flatten()
        .find_map(Value::as_array);
    // An empty server leaves the list out or sets it to null.
    let list = match (list, json.as_object()) {
        (Some(list), _) => list.as_slice(),
        (None, Some(object)) if !object.contains_key("error") => &[],
        _ => return Err("it holds no list of models"),
    };
    let id = |item: &Value| match item {
        Value::String(id) => Some(id.clone()),
        item => ["id", "name", "model"]
            .into_iter()
            .find_map(|key| item.get(key)?.as_str())
            .map(str::to_owned),
    };
    Ok(Page {
        ids: usable(list.iter().filter_map(id)),
        next: None,
    })
}

/// <https://docs.anthropic.com/en/api/models-list>
fn anthropic(json: Value) -> Result<Page, &'static str> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Model>,
        #[serde(default)]
        has_more: bool,
        last_id: Option<String>,
    }
    #[derive(Deserialize)]
    struct Model {
        id: String,
    }
    let list: List = serde_json::from_value(json).map_err(|_| "it holds no data with ids")?;
    Ok(Page {
        ids: usable(list.data.into_iter().map(|m| m.id)),
        next: list.last_id.filter(|id| list.has_more && !id.is_empty()),
    })
}

/// <https://ai.google.dev/api/models#method:-models.list>
fn gemini(json: Value) -> Result<Page, &'static str> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct List {
        // An empty list is left out, as protobuf's JSON does.
        #[serde(default)]
        models: Vec<Model>,
        next_page_token: Option<String>,
    }
    #[derive(Deserialize)]
    struct Model {
        name: String,
    }
    let list: List = serde_json::from_value(json).map_err(|_| "it holds no models with names")?;
    let id = |name: String| {
        name.strip_prefix("models/")
            .map_or(name.clone(), str::to_owned)
    };
    Ok(Page {
        ids: usable(list.models.into_iter().map(|m| id(m.name))),
        next: list.next_page_token.filter(|token| !token.is_empty()),
    })
}

/// Ids that an ApiModel could list.
fn usable(ids: impl Iterator<Item = String>) -> Vec<String> {
    ids.filter(|id| !id.is_empty() && id.len() <= ID_LEN_MAX && !id.chars().any(char::is_control))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstreams::testing::{Provider, Reply, target};
    use serde_json::json;

    fn ids(body: Value) -> Vec<String> {
        parse(Format::OpenAi, body.to_string().as_bytes())
            .unwrap()
            .ids
    }

    #[test]
    fn compatible_servers_are_read_leniently() {
        let objects = json!([{"id": "a", "object": "model"}, {"name": "b"}, "c", {"x": 1}, 7, ""]);
        for body in [
            json!({"object": "list", "data": objects}),
            json!({"models": objects}),
            json!({"data": null, "models": objects}),
            objects.clone(),
        ] {
            assert_eq!(ids(body.clone()), ["a", "b", "c"], "{body}");
        }
        for body in [
            json!({}),
            json!({"data": null}),
            json!({"object": "list", "data": []}),
        ] {
            assert!(ids(body.clone()).is_empty(), "{body}");
        }
        assert_eq!(ids(json!(["ok", "with\nline", "x".repeat(257)])), ["ok"]);
        for bad in ["null", "7", r#""a""#, r#"{"error": {}}"#, "<html>"] {
            assert!(parse(Format::OpenAi, bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn openai_is_one_page() {
        let provider =
            Provider::start(|_| Reply::json(200, json!({"data": [{"id": "a"}, {"id": "a"}]})))
                .await;
        let found = fetch(&target(&provider, "openai", json!({})))
            .await
            .unwrap();
        assert_eq!(
            found,
            Catalogue {
                models: vec!["a".into()],
                truncated: false
            }
        );
        assert_eq!(provider.asked()[0].path, "/v1/models");
    }

    #[tokio::test]
    async fn anthropic_is_paged_by_after_id() {
        let provider = Provider::start(|n| match n {
            0 => Reply::json(200, json!({"data": [{"type": "model", "id": "claude-a"}], "has_more": true, "first_id": "claude-a", "last_id": "claude-a"})),
            _ => Reply::json(200, json!({"data": [{"type": "model", "id": "claude-b"}], "has_more": false, "last_id": "claude-b"})),
        })
        .await;
        for format in ["anthropic", "anthropic_oauth"] {
            let found = fetch(&target(&provider, format, json!({}))).await.unwrap();
            assert!(found.models.contains(&"claude-b".to_owned()), "{format}");
        }
        let asked = provider.asked();
        assert_eq!(asked[0].path, "/v1/models?limit=1000");
        assert_eq!(asked[1].path, "/v1/models?limit=1000&after_id=claude-a");
        assert_eq!(asked[0].headers["x-api-key"], "sk-canary");
        assert_eq!(asked[2].headers["authorization"], "Bearer sk-canary");
        assert_eq!(
            asked[2].headers["anthropic-beta"],
            "oauth-2025-04-20,claude-code-20250219"
        );
    }

    #[tokio::test]
    async fn gemini_is_paged_by_page_token_and_loses_its_prefix() {
        let provider = Provider::start(|n| match n {
            0 => Reply::json(
                200,
                json!({"models": [{"name": "models/gemini-a"}], "nextPageToken": "a+b/="}),
            ),
            _ => Reply::json(200, json!({"models": [{"name": "gemini-b"}]})),
        })
        .await;
        let found = fetch(&target(&provider, "gemini", json!({})))
            .await
            .unwrap();
        assert_eq!(found.models, ["gemini-a", "gemini-b"]);
        let asked = provider.asked();
        assert_eq!(asked[0].path, "/v1/models?pageSize=1000");
        assert_eq!(
            asked[1].path,
            "/v1/models?pageSize=1000&pageToken=a%2Bb%2F%3D"
        );
        assert_eq!(asked[1].headers["x-goog-api-key"], "sk-canary");
    }

    #[tokio::test]
    async fn pages_in_a_circle_end() {
        let provider =
            Provider::start(|_| Reply::json(200, json!({"models": [], "nextPageToken": "x"})))
                .await;
        let failure = fetch(&target(&provider, "gemini", json!({})))
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::UpstreamError);
        assert!(failure.message.contains("circle"));
        assert_eq!(provider.asked().len(), 2);
    }

    #[tokio::test]
    async fn endless_pages_end() {
        let provider = Provider::start(|n| {
            Reply::json(200, json!({"models": [{"name": format!("models/{n}")}], "nextPageToken": n.to_string()}))
        })
        .await;
        let found = fetch(&target(&provider, "gemini", json!({})))
            .await
            .unwrap();
        assert_eq!((found.models.len(), found.truncated), (PAGES_MAX, true));
    }

    #[tokio::test]
    async fn a_list_without_end_is_cut_off() {
        let provider = Provider::start(|_| Reply::text(200, &"[".repeat(BYTES_MAX + 1))).await;
        let failure = fetch(&target(&provider, "openai", json!({})))
            .await
            .unwrap_err();
        assert_eq!(failure.reason, Reason::UpstreamError);
        assert!(failure.message.contains("longer"), "{}", failure.message);
    }
}
