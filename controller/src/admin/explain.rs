//! A dry run: which object would serve this model for this token, and why not the others.
//!
//! The answer comes from what the data planes hold: the same table, the same judgement of
//! allow-lists and caps. Only for objects that lost does it look into specs and statuses.

mod text;

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use bodhi_proto::names::{ModelName, ObjectKind, ObjectRef};
use bodhi_proto::permission::{self, NotAllowed};
use bodhi_proto::provider::{Family, Format, anthropic};
use bodhi_proto::routing::Match;
use bodhi_proto::snapshot::{Pattern, Route, RouteModel, Serving, Snapshot, Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::extract::Params;
use super::tokens::{token_id, visible};
use super::{AdminState, ApiError};
use crate::api::ApiModelSpec;

/// The question.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Question {
    /// The model as a client would name it.
    model: String,
    /// The endpoint that would be called, such as chat, messages or responses; it decides
    /// which family of names is looked in. Default: both.
    surface: Option<String>,
    /// For which token, by its id (scope admin, or one's own); default: the caller's.
    token: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Explanation {
    model: String,
    /// The token's id.
    token: String,
    /// The same for people.
    text: String,
    families: Vec<FamilyAnswer>,
}

/// What one family of names answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct FamilyAnswer {
    /// `general`, or `responses` for `/v1/responses…`.
    family: &'static str,
    /// Whether the token and the gateway allow the model.
    allowed: bool,
    /// Whose list leaves it out: `token` or `gateway`.
    refused_by: Option<&'static str>,
    /// The object that answers; null: model_not_found.
    served_by: Option<Served>,
    /// Objects that would match, and why they do not serve.
    others: Vec<Other>,
    /// Names like it that the token may call.
    near: Vec<String>,
}

/// The object that answers.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Served {
    object: String,
    /// `exact` or `prefix`.
    by: &'static str,
    /// The name or prefix it claims.
    pattern: String,
    /// In order of priority; empty when it refuses.
    routes: Vec<RouteInfo>,
    /// Why it cannot serve.
    refusal: Option<RefusalInfo>,
    /// Most output tokens that a request may ask for.
    #[schema(value_type = Option<u32>, minimum = 1)]
    output_cap: Option<NonZeroU32>,
}

/// One way to serve it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RouteInfo {
    upstream: String,
    format: Option<&'static str>,
    /// Where requests go.
    #[serde(rename = "baseUrl")]
    base_url: Option<String>,
    /// The id that the provider is asked for.
    model: String,
    weight: u32,
    priority: u32,
    /// What Bodhi adds of itself, unless the request or the object says otherwise.
    adds: Vec<String>,
    /// With a local model: how many of its workers take requests.
    workers: Option<usize>,
}

/// A condition that keeps an object from serving.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RefusalInfo {
    reason: String,
    message: String,
}

/// An object that would match.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Other {
    object: String,
    pattern: String,
    why: String,
}

/// Tells which object would serve a model, and why not the others.
#[utoipa::path(get, path = "/bodhi/v1/explain", tag = "resources", params(Question), responses((status = 200, body = Explanation)), security(("token" = [])))]
pub(super) async fn explain(
    State(state): State<AdminState>,
    caller: Caller,
    Params(question): Params<Question>,
) -> Result<Json<Explanation>, ApiError> {
    let model = ModelName::parse(&question.model)
        .map_err(|e| ApiError::invalid("model", format!("A model's name {e}.")))?;
    let token = match &question.token {
        Some(id) => visible(&state, &caller, &token_id(id)?).await?.token,
        None => Arc::clone(&caller.record.token),
    };
    let families: &[Family] = match question.surface.as_deref() {
        None => &[Family::General, Family::Responses],
        Some("responses") => &[Family::Responses],
        Some(_) => &[Family::General],
    };
    let kinds = [ObjectKind::Alias, ObjectKind::ApiModel];
    let objects: Vec<Value> = kinds
        .into_iter()
        .flat_map(|k| state.resources.list(k))
        .collect();
    let statuses = state.store.statuses().await?;
    let snapshot = state.routing.snapshot();
    let families: Vec<_> = families
        .iter()
        .map(|family| {
            judge(
                &snapshot,
                &token,
                model.as_str(),
                *family,
                &objects,
                &statuses,
            )
        })
        .collect();
    Ok(Json(Explanation {
        text: text::render(model.as_str(), &token, &families),
        model: model.to_string(),
        token: token.id.to_string(),
        families,
    }))
}

fn judge(
    snapshot: &Snapshot,
    token: &Token,
    asked: &str,
    family: Family,
    objects: &[Value],
    statuses: &[(ObjectRef, Value)],
) -> FamilyAnswer {
    let found = snapshot.table.find(family, asked);
    let verdict = permission::may_call(token, &snapshot.policy, asked, found.as_ref());
    let mut others = shorter_prefixes(snapshot, family, asked, found.as_ref());
    let winner = found.map(|m| m.served.owner.to_string());
    for (object, pattern) in objects.iter().flat_map(|o| claims(o, family)) {
        let known =
            winner.as_deref() == Some(&*object) || others.iter().any(|o| o.object == object);
        if !known && matches(&pattern, asked) {
            let why = why_not(&object, statuses);
            let pattern = words(&pattern).1.to_owned();
            others.push(Other {
                object,
                pattern,
                why,
            });
        }
    }
    let may_see = |name: &str| {
        let found = snapshot.table.find(family, name);
        permission::may_call(token, &snapshot.policy, name, found.as_ref()).is_ok()
    };
    let near = match found {
        Some(_) => Vec::new(),
        None => snapshot
            .table
            .near(family, asked, |served| match &served.key.pattern {
                Pattern::Exact(name) => may_see(name.as_str()),
                Pattern::Prefix(_) => false,
            }),
    };
    FamilyAnswer {
        family: family.as_str(),
        allowed: verdict.is_ok(),
        refused_by: verdict.err().map(|by| match by {
            NotAllowed::Token => "token",
            NotAllowed::Gateway => "gateway",
        }),
        served_by: found.map(|found| served(snapshot, token, asked, &found)),
        others,
        near: near.into_iter().map(str::to_owned).collect(),
    }
}

fn served(snapshot: &Snapshot, token: &Token, asked: &str, found: &Match<'_>) -> Served {
    let (by, pattern) = words(&found.served.key.pattern);
    let (routes, refusal) = match &found.served.serving {
        Serving::Routes(routes) => (routes.as_slice(), None),
        Serving::Refused(refusal) => (&[][..], Some(refusal)),
    };
    Served {
        object: found.served.owner.to_string(),
        by,
        pattern: pattern.to_owned(),
        routes: routes
            .iter()
            .map(|r| route(snapshot, r, found, asked))
            .collect(),
        refusal: refusal.map(|refusal| RefusalInfo {
            reason: refusal.reason.to_string(),
            message: refusal.message.to_string(),
        }),
        output_cap: permission::output_cap(token, &snapshot.policy, asked, found),
    }
}

fn route(snapshot: &Snapshot, route: &Route, found: &Match<'_>, asked: &str) -> RouteInfo {
    let upstream = snapshot.upstreams.get(&route.upstream);
    let mut adds = Vec::new();
    if let Some(upstream) = upstream.filter(|u| u.format == Format::AnthropicOauth) {
        adds.push(format!("anthropic-beta: {}", anthropic::OAUTH_BETA));
        if upstream.extra_headers.is_empty() {
            adds.push(format!("anthropic-beta: {}", anthropic::OAUTH_DEFAULT_BETA));
            adds.push(format!("anthropic-version: {}", anthropic::VERSION));
        }
        if upstream.extra_body.is_none() {
            adds.push(format!(
                "max_tokens: {}",
                anthropic::OAUTH_DEFAULT_MAX_TOKENS
            ));
        }
    }
    let model = match &route.model {
        RouteModel::Named(id) => id,
        rule => found.upstream_model(rule, asked),
    };
    RouteInfo {
        upstream: route.upstream.to_string(),
        format: upstream.map(|u| u.format.as_str()),
        base_url: upstream.map(|u| u.base_url.to_string()),
        model: model.to_owned(),
        weight: route.weight.get(),
        priority: route.priority,
        adds,
        workers: snapshot.pools.get(&route.upstream).map(|_| {
            let workers = snapshot.workers.get(&route.upstream);
            workers.map_or(0, |workers| workers.len())
        }),
    }
}

fn words(pattern: &Pattern) -> (&'static str, &str) {
    match pattern {
        Pattern::Exact(name) => ("exact", name.as_str()),
        Pattern::Prefix(prefix) => ("prefix", prefix.as_str()),
    }
}

fn matches(pattern: &Pattern, asked: &str) -> bool {
    match pattern {
        Pattern::Exact(name) => name.as_str() == asked,
        Pattern::Prefix(prefix) => asked
            .strip_prefix(prefix.as_str())
            .is_some_and(|rest| !rest.is_empty()),
    }
}

/// Claims in the table that match too and come later in the order of look-up.
fn shorter_prefixes(
    snapshot: &Snapshot,
    family: Family,
    asked: &str,
    found: Option<&Match<'_>>,
) -> Vec<Other> {
    let Some(found) = found else {
        return Vec::new();
    };
    let why = match found.remainder {
        None => "an exact name goes before a prefix",
        Some(_) => "a longer prefix goes first",
    };
    let mut others: Vec<Other> = snapshot
        .table
        .names()
        .filter(|s| s.key.family == family && s.key != found.served.key)
        .filter(|s| matches(&s.key.pattern, asked))
        .map(|s| Other {
            object: s.owner.to_string(),
            pattern: words(&s.key.pattern).1.to_owned(),
            why: why.to_owned(),
        })
        .collect();
    others.sort_by_key(|other| std::cmp::Reverse(other.pattern.len()));
    others
}

/// What an object's spec claims in a family, whether or not it got it.
fn claims(manifest: &Value, family: Family) -> Vec<(String, Pattern)> {
    let text = |pointer: &str| manifest.pointer(pointer).and_then(Value::as_str);
    let (Some(namespace), Some(name)) = (text("/metadata/namespace"), text("/metadata/name"))
    else {
        return Vec::new();
    };
    let exact = |name: &str| ModelName::parse(name).ok().map(Pattern::Exact);
    let (object, patterns): (_, Vec<Option<Pattern>>) = if manifest["kind"] == "Alias" {
        // Which family depends on its routes; a name that is asked for is worth telling anyway.
        let served = match text("/spec/model") {
            Some(model) => vec![exact(model)],
            None => vec![exact(name), exact(&format!("{namespace}/{name}"))],
        };
        (ObjectRef::alias(namespace, name), served)
    } else {
        let Ok(spec) = serde_json::from_value::<ApiModelSpec>(manifest["spec"].clone()) else {
            return Vec::new();
        };
        if spec.format.family() != family {
            return Vec::new();
        }
        let prefix = spec.prefix.as_deref().unwrap_or_default();
        let put_before = if spec.strip_prefix { prefix } else { "" };
        let ids = spec
            .models
            .iter()
            .map(|id| exact(&format!("{put_before}{id}")));
        let whole = spec.forward_all.then(|| {
            bodhi_proto::names::Prefix::parse(prefix)
                .ok()
                .map(Pattern::Prefix)
        });
        (
            ObjectRef::api_model(namespace, name),
            ids.chain(whole).collect(),
        )
    };
    let object = object.to_string();
    let patterns = patterns.into_iter().flatten();
    patterns.map(|pattern| (object.clone(), pattern)).collect()
}

/// The first condition that does not hold, in the order in which they are judged.
fn why_not(object: &str, statuses: &[(ObjectRef, Value)]) -> String {
    let status = statuses.iter().find(|(o, _)| o.to_string() == object);
    let conditions = status.and_then(|(_, status)| status["conditions"].as_array());
    let of_type = |wanted: &str| {
        let mut all = conditions?.iter();
        all.find(|c| c["type"] == wanted)
    };
    for wanted in ["Accepted", "ResolvedRefs"] {
        let Some(condition) = of_type(wanted) else {
            continue;
        };
        let said = |key: &str| condition[key].as_str().unwrap_or_default();
        // An object that lost some of its names stays accepted, with the reason.
        if said("status") != "True" || said("reason").ends_with("Conflict") {
            return format!("{}: {}", said("reason"), said("message"));
        }
    }
    "another object holds the name, or its change is on its way".to_owned()
}

#[cfg(test)]
mod tests;
