//! Paths that another part of the process answers: console, admin API and documents in
//! standalone mode. It runs on the control runtime; a serving thread only waits for it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tokio::runtime::Handle;

use crate::api::error::Failure;

type Answer = Pin<Box<dyn Future<Output = Response<Bytes>> + Send>>;

/// A service for whole requests.
#[derive(Clone)]
pub struct Fallback {
    service: Arc<dyn Fn(Request<Bytes>) -> Answer + Send + Sync>,
    runtime: Handle,
}

impl Fallback {
    /// `service` will run on `runtime`.
    pub fn new<F, A>(runtime: Handle, service: F) -> Self
    where
        F: Fn(Request<Bytes>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Bytes>> + Send + 'static,
    {
        Self {
            service: Arc::new(move |request| Box::pin(service(request))),
            runtime,
        }
    }

    /// Whether a path is the fallback's.
    pub fn takes(path: &str) -> bool {
        let under = |root: &str| {
            path.strip_prefix(root)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        ["/bodhi/v1", "/ui", "/swagger-ui"].into_iter().any(under) || path == "/openapi.json"
    }

    /// Lets the service answer.
    pub(crate) async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Failure> {
        let answer = self.runtime.spawn((self.service)(request));
        answer.await.map_err(|error| {
            tracing::error!(%error, "the admin service failed");
            Failure::Internal
        })
    }
}

impl fmt::Debug for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fallback")
    }
}
