//! One Alias: the name it claims and the routes behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use bodhi_proto::names::{ModelName, ObjectRef};
use bodhi_proto::provider::Family;
use bodhi_proto::snapshot::{Pattern, Route, RouteModel, ServedKey, Visibility};
use kube::ResourceExt as _;

use super::api_models::ResolvedModel;
use super::conflicts::Claim;
use super::problem::Problem;
use super::{Resolved, Settings};
use crate::api::{self, Alias, AliasSpec, ApiTarget, Reason, TargetType};
use crate::index::{Index, Name};
use crate::validate::{FieldPath, body_faults};

/// An Alias by itself.
pub(super) struct ResolvedAlias {
    pub(super) object: Resolved,
}

pub(super) fn resolve_all(
    index: &Index,
    models: &BTreeMap<Name, ResolvedModel>,
    settings: &Settings,
) -> Vec<ResolvedAlias> {
    index
        .aliases()
        .map(|(name, object)| resolve(name, object, models, settings))
        .collect()
}

fn resolve(
    name: &Name,
    object: &Alias,
    models: &BTreeMap<Name, ResolvedModel>,
    settings: &Settings,
) -> ResolvedAlias {
    let spec = &object.spec;
    let reference = ObjectRef::alias(&name.namespace, &name.name);
    let created = object.creation_timestamp().map(|time| time.0.as_second());
    let served_name: Arc<str> = served_name(spec, name, settings).into();
    let target = match (&spec.target.type_, &spec.target.api) {
        (TargetType::Api, Some(api)) => Routes::of(api, name, models),
        _ => Routes::default(),
    };
    let model = ModelName::parse(&served_name);
    let mut refused = refusal(spec, &target, name, settings);
    if let Err(error) = &model {
        refused.get_or_insert_with(|| {
            Problem::new(Reason::Malformed, format!("its served name {error}"))
        });
    }
    let claims = match (model, settings.serves(&name.namespace)) {
        (Ok(model), true) => target
            .families()
            .into_iter()
            .map(|family| Claim {
                key: ServedKey {
                    family,
                    pattern: Pattern::Exact(model.clone()),
                },
                owner: reference.clone(),
                created,
                routes: target.routes.clone(),
                reserved: false,
            })
            .collect(),
        _ => Vec::new(),
    };
    // One route that works is enough to serve; the others are told in the condition.
    let broken = target
        .unresolved
        .clone()
        .filter(|_| target.routes.is_empty());
    ResolvedAlias {
        object: Resolved {
            object: reference,
            uid: object.uid().unwrap_or_default().into(),
            generation: object.metadata.generation.unwrap_or(0),
            created,
            claims,
            refused,
            unresolved: target.unresolved,
            broken,
            visibility: match spec.visibility {
                api::Visibility::Public => Visibility::Public,
                api::Visibility::Internal => Visibility::Internal,
            },
            max_output_tokens: spec.max_output_tokens.and_then(NonZeroU32::new),
            defaults: spec.defaults.as_ref().map(super::json_text),
            served_name: Some(served_name),
            idle: idle_fields(spec),
        },
    }
}

fn idle_fields(spec: &AliasSpec) -> Vec<&'static str> {
    let api = spec.target.api.as_ref();
    [
        (spec.system_prompt.is_some(), "spec.systemPrompt"),
        (api.is_some_and(|api| !api.retry_on.is_empty()), "spec.target.api.retryOn"),
        (
            api.is_some_and(|api| api.routes.len() > 1),
            "weights and fallback of spec.target.api.routes (the first that offers the endpoint serves)",
        ),
    ]
    .into_iter()
    .filter_map(|(is_set, field)| is_set.then_some(field))
    .collect()
}

/// Outside the release namespace a name that nobody chose carries its namespace.
fn served_name(spec: &AliasSpec, name: &Name, settings: &Settings) -> String {
    match &spec.model {
        Some(model) => model.clone(),
        None if *name.namespace == *settings.release_namespace => name.name.to_string(),
        None => format!("{}/{}", name.namespace, name.name),
    }
}

fn refusal(spec: &AliasSpec, target: &Routes, name: &Name, settings: &Settings) -> Option<Problem> {
    let problem = |reason, message: String| Some(Problem::new(reason, message));
    if !settings.serves(&name.namespace) {
        let namespace = &name.namespace;
        let message = format!("namespace {namespace} is not served by this controller");
        return problem(Reason::NamespaceNotServed, message);
    }
    if spec.suspend {
        return problem(Reason::Suspended, "spec.suspend is set".into());
    }
    if spec.target.type_ == TargetType::Local {
        let message = "this release cannot run local models: they come with the next one. \
                       The name stays claimed";
        return problem(Reason::LocalNotSupported, message.into());
    }
    if target.families().len() > 1 {
        let message = "its routes mix format openai_responses with others: make two Aliases, \
                       a name may be claimed once in each family";
        return problem(Reason::MixedFormats, message.into());
    }
    let path = FieldPath::root().field("spec").field("defaults");
    let faults = spec.defaults.as_ref().map(|body| body_faults(&path, body));
    let fault = faults.into_iter().flatten().next()?;
    problem(Reason::InvalidExtraBody, fault.to_string())
}

/// The routes that can be used, in order of priority.
#[derive(Default)]
struct Routes {
    routes: Vec<Route>,
    /// Of all routes whose ApiModel exists.
    families: BTreeSet<Family>,
    unresolved: Option<Problem>,
}

impl Routes {
    fn of(api: &ApiTarget, alias: &Name, models: &BTreeMap<Name, ResolvedModel>) -> Self {
        let mut target = Self::default();
        for route in &api.routes {
            let Some(model) = models.get(&Name::new(&alias.namespace, &route.api_model)) else {
                let message = format!(
                    "no ApiModel {} in namespace {}",
                    route.api_model, alias.namespace
                );
                target.complain(Problem::new(Reason::ApiModelNotFound, message));
                continue;
            };
            target.families.insert(model.format.family());
            if let Some(problem) = model.not_usable() {
                let message = format!("ApiModel {}: {}", route.api_model, problem.message);
                target.complain(Problem::new(Reason::ApiModelNotReady, message));
                continue;
            }
            // A route without its key still answers, with the reason; its Alias is not ready.
            if let Some(problem) = &model.object.unresolved {
                let message = format!("ApiModel {}: {}", route.api_model, problem.message);
                target.complain(Problem::new(Reason::ApiModelNotReady, message));
            }
            target.routes.push(Route {
                upstream: model.object.object.clone(),
                model: RouteModel::Named(route.model.as_str().into()),
                exposed: Some(model.exposed(&route.model).into()),
                weight: NonZeroU32::new(route.weight).unwrap_or(NonZeroU32::MIN),
                priority: route.priority,
            });
        }
        target.routes.sort_by_key(|route| route.priority);
        target
    }

    /// The first is told; one is enough to look.
    fn complain(&mut self, problem: Problem) {
        self.unresolved.get_or_insert(problem);
    }

    /// Where the name is claimed. An Alias that leads nowhere yet (or to a local model)
    /// belongs to the general family.
    fn families(&self) -> BTreeSet<Family> {
        match self.families.is_empty() {
            true => BTreeSet::from([Family::General]),
            false => self.families.clone(),
        }
    }
}
