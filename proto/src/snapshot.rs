//! All a data plane needs to serve, already valid.
//!
//! A snapshot is immutable and shared; a change makes a new one that reuses
//! every part it did not touch. What a request needs is found without a lock:
//! [`Table`](crate::routing::Table) for names, plain maps for the rest.

mod credential;
mod decode;
mod encode;
mod policy;
mod pool;
mod resource;
mod route;
mod service_account;
mod token;
mod upstream;

pub use credential::{AllowedOrigins, Credential, OriginPattern, OriginPatternError};
pub use decode::DecodeError;
pub use policy::{Policy, ResponsesIsolation};
pub use pool::{
    Balancing, LocalFeatures, Pool, PoolState, WorkerAddress, WorkerEndpoint, WorkerId,
};
pub use resource::{Kind, KindSet, POLICY_NAME, Resource};
pub use route::{Pattern, Refusal, Route, RouteModel, ServedKey, ServedName, Serving, Visibility};
pub use service_account::{Curve, KeyMaterial, MappedAccount, ServiceAccounts, VerifyingKey};
pub use token::{Globs, ModelCap, Scope, Token, TokenHash, TokenLimits, TokenTable};
pub use upstream::{
    Auth, BaseUrl, BaseUrlError, EgressScope, Endpoint, Features, Origin, OutputLimitField, Roots,
    Scheme, Timeouts, Upstream,
};

use std::collections::HashMap;
use std::sync::Arc;

use crate::names::ObjectRef;
use crate::routing::Table;

/// Map with the hasher used on the request path.
pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What a data plane serves from at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Providers by the ApiModel they were compiled from.
    pub upstreams: Arc<Map<ObjectRef, Arc<Upstream>>>,
    /// Keys by the ApiModel that uses them; at most one each.
    pub credentials: Arc<Map<ObjectRef, Arc<Credential>>>,
    /// Local models by their Alias.
    pub pools: Arc<Map<ObjectRef, Arc<Pool>>>,
    /// The workers of each pool, in order of their ids; a pool without any is left out.
    pub workers: Arc<Map<ObjectRef, Arc<[Arc<WorkerEndpoint>]>>>,
    /// Names, by family, exact and prefix.
    pub table: Arc<Table>,
    /// Tokens by hash. `None`: no table was ever received, which is 503 and not 401.
    pub tokens: Option<TokenTable>,
    /// Gateway-wide lists and caps.
    pub policy: Arc<Policy>,
    /// Upstreams and pools that this data plane could not accept and holds no earlier version of.
    /// A route to one of them answers this refusal.
    pub rejected: Arc<Map<ObjectRef, Refusal>>,
    /// What it contains of each source, as the header `x-bodhi-mark` shows it.
    pub mark: Arc<str>,
}
