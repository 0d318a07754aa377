//! Which provider serves a request: the name as asked, judged and resolved.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::Arc;

use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::permission;
use bodhi_proto::provider::Family;
use bodhi_proto::routing::Match;
use bodhi_proto::snapshot::{Refusal, ServedName, Serving, Snapshot, Token};

use super::body::Body;
use crate::active::Active;
use crate::api::Call;
use crate::api::error::Failure;
use crate::provider::{self, Cell, Provider};
use crate::workers::Pool;

/// Who serves a request, and what it is asked for.
pub(super) struct Chosen {
    /// Who serves it.
    pub backend: Backend,
    /// The claim that led to it.
    pub served: Arc<ServedName>,
    /// A provider's own id of the model; of a local model the name as asked.
    pub model: String,
    /// The least cap on output tokens that applies.
    pub cap: Option<NonZeroU32>,
}

impl Chosen {
    /// Whether a local model would be asked for the same as by `other`.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let same_pool = match (&self.backend, &other.backend) {
            (Backend::Pool(pool), Backend::Pool(other)) => Arc::ptr_eq(pool, other),
            (Backend::Provider(_), _) | (_, Backend::Provider(_)) => false,
        };
        same_pool && self.cap == other.cap && self.served.defaults == other.served.defaults
    }
}

/// Who can serve a request.
pub(super) enum Backend {
    /// Somebody else's models.
    Provider(Arc<Provider>),
    /// Our own workers.
    Pool(Arc<Pool>),
}

/// The model a request asks for: by path on the Gemini surface, by body elsewhere. Models that
/// a Gemini body names must agree with the path.
pub(super) fn asked_model<'a>(call: &'a Call, body: &'a Body) -> Result<Cow<'a, str>, Failure> {
    let Call::Gemini { model, .. } = call else {
        return Ok(Cow::Borrowed(body.require_model()?));
    };
    for named in body.models() {
        if named.strip_prefix("models/").unwrap_or(&named) != model {
            return Err(Failure::InvalidRequest {
                code: "model_mismatch",
                message: format!(
                    "The body names the model '{named}', the path '{model}'. Send one of them, or \
                     the same twice."
                ),
                param: Some("model".into()),
            });
        }
    }
    Ok(Cow::Borrowed(model))
}

/// Chooses the route: the first whose provider serves the endpoint.
pub(super) fn choose(
    active: &Active,
    token: &Token,
    call: &Call,
    asked: &str,
) -> Result<Chosen, Failure> {
    let found = resolve(&active.snapshot, token, call.family(), asked)?;
    let routes = match &found.served.serving {
        Serving::Routes(routes) => routes,
        Serving::Refused(refusal) => return Err(refused(&found, asked, refusal)),
    };
    let mut first_refusal = None;
    for route in routes {
        match backend(active, call, &route.upstream, asked) {
            Ok(backend) => {
                return Ok(Chosen {
                    backend,
                    served: Arc::clone(found.served),
                    model: found.upstream_model(&route.model, asked).to_owned(),
                    cap: permission::output_cap(token, &active.snapshot.policy, asked, &found),
                });
            }
            Err(refusal) => drop(first_refusal.get_or_insert(refusal)),
        }
    }
    Err(first_refusal
        .unwrap_or_else(|| Failure::NotReady(format!("Model '{asked}' has no route at present."))))
}

/// Who stands behind a route, if it serves the call.
pub(super) fn backend(
    active: &Active,
    call: &Call,
    object: &ObjectRef,
    asked: &str,
) -> Result<Backend, Failure> {
    let (cell, backend) = match object.kind {
        ObjectKind::ApiModel => {
            let provider = active.provider(object)?;
            let cell = provider::cell(call, &provider.upstream, asked);
            (cell, Backend::Provider(Arc::clone(provider)))
        }
        ObjectKind::Alias => {
            let pool = active.pool(object)?;
            let cell = provider::local_cell(call, pool.pool().features, asked);
            (cell, Backend::Pool(Arc::clone(pool)))
        }
    };
    match cell {
        Cell::Serve => Ok(backend),
        Cell::Refuse(refusal) => Err(refusal),
    }
}

/// Finds the claim on a name that the caller may use.
pub(super) fn resolve<'a>(
    snapshot: &'a Snapshot,
    token: &Token,
    family: Family,
    asked: &'a str,
) -> Result<Match<'a>, Failure> {
    let found = snapshot.table.find(family, asked);
    permission::may_call(token, &snapshot.policy, asked, found.as_ref()).map_err(|who| {
        Failure::ModelNotAllowed(format!("Model '{asked}' is not allowed: {who}."))
    })?;
    found.ok_or_else(|| not_found(snapshot, token, family, asked))
}

fn not_found(snapshot: &Snapshot, token: &Token, family: Family, asked: &str) -> Failure {
    let (other, wrong_format): (_, fn(&str) -> Failure) = match family {
        Family::General => (Family::Responses, provider::not_responses_endpoint),
        Family::Responses => (Family::General, provider::not_responses_model),
    };
    if snapshot.table.find(other, asked).is_some() {
        return wrong_format(asked);
    }
    let near = snapshot.table.near(family, asked, |served| {
        crate::active::exact_name(served).is_some_and(|name| {
            let found = snapshot.table.find(family, name);
            permission::may_call(token, &snapshot.policy, name, found.as_ref()).is_ok()
        })
    });
    let mut message = format!("There is no model '{asked}'.");
    match near.as_slice() {
        [] => message.push_str(" GET /v1/models lists what this token can call."),
        [one] => message.push_str(&format!(" Did you mean '{one}'?")),
        several => message.push_str(&format!(" Did you mean one of '{}'?", several.join("', '"))),
    }
    Failure::ModelNotFound(message)
}

fn refused(found: &Match<'_>, asked: &str, refusal: &Refusal) -> Failure {
    let message = format!(
        "Model '{asked}' cannot be served: {} has {}: {}",
        found.served.owner, refusal.reason, refusal.message
    );
    match refusal.unsupported {
        true => Failure::Unsupported(message),
        false => Failure::NotReady(message),
    }
}
