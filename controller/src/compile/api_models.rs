//! One ApiModel: its upstream, its key, and the names it claims.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use bodhi_proto::names::{ModelName, NameError, ObjectRef, Prefix};
use bodhi_proto::provider::Format;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{
    AllowedOrigins, Auth, BaseUrl, Credential, Features, Origin, OriginPattern, OutputLimitField,
    Pattern, Roots, Route, RouteModel, ServedKey, Timeouts, Upstream, Visibility,
};
use http::{HeaderName, HeaderValue};
use kube::ResourceExt as _;

use super::conflicts::Claim;
use super::problem::Problem;
use super::references::{Lookup, allowed_origins};
use super::{CompiledCredential, Resolved, Settings, StoredKeys};
use crate::api::{
    self, ApiModel, ApiModelSpec, AuthType, Feature, HealthCheckMode, KeyRef, Reason,
};
use crate::index::{Index, Name};
use crate::validate::{FieldPath, body_faults};

/// OpenAI's own API, whose reasoning models know `max_completion_tokens` only.
const OPENAI_HOST: &str = "api.openai.com";

/// An ApiModel by itself.
pub(super) struct ResolvedModel {
    pub(super) object: Resolved,
    pub(super) format: Format,
    /// Absent when nothing may be sent there.
    pub(super) upstream: Option<Upstream>,
    pub(super) credential: Option<CompiledCredential>,
    naming: Naming,
}

impl ResolvedModel {
    /// The name under which this ApiModel exposes one of its provider's ids.
    pub(super) fn exposed(&self, id: &str) -> String {
        self.naming.exposed(id)
    }

    /// Why routes must not lead here.
    pub(super) fn not_usable(&self) -> Option<&Problem> {
        self.object.refused.as_ref().or(self.object.broken.as_ref())
    }
}

pub(super) fn resolve_all(
    index: &Index,
    keys: &StoredKeys,
    settings: &Settings,
) -> BTreeMap<Name, ResolvedModel> {
    index
        .api_models()
        .map(|(name, object)| (name.clone(), resolve(name, object, index, keys, settings)))
        .collect()
}

fn resolve(
    name: &Name,
    object: &ApiModel,
    index: &Index,
    keys: &StoredKeys,
    settings: &Settings,
) -> ResolvedModel {
    let spec = &object.spec;
    let reference = ObjectRef::api_model(&name.namespace, &name.name);
    let uid: Arc<str> = object.uid().unwrap_or_default().into();
    let created = object.creation_timestamp().map(|time| time.0.as_second());
    let naming = Naming::of(spec);
    let base_url = spec
        .base_url
        .as_deref()
        .unwrap_or(spec.format.canonical_base_url());
    let base_url = BaseUrl::parse(base_url);
    let mut refused = refusal(spec, &name.namespace, settings);
    if let Err(error) = &base_url {
        refused.get_or_insert_with(|| {
            Problem::new(Reason::Malformed, format!("spec.baseUrl {error}"))
        });
    }
    let claims = naming.claims(spec, &reference, created);
    if let Err(error) = &claims {
        refused.get_or_insert_with(|| {
            Problem::new(Reason::Malformed, format!("a model's name {error}"))
        });
    }
    let claims = match settings.serves(&name.namespace) {
        true => claims.unwrap_or_default(),
        false => Vec::new(),
    };

    let lookup = Lookup {
        index,
        namespace: &name.namespace,
    };
    let roots = lookup.roots(spec.ca_bundle_ref.as_ref());
    let (mut upstream, mut credential, mut missing_key) = (None, None, None);
    if let (Ok(base_url), None) = (base_url, &refused) {
        match lookup.credential(spec, &reference, &uid, &base_url.origin, keys, settings) {
            Ok(found) => credential = found,
            Err(problem) => missing_key = Some(problem),
        }
        if let Ok(roots) = &roots {
            upstream = Some(upstream_of(
                spec,
                &reference,
                base_url,
                roots.clone(),
                settings,
            ));
        }
    }
    let broken = roots.err();
    ResolvedModel {
        object: Resolved {
            object: reference,
            uid,
            generation: object.metadata.generation.unwrap_or(0),
            created,
            claims,
            refused,
            unresolved: missing_key.or_else(|| broken.clone()),
            broken,
            visibility: Visibility::Public,
            max_output_tokens: None,
            defaults: None,
            served_name: None,
            idle: idle_fields(spec),
        },
        format: spec.format,
        upstream,
        credential,
        naming,
    }
}

/// What the object itself says against being served.
fn refusal(spec: &ApiModelSpec, namespace: &str, settings: &Settings) -> Option<Problem> {
    if !settings.serves(namespace) {
        let message = format!("namespace {namespace} is not served by this controller");
        return Some(Problem::new(Reason::NamespaceNotServed, message));
    }
    if spec.suspend {
        return Some(Problem::new(Reason::Suspended, "spec.suspend is set"));
    }
    let path = FieldPath::root().field("spec").field("extraBody");
    let faults = spec
        .extra_body
        .as_ref()
        .map(|body| body_faults(&path, body));
    let fault = faults.into_iter().flatten().next()?;
    Some(Problem::new(Reason::InvalidExtraBody, fault.to_string()))
}

fn upstream_of(
    spec: &ApiModelSpec,
    object: &ObjectRef,
    base_url: BaseUrl,
    roots: Roots,
    settings: &Settings,
) -> Upstream {
    let offers = |feature| {
        spec.features
            .as_ref()
            .is_none_or(|all| all.contains(&feature))
    };
    let output_limit_field = match spec.output_limit_field {
        Some(api::OutputLimitField::MaxTokens) => OutputLimitField::MaxTokens,
        Some(api::OutputLimitField::MaxCompletionTokens) => OutputLimitField::MaxCompletionTokens,
        None if &*base_url.origin.host == OPENAI_HOST => OutputLimitField::MaxCompletionTokens,
        None => OutputLimitField::MaxTokens,
    };
    Upstream {
        object: object.clone(),
        format: spec.format,
        base_url,
        auth: match spec.auth.type_ {
            AuthType::None => Auth::None,
            AuthType::SecretRef | AuthType::Stored => Auth::Credential,
        },
        features: Features {
            chat: offers(Feature::Chat),
            completions: offers(Feature::Completions),
            embeddings: offers(Feature::Embeddings),
        },
        output_limit_field,
        extra_headers: spec
            .extra_headers
            .iter()
            .filter_map(|header| {
                // The schema admits tokens and visible ASCII only, so none is left out.
                let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
                Some((name, HeaderValue::from_str(&header.value).ok()?))
            })
            .collect(),
        extra_body: spec.extra_body.as_ref().map(super::json_text),
        timeouts: Timeouts {
            connect: spec.timeouts.connect.get(),
            first_byte: spec.timeouts.first_byte.get(),
            idle: spec.timeouts.idle.get(),
        },
        attempts: NonZeroU32::MIN.saturating_add(spec.retry.attempts),
        max_in_flight: NonZeroU32::new(spec.max_in_flight).unwrap_or(NonZeroU32::MIN),
        roots,
        egress: settings.egress(&object.namespace),
    }
}

/// How ids become names.
struct Naming {
    prefix: Option<String>,
    strip: bool,
}

impl Naming {
    fn of(spec: &ApiModelSpec) -> Self {
        Self {
            prefix: spec.prefix.clone(),
            strip: spec.strip_prefix,
        }
    }

    /// With `stripPrefix: false` the ids carry the prefix already.
    fn exposed(&self, id: &str) -> String {
        match (&self.prefix, self.strip) {
            (Some(prefix), true) => format!("{prefix}{id}"),
            _ => id.to_owned(),
        }
    }

    /// The prefix first: messages name what matters most.
    fn claims(
        &self,
        spec: &ApiModelSpec,
        owner: &ObjectRef,
        created: Option<i64>,
    ) -> Result<Vec<Claim>, NameError> {
        let family = spec.format.family();
        let claim = |pattern, model, reserved| Claim {
            key: ServedKey { family, pattern },
            owner: owner.clone(),
            created,
            routes: vec![Route {
                upstream: owner.clone(),
                model,
                exposed: None,
                weight: NonZeroU32::MIN,
                priority: 0,
            }],
            reserved,
        };
        let mut claims = Vec::new();
        if let Some(prefix) = &self.prefix {
            let rest = match self.strip {
                true => RouteModel::Remainder,
                false => RouteModel::AsAsked,
            };
            let pattern = Pattern::Prefix(Prefix::parse(prefix)?);
            claims.push(claim(pattern, rest, !spec.forward_all));
        }
        for id in &spec.models {
            let pattern = Pattern::Exact(ModelName::parse(&self.exposed(id))?);
            claims.push(claim(pattern, RouteModel::Named(id.as_str().into()), false));
        }
        Ok(claims)
    }
}

impl Lookup<'_> {
    fn credential(
        &self,
        spec: &ApiModelSpec,
        object: &ObjectRef,
        uid: &Arc<str>,
        origin: &Origin,
        keys: &StoredKeys,
        settings: &Settings,
    ) -> Result<Option<CompiledCredential>, Problem> {
        match (spec.auth.type_, &spec.auth.secret_ref) {
            (AuthType::None, _) => Ok(None),
            (AuthType::Stored, _) => stored(object, uid, origin, keys).map(Some),
            (AuthType::SecretRef, Some(reference)) => {
                let (secret, text) = self.secret_text(reference)?;
                let allowed_origins = allowed_origins(secret, &reference.name, origin, settings)?;
                Ok(Some(CompiledCredential::Inline(Credential {
                    object: object.clone(),
                    secret: Secret::new(text),
                    allowed_origins,
                })))
            }
            (AuthType::SecretRef, None) => Err(Problem::new(
                Reason::SecretNotFound,
                "spec.auth.secretRef is missing",
            )),
        }
    }

    fn roots(&self, reference: Option<&KeyRef>) -> Result<Roots, Problem> {
        let Some(reference) = reference else {
            return Ok(Roots::System);
        };
        let missing = |message| Problem::new(Reason::CABundleNotFound, message);
        let (_, text) = self
            .secret_text(reference)
            .map_err(|problem| missing(problem.message))?;
        match text.contains("-----BEGIN CERTIFICATE-----") {
            true => Ok(Roots::Bundle(text.into())),
            false => Err(missing(format!(
                "key {} of Secret {} holds no PEM certificate",
                reference.key, reference.name
            ))),
        }
    }
}

fn stored(
    object: &ObjectRef,
    uid: &Arc<str>,
    origin: &Origin,
    keys: &StoredKeys,
) -> Result<CompiledCredential, Problem> {
    let absent = |why: String| {
        let hint = format!("{why}: set it with `bodhi key set {}`", object.name);
        Problem::new(Reason::KeyNotStored, hint)
    };
    match keys.get(uid) {
        None => Err(absent("no key is stored for this object".into())),
        Some(entered) if entered != origin => Err(absent(format!(
            "the stored key was entered for {entered} and does not go to {origin}"
        ))),
        Some(entered) => Ok(CompiledCredential::Stored {
            object: object.clone(),
            uid: Arc::clone(uid),
            allowed_origins: AllowedOrigins::Listed(vec![OriginPattern::exact(entered.clone())]),
        }),
    }
}

fn idle_fields(spec: &ApiModelSpec) -> Vec<&'static str> {
    [
        (
            spec.discovery.as_ref().is_some_and(|d| d.enabled),
            "spec.discovery",
        ),
        (
            spec.health_check.mode != HealthCheckMode::Passive,
            "spec.healthCheck",
        ),
        (!spec.pricing.is_empty(), "spec.pricing"),
    ]
    .into_iter()
    .filter_map(|(is_set, field)| is_set.then_some(field))
    .collect()
}
