//! One Alias: the name it claims, and what stands behind it: routes to providers, or a model of
//! our own.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use bodhi_proto::names::{ModelName, ObjectRef};
use bodhi_proto::provider::Family;
use bodhi_proto::snapshot::{Pattern, Route, RouteModel, ServedKey, Visibility};
use kube::ResourceExt as _;

use super::api_models::ResolvedModel;
use super::conflicts::Claim;
use super::local::{self, Local, LocalModel};
use super::problem::Problem;
use super::references::Lookup;
use super::{Resolved, Settings};
use crate::api::{self, Alias, AliasSpec, ApiTarget, Reason, TargetType};
use crate::index::{Index, Name};
use crate::validate::{FieldPath, body_faults};

/// An Alias by itself.
pub(super) struct ResolvedAlias {
    pub(super) object: Resolved,
    /// What its workers run, with target Local.
    pub(super) local: Option<LocalModel>,
}

pub(super) fn resolve_all(
    index: &Index,
    models: &BTreeMap<Name, ResolvedModel>,
    settings: &Settings,
) -> Vec<ResolvedAlias> {
    index
        .aliases()
        .map(|(name, object)| resolve(name, object, index, models, settings))
        .collect()
}

fn resolve(
    name: &Name,
    object: &Alias,
    index: &Index,
    models: &BTreeMap<Name, ResolvedModel>,
    settings: &Settings,
) -> ResolvedAlias {
    let spec = &object.spec;
    let reference = ObjectRef::alias(&name.namespace, &name.name);
    let created = object.creation_timestamp().map(|time| time.0.as_second());
    let served_name: Arc<str> = served_name(spec, name, settings).into();
    let model = ModelName::parse(&served_name);
    let lookup = Lookup {
        index,
        namespace: &name.namespace,
    };
    let target = match (spec.target.type_, &spec.target.api, &spec.target.local) {
        (TargetType::Api, Some(api), _) => Target::api(api, name, models),
        (TargetType::Local, _, Some(target)) => Target::local(
            local::resolve(&reference, object, target, &lookup, settings),
            &reference,
        ),
        _ => Target::default(),
    };
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
    let runs = refused.is_none() && broken.is_none();
    ResolvedAlias {
        local: target.local.filter(|_| runs),
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
        (
            api.is_some() && spec.system_prompt.is_some(),
            "spec.systemPrompt (with target Api)",
        ),
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

fn refusal(spec: &AliasSpec, target: &Target, name: &Name, settings: &Settings) -> Option<Problem> {
    let problem = |reason, message: String| Some(Problem::new(reason, message));
    if !settings.serves(&name.namespace) {
        let namespace = &name.namespace;
        let message = format!("namespace {namespace} is not served by this controller");
        return problem(Reason::NamespaceNotServed, message);
    }
    if spec.suspend {
        return problem(Reason::Suspended, "spec.suspend is set".into());
    }
    if let Some(refused) = &target.refused {
        return Some(refused.clone());
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

/// Where an Alias leads.
#[derive(Default)]
struct Target {
    /// Those that can be used, in order of priority.
    routes: Vec<Route>,
    /// Of all routes whose ApiModel exists.
    families: BTreeSet<Family>,
    local: Option<LocalModel>,
    refused: Option<Problem>,
    unresolved: Option<Problem>,
}

impl Target {
    fn local(local: Local, alias: &ObjectRef) -> Self {
        match local {
            Local::Model(model) => Self {
                routes: vec![Route {
                    upstream: alias.clone(),
                    model: RouteModel::AsAsked,
                    exposed: None,
                    weight: NonZeroU32::MIN,
                    priority: 0,
                }],
                local: Some(*model),
                ..Self::default()
            },
            Local::Refused(problem) => Self {
                refused: Some(problem),
                ..Self::default()
            },
            Local::Unresolved(problem) => Self {
                unresolved: Some(problem),
                ..Self::default()
            },
        }
    }

    fn api(api: &ApiTarget, alias: &Name, models: &BTreeMap<Name, ResolvedModel>) -> Self {
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

    /// Where the name is claimed. An Alias that leads nowhere yet, or to a local model, belongs
    /// to the general family.
    fn families(&self) -> BTreeSet<Family> {
        match self.families.is_empty() {
            true => BTreeSet::from([Family::General]),
            false => self.families.clone(),
        }
    }
}
