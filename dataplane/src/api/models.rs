//! Model lists in the three surfaces' shapes. What may be listed is the caller's choice;
//! this file knows shapes and pages only.

use serde_json::{Value, json};

use super::error::Failure;
use super::query::pairs;

/// One model as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The served name.
    pub id: &'a str,
    /// Unix seconds.
    pub created: i64,
    /// The object that serves it, `namespace/name`.
    pub owner: String,
}

/// `GET /v1/models` (<https://platform.openai.com/docs/api-reference/models/list>).
pub fn openai_list(entries: &[Entry<'_>]) -> Value {
    let data: Vec<Value> = entries.iter().map(openai_model).collect();
    json!({"object": "list", "data": data})
}

/// `GET /v1/models/{id}`.
pub fn openai_model(entry: &Entry<'_>) -> Value {
    json!({"id": entry.id, "object": "model", "created": entry.created, "owned_by": entry.owner})
}

/// `GET /anthropic/v1/models` (<https://docs.anthropic.com/en/api/models-list>): pages by
/// `limit` (1 to 1000, default 20), `after_id` and `before_id`.
pub fn anthropic_list(entries: &[Entry<'_>], query: &str) -> Result<Value, Failure> {
    let limit = number(query, "limit", 20)?;
    let position = |name: &str| -> Result<Option<usize>, Failure> {
        let Some(id) = parameter(query, name) else {
            return Ok(None);
        };
        let at = entries.iter().position(|e| e.id == id);
        at.map(Some)
            .ok_or_else(|| invalid(name, "names no model of this list"))
    };
    let (page, more) = match (position("after_id")?, position("before_id")?) {
        (Some(_), Some(_)) => return Err(invalid("after_id", "cannot be given with before_id")),
        (None, Some(before)) => {
            let start = before.saturating_sub(limit);
            (&entries[start..before], start > 0)
        }
        (after, None) => {
            let rest = &entries[after.map_or(0, |at| at + 1)..];
            (&rest[..rest.len().min(limit)], rest.len() > limit)
        }
    };
    let data: Vec<Value> = page.iter().map(anthropic_model).collect();
    Ok(json!({
        "data": data,
        "has_more": more,
        "first_id": page.first().map(|e| e.id),
        "last_id": page.last().map(|e| e.id),
    }))
}

/// `GET /anthropic/v1/models/{id}`.
pub fn anthropic_model(entry: &Entry<'_>) -> Value {
    let created =
        jiff::Timestamp::from_second(entry.created).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    json!({
        "type": "model", "id": entry.id, "display_name": entry.id, "created_at": created.to_string(),
    })
}

/// `GET /v1beta/models` (<https://ai.google.dev/api/models#method:-models.list>): pages by
/// `pageSize` (1 to 1000, default 50) and `pageToken`.
pub fn gemini_list(entries: &[Entry<'_>], query: &str) -> Result<Value, Failure> {
    let limit = number(query, "pageSize", 50)?;
    // The token is the last id of the page before, so that a page survives changes of the list.
    let start = match parameter(query, "pageToken") {
        None => 0,
        Some(last) => entries.partition_point(|e| e.id <= last.as_str()),
    };
    let rest = &entries[start..];
    let page = &rest[..rest.len().min(limit)];
    let models: Vec<Value> = page.iter().map(gemini_model).collect();
    let mut list = json!({"models": models});
    if rest.len() > limit
        && let Some(last) = page.last()
    {
        list["nextPageToken"] = last.id.into();
    }
    Ok(list)
}

/// `GET /v1beta/models/{id}`.
pub fn gemini_model(entry: &Entry<'_>) -> Value {
    json!({
        "name": format!("models/{}", entry.id),
        "displayName": entry.id,
        "supportedGenerationMethods":
            ["generateContent", "streamGenerateContent", "countTokens", "embedContent", "batchEmbedContents"],
    })
}

fn parameter(query: &str, name: &str) -> Option<String> {
    pairs(query)
        .find(|p| p.name() == name)
        .map(|p| p.value().into_owned())
        .filter(|v| !v.is_empty())
}

fn number(query: &str, name: &str, default: usize) -> Result<usize, Failure> {
    match parameter(query, name) {
        None => Ok(default),
        Some(text) => text
            .parse()
            .ok()
            .filter(|n| (1..=1000).contains(n))
            .ok_or_else(|| invalid(name, "must be a number from 1 to 1000")),
    }
}

fn invalid(param: &str, what: &str) -> Failure {
    Failure::InvalidRequest {
        code: "invalid_parameter",
        message: format!("'{param}' {what}."),
        param: Some(param.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: [&str; 5] = ["a", "b", "c", "d", "e"];

    fn entries() -> Vec<Entry<'static>> {
        let entry = |id| Entry {
            id,
            created: 1,
            owner: "bodhi/x".into(),
        };
        IDS.map(entry).to_vec()
    }

    #[test]
    fn anthropic_pages_walk_the_whole_list_in_both_directions() {
        let entries = entries();
        let (mut seen, mut query) = (Vec::new(), "limit=2".to_owned());
        loop {
            let page = anthropic_list(&entries, &query).unwrap();
            seen.extend(
                page["data"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|m| m["id"].clone()),
            );
            if page["has_more"] == false {
                break;
            }
            query = format!("limit=2&after_id={}", page["last_id"].as_str().unwrap());
        }
        assert_eq!(seen, IDS);
        let back = anthropic_list(&entries, "limit=2&before_id=d").unwrap();
        assert_eq!(
            (&back["first_id"], &back["has_more"]),
            (&json!("b"), &json!(true))
        );
    }

    #[test]
    fn gemini_pages_walk_the_whole_list() {
        let entries = entries();
        let (mut seen, mut query) = (0, "pageSize=2".to_owned());
        loop {
            let page = gemini_list(&entries, &query).unwrap();
            seen += page["models"].as_array().unwrap().len();
            match page["nextPageToken"].as_str() {
                Some(token) => query = format!("pageSize=2&pageToken={token}"),
                None => break,
            }
        }
        assert_eq!(seen, IDS.len());
    }

    #[test]
    fn pages_out_of_range_name_the_parameter() {
        for query in [
            "limit=0",
            "limit=x",
            "limit=1001",
            "after_id=zz",
            "after_id=a&before_id=b",
        ] {
            assert!(anthropic_list(&entries(), query).is_err(), "{query}");
        }
        assert!(gemini_list(&entries(), "pageSize=-1").is_err());
    }
}
