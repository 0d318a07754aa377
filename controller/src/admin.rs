//! The admin API under `/bodhi/v1`: tokens, keys, resources, audit, explain; with
//! its description at `/openapi.json` and a page to try it at `/swagger-ui`.
//!
//! A caller shows a token of the store, or comes by the [socket](serve_socket) that only our own
//! user opens; what it may do is in each handler's first line. No answer carries a CORS
//! header: another site's script has no business here. Keys go in and never come out; a token's
//! text comes out once.
//!
//! The rest of the controller is reached through small traits ([`Resources`],
//! [`ResourceWriter`], [`Routing`], [`Revocations`]), so that files and an API
//! server, one process and many, look alike from here.

mod audit;
mod auth;
mod error;
mod explain;
mod extract;
mod keys;
mod manifests;
mod master_keys;
mod models;
mod openapi;
mod socket;
mod status;
mod tokens;
mod trial;

pub use error::ApiError;
pub use manifests::{ApplyWriter, FileWriter, Rescan, ResourceWriter, WriteError, Written};
pub use socket::serve_socket;
pub use tokens::mint;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, header};
use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::snapshot::{EgressScope, Snapshot};
use futures_util::future::BoxFuture;
use serde_json::Value;

use crate::store::{ObjectUid, Rotation, Store};

/// Largest body of an admin call; an object of the API server is smaller.
const BODY_MAX: usize = 1024 * 1024;

/// The resources as the index holds them.
pub trait Resources: Send + Sync + 'static {
    /// All of a kind, as kubectl's JSON, in order of namespace and name.
    fn list(&self, kind: ObjectKind) -> Vec<Value>;
    /// One of them.
    fn get(&self, object: &ObjectRef) -> Option<Value>;
}

/// What was compiled last.
pub trait Routing: Send + Sync + 'static {
    /// Upstreams, credentials, names and policy; its tokens are not looked at.
    fn snapshot(&self) -> Arc<Snapshot>;
}

/// Which data planes have heard of a revocation.
pub trait Revocations: Send + Sync + 'static {
    /// Waits a moment for data planes to apply `change_seq`, then tells them apart by name.
    fn applied(&self, change_seq: u64) -> BoxFuture<'_, Applied>;
}

/// How far a change has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Applied {
    /// Data planes that have applied it.
    pub applied: Vec<String>,
    /// Connected ones that have not said so yet.
    pub pending: Vec<String>,
}

/// What the gateway says about itself to `/status`.
pub trait Health: Send + Sync + 'static {
    /// Connected data planes, as a list of objects with at least `name`.
    fn data_planes(&self) -> Value;
    /// What is wrong in the sources (files, lines), as a list.
    fn problems(&self) -> Value;
}

/// Everything the admin API works with. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    /// Tokens, keys, audit, statuses.
    pub store: Arc<dyn Store>,
    /// Rotation of the master keys that the store uses.
    pub rotation: Arc<Rotation>,
    /// Resources, to read.
    pub resources: Arc<dyn Resources>,
    /// Resources, to write.
    pub writer: Arc<dyn ResourceWriter>,
    /// What they were compiled to.
    pub routing: Arc<dyn Routing>,
    /// How far revocations have come.
    pub revocations: Arc<dyn Revocations>,
    /// What `/status` shows.
    pub health: Arc<dyn Health>,
    /// Where test and fetch-models may lead, by namespace.
    pub egress: Arc<dyn Fn(&str) -> EgressScope + Send + Sync>,
    /// Now, in Unix seconds.
    pub clock: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl AdminState {
    fn now(&self) -> i64 {
        (self.clock)()
    }

    /// An object, or 404.
    fn object(&self, object: &ObjectRef) -> Result<Value, ApiError> {
        self.resources
            .get(object)
            .ok_or_else(|| ApiError::not_found(object))
    }
}

/// The uid in an object's metadata: what its stored key belongs to.
fn uid_of(manifest: &Value) -> Option<ObjectUid> {
    let uid = manifest.pointer("/metadata/uid")?.as_str()?;
    ObjectUid::parse(uid).ok()
}

/// `/bodhi/v1/…`, `/openapi.json` and `/swagger-ui`; any other path is 404 in the envelope.
pub fn router(state: AdminState) -> Router {
    let (api, document) = openapi::describe().split_for_parts();
    let no_store = |mut response: axum::response::Response| async move {
        let value = HeaderValue::from_static("no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, value);
        response
    };
    api.layer(axum::middleware::map_response(no_store))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(state)
        .merge(openapi::documents(document))
        .fallback(|| async { ApiError::unknown_path() })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
}

#[cfg(test)]
mod tests;
