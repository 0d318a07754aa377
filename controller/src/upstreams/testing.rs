//! A provider that answers by script and keeps what it was asked.

use std::sync::{Arc, Mutex};

use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{EgressScope, Roots};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Target;
use crate::api::ApiModelSpec;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    /// `Null` when it was empty.
    pub(crate) body: Value,
}

/// What the script says.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Body(u16, Bytes),
    /// The connection is closed without an answer.
    Close,
}

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::Body(status, body.to_string().into())
    }

    pub(crate) fn text(status: u16, body: &str) -> Self {
        Self::Body(status, body.to_owned().into())
    }
}

pub(crate) struct Provider {
    port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: JoinHandle<()>,
}

impl Provider {
    /// Listens on a free port of the loopback; `script` is told how many came before.
    pub(crate) async fn start(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (script, kept) = (Arc::new(script), Arc::clone(&asked));
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (script, kept) = (Arc::clone(&script), Arc::clone(&kept));
                let service = service_fn(move |request| {
                    answer(Arc::clone(&script), Arc::clone(&kept), request)
                });
                // A client that leaves early is no fault of the test.
                tokio::spawn(async move {
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                });
            }
        });
        Self {
            port,
            asked,
            serving,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Closes the port.
    pub(crate) async fn stop(self) {
        self.serving.abort();
        assert!(self.serving.await.unwrap_err().is_cancelled());
    }
}

async fn answer(
    script: Arc<impl Fn(usize) -> Reply>,
    kept: Arc<Mutex<Vec<Asked>>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let before = {
        let mut kept = kept.lock().unwrap();
        kept.push(Asked {
            path: head.uri.to_string(),
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        });
        kept.len() - 1
    };
    match script(before) {
        Reply::Body(status, body) => Ok(Response::builder()
            .status(status)
            .header("location", "/elsewhere")
            .body(Full::new(body))?),
        Reply::Close => Err("closed by script".into()),
    }
}

/// A spec with these fields over small defaults.
pub(crate) fn spec(fields: Value) -> ApiModelSpec {
    let mut spec = json!({"auth": {"type": "Stored"}, "models": ["m"]});
    for (key, value) in fields.as_object().unwrap() {
        spec[key] = value.clone();
    }
    serde_json::from_value(spec).unwrap()
}

/// The provider as a target with the key `sk-canary`.
pub(crate) fn target(provider: &Provider, format: &str, mut fields: Value) -> Target {
    fields["format"] = format.into();
    fields["baseUrl"] = format!("http://127.0.0.1:{}/v1/", provider.port()).into();
    let key = Some(Secret::new("sk-canary"));
    Target::new(&spec(fields), key, Roots::System, EgressScope::Standalone).unwrap()
}
