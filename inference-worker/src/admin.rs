//! The admin port: probes and metrics. No secrets, no credential.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bodhi_net::accept;
use bodhi_proto::chat::Phase;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::metrics::{Counters, Scrape};
use crate::state::{State, describe};

/// A request's head has to be complete by then.
const HEAD: Duration = Duration::from_secs(10);

/// What the admin port tells of.
#[derive(Clone)]
pub struct Admin {
    /// How far the worker is.
    pub state: Arc<State>,
    /// What was counted.
    pub counters: Arc<Counters>,
}

impl Admin {
    /// Answers on `listener` for as long as the process lives.
    pub async fn serve(self, listener: TcpListener) {
        let take = |(tcp, _)| drop(tokio::spawn(self.clone().connection(tcp)));
        accept::forever(|| listener.accept(), take).await;
    }

    async fn connection(self, tcp: TcpStream) {
        let service = service_fn(|request| {
            let response = self.answer(&request);
            async { Ok::<_, Infallible>(response) }
        });
        // A probe that goes away in the middle is nobody's concern.
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .serve_connection(TokioIo::new(tcp), service)
            .await;
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".into());
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok\n".into()),
            "/startupz" => self.probe(has_started),
            "/readyz" => self.probe(|phase| *phase == Phase::Ready),
            "/metrics" => self.metrics(),
            _ => {
                let see = "see /livez, /startupz, /readyz, /metrics\n";
                text(StatusCode::NOT_FOUND, see.into())
            }
        }
    }

    fn probe(&self, good: impl FnOnce(&Phase) -> bool) -> Response<Full<Bytes>> {
        let phase = self.state.phase();
        let status = match good(&phase) {
            true => StatusCode::OK,
            false => StatusCode::SERVICE_UNAVAILABLE,
        };
        text(status, format!("{}\n", describe(&phase)))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let report = self.state.report();
        let mut response = text(
            StatusCode::OK,
            self.counters.render(&Scrape {
                phase: report.phase,
                load: report.load,
            }),
        );
        response.headers_mut().insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        response
    }
}

/// A start that stands still ends by itself, so that this may be asked for as long as it takes.
fn has_started(phase: &Phase) -> bool {
    matches!(phase, Phase::Ready | Phase::Draining)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests {
    use bodhi_proto::chat::Progress;

    use super::*;
    use crate::start::fake::testing;

    #[test]
    fn probes_follow_the_phase() {
        let admin = Admin {
            state: Arc::default(),
            counters: Arc::default(),
        };
        let ask = |path: &str| {
            let request = Request::get(path).body(()).unwrap();
            admin.answer(&request).status().as_u16()
        };
        let all = || ["/livez", "/startupz", "/readyz"].map(ask);
        assert_eq!(all(), [200, 503, 503]);
        admin.state.move_to(Phase::Loading(Progress::new(1, 1000)));
        assert_eq!(all(), [200, 503, 503]);
        admin.state.ready(testing::serving());
        assert_eq!(all(), [200, 200, 200]);
        admin.state.move_to(Phase::Draining);
        assert_eq!(all(), [200, 200, 503]);
        assert_eq!(ask("/metrics"), 200);
        assert_eq!(ask("/"), 404);
    }
}
