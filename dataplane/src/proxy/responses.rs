//! Responses by id: whose they are, which upstream has them, and the record of new ones.

mod owners;
mod recorder;

pub use owners::{LookupFuture, OwnerLookup, Owners, ResponseRecord, Unavailable};
pub(super) use recorder::Recorder;

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;

use bodhi_proto::names::ObjectRef;
use bodhi_proto::permission;
use bodhi_proto::provider::Family;
use bodhi_proto::snapshot::{
    Globs, Pattern, ResponsesIsolation, ServedName, Serving, Token, Upstream,
};

use super::UpstreamBody;
use super::body::Body;
use super::intake::Taken;
use super::relay::{Relay, Source};
use super::route::{self, Backend, Chosen};
use super::stream::ResponseIdFinder;
use super::{Exchange, Proxy, Reply, passthrough};
use crate::active::Active;
use crate::api::error::Failure;
use crate::api::{Call, ResponseAction, headers, query};
use crate::provider::{self, Provider};

impl Proxy {
    /// A call on one response. The owner is judged before anything else is looked at.
    pub(super) async fn response_by_id(
        &self,
        active: &Active,
        token: &Token,
        call: &Call,
        (action, id): (ResponseAction, &str),
        request: Request<Incoming>,
        exchange: &mut Exchange,
    ) -> Result<Reply, Failure> {
        let record = self.judge_owner(token, active, id).await?;
        let (head, incoming) = request.into_parts();
        let body = self
            .take_in_by_id(call, &head.headers, incoming, exchange)
            .await?;
        let candidates = match (named_model(&head.uri, &head.headers), record) {
            (Some(asked), _) => {
                exchange.model(&asked);
                vec![route::choose(active, token, call, &asked)?.try_into()?]
            }
            (None, Some(record)) => vec![recorded(active, token, &record)?],
            (None, None) => candidates(active, token)?,
        };
        match (candidates.as_slice(), action) {
            ([one], _) => {
                let response = self.ask(one, call, &head, body.as_ref(), exchange).await?;
                self.pass_on(one, call, response)
            }
            (several, ResponseAction::Get | ResponseAction::InputItems) => {
                for one in several {
                    let response = self.ask(one, call, &head, None, exchange).await?;
                    if response.status() != StatusCode::NOT_FOUND {
                        return self.pass_on(one, call, response);
                    }
                }
                Err(Failure::ResponseNotFound(id.to_owned()))
            }
            (several, ResponseAction::Delete | ResponseAction::Cancel) => {
                let names: Vec<_> = several.iter().map(|c| c.name.as_str()).collect();
                Err(Failure::InvalidRequest {
                    code: "missing_field",
                    message: format!(
                        "No record says which model made response '{id}'. Say it with ?model=, one \
                         of '{}'.",
                        names.join("', '")
                    ),
                    param: Some("model".into()),
                })
            }
        }
    }

    /// The ids that a new response builds on must be the caller's own.
    pub(super) async fn judge_links(
        &self,
        token: &Token,
        active: &Active,
        body: &Body,
    ) -> Result<(), Failure> {
        for id in [body.previous_response_id(), body.conversation()]
            .into_iter()
            .flatten()
        {
            Box::pin(self.judge_owner(token, active, &id)).await?;
        }
        Ok(())
    }

    /// The record of `id`, if it may be the caller's.
    async fn judge_owner(
        &self,
        token: &Token,
        active: &Active,
        id: &str,
    ) -> Result<Option<ResponseRecord>, Failure> {
        let strict = active.snapshot.policy.responses_isolation == ResponsesIsolation::Strict;
        let not_found = || Failure::ResponseNotFound(id.to_owned());
        match self.shared.owners.find(id).await {
            Ok(Some(record)) if record.owner == token.owner => Ok(Some(record)),
            Ok(Some(_)) => Err(not_found()),
            Ok(None) if strict => Err(not_found()),
            Err(Unavailable) if strict => Err(Failure::NotReady(
                "Who owns this response cannot be asked at present.".into(),
            )),
            Ok(None) | Err(Unavailable) => Ok(None),
        }
    }

    /// Cancel may carry a body, which travels; the others' must be empty.
    async fn take_in_by_id(
        &self,
        call: &Call,
        headers: &HeaderMap,
        incoming: Incoming,
        exchange: &mut Exchange,
    ) -> Result<Option<Taken>, Failure> {
        match http_body::Body::is_end_stream(&incoming) {
            true => Ok(None),
            false => {
                let admitted = self.admit(call, headers, incoming)?;
                self.take_in(call, admitted, exchange).await.map(Some)
            }
        }
    }

    async fn ask(
        &self,
        candidate: &Candidate,
        call: &Call,
        client: &http::request::Parts,
        body: Option<&Taken>,
        exchange: &mut Exchange,
    ) -> Result<Response<UpstreamBody>, Failure> {
        let provider = &candidate.provider;
        let mut head = passthrough::head(provider, "", call, client)?;
        let sent = match body {
            Some(taken) => taken.body.prepare(&Default::default()),
            None => {
                head.headers.remove(http::header::CONTENT_TYPE);
                passthrough::empty()
            }
        };
        self.call(provider, head, sent, exchange).await
    }

    fn pass_on(
        &self,
        candidate: &Candidate,
        call: &Call,
        response: Response<UpstreamBody>,
    ) -> Result<Reply, Failure> {
        let permit = candidate.provider.enter()?;
        let (parts, body) = response.into_parts();
        let source = Source::Upstream {
            body,
            recorder: None,
            _permit: permit,
        };
        let relay = Relay::new(call, &parts.headers, source, self.farewell.place());
        Ok(Reply::Relay(Response::from_parts(parts, Box::new(relay))))
    }

    /// What records the id of a new response as it passes by.
    pub(super) fn recorder(
        &self,
        call: &Call,
        upstream: &Upstream,
        token: &Token,
        response: &Response<UpstreamBody>,
    ) -> Option<Recorder> {
        (*call == Call::CreateResponse && response.status().is_success()).then(|| {
            Recorder::new(
                self.shared.owners.clone(),
                self.shared.limits.record_wait,
                match headers::is_event_stream(response.headers()) {
                    true => ResponseIdFinder::in_events(),
                    false => ResponseIdFinder::in_document(),
                },
                upstream.object.clone(),
                Arc::clone(&token.owner),
            )
        })
    }
}

/// An upstream that may have a response, and a name that leads to it.
struct Candidate {
    name: String,
    provider: Arc<Provider>,
}

impl TryFrom<Chosen> for Candidate {
    type Error = Failure;

    fn try_from(chosen: Chosen) -> Result<Self, Failure> {
        match chosen.backend {
            Backend::Provider(provider) => Ok(Self {
                name: chosen.model,
                provider,
            }),
            // Choosing refuses them.
            Backend::Pool(_) => Err(provider::not_responses_model(&chosen.model)),
        }
    }
}

/// The model that a call by id names: `?model=`, else `x-bodhi-model`.
fn named_model(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let by_query = query::pairs(uri.query().unwrap_or(""))
        .find(|pair| pair.name() == "model")
        .map(|pair| pair.value().into_owned());
    let by_header = || {
        headers
            .get(headers::BODHI_MODEL)?
            .to_str()
            .ok()
            .map(str::to_owned)
    };
    by_query.or_else(by_header)
}

fn recorded(active: &Active, token: &Token, record: &ResponseRecord) -> Result<Candidate, Failure> {
    // Rotation keeps the owner; the new token's list may be shorter than the old one's.
    let may = reachable(active, token).any(|(_, object)| *object == record.upstream);
    match may {
        true => Ok(Candidate {
            name: record.upstream.short(),
            provider: Arc::clone(active.provider(&record.upstream)?),
        }),
        false => Err(Failure::ResponseNotFound(record.id.to_string())),
    }
}

/// Every upstream of the Responses family that the caller may use, each once.
fn candidates(active: &Active, token: &Token) -> Result<Vec<Candidate>, Failure> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut names: Vec<_> = reachable(active, token).collect();
    names.sort_by_key(|(served, _)| &served.key);
    for (served, object) in names {
        let known = found.iter().any(|c| c.provider.upstream.object == *object);
        if let (false, Ok(provider)) = (known, active.provider(object)) {
            found.push(Candidate {
                name: pattern_text(served).to_owned(),
                provider: Arc::clone(provider),
            });
        }
    }
    match found.is_empty() {
        true => Err(Failure::ModelNotFound(
            "This token can call no model of the 'openai_responses' format.".into(),
        )),
        false => Ok(found),
    }
}

fn reachable<'a>(
    active: &'a Active,
    token: &'a Token,
) -> impl Iterator<Item = (&'a Arc<ServedName>, &'a ObjectRef)> {
    let responses = |s: &&Arc<ServedName>| s.key.family == Family::Responses;
    active
        .snapshot
        .table
        .names()
        .filter(responses)
        .filter(move |served| may_use(active, token, served))
        .filter_map(|served| match &served.serving {
            Serving::Routes(routes) => Some(routes.iter().map(move |r| (served, &r.upstream))),
            Serving::Refused(_) => None,
        })
        .flatten()
}

fn may_use(active: &Active, token: &Token, served: &ServedName) -> bool {
    let policy = &active.snapshot.policy;
    match &served.key.pattern {
        Pattern::Exact(name) => {
            let name = name.as_str();
            let found = active.snapshot.table.find(Family::Responses, name);
            permission::may_call(token, policy, name, found.as_ref()).is_ok()
        }
        // A list may allow some id under the prefix: that is enough to have made a response.
        Pattern::Prefix(prefix) => [&token.models, &policy.allowed_models]
            .into_iter()
            .flatten()
            .all(|globs| some_glob_meets(globs, prefix.as_str())),
    }
}

/// Whether a glob could match some name that begins with `prefix`.
fn some_glob_meets(globs: &Globs, prefix: &str) -> bool {
    globs.patterns().any(|glob| {
        let literal = glob.split(['*', '?']).next().unwrap_or("");
        literal.starts_with(prefix) || (literal.len() < glob.len() && prefix.starts_with(literal))
    })
}

fn pattern_text(served: &ServedName) -> &str {
    match &served.key.pattern {
        Pattern::Exact(name) => name.as_str(),
        Pattern::Prefix(prefix) => prefix.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_meets_a_prefix_if_some_name_satisfies_both() {
        let meets = |glob: &str, prefix: &str| some_glob_meets(&Globs::new([glob]), prefix);
        assert!(meets("*", "openai/"));
        assert!(meets("openai/gpt-5", "openai/"));
        assert!(meets("open*", "openai/"));
        assert!(!meets("open", "openai/"));
        assert!(!meets("azure/*", "openai/"));
    }

    #[test]
    fn the_query_names_the_model_before_the_header() {
        let mut headers = HeaderMap::new();
        headers.insert(headers::BODHI_MODEL, "by-header".parse().unwrap());
        let named = |uri: &str| named_model(&uri.parse().unwrap(), &headers).unwrap();
        assert_eq!(named("/v1/responses/r?model=a%2Fb"), "a/b");
        assert_eq!(named("/v1/responses/r?x=1"), "by-header");
    }
}
