//! Which models a token can see, in each surface's list.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, Uri};
use serde_json::Value;

use bodhi_proto::names::ObjectKind;
use bodhi_proto::permission;
use bodhi_proto::provider::Family;
use bodhi_proto::snapshot::{ServedName, Serving, Token};

use crate::active::{Active, exact_name};
use crate::api::error::Failure;
use crate::api::models::{self, Entry};
use crate::api::{Call, Surface};

/// Answers a list or one model of it.
pub(super) fn answer(
    active: &Active,
    token: &Token,
    call: &Call,
    uri: &Uri,
) -> Result<Response<Bytes>, Failure> {
    let query = uri.query().unwrap_or("");
    let body = match call {
        Call::ListModels(Surface::OpenAi) => models::openai_list(&visible(active, token, None)),
        Call::ListModels(surface) => {
            let entries = visible(active, token, Some(generation(*surface)));
            match surface {
                Surface::Gemini => models::gemini_list(&entries, query)?,
                _ => models::anthropic_list(&entries, query)?,
            }
        }
        Call::GetModel(surface, id) => {
            let entry = one(active, token, id)?;
            match surface {
                Surface::OpenAi => models::openai_model(&entry),
                Surface::Anthropic => models::anthropic_model(&entry),
                Surface::Gemini => models::gemini_model(&entry),
            }
        }
        other => {
            debug_assert!(false, "{other:?} is not a listing");
            return Err(Failure::Internal);
        }
    };
    Ok(json(&body))
}

/// The call that decides what a surface's list shows.
fn generation(surface: Surface) -> Call {
    match surface {
        Surface::OpenAi => Call::Chat,
        Surface::Anthropic => Call::Messages,
        Surface::Gemini => Call::Gemini {
            model: String::new(),
            action: "generateContent".into(),
        },
    }
}

/// The public names that `token` can call, sorted; a name in both families once. With a call,
/// only those that would serve it.
fn visible<'a>(active: &'a Active, token: &Token, call: Option<Call>) -> Vec<Entry<'a>> {
    let table = &active.snapshot.table;
    let families: &[Family] = match call {
        None => &[Family::General, Family::Responses],
        Some(_) => &[Family::General],
    };
    let mut entries: Vec<Entry<'_>> = families
        .iter()
        .flat_map(|family| table.listed(*family).iter().map(move |s| (*family, s)))
        .filter(|(_, served)| serves(active, served, call.as_ref()))
        .filter_map(|(family, served)| {
            let name = exact_name(served)?;
            let found = table.find(family, name);
            permission::may_call(token, &active.snapshot.policy, name, found.as_ref()).ok()?;
            Some(entry(served, name))
        })
        .collect();
    entries.sort_by(|a, b| a.id.cmp(b.id));
    entries.dedup_by(|a, b| a.id == b.id);
    entries
}

fn serves(active: &Active, served: &ServedName, call: Option<&Call>) -> bool {
    let Serving::Routes(routes) = &served.serving else {
        return false;
    };
    routes
        .iter()
        .any(|route| match (call, route.upstream.kind) {
            (Some(call), _) => super::route::backend(active, call, &route.upstream, "").is_ok(),
            (None, ObjectKind::ApiModel) => active.provider(&route.upstream).is_ok(),
            (None, ObjectKind::Alias) => active.pool(&route.upstream).is_ok(),
        })
}

/// One model: a listed name, or any other that the token can call (an internal one, an id under
/// a prefix).
fn one<'a>(active: &'a Active, token: &Token, id: &'a str) -> Result<Entry<'a>, Failure> {
    let found = super::route::resolve(&active.snapshot, token, Family::General, id);
    let found = match found {
        Ok(found) => found,
        Err(refusal) => super::route::resolve(&active.snapshot, token, Family::Responses, id)
            .map_err(|_| refusal)?,
    };
    Ok(entry(found.served, id))
}

fn entry<'a>(served: &ServedName, id: &'a str) -> Entry<'a> {
    Entry {
        id,
        created: served.created,
        owner: served.owner.short(),
    }
}

fn json(body: &Value) -> Response<Bytes> {
    let body = Bytes::from(body.to_string());
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    *response.body_mut() = body;
    response
}
