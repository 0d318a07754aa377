//! Whose a response is: asked by data planes, kept by the store.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bodhi_proto::names::ObjectRef;
use futures_util::future::BoxFuture;

use crate::store::{ResponseRecord, Store};

/// Whose a response is and where it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseOwner {
    /// Whom the token was minted for.
    pub owner: String,
    /// The ApiModel that made it.
    pub upstream: ObjectRef,
}

/// The records cannot be reached at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("response owners are unavailable: {0}")]
pub struct OwnersError(pub String);

/// What both operations answer.
pub type OwnersFuture<'a, T> = BoxFuture<'a, Result<T, OwnersError>>;

/// What the sync server needs of the store.
pub trait ResponseOwners: Send + Sync + 'static {
    /// Remembers whose a response is; the first word counts.
    fn record(&self, id: String, owner: ResponseOwner) -> OwnersFuture<'_, ()>;

    /// Whose a response is, if anybody's.
    fn find(&self, id: String) -> OwnersFuture<'_, Option<ResponseOwner>>;
}

/// The store's records.
pub struct StoreOwners(pub Arc<dyn Store>);

impl ResponseOwners for StoreOwners {
    fn record(&self, id: String, owner: ResponseOwner) -> OwnersFuture<'_, ()> {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        let record = ResponseRecord {
            id,
            upstream: owner.upstream,
            owner: owner.owner,
            created: since_epoch.map_or(0, |d| d.as_secs().cast_signed()),
        };
        Box::pin(async move {
            let done = self.0.record_responses(vec![record]).await;
            done.map_err(|e| OwnersError(e.to_string()))
        })
    }

    fn find(&self, id: String) -> OwnersFuture<'_, Option<ResponseOwner>> {
        Box::pin(async move {
            let found = self.0.find_response(id).await;
            let found = found.map_err(|e| OwnersError(e.to_string()))?;
            Ok(found.map(|record| ResponseOwner {
                owner: record.owner,
                upstream: record.upstream,
            }))
        })
    }
}
