//! Trying a provider out, saved or still in a form: `…/test` and `…/fetch-models`.

use axum::Json;
use axum::extract::State;
use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{Origin, Roots, Scope};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::auth::Caller;
use super::extract::{Body, Segments, object};
use super::keys::{KeyIn, spec_of};
use super::{AdminState, ApiError, uid_of};
use crate::api::{ApiModelSpec, AuthType};
use crate::upstreams::catalogue;
use crate::upstreams::probe::{self, ProbeError};
use crate::upstreams::{self, Failure, Target, TargetError};

/// What to try; everything may be left out for a saved ApiModel.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    /// The provider's id of a model (test only); default: the first that the spec lists.
    model: Option<String>,
    /// A form's `spec`; default: the saved one.
    #[schema(value_type = Option<Object>)]
    spec: Option<Value>,
    /// A key just typed in; default: the saved one, if the origin is the saved one's.
    #[schema(value_type = Option<String>, format = Password)]
    key: Option<KeyIn>,
}

/// What came of it. `ok: false` is no HTTP error: the call did what it should.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Outcome {
    ok: bool,
    /// InvalidApiKey, NetworkError, ConnectionFailed, RateLimited or UpstreamError.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// A sentence about the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The model that answered (test).
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// The provider's ids (fetch-models).
    #[serde(skip_serializing_if = "Option::is_none")]
    models: Option<Vec<String>>,
    /// Whether there were more than are taken (fetch-models).
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<bool>,
    /// What the provider said.
    upstream: Option<Upstream>,
}

/// A provider's answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Upstream {
    status: u16,
    /// The first 4 KiB of an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        let upstream = failure.upstream.map(|answer| Upstream {
            status: answer.status,
            body: Some(answer.body),
        });
        Self {
            reason: Some(failure.reason.as_str()),
            message: Some(failure.message),
            upstream,
            ..Self::default()
        }
    }
}

/// Sends a request of one token (scope power_user).
#[utoipa::path(post, path = "/bodhi/v1/apimodels/{namespace}/{name}/test", tag = "resources", params(("namespace" = String, Path), ("name" = String, Path)), request_body = Trial, responses((status = 200, body = Outcome)), security(("token" = [])))]
pub(super) async fn test(
    State(state): State<AdminState>,
    caller: Caller,
    Segments((namespace, name)): Segments<(String, String)>,
    Body(trial): Body<Trial>,
) -> Result<Json<Outcome>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let model = trial.model.clone();
    let target = target(&state, &namespace, &name, trial).await?;
    let outcome = match probe::probe(&target, model.as_deref()).await {
        Ok(answered) => Outcome {
            ok: true,
            model: Some(answered.model),
            upstream: Some(Upstream {
                status: answered.status,
                body: None,
            }),
            ..Outcome::default()
        },
        Err(ProbeError::NoModel) => {
            let message = "The spec lists no model: name one in 'model'.";
            return Err(ApiError::invalid("model", message));
        }
        Err(ProbeError::Failed(failure)) => failure.into(),
    };
    Ok(Json(outcome))
}

/// Fetches the provider's list of models (scope power_user).
#[utoipa::path(post, path = "/bodhi/v1/apimodels/{namespace}/{name}/fetch-models", tag = "resources", params(("namespace" = String, Path), ("name" = String, Path)), request_body = Trial, responses((status = 200, body = Outcome)), security(("token" = [])))]
pub(super) async fn fetch_models(
    State(state): State<AdminState>,
    caller: Caller,
    Segments((namespace, name)): Segments<(String, String)>,
    Body(trial): Body<Trial>,
) -> Result<Json<Outcome>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let target = target(&state, &namespace, &name, trial).await?;
    let outcome = match catalogue::fetch(&target).await {
        Ok(found) => Outcome {
            ok: true,
            models: Some(found.models),
            truncated: Some(found.truncated),
            ..Outcome::default()
        },
        Err(failure) => failure.into(),
    };
    Ok(Json(outcome))
}

async fn target(
    state: &AdminState,
    namespace: &str,
    name: &str,
    trial: Trial,
) -> Result<Target, ApiError> {
    let object = object(ObjectKind::ApiModel, namespace, name)?;
    let saved = state.resources.get(&object);
    let spec: ApiModelSpec = match (trial.spec, &saved) {
        (Some(form), _) => serde_json::from_value(form).map_err(|_| {
            let message = "'spec' is not that of an ApiModel: it needs at least format and auth.";
            ApiError::invalid("spec", message)
        })?,
        (None, Some(saved)) => spec_of(saved)?,
        (None, None) => return Err(ApiError::not_found(&object)),
    };
    let bad_url = |e| ApiError::invalid("spec.baseUrl", format!("baseUrl {e}."));
    let origin = upstreams::base_url(&spec).map_err(bad_url)?.origin;
    let key = match (trial.key, &saved) {
        (Some(key), _) => Some(key.checked()?),
        (None, Some(saved)) => saved_key(state, &object, saved, &spec, &origin).await?,
        (None, None) => None,
    };
    let snapshot = state.routing.snapshot();
    let compiled = snapshot.upstreams.get(&object);
    // The bundle of the saved object, for the form that still names it.
    let roots = match (&spec.ca_bundle_ref, compiled) {
        (Some(_), Some(upstream)) => upstream.roots.clone(),
        _ => Roots::System,
    };
    let egress = (state.egress)(&object.namespace);
    Target::new(&spec, key, roots, egress).map_err(|e| {
        let param = match e {
            TargetError::BaseUrl(_) => "spec.baseUrl",
            TargetError::Header(_) => "spec.extraHeaders",
            TargetError::Key | TargetError::KeyMissing => "key",
        };
        ApiError::invalid(param, format!("{e}."))
    })
}

/// The key that the saved object uses, for the origin that it is used at. A form that leads
/// elsewhere, or names another Secret, gets none: whoever fills in forms must not thereby
/// send a saved key to an address of theirs.
async fn saved_key(
    state: &AdminState,
    object: &ObjectRef,
    saved: &Value,
    spec: &ApiModelSpec,
    origin: &Origin,
) -> Result<Option<Secret>, ApiError> {
    let saved_spec = spec_of(saved)?;
    let unchanged = upstreams::base_url(&saved_spec).is_ok_and(|url| url.origin == *origin);
    if !unchanged || saved_spec.auth != spec.auth {
        return Ok(None);
    }
    match spec.auth.type_ {
        AuthType::None => Ok(None),
        AuthType::Stored => {
            let Some(uid) = uid_of(saved) else {
                return Ok(None);
            };
            let key = state.store.key(uid).await?;
            Ok(key.filter(|k| k.origin == *origin).map(|k| k.secret))
        }
        AuthType::SecretRef => {
            let snapshot = state.routing.snapshot();
            let credential = snapshot.credentials.get(object);
            let usable = credential.filter(|c| c.allowed_origins.permit(origin));
            Ok(usable.map(|c| c.secret.clone()))
        }
    }
}
