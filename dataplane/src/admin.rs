//! The admin port: probes, metrics and a dump of what is served from. No secrets, no credential.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;

use bodhi_net::drain::{Phase, Signal};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::Serving;

use crate::active::Active;
use crate::proxy::Shared;
use crate::telemetry::metrics::{PoolScrape, Scrape};
use crate::workers::Pool;

/// What the admin port tells of.
#[derive(Clone)]
pub struct Admin {
    /// The request path's shared parts.
    pub shared: Arc<Shared>,
    /// How far the shutdown is.
    pub drain: Signal,
    /// What the control stream counts.
    pub control: Arc<dyn ControlState>,
}

/// What the control stream knows of itself.
pub trait ControlState: Send + Sync {
    /// Whether a controller is connected.
    fn connected(&self) -> bool;
    /// How many streams to a controller have begun since the start.
    fn streams(&self) -> u64;
    /// How often something else was held than had been sent.
    fn divergences(&self) -> u64;
}

impl Admin {
    /// Answers on `listener` for as long as the process lives.
    pub async fn serve(self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                    continue;
                }
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let response = admin.answer(&request);
                    async { Ok::<_, Infallible>(response) }
                });
                // A probe that goes away in the middle is nobody's concern.
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(std::time::Duration::from_secs(10))
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".into());
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => self.ready(),
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics());
                response.headers_mut().insert(
                    CONTENT_TYPE,
                    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
                );
                response
            }
            "/debug/snapshot" => self.dump(),
            _ => text(
                StatusCode::NOT_FOUND,
                "see /livez, /readyz, /metrics, /debug/snapshot\n".into(),
            ),
        }
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        let not = |why: &str| text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n"));
        match (self.drain.phase(), self.shared.active.load().is_some()) {
            (Phase::Serving, true) => text(StatusCode::OK, "ok\n".into()),
            (Phase::Serving, false) => not("no configuration has been received yet"),
            _ => not("shutting down"),
        }
    }

    fn metrics(&self) -> String {
        let active = self.shared.active.load_full();
        let snapshot = active.as_deref().map(|a| &a.snapshot);
        let mut providers: Vec<_> = active
            .iter()
            .flat_map(|a| a.providers())
            .map(|p| (p.upstream.object.clone(), Arc::clone(&p.counters)))
            .collect();
        providers.sort_by(|a, b| a.0.cmp(&b.0));
        let pools = active.iter().flat_map(|a| a.pools());
        let mut pools: Vec<_> = pools.map(|(object, pool)| scraped(object, pool)).collect();
        pools.sort_by(|a, b| a.object.cmp(&b.object));
        self.shared.metrics.render(&Scrape {
            providers,
            pools,
            names: snapshot.map_or(0, |s| s.table.len()),
            tokens: snapshot.and_then(|s| s.tokens.as_ref()).map(|t| t.len()),
            connected: self.control.connected(),
            streams: self.control.streams(),
            divergences: self.control.divergences(),
            log_dropped: self.shared.log.dropped(),
            body_bytes: self.shared.memory.held() as u64,
        })
    }

    fn dump(&self) -> Response<Full<Bytes>> {
        let Some(active) = self.shared.active.load_full() else {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "nothing is served yet\n".into(),
            );
        };
        let mut response = text(StatusCode::OK, format!("{:#}\n", describe(&active)));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

fn scraped(object: &ObjectRef, pool: &Pool) -> PoolScrape {
    let (in_flight, held) = pool.demand();
    PoolScrape {
        object: object.clone(),
        workers: pool.workers(),
        in_flight,
        held,
    }
}

/// Names, where they lead and which providers there are; counts of the rest.
fn describe(active: &Active) -> serde_json::Value {
    let snapshot = &active.snapshot;
    let mut names: Vec<_> = snapshot.table.names().collect();
    names.sort_by(|a, b| a.key.cmp(&b.key));
    let names = names.into_iter().map(|served| {
        let serving = match &served.serving {
            Serving::Routes(routes) => json!({
                "routes": routes.iter().map(|r| r.upstream.to_string()).collect::<Vec<_>>()
            }),
            Serving::Refused(refusal) => json!({
                "reason": &*refusal.reason, "message": &*refusal.message
            }),
        };
        json!({"name": served.key.to_string(), "owner": served.owner.to_string(), "serving": serving})
    });
    let mut upstreams: Vec<_> = active.providers().map(|p| &p.upstream).collect();
    upstreams.sort_by(|a, b| a.object.cmp(&b.object));
    let upstreams = upstreams.into_iter().map(|u| {
        json!({
            "object": u.object.to_string(), "format": u.format.as_str(),
            "baseUrl": u.base_url.to_string(),
            "credential": snapshot.credentials.contains_key(&u.object),
        })
    });
    let mut pools: Vec<_> = active.pools().collect();
    pools.sort_by(|a, b| a.0.cmp(b.0));
    let pools = pools.into_iter().map(|(object, pool)| {
        let workers = snapshot.workers.get(object);
        let workers = workers.into_iter().flat_map(|all| all.iter());
        let (running, held) = pool.demand();
        json!({
            "object": object.to_string(), "running": running, "held": held,
            "workers": workers
                .map(|w| json!({"id": &*w.id.worker, "address": w.address.to_string()}))
                .collect::<Vec<_>>(),
        })
    });
    json!({
        "names": names.collect::<Vec<_>>(),
        "upstreams": upstreams.collect::<Vec<_>>(),
        "pools": pools.collect::<Vec<_>>(),
        "tokens": snapshot.tokens.as_ref().map(|t| t.len()),
    })
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}
