//! Same format on both sides: the request as the upstream gets it.

use std::num::NonZeroU32;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, request};

use bodhi_proto::provider::Format;
use bodhi_proto::snapshot::{OutputLimitField, Upstream};

use super::body::{Body, Edits, OutputCap, OutputField, Prepared};
use super::route::Chosen;
use crate::active::Active;
use crate::api::error::Failure;
use crate::api::{Call, headers, query};
use crate::provider::{self, Provider};

/// The line and the headers of a request to an upstream.
#[derive(Debug)]
pub(super) struct Head {
    pub method: http::Method,
    pub uri: Uri,
    pub headers: HeaderMap,
}

impl Head {
    /// The whole request.
    pub(super) fn with<B>(self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}

/// The client's body with the model put in, and what caps, defaults and extra body add.
pub(super) fn prepare(
    active: &Active,
    call: &Call,
    chosen: &Chosen,
    provider: &Provider,
    body: &Body,
) -> Prepared {
    let upstream = &provider.upstream;
    let extra_body = match provider::takes_extra_body(call) {
        true => provider.extra_body.as_ref(),
        false => provider.system_only.as_ref(),
    };
    let generates = provider::generates(call, upstream.format);
    let defaults = active.defaults(&chosen.served).filter(|_| generates);
    body.prepare(&Edits {
        model: Some(&chosen.model),
        cap: chosen
            .cap
            .filter(|_| generates)
            .map(|limit| cap(limit, upstream)),
        include_usage: false,
        extra_body,
        defaults: defaults.map(AsRef::as_ref),
    })
}

fn cap(limit: NonZeroU32, upstream: &Upstream) -> OutputCap {
    let field = match (upstream.format, upstream.output_limit_field) {
        (Format::OpenAi, OutputLimitField::MaxCompletionTokens) => OutputField::MaxCompletionTokens,
        (Format::OpenAi, OutputLimitField::MaxTokens) => OutputField::MaxTokens,
        (Format::OpenAiResponses, _) => OutputField::MaxOutputTokens,
        (Format::Anthropic | Format::AnthropicOauth, _) => OutputField::MaxTokens,
        (Format::Gemini, _) => OutputField::GenerationConfig,
    };
    OutputCap {
        limit: limit.get(),
        field,
    }
}

/// Line and headers for `call` at `provider`. Of the query everything travels but the
/// credential (`key`) and our own `model`.
pub(super) fn head(
    provider: &Provider,
    model: &str,
    call: &Call,
    client: &request::Parts,
) -> Result<Head, Failure> {
    let uri = provider.uri(call, model)?;
    let query = client.uri.query().and_then(|q| query::without(q, "key"));
    let query = match call {
        Call::Response(..) => query.and_then(|q| query::without(&q, "model")),
        _ => query,
    };
    Ok(Head {
        method: client.method.clone(),
        uri: match query {
            None => uri,
            Some(query) => {
                Uri::try_from(format!("{}?{query}", uri.path())).map_err(|_| Failure::BadPath {
                    part: "query",
                    what: "is too long",
                })?
            }
        },
        headers: headers::upstream_request(
            &client.headers,
            provider.upstream.format,
            &provider.headers,
            provider.credential()?,
        ),
    })
}

/// The body of a call that sends none.
pub(super) fn empty() -> Prepared {
    Prepared::default()
}

/// A prepared body as hyper takes it: its slices, in order, in one vectored write.
#[derive(Debug)]
pub(crate) struct SpliceBody {
    slices: smallvec::IntoIter<[Bytes; 8]>,
    left: u64,
}

impl SpliceBody {
    pub(super) fn new(prepared: Prepared) -> Self {
        Self {
            left: prepared.len(),
            slices: prepared.into_slices().into_iter(),
        }
    }
}

impl http_body::Body for SpliceBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let next = self.slices.next();
        self.left -= next.as_ref().map_or(0, |s| s.len() as u64);
        std::task::Poll::Ready(next.map(|slice| Ok(http_body::Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left)
    }
}
