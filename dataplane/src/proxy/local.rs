//! Requests that our own workers answer: out of the client's format into the canonical
//! conversation, to a worker, and back.
//!
//! A request may go to another worker as long as none has acted on it: one that cannot be
//! reached, that is full or that is going down has not. What a worker has begun stays with it.

mod answer;
mod ask;
mod form;
mod hold;

pub(super) use answer::Answer;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response};

use bodhi_proto::chat::{Generation, Message, Part, Prompt};
use bodhi_proto::names::ObjectRef;

use super::body::{Body, Edits, OutputCap, OutputField};
use super::relay::Source;
use super::route::Chosen;
use super::{Asking, Exchange, Proxy, Relay, Reply};
use crate::active::Active;
use crate::api::Call;
use crate::api::error::Failure;
use crate::format::{BadReply, Head, embeddings, openai_chat, openai_completions, rerank};
use crate::workers::Pool;

use form::{Collector, Form, Writer};

/// Why no worker answers.
#[derive(Debug)]
pub(super) enum NotRun {
    /// While the request waited for a worker, its name was led elsewhere or its rules changed: it
    /// is to be routed anew.
    Moved,
    /// None has acted on the request: whoever else serves the name may be asked.
    Untouched(Failure),
    /// This is what the client is told.
    Failed(Failure),
}

impl From<Failure> for NotRun {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A request that leads to a pool: what was asked, and how it was judged.
pub(super) struct Routed<'a> {
    pub asking: &'a Asking<'a>,
    pub active: &'a Active,
    pub chosen: &'a Chosen,
    pub pool: &'a Arc<Pool>,
}

/// The client's body with what caps and defaults add. The model in it is the name as asked.
fn prepare(active: &Active, chosen: &Chosen, body: &Body) -> Bytes {
    body.prepare(&Edits {
        cap: chosen.cap.map(|limit| OutputCap {
            limit: limit.get(),
            field: OutputField::MaxTokens,
        }),
        defaults: active.defaults(&chosen.served).map(AsRef::as_ref),
        ..Edits::default()
    })
    .to_bytes()
}

impl Proxy {
    /// Serves a request on one of the pool's workers.
    pub(super) async fn run(
        &self,
        routed: &Routed<'_>,
        exchange: &mut Exchange,
    ) -> Result<Reply, NotRun> {
        let (asking, pool) = (routed.asking, routed.pool);
        let body = prepare(routed.active, routed.chosen, asking.body);
        let object = pool.pool().object.clone();
        exchange.attempt(&object);
        match asking.call {
            Call::Chat => {
                let (mut generation, delivery) =
                    openai_chat::parse(&body).map_err(Failure::from)?;
                put_system_prompt(pool, &mut generation);
                let form = Form::Chat(Box::new(generation), delivery);
                self.generate(routed, form, exchange).await
            }
            Call::Completions => {
                let request = openai_completions::parse(&body).map_err(Failure::from)?;
                let form = Form::Completions(Box::new(request));
                self.generate(routed, form, exchange).await
            }
            Call::Embeddings => {
                let request = embeddings::parse(&body).map_err(Failure::from)?;
                let embedded = self.embed(routed, request.embedding.clone()).await?;
                let document = request
                    .respond(&embedded, asking.asked)
                    .map_err(|refused| match refused {
                        embeddings::Refused::Request(fault) => Failure::from(fault),
                        embeddings::Refused::Reply(bad) => bad_reply(&object, bad),
                    })?;
                Ok(Reply::Full(json(document)))
            }
            Call::Rerank => {
                let request = rerank::parse(&body).map_err(Failure::from)?;
                let reranked = self.rerank(routed, request.reranking.clone()).await?;
                let document = request.respond(&reranked, asking.asked);
                let document = document.map_err(|bad| bad_reply(&object, bad))?;
                Ok(Reply::Full(json(document)))
            }
            other => {
                debug_assert!(false, "{other:?} is not served by workers");
                Err(Failure::Internal.into())
            }
        }
    }

    /// Text, whole or as a stream.
    async fn generate(
        &self,
        routed: &Routed<'_>,
        form: Form,
        exchange: &mut Exchange,
    ) -> Result<Reply, NotRun> {
        let head = Head {
            id: exchange.id().to_string(),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            model: routed.asking.asked.to_owned(),
            fingerprint: None,
        };
        let object = routed.pool.pool().object.clone();
        if form.is_stream() {
            let writer = Writer::new(&head, &form);
            // The first events are awaited, so that what is refused has its status.
            let asked = self.ask_workers(routed, form.into_generations()).await?;
            let answer = Answer::start(asked, writer, object);
            let mut response = Response::new(());
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            let (parts, ()) = response.into_parts();
            let source = Source::Worker(answer);
            let relay = Relay::new(
                routed.asking.call,
                &parts.headers,
                source,
                self.farewell.place(),
            );
            return Ok(Reply::Relay(Response::from_parts(parts, Box::new(relay))));
        }
        let mut collector = Collector::new(head, &form);
        let mut asked = self.ask_workers(routed, form.into_generations()).await?;
        while let Some((prompt, events)) = asked.next().await? {
            for event in events {
                let pushed = collector.push(prompt, event);
                pushed.map_err(|bad| bad_reply(&object, bad))?;
            }
        }
        let document = collector.finish().map_err(|bad| bad_reply(&object, bad))?;
        Ok(Reply::Full(json(document)))
    }
}

/// Where a conversation has no system message, the Alias's comes first.
fn put_system_prompt(pool: &Pool, generation: &mut Generation) {
    let Prompt::Conversation(conversation) = &mut generation.prompt else {
        return;
    };
    let is_system = |message: &Message| matches!(message, Message::System(_));
    if let Some(text) = &pool.pool().system_prompt
        && !conversation.messages.iter().any(is_system)
    {
        let message = Message::System(vec![Part::Text(text.to_string())]);
        conversation.messages.insert(0, message);
    }
}

fn json(document: Bytes) -> Response<Bytes> {
    let length = document.len();
    let mut response = Response::new(document);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// The worker does not keep to the contract.
fn bad_reply(object: &ObjectRef, bad: BadReply) -> Failure {
    tracing::error!(pool = %object, error = %bad, "a worker's answer cannot be used");
    bad.into()
}
