//! Asking workers: choosing one, asking another while none has acted, and reading what comes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::future::join_all;
use futures_util::stream::{SelectAll, StreamExt as _};
use tokio::time::Instant;
use tonic::Streaming;

use bodhi_proto::chat::{
    Embedded, Embedding, Fault, FaultCode, Generation, ReplyEvent, Reranked, Reranking,
};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::WorkerId;
use bodhi_proto::wire::inference as pb;

use super::{NotRun, Routed};
use crate::api::error::Failure;
use crate::balance::{self, Head};
use crate::proxy::Proxy;
use crate::workers::{CallFailure, Client, NotAtOnce, Seat};

/// Answers on their way, one for each prompt.
pub(super) struct Asked(SelectAll<One>);

/// The answer to one prompt.
struct One {
    prompt: usize,
    seat: Seat,
    object: ObjectRef,
    /// Awaited before anything was said to the client.
    first: Option<pb::Reply>,
    rest: Streaming<pb::Reply>,
    ended: bool,
}

impl Asked {
    /// The next events, and the number of the prompt they answer; `None` once all is answered.
    ///
    /// # Errors
    /// A worker failed or was lost.
    pub(super) async fn next(&mut self) -> Result<Option<(usize, Vec<ReplyEvent>)>, Failure> {
        self.0.next().await.transpose()
    }
}

impl Stream for One {
    type Item = Result<(usize, Vec<ReplyEvent>), Failure>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let reply = match self.first.take() {
            Some(reply) => Some(Ok(reply)),
            None => std::task::ready!(self.rest.poll_next_unpin(cx)),
        };
        Poll::Ready(Some(self.read(reply)))
    }
}

impl One {
    fn read(
        &mut self,
        reply: Option<Result<pb::Reply, tonic::Status>>,
    ) -> Result<(usize, Vec<ReplyEvent>), Failure> {
        let events = match reply {
            Some(Ok(reply)) => ReplyEvent::decode_all(reply).map_err(|error| {
                Fault::new(
                    FaultCode::Failed,
                    format!("it cannot be understood: {error}"),
                )
            }),
            Some(Err(status)) => Err(Fault::from(&status)),
            None => Err(Fault::new(FaultCode::Lost, "it stopped in the middle")),
        };
        let events = events.map_err(|fault| {
            self.ended = true;
            failure(&self.object, fault)
        })?;
        if let Some(ReplyEvent::End { load, .. }) = events.last() {
            self.ended = true;
            if let Some(load) = load {
                self.seat.worker().reported(load, Instant::now());
            }
        }
        Ok((self.prompt, events))
    }
}

impl Proxy {
    /// Asks for every generation, each of a worker of its own choice.
    pub(super) async fn ask_workers(
        &self,
        routed: &Routed<'_>,
        generations: impl Iterator<Item = Generation>,
    ) -> Result<Asked, NotRun> {
        let asked = generations
            .enumerate()
            .map(|(prompt, generation)| self.ask_one(routed, prompt, generation));
        let asked = join_all(asked).await;
        let begun = |one: &Result<One, NotRun>| matches!(one, Ok(_) | Err(NotRun::Failed(_)));
        let any_begun = asked.iter().any(begun);
        let mut streams = SelectAll::new();
        for one in asked {
            streams.push(one.map_err(|not_run| match not_run {
                NotRun::Untouched(failure) if any_begun => NotRun::Failed(failure),
                NotRun::Moved if any_begun => NotRun::Failed(moved_in_the_middle()),
                not_run => not_run,
            })?);
        }
        Ok(Asked(streams))
    }

    async fn ask_one(
        &self,
        routed: &Routed<'_>,
        prompt: usize,
        generation: Generation,
    ) -> Result<One, NotRun> {
        let object = routed.pool.pool().object.clone();
        let head = balance::head_of(&generation.prompt);
        let request = generation.encode();
        let (seat, (first, rest)) = self
            .on_some_worker(routed, head, async |mut client: Client| {
                let mut rest = client.generate(request.clone()).await?.into_inner();
                let first = rest.message().await?;
                Ok((first, rest))
            })
            .await?;
        let lost = || Fault::new(FaultCode::Lost, "it answered nothing");
        Ok(One {
            prompt,
            seat,
            first: Some(first.ok_or_else(|| failure(&object, lost()))?),
            rest,
            ended: false,
            object,
        })
    }

    /// Embeds on one of the pool's workers.
    pub(super) async fn embed(
        &self,
        routed: &Routed<'_>,
        embedding: Embedding,
    ) -> Result<Embedded, NotRun> {
        let request = embedding.encode();
        let head = Head::default();
        let (_, embedded) = self
            .on_some_worker(routed, head, async |mut client: Client| {
                Ok(client.embed(request.clone()).await?.into_inner())
            })
            .await?;
        Ok(Embedded::decode(embedded))
    }

    /// Reranks on one of the pool's workers.
    pub(super) async fn rerank(
        &self,
        routed: &Routed<'_>,
        reranking: Reranking,
    ) -> Result<Reranked, NotRun> {
        let request = reranking.encode();
        let head = Head::default();
        let (_, reranked) = self
            .on_some_worker(routed, head, async |mut client: Client| {
                Ok(client.rerank(request.clone()).await?.into_inner())
            })
            .await?;
        Ok(Reranked::decode(reranked))
    }

    /// Asks one worker after the other until one acts.
    async fn on_some_worker<T>(
        &self,
        routed: &Routed<'_>,
        head: Head,
        ask: impl AsyncFn(Client) -> Result<T, tonic::Status>,
    ) -> Result<(Seat, T), NotRun> {
        let object = routed.pool.pool().object.clone();
        let mut tried: Vec<WorkerId> = Vec::new();
        let mut last = None;
        loop {
            let seat = match routed.pool.seat(head, &tried) {
                Ok(seat) => seat,
                Err(NotAtOnce::NoWorker) => self.hold(routed, head).await?,
                Err(NotAtOnce::AllTried) => {
                    // What a worker said of itself tells more.
                    let failure = last.unwrap_or_else(|| not_reachable(&object));
                    return Err(NotRun::Untouched(failure));
                }
            };
            let endpoint = Arc::clone(&seat.worker().endpoint);
            let called = match self.workers.client(&endpoint).await {
                Ok(client) => ask(client).await.map_err(CallFailure::from),
                Err(not_sent) => Err(CallFailure::NotSent(not_sent.to_string())),
            };
            match called {
                Ok(answer) => return Ok((seat, answer)),
                Err(CallFailure::NotSent(error)) => {
                    tracing::warn!(worker = %endpoint.id, %error, "a worker cannot be reached");
                }
                Err(CallFailure::Fault(fault)) => {
                    let failed = failure(&object, fault.clone());
                    if !may_go_elsewhere(fault.code) {
                        return Err(failed.into());
                    }
                    last = Some(failed);
                }
            }
            tried.push(endpoint.id.clone());
        }
    }
}

/// Some of a request's prompts were given to workers before its name was led elsewhere.
fn moved_in_the_middle() -> Failure {
    Failure::NotReady("The model moved while a part of this request was served. Ask again.".into())
}

/// No worker could be called.
fn not_reachable(object: &ObjectRef) -> Failure {
    Failure::BadGateway {
        code: "worker_lost",
        message: format!(
            "None of the workers of '{}' could be reached.",
            object.short()
        ),
    }
}

/// Whether the worker has not acted on the request.
fn may_go_elsewhere(code: FaultCode) -> bool {
    match code {
        FaultCode::QueueFull | FaultCode::ModelLoading | FaultCode::Draining => true,
        FaultCode::InvalidValue
        | FaultCode::ContextLengthExceeded
        | FaultCode::Unsupported
        | FaultCode::Failed
        | FaultCode::Lost => false,
    }
}

/// What a client is told of a worker's fault.
fn failure(object: &ObjectRef, fault: Fault) -> Failure {
    let name = object.short();
    let invalid = |code, fault: Fault| Failure::InvalidRequest {
        code,
        message: fault.message,
        param: fault.param,
    };
    match fault.code {
        FaultCode::InvalidValue => invalid("invalid_value", fault),
        FaultCode::ContextLengthExceeded => invalid("context_length_exceeded", fault),
        FaultCode::Unsupported => Failure::Unsupported(fault.message),
        FaultCode::QueueFull => Failure::QueueFull(fault.message),
        FaultCode::ModelLoading => Failure::ModelLoading(fault.message),
        FaultCode::Draining => Failure::NotReady(format!("The worker of '{name}' is stopping.")),
        FaultCode::Failed | FaultCode::Lost => {
            tracing::warn!(pool = %object, error = %fault, "a worker was lost");
            Failure::BadGateway {
                code: "worker_lost",
                message: format!("The worker of '{name}' was lost: {}.", fault.message),
            }
        }
    }
}
