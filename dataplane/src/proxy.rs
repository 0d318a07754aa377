//! The life of a request: authenticate, take in the body, route, admit, prepare, call, relay.

pub mod body;
mod exchange;
mod failure;
mod farewell;
mod intake;
mod listing;
mod local;
pub(crate) mod passthrough;
mod relay;
mod responses;
mod route;
mod service;
pub mod stream;

pub use exchange::Exchange;
pub use relay::{Aborted, ReplyBody};
pub use responses::{LookupFuture, OwnerLookup, Owners, ResponseRecord, Unavailable};

use std::cell::{Cell as Counter, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwapOption, Cache};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use hyper::body::Incoming;
use tokio::sync::Notify;

use bodhi_net::drain::Signal;
use bodhi_net::identity;
use bodhi_proto::snapshot::Token;

use crate::active::Active;
use crate::admission::memory::{Budget, Gauge, Pressure};
use crate::anonymous::Anonymous;
use crate::api::cors::{self, CrossOrigin};
use crate::api::error::{ERROR_SOURCE, Failure};
use crate::api::headers::MARK;
use crate::api::{Call, Label, Surface, headers};
use crate::auth;
use crate::fallback::Fallback;
use crate::provider::Provider;
use crate::telemetry::{AccessLog, Metrics, RequestId, ThreadTelemetry};
use crate::upstream::{self, Upstreams};
use crate::workers::Connections;

use body::{Body, Prepared};
use farewell::Farewell;
use intake::{Admitted, unless_revoked};
use local::{NotRun, Routed};
use passthrough::SpliceBody;
use relay::{Relay, Source};
use route::Backend;

/// The one type of response body that upstreams give.
type UpstreamBody = upstream::UpstreamBody<SpliceBody>;

/// Where serving threads find the configuration; empty until the first has arrived.
pub type ActiveSlot = Arc<ArcSwapOption<Active>>;

/// Sizes and times of the request path.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Longest body of a request that generates or embeds, in bytes.
    pub generation_body: usize,
    /// Longest body of any other request, in bytes.
    pub other_body: usize,
    /// Longest pause within a request body.
    pub body_idle: Duration,
    /// Longest wait for a new response id's record before the id is passed on.
    pub record_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            generation_body: 32 << 20,
            other_body: 4 << 20,
            body_idle: Duration::from_secs(10),
            record_wait: Duration::from_millis(20),
        }
    }
}

/// What all serving threads share.
#[derive(Debug)]
pub struct Shared {
    /// The configuration served from.
    pub active: ActiveSlot,
    /// Tells those that wait that the configuration is another one.
    pub changed: Notify,
    /// Sizes and times.
    pub limits: Limits,
    /// What calls to upstreams share.
    pub upstreams: upstream::Shared,
    /// Bytes of bodies in flight.
    pub memory: Arc<Budget>,
    /// How close this process is to its memory limit.
    pub gauge: Arc<Gauge>,
    /// Who owns which response.
    pub owners: Owners,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where log lines go.
    pub log: AccessLog,
    /// `--anonymous`: who a caller without a credential is.
    pub anonymous: Option<Anonymous>,
    /// What answers console and admin paths in standalone mode.
    pub fallback: Option<Fallback>,
    /// Told when a local model gets its first request.
    pub demand: Arc<Notify>,
    /// Who we are to workers on other machines; without it none of those can be called.
    pub identity: Option<Arc<identity::Client>>,
}

/// One serving thread's request path.
pub struct Proxy {
    shared: Arc<Shared>,
    active: RefCell<Cache<ActiveSlot, Option<Arc<Active>>>>,
    upstreams: Upstreams<SpliceBody>,
    workers: Connections,
    telemetry: Rc<ThreadTelemetry>,
    farewell: Rc<Farewell>,
    next_id: Counter<RequestId>,
}

/// What a request is answered with, before its exchange is joined to it.
enum Reply {
    Full(Response<Bytes>),
    Relay(Response<Box<Relay>>),
}

/// A request that names a model, taken in.
#[derive(Clone, Copy)]
struct Asking<'a> {
    token: &'a Token,
    call: &'a Call,
    head: &'a Parts,
    asked: &'a str,
    body: &'a Body,
}

impl Proxy {
    /// A thread's own state, made on that thread, inside its runtime. `thread_id` is random,
    /// so that request ids do not repeat.
    pub fn new(shared: Arc<Shared>, drain: Signal, thread_id: u32) -> Self {
        let farewell = Rc::<Farewell>::default();
        tokio::task::spawn_local(Rc::clone(&farewell).follow(drain));
        Self {
            farewell,
            active: RefCell::new(Cache::new(Arc::clone(&shared.active))),
            telemetry: Rc::new(ThreadTelemetry {
                counters: shared.metrics.thread(),
                log: shared.log.clone(),
            }),
            next_id: Counter::new(RequestId {
                thread: thread_id,
                number: 0,
            }),
            upstreams: Upstreams::new(shared.upstreams.clone()),
            workers: Connections::new(shared.identity.clone()),
            shared,
        }
    }

    /// Serves one request. It never fails: failures are answers.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let mut exchange = self.begin(&request);
        let surface = Surface::of(request.uri().path(), request.headers());
        let cross_origin = self.cross_origin(&request);
        let active = self.active();
        if let Some(active) = &active {
            exchange.served_from(&active.mark);
        }
        let preflight = cross_origin != CrossOrigin::Nobody
            && cors::is_preflight(request.method(), request.headers());
        let served = match preflight {
            true => Ok(Reply::Full(
                cors::preflight(request.headers()).map(|()| Bytes::new()),
            )),
            false => {
                let active = active.as_deref();
                self.serve(request, surface, active, &mut exchange).await
            }
        };
        let reply = served.unwrap_or_else(|failure| {
            exchange.failed(&failure);
            Reply::Full(failure.response(surface, &exchange.id().to_string()))
        });
        let mark = exchange.mark().cloned();
        let mut response = match reply {
            Reply::Full(response) => {
                let status = response.status().as_u16();
                response.map(|body| exchange.full(status, body))
            }
            Reply::Relay(response) => Relay::joined(response, exchange),
        };
        cross_origin.say(response.headers_mut());
        if let Some(mark) = mark {
            response.headers_mut().insert(MARK, mark);
        }
        response
    }

    /// Which other origins' pages may read the answer.
    fn cross_origin(&self, request: &Request<Incoming>) -> CrossOrigin {
        match (&self.shared.fallback, &self.shared.anonymous) {
            (Some(_), _) if Fallback::takes(request.uri().path()) => CrossOrigin::Nobody,
            (_, None) => CrossOrigin::Anybody,
            (_, Some(anonymous)) => anonymous
                .allowed_origin(request.headers())
                .map_or(CrossOrigin::Nobody, CrossOrigin::One),
        }
    }

    /// Every request's future is as large as its largest path, and is moved: the rare paths are
    /// boxed, so that the common one stays small.
    async fn serve(
        &self,
        request: Request<Incoming>,
        surface: Surface,
        active: Option<&Active>,
        exchange: &mut Exchange,
    ) -> Result<Reply, Failure> {
        if let Some(anonymous) = &self.shared.anonymous {
            anonymous.guard(request.uri(), request.headers())?;
        }
        if let Some(fallback) = &self.shared.fallback
            && Fallback::takes(request.uri().path())
        {
            exchange.endpoint(Label::Admin);
            return Box::pin(self.fall_back(fallback, request)).await;
        }
        let call = Call::parse(request.method(), request.uri(), surface)?;
        exchange.endpoint(call.label());
        if self.shared.gauge.pressure() >= Pressure::Shed {
            return Err(Failure::MemoryPressure);
        }
        let active = active.ok_or_else(|| {
            Failure::NotReady("This data plane has not received its configuration yet.".into())
        })?;
        let token = self.authenticate(active, &call, request.uri(), request.headers())?;
        exchange.caller(&token.id);
        match call {
            Call::ListModels(_) | Call::GetModel(..) => {
                listing::answer(active, &token, &call, request.uri()).map(Reply::Full)
            }
            Call::Response(action, ref id) => {
                let of_one = (action, id.as_str());
                Box::pin(self.response_by_id(active, &token, &call, of_one, request, exchange))
                    .await
            }
            _ => self.forward(active, &token, &call, request, exchange).await,
        }
    }

    /// A request for the console or the admin API.
    async fn fall_back(
        &self,
        fallback: &Fallback,
        request: Request<Incoming>,
    ) -> Result<Reply, Failure> {
        let (head, body) = request.into_parts();
        let limit = self.shared.limits.other_body;
        let body = self.take_in_plain(&head.headers, body, limit).await?;
        let response = fallback.call(Request::from_parts(head, body)).await?;
        Ok(Reply::Full(response))
    }

    /// A request that names a model: takes it in and passes it on.
    async fn forward(
        &self,
        active: &Active,
        token: &Token,
        call: &Call,
        request: Request<Incoming>,
        exchange: &mut Exchange,
    ) -> Result<Reply, Failure> {
        let (head, incoming) = request.into_parts();
        let mut admitted = self.admit(call, &head.headers, incoming)?;
        let revocation = admitted.revocable();
        let work = self.forward_admitted(active, token, call, &head, admitted, exchange);
        unless_revoked(revocation, work).await
    }

    async fn forward_admitted(
        &self,
        active: &Active,
        token: &Token,
        call: &Call,
        head: &Parts,
        admitted: Admitted,
        exchange: &mut Exchange,
    ) -> Result<Reply, Failure> {
        let taken = self.take_in(call, admitted, exchange).await?;
        let body = &taken.body;
        let asked = route::asked_model(call, body)?;
        exchange.model(&asked);
        self.judge_links(token, active, body).await?;
        let asking = Asking {
            token,
            call,
            head,
            asked: &asked,
            body,
        };
        match self.dispatch(active, &asking, exchange).await {
            Ok(reply) => Ok(reply),
            Err(NotRun::Failed(failure)) => Err(failure),
            Err(not_run) => Box::pin(self.follow(not_run, active, &asking, exchange)).await,
        }
    }

    /// Sends what no worker has touched where its name leads now, for whom it may.
    ///
    /// Workers that are to go are hidden first, but not from a request that has chosen one by
    /// then; and a request that waits for one sees its name led elsewhere.
    async fn follow(
        &self,
        mut not_run: NotRun,
        before: &Active,
        asking: &Asking<'_>,
        exchange: &mut Exchange,
    ) -> Result<Reply, Failure> {
        let mut may_ask_others = true;
        loop {
            let newer = match (not_run, self.active()) {
                (NotRun::Failed(failure), _) => return Err(failure),
                (NotRun::Untouched(failure), Some(newer)) => {
                    let same = std::ptr::eq(Arc::as_ptr(&newer), before);
                    if same || !std::mem::take(&mut may_ask_others) {
                        return Err(failure);
                    }
                    newer
                }
                (NotRun::Moved, Some(newer)) => newer,
                // A configuration that was there stays until there is another.
                (NotRun::Untouched(_) | NotRun::Moved, None) => return Err(Failure::Internal),
            };
            let token =
                self.authenticate(&newer, asking.call, &asking.head.uri, &asking.head.headers)?;
            exchange.served_from(&newer.mark);
            exchange.caller(&token.id);
            let asking = Asking {
                token: &token,
                ..*asking
            };
            match self.dispatch(&newer, &asking, exchange).await {
                Ok(reply) => return Ok(reply),
                Err(again) => not_run = again,
            }
        }
    }

    /// The configuration that is served from now.
    fn active(&self) -> Option<Arc<Active>> {
        self.active.borrow_mut().load().clone()
    }

    /// Finds a request's route and calls whoever it leads to.
    async fn dispatch(
        &self,
        active: &Active,
        asking: &Asking<'_>,
        exchange: &mut Exchange,
    ) -> Result<Reply, NotRun> {
        let Asking {
            token,
            call,
            head,
            asked,
            body,
        } = *asking;
        let chosen = route::choose(active, token, call, asked)?;
        let provider = match &chosen.backend {
            Backend::Provider(provider) => provider,
            Backend::Pool(pool) => {
                let routed = Routed {
                    asking,
                    active,
                    chosen: &chosen,
                    pool,
                };
                return Box::pin(self.run(&routed, exchange)).await;
            }
        };
        let permit = provider.enter()?;
        let sent = passthrough::prepare(active, call, &chosen, provider, body);
        let head = passthrough::head(provider, &chosen.model, call, head)?;
        let response = self.call(provider, head, sent, exchange).await?;
        let recorder = self.recorder(call, &provider.upstream, token, &response);
        let (parts, body) = response.into_parts();
        let source = Source::Upstream {
            body,
            recorder,
            _permit: permit,
        };
        let relay = Relay::new(call, &parts.headers, source, self.farewell.place());
        Ok(Reply::Relay(Response::from_parts(parts, Box::new(relay))))
    }

    /// Asks a provider. The response's head is ready to be passed on.
    async fn call(
        &self,
        provider: &Provider,
        head: passthrough::Head,
        body: Prepared,
        exchange: &mut Exchange,
    ) -> Result<Response<UpstreamBody>, Failure> {
        exchange.attempt(&provider.upstream.object);
        let called = self
            .upstreams
            .call(&provider.upstream, head.with(SpliceBody::new(body)))
            .await;
        provider.counters.count(failure::outcome(&called));
        let mut response =
            called.map_err(|error| failure::before_response(&error, &provider.upstream.object))?;
        headers::filter_response(response.headers_mut());
        if response.status().is_client_error() || response.status().is_server_error() {
            let source = HeaderValue::from_static("upstream");
            response.headers_mut().insert(ERROR_SOURCE, source);
        }
        Ok(response)
    }

    fn begin(&self, request: &Request<Incoming>) -> Exchange {
        let id = self.next_id.get();
        self.next_id.set(RequestId {
            number: id.number + 1,
            ..id
        });
        Exchange::begin(id, request.method(), Rc::clone(&self.telemetry))
    }

    fn authenticate(
        &self,
        active: &Active,
        call: &Call,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Arc<Token>, Failure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs() as i64);
        let found = auth::authenticate(call.surface(), uri, headers, active.callers(), now);
        match (found, &self.shared.anonymous) {
            // Without a table, who sends a token may be more than anonymous.
            (Err(Failure::NotReady(text)), _) => Err(Failure::NotReady(text)),
            (Err(_), Some(anonymous)) => Ok(Arc::clone(&anonymous.token)),
            (found, _) => found,
        }
    }
}
