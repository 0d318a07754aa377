//! Who keeps statuses.

use std::sync::Arc;

use bodhi_proto::names::ObjectRef;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::Statuses;
use crate::reconcile::World;
use crate::store::{Store, StoreError};

/// Keeps statuses somewhere.
pub trait StatusWriter: Send {
    /// What is kept now, of which times of transitions are taken; `None` while it is another
    /// controller's to say.
    fn kept(&mut self, world: &World) -> Option<Arc<Statuses>>;

    /// Keeps these, soon; nothing is written where nothing differs.
    fn keep<'a>(&'a mut self, world: &'a World, statuses: Arc<Statuses>) -> BoxFuture<'a, ()>;

    /// Returns when [`StatusWriter::kept`] may answer otherwise although no object has changed.
    fn turned(&mut self) -> BoxFuture<'_, ()>;
}

/// Statuses in the store, which nobody else writes.
pub struct StoreStatuses {
    store: Arc<dyn Store>,
    kept: Arc<Statuses>,
}

impl StoreStatuses {
    /// Reads what is kept.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let kept = store.statuses().await?.into_iter().collect();
        Ok(Self {
            store,
            kept: Arc::new(kept),
        })
    }
}

impl StatusWriter for StoreStatuses {
    fn kept(&mut self, _: &World) -> Option<Arc<Statuses>> {
        Some(Arc::clone(&self.kept))
    }

    fn keep<'a>(&'a mut self, _: &'a World, statuses: Arc<Statuses>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let kept = std::mem::replace(&mut self.kept, statuses);
            let differs =
                |(object, status): &(&ObjectRef, &Value)| kept.get(*object) != Some(*status);
            let changed: Vec<_> = self
                .kept
                .iter()
                .filter(differs)
                .map(|(object, status)| (object.clone(), status.clone()))
                .collect();
            if changed.is_empty() {
                return;
            }
            if let Err(error) = self.store.put_statuses(changed).await {
                tracing::warn!(%error, "statuses could not be kept; they are written with the next change");
            }
        })
    }

    fn turned(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}
