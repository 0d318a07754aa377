//! The edge: `bodhi.inference.v1` over gRPC. It judges requests, asks the
//! model at work ([`Serving`]), and says answers and faults on the wire.

mod call;
mod generate;
mod listen;
mod validate;
mod watch;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bodhi_proto::chat::{
    ChatDecodeError, Embedding, Fault, FaultCode, Generation, Prompt, Reranking, Usage,
};
use bodhi_proto::wire::inference as pb;
use bodhi_proto::wire::inference::inference_server::{Inference, InferenceServer};
use futures_util::stream::{BoxStream, StreamExt as _};
use tokio::sync::watch as value;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use self::call::Call;
use self::generate::Replies;
use crate::config::Feature;
use crate::metrics::{Counters, Method};
use crate::serving::{Answers, Serving};
use crate::state::State;

pub use listen::Listener;

/// Requests of one connection at once. Beyond the slots they wait in the queue, which refuses.
const STREAMS_MAX: u32 = 1024;
/// Largest request: more than a data plane takes in.
const REQUEST_MAX: usize = 48 << 20;
/// Largest answer: 2,048 vectors of 4,096 numbers, and some more.
const ANSWER_MAX: usize = 48 << 20;
/// A connection that says nothing is asked, and closed when it does not answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(5));

/// The service. Clones are the same one.
#[derive(Clone)]
pub struct Service {
    state: Arc<State>,
    counters: Arc<Counters>,
    in_flight: InFlight,
}

/// The requests in flight. Clones see the same ones.
#[derive(Debug, Clone, Default)]
pub struct InFlight {
    count: Arc<value::Sender<usize>>,
    cut: CancellationToken,
    last_word: Arc<OnceLock<Fault>>,
}

impl InFlight {
    /// How many there are.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Returns when there are none.
    pub async fn ended(&self) {
        // The sender is ours: it cannot be gone.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Ends each with this fault, and all watching.
    pub fn cut(&self, fault: Fault) {
        // The first one counts: it is the reason.
        let _ = self.last_word.set(fault);
        self.cut.cancel();
    }

    /// What those who are cut are told.
    fn last_word(&self) -> Fault {
        let unsaid = || Fault::new(FaultCode::Draining, "the worker goes down");
        self.last_word.get().cloned().unwrap_or_else(unsaid)
    }
}

impl Service {
    /// A service that answers by `state`.
    pub fn new(state: Arc<State>, counters: Arc<Counters>) -> Self {
        Self {
            state,
            counters,
            in_flight: InFlight::default(),
        }
    }

    /// The requests in flight.
    pub fn in_flight(&self) -> InFlight {
        self.in_flight.clone()
    }

    /// Serves until `shutdown`, then closes the connections when their requests have ended.
    /// Every limit is said, none is left to a default of "unlimited".
    ///
    /// # Errors
    /// The transport failed.
    pub async fn serve(
        self,
        listener: Listener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let service = InferenceServer::new(self)
            .max_decoding_message_size(REQUEST_MAX)
            .max_encoding_message_size(ANSWER_MAX);
        tonic::transport::Server::builder()
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_local_error_reset_streams(Some(256))
            .http2_max_pending_accept_reset_streams(Some(20))
            .http2_keepalive_interval(Some(KEEPALIVE.0))
            .http2_keepalive_timeout(Some(KEEPALIVE.1))
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .add_service(service)
            .serve_with_incoming_shutdown(listener.incoming(), shutdown)
            .await
    }

    fn begin(&self, method: Method) -> Call {
        Call::new(Arc::clone(&self.counters), method, self.in_flight.clone())
    }

    fn serving(&self, feature: Feature) -> Result<Arc<Serving>, Fault> {
        let serving = self.state.serving()?;
        match serving.serves(feature) {
            true => Ok(serving),
            false => Err(Fault::new(
                FaultCode::Unsupported,
                format!("this model does not serve {feature}"),
            )),
        }
    }

    async fn answers(&self, request: pb::Generation) -> Result<Answers, Fault> {
        let generation = Generation::decode(request).map_err(malformed)?;
        let serving = self.serving(feature_of(&generation.prompt))?;
        validate::generation(&generation, serving.vocabulary())?;
        serving.generate(generation).await
    }

    async fn embedded(&self, request: pb::Embedding) -> Result<(pb::Embedded, Usage), Fault> {
        let embedding = Embedding::decode(request).map_err(malformed)?;
        let serving = self.serving(Feature::Embeddings)?;
        validate::embedding(&embedding, serving.vocabulary())?;
        let embedded = serving.embed(embedding).await?;
        let usage = prompt_only(embedded.prompt_tokens);
        Ok((embedded.encode(), usage))
    }

    async fn reranked(&self, request: pb::Reranking) -> Result<(pb::Reranked, Usage), Fault> {
        let reranking = Reranking::decode(request);
        let serving = self.serving(Feature::Rerank)?;
        validate::reranking(&reranking)?;
        let reranked = serving.rerank(reranking).await?;
        let usage = prompt_only(reranked.prompt_tokens);
        Ok((reranked.encode(), usage))
    }

    async fn counted(&self, request: pb::Prompt) -> Result<(pb::Counted, Usage), Fault> {
        let prompt = Prompt::decode(request).map_err(malformed)?;
        let serving = self.serving(feature_of(&prompt))?;
        validate::prompt(&prompt, serving.vocabulary())?;
        let tokens = serving.count(prompt).await?;
        // Counted, not computed: nothing was used.
        Ok((pb::Counted { tokens }, Usage::default()))
    }
}

#[tonic::async_trait]
impl Inference for Service {
    type GenerateStream = BoxStream<'static, Result<pb::Reply, Status>>;
    type WatchStream = BoxStream<'static, Result<pb::Report, Status>>;

    async fn generate(
        &self,
        request: Request<pb::Generation>,
    ) -> Result<Response<Self::GenerateStream>, Status> {
        let mut call = self.begin(Method::Generate);
        let answers = call.run(self.answers(request.into_inner())).await?;
        Ok(Response::new(Replies::new(answers, call).boxed()))
    }

    async fn embed(
        &self,
        request: Request<pb::Embedding>,
    ) -> Result<Response<pb::Embedded>, Status> {
        let call = self.begin(Method::Embed);
        call.answer(self.embedded(request.into_inner())).await
    }

    async fn rerank(
        &self,
        request: Request<pb::Reranking>,
    ) -> Result<Response<pb::Reranked>, Status> {
        let call = self.begin(Method::Rerank);
        call.answer(self.reranked(request.into_inner())).await
    }

    async fn count(&self, request: Request<pb::Prompt>) -> Result<Response<pb::Counted>, Status> {
        let call = self.begin(Method::Count);
        call.answer(self.counted(request.into_inner())).await
    }

    async fn watch(
        &self,
        _: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let reports = watch::reports(Arc::clone(&self.state), self.in_flight.cut.clone());
        Ok(Response::new(reports.boxed()))
    }
}

fn feature_of(prompt: &Prompt) -> Feature {
    match prompt {
        Prompt::Conversation(_) => Feature::Chat,
        Prompt::Raw(_) => Feature::Completions,
    }
}

fn malformed(error: ChatDecodeError) -> Fault {
    Fault::new(FaultCode::InvalidValue, error.to_string()).of(error.field)
}

fn prompt_only(prompt: u32) -> Usage {
    Usage {
        prompt,
        ..Usage::default()
    }
}
