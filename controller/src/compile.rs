//! Resources into what data planes serve: upstreams, names, keys, and what to tell the
//! owners of the objects. Pure: no clock, no client; the same index gives the same answer,
//! whatever the order of events that filled it.
//!
//! Three steps. Each object is resolved on its own ([`api_models`], [`aliases`]) into what it
//! claims and what it would serve. Claims are settled over all objects ([`conflicts`]). Then
//! each winner becomes a [`ServedName`]: with routes, or, where its object is broken, with
//! the object's own error, so that a name never falls through to somebody else's prefix.

mod aliases;
mod api_models;
mod conflicts;
mod local;
mod problem;
mod references;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::{
    AllowedOrigins, Credential, EgressScope, Globs, Origin, Pattern, Refusal, ServedKey,
    ServedName, Serving, Upstream, Visibility,
};
use ipnet::IpNet;

use crate::api::{ConditionStatus, ConditionType, Reason};
use crate::index::{Index, Synced};
use crate::source::Malformed;

pub use local::{Credentials, LocalModel, Rollout, WorkerPod, WorkerSpec};
pub use problem::{CompiledCondition, ObjectStatus};

use self::conflicts::{Claim, Outcome};
use self::problem::Problem;

/// What the operator says.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The namespace of the release: where files without a namespace belong.
    pub release_namespace: Arc<str>,
    /// Whose word counts for addresses and origins.
    pub deployment: Deployment,
    /// `--names NS=GLOB`: what a namespace may claim. Without any, the release namespace may
    /// claim all names and others those under `NAMESPACE/`.
    pub names: Vec<NameGrant>,
    /// `--egress-allow NS=CIDR`: where other namespaces' objects may lead besides public
    /// addresses.
    pub egress: Vec<EgressGrant>,
    /// `--host-path NS=FOLDER`: folders of nodes that a namespace's caches may be in.
    pub host_paths: Vec<HostPathGrant>,
    /// The namespaces that are served; `None`: all.
    pub namespaces: Option<BTreeSet<Arc<str>>>,
}

impl Settings {
    /// One machine, one person: everything in files, everything allowed.
    pub fn standalone(namespace: &str) -> Self {
        Self {
            release_namespace: namespace.into(),
            deployment: Deployment::Standalone,
            names: Vec::new(),
            egress: Vec::new(),
            host_paths: Vec::new(),
            namespaces: None,
        }
    }

    /// Where a namespace's objects may lead.
    pub fn egress(&self, namespace: &str) -> EgressScope {
        match self.deployment {
            Deployment::Standalone => EgressScope::Standalone,
            Deployment::Cluster if *namespace == *self.release_namespace => EgressScope::Release,
            Deployment::Cluster => {
                let granted = self.egress.iter().filter(|g| *g.namespace == *namespace);
                EgressScope::Tenant(granted.map(|g| g.range).collect())
            }
        }
    }

    /// Whether a namespace's objects are served.
    pub fn serves(&self, namespace: &str) -> bool {
        let listed = |all: &BTreeSet<Arc<str>>| all.contains(namespace);
        self.namespaces.as_ref().is_none_or(listed)
    }
}

/// Where the controller runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deployment {
    /// On one machine, from files: who writes them is the operator.
    Standalone,
    /// In a cluster, where authors of objects are not the operator.
    Cluster,
}

/// A namespace may claim the names that a glob matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameGrant {
    /// Whose.
    pub namespace: Arc<str>,
    /// `*` stands for any run of characters, `?` for one.
    pub glob: Arc<str>,
}

impl NameGrant {
    fn matches(&self, name: &str) -> bool {
        Globs::new([&*self.glob]).matches(name)
    }
}

/// A namespace's objects may lead into a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressGrant {
    /// Whose.
    pub namespace: Arc<str>,
    /// Where to.
    pub range: IpNet,
}

/// A namespace's workers may keep downloads in a folder of their node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPathGrant {
    /// Whose.
    pub namespace: Arc<str>,
    /// The folder, or one above it.
    pub folder: Arc<Path>,
}

/// Which objects have a stored key, and the origin it was entered for: by the object's uid.
/// The keys themselves stay out of here.
pub type StoredKeys = BTreeMap<Arc<str>, Origin>;

/// The key that an ApiModel uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompiledCredential {
    /// From a Secret: complete.
    Inline(Credential),
    /// In the store: the controller attaches the key of `uid`.
    Stored {
        /// The ApiModel that uses it.
        object: ObjectRef,
        /// Its identity, under which the key is kept.
        uid: Arc<str>,
        /// The one origin it was entered for.
        allowed_origins: AllowedOrigins,
    },
}

/// What a set of resources means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Providers, in order of their objects.
    pub upstreams: Vec<Upstream>,
    /// Keys, in order of their objects; at most one each.
    pub credentials: Vec<CompiledCredential>,
    /// Names, in order of their keys; one claim each.
    pub served: Vec<ServedName>,
    /// Local models that are served, in order of their Aliases.
    pub locals: Vec<LocalModel>,
    /// What to tell each object's owner, in order of objects.
    pub statuses: Vec<ObjectStatus>,
}

impl Compiled {
    /// The local model behind an Alias.
    pub fn local(&self, object: &ObjectRef) -> Option<&LocalModel> {
        let found = self
            .locals
            .binary_search_by(|model| model.object().cmp(object));
        found.ok().map(|place| &self.locals[place])
    }

    /// The conditions that keep objects, or parts of them, from serving.
    pub fn problems(&self) -> impl Iterator<Item = (&ObjectRef, &CompiledCondition)> {
        self.statuses.iter().flat_map(|status| {
            let bad = status.conditions.iter().filter(|c| c.is_problem());
            bad.map(|condition| (&status.object, condition))
        })
    }
}

/// Compiles everything anew.
pub fn compile(index: &Synced<Index>, keys: &StoredKeys, settings: &Settings) -> Compiled {
    let models = api_models::resolve_all(index, keys, settings);
    let aliases = aliases::resolve_all(index, &models, settings);
    let claims = models.values().flat_map(|m| &m.object.claims);
    let claims = claims.chain(aliases.iter().flat_map(|a| &a.object.claims));
    let outcome = conflicts::settle(claims.collect(), settings);

    let mut compiled = Compiled::default();
    let objects = models.values().map(|m| &m.object);
    for object in objects.chain(aliases.iter().map(|a| &a.object)) {
        compiled.served.extend(served_names(object, &outcome));
        compiled.statuses.push(status(object, &outcome));
    }
    for alias in aliases {
        let serves = alias.object.claims.iter().any(|claim| outcome.won(claim));
        compiled.locals.extend(alias.local.filter(|_| serves));
    }
    for model in models.into_values() {
        compiled.upstreams.extend(model.upstream);
        compiled.credentials.extend(model.credential);
    }
    compiled.statuses.extend(index.malformed().map(malformed));
    compiled.served.sort_by(|a, b| a.key.cmp(&b.key));
    compiled.locals.sort_by(|a, b| a.object().cmp(b.object()));
    compiled.statuses.sort_by(|a, b| a.object.cmp(&b.object));
    compiled
}

/// What one object claims and would serve, before conflicts are settled.
struct Resolved {
    object: ObjectRef,
    uid: Arc<str>,
    generation: i64,
    /// Unix seconds; unknown (an object that no API server stored) counts as youngest.
    created: Option<i64>,
    claims: Vec<Claim>,
    /// `Accepted=False` for what the object itself says.
    refused: Option<Problem>,
    /// `ResolvedRefs=False`.
    unresolved: Option<Problem>,
    /// Whether an unresolved reference keeps the whole object from serving.
    broken: Option<Problem>,
    visibility: Visibility,
    max_output_tokens: Option<NonZeroU32>,
    defaults: Option<Arc<str>>,
    /// Of an Alias: the name as it is served.
    served_name: Option<Arc<str>>,
    /// Fields that are set and that this release keeps without acting on them.
    idle: Vec<&'static str>,
}

impl Resolved {
    /// What the owner should know although nothing is wrong.
    fn notice(&self) -> Option<Problem> {
        let message = format!(
            "kept, not acted upon in this release: {}",
            self.idle.join(", ")
        );
        (!self.idle.is_empty()).then(|| Problem::new(Reason::Accepted, message))
    }
}

fn served_names(object: &Resolved, outcome: &Outcome) -> Vec<ServedName> {
    let won = object
        .claims
        .iter()
        .filter(|claim| claim.is_served() && outcome.won(claim));
    won.map(|claim| {
        let refusal = object.refused.as_ref().or(object.broken.as_ref());
        let serving = match refusal {
            Some(problem) => Serving::Refused(problem.refusal(&object.object)),
            None if claim.routes.is_empty() => Serving::Refused(Refusal {
                reason: Reason::ApiModelNotReady.as_str().into(),
                message: format!("{} has no route", object.object).into(),
                unsupported: false,
            }),
            None => Serving::Routes(claim.routes.clone()),
        };
        ServedName {
            key: claim.key.clone(),
            owner: object.object.clone(),
            created: object.created.unwrap_or(0),
            visibility: object.visibility,
            serving,
            max_output_tokens: object.max_output_tokens,
            defaults: object.defaults.clone(),
        }
    })
    .collect()
}

fn status(object: &Resolved, outcome: &Outcome) -> ObjectStatus {
    let lost: Vec<_> = object
        .claims
        .iter()
        .filter_map(|claim| outcome.lost(claim).map(|why| (claim, why)))
        .collect();
    let serves = object
        .claims
        .iter()
        .any(|claim| claim.is_served() && outcome.won(claim));
    let accepted = match (&object.refused, lost.first()) {
        (Some(problem), _) => CompiledCondition::no(ConditionType::Accepted, problem),
        (None, None) => match object.notice() {
            Some(notice) => CompiledCondition::partly(ConditionType::Accepted, &notice),
            None => CompiledCondition::yes(ConditionType::Accepted, Reason::Accepted),
        },
        (None, Some((claim, why))) => {
            let more = lost.len() - 1;
            let problem = conflicts::describe(claim, why, more);
            match serves {
                true => CompiledCondition::partly(ConditionType::Accepted, &problem),
                false => CompiledCondition::no(ConditionType::Accepted, &problem),
            }
        }
    };
    let resolved = match &object.unresolved {
        Some(problem) => CompiledCondition::no(ConditionType::ResolvedRefs, problem),
        None => CompiledCondition::yes(ConditionType::ResolvedRefs, Reason::ResolvedRefs),
    };
    let exact = |key: &ServedKey| matches!(key.pattern, Pattern::Exact(_));
    let models = object
        .claims
        .iter()
        .filter(|claim| claim.is_served() && exact(&claim.key) && outcome.won(claim));
    let serving = accepted.status == ConditionStatus::True;
    ObjectStatus {
        object: object.object.clone(),
        uid: Arc::clone(&object.uid),
        generation: object.generation,
        models: if serving { models.count() } else { 0 },
        served_name: object.served_name.clone(),
        conditions: vec![accepted, resolved],
    }
}

/// What cannot be read claims nothing and serves nothing.
fn malformed(malformed: &Malformed) -> ObjectStatus {
    let problem = Problem::new(Reason::Malformed, &*malformed.message);
    ObjectStatus {
        object: malformed.object.clone(),
        uid: Arc::clone(&malformed.uid),
        generation: malformed.generation,
        models: 0,
        served_name: None,
        conditions: vec![CompiledCondition::no(ConditionType::Accepted, &problem)],
    }
}

/// A JSON object as the text that data planes merge.
fn json_text(body: &serde_json::Map<String, serde_json::Value>) -> Arc<str> {
    let text = serde_json::to_string(body).expect("a JSON map with text keys is writable");
    text.into()
}
