//! How a provider is asked: its address, its key, its quirks.
//!
//! A [`Provider`] is an [`Upstream`] prepared for the request path: header values and
//! addresses are made when configuration changes, not when a request comes.

mod cell;

pub use cell::{Cell, cell, local_cell, not_responses_endpoint, not_responses_model};

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::{HeaderName, HeaderValue, Uri};

use bodhi_proto::provider::Format;
use bodhi_proto::snapshot::{Auth, Credential, Upstream};

use crate::api::error::Failure;
use crate::api::{Call, ResponseAction, headers, path};
use crate::proxy::body::{Dialect, ExtraBody};
use crate::telemetry::ProviderCounters;

/// An upstream, ready to be asked.
#[derive(Debug)]
pub struct Provider {
    /// What it was compiled from.
    pub upstream: Arc<Upstream>,
    /// Sent besides the client's.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Merged into bodies that generate or embed.
    pub extra_body: Option<ExtraBody>,
    /// The part of it that counting tokens takes.
    pub system_only: Option<ExtraBody>,
    /// Calls by outcome.
    pub counters: Arc<ProviderCounters>,
    credential: Option<Arc<Credential>>,
    key: Key,
    fixed: Fixed,
    in_flight: Arc<AtomicU32>,
}

/// The credential header, or why there is none.
#[derive(Debug)]
enum Key {
    NotNeeded,
    Header((HeaderName, HeaderValue)),
    Missing(String),
}

/// Addresses that do not depend on the request.
#[derive(Debug)]
struct Fixed {
    chat: Uri,
    completions: Uri,
    embeddings: Uri,
    responses: Uri,
    messages: Uri,
    count_tokens: Uri,
}

/// A request in flight at a provider; dropping it makes room for another.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicU32>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Provider {
    /// Prepares an upstream. The count of requests in flight goes on from `previous`.
    pub fn new(
        upstream: Arc<Upstream>,
        credential: Option<Arc<Credential>>,
        previous: Option<&Self>,
    ) -> Self {
        let base = &upstream.base_url;
        // The base path was parsed as part of a URI, and these are plain ASCII.
        let fixed = |tail: &str| {
            Uri::try_from(format!("{}{tail}", base.path)).expect("a parsed path and ASCII")
        };
        // The controller has judged it; a text that cannot be merged is left out and named.
        let extra_body = upstream.effective_body().and_then(|text| {
            ExtraBody::parse(dialect(upstream.format), text.as_bytes())
                .inspect_err(|error| {
                    tracing::error!(upstream = %upstream.object, %error, "extraBody is not usable");
                })
                .ok()
        });
        Self {
            headers: upstream.effective_headers(),
            system_only: extra_body.as_ref().and_then(ExtraBody::system_only),
            extra_body,
            counters: previous.map_or_else(Arc::default, |p| Arc::clone(&p.counters)),
            key: Key::new(&upstream, credential.as_deref()),
            fixed: Fixed {
                chat: fixed("/chat/completions"),
                completions: fixed("/completions"),
                embeddings: fixed("/embeddings"),
                responses: fixed("/responses"),
                messages: fixed("/messages"),
                count_tokens: fixed("/messages/count_tokens"),
            },
            in_flight: previous.map_or_else(Arc::default, |p| Arc::clone(&p.in_flight)),
            upstream,
            credential,
        }
    }

    /// Whether this was prepared from exactly these parts.
    pub fn is_from(&self, upstream: &Arc<Upstream>, credential: Option<&Arc<Credential>>) -> bool {
        let same_key = match (&self.credential, credential) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        };
        same_key && Arc::ptr_eq(&self.upstream, upstream)
    }

    /// The credential header; `None` for `auth: None`. A request is never sent without the key
    /// it should carry, nor with a key that may not go there.
    pub fn credential(&self) -> Result<Option<&(HeaderName, HeaderValue)>, Failure> {
        match &self.key {
            Key::NotNeeded => Ok(None),
            Key::Header(header) => Ok(Some(header)),
            Key::Missing(why) => Err(Failure::CredentialMissing(why.clone())),
        }
    }

    /// The address for a call, without a query. `model` is the upstream's own id.
    pub fn uri(&self, call: &Call, model: &str) -> Result<Uri, Failure> {
        Ok(match call {
            Call::Chat => self.fixed.chat.clone(),
            Call::Completions => self.fixed.completions.clone(),
            Call::Embeddings => self.fixed.embeddings.clone(),
            Call::CreateResponse => self.fixed.responses.clone(),
            Call::Messages => self.fixed.messages.clone(),
            Call::CountTokens => self.fixed.count_tokens.clone(),
            Call::Response(action, id) => self.join(&match action {
                ResponseAction::Get | ResponseAction::Delete => format!("/responses/{id}"),
                ResponseAction::InputItems => format!("/responses/{id}/input_items"),
                ResponseAction::Cancel => format!("/responses/{id}/cancel"),
            })?,
            Call::Gemini { action, .. } => {
                let model = path::encode_model(model).ok_or(Failure::BadPath {
                    part: "model",
                    what: "holds an empty, '.' or '..' segment",
                })?;
                self.join(&format!("/models/{model}:{action}"))?
            }
            Call::ListModels(_) | Call::GetModel(..) | Call::Rerank => {
                debug_assert!(false, "{call:?} is never forwarded");
                return Err(Failure::Internal);
            }
        })
    }

    fn join(&self, tail: &str) -> Result<Uri, Failure> {
        // Ids and encoded models are plain ASCII; only their length could be refused.
        Uri::try_from(format!("{}{tail}", self.upstream.base_url.path)).map_err(|_| {
            Failure::BadPath {
                part: "model",
                what: "is too long",
            }
        })
    }

    /// Takes one of the places in flight.
    pub fn enter(&self) -> Result<InFlight, Failure> {
        let most = self.upstream.max_in_flight.get();
        let taken = self
            .in_flight
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < most).then_some(n + 1)
            });
        match taken {
            Ok(_) => Ok(InFlight(Arc::clone(&self.in_flight))),
            Err(_) => Err(Failure::InFlight(format!(
                "{most} requests to '{}' are in flight, as many as its maxInFlight allows.",
                self.upstream.object.short()
            ))),
        }
    }
}

impl Key {
    fn new(upstream: &Upstream, credential: Option<&Credential>) -> Self {
        let object = upstream.object.short();
        let missing = |why: &str| Self::Missing(format!("The key of ApiModel '{object}' {why}."));
        match (upstream.auth, credential) {
            (Auth::None, _) => Self::NotNeeded,
            (Auth::Credential, None) => missing("cannot be found"),
            (Auth::Credential, Some(credential)) => {
                let origin = &upstream.base_url.origin;
                if !credential.allowed_origins.permit(origin) {
                    return missing(&format!("may not be sent to {origin}"));
                }
                match headers::credential(upstream.format, credential.secret.expose()) {
                    Some(header) => Self::Header(header),
                    None => missing("holds characters that a header cannot carry"),
                }
            }
        }
    }
}

/// The dialect that bodies of a format follow.
pub fn dialect(format: Format) -> Dialect {
    match format {
        Format::OpenAi => Dialect::OpenAi,
        Format::OpenAiResponses => Dialect::Responses,
        Format::Anthropic | Format::AnthropicOauth => Dialect::Anthropic,
        Format::Gemini => Dialect::Gemini,
    }
}

/// Whether a call generates or embeds, so that the object's extra body applies.
pub fn takes_extra_body(call: &Call) -> bool {
    match call {
        Call::Chat
        | Call::Completions
        | Call::Embeddings
        | Call::CreateResponse
        | Call::Messages => true,
        Call::Gemini { action, .. } => action != "countTokens",
        _ => false,
    }
}

/// Whether a call generates text, so that caps on output apply.
pub fn generates(call: &Call, format: Format) -> bool {
    match call {
        Call::Chat | Call::Completions | Call::CreateResponse | Call::Messages => true,
        Call::Gemini { action, .. } => {
            format == Format::Gemini
                && matches!(action.as_str(), "generateContent" | "streamGenerateContent")
        }
        _ => false,
    }
}
