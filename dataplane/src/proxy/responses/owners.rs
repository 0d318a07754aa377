//! Who owns a response: this process's cache, and the controller behind it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use bodhi_proto::names::ObjectRef;

/// Records kept here; older ones are asked for again.
const CACHED: u64 = 10_000;
/// Longest wait for the controller's word on an id that is not in the cache.
const FIND_WAIT: Duration = Duration::from_millis(250);

/// Which upstream made a response, for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRecord {
    /// The response's or conversation's id.
    pub id: Arc<str>,
    /// The ApiModel that made it.
    pub upstream: ObjectRef,
    /// The owner of the token that asked for it.
    pub owner: Arc<str>,
}

/// No controller can be asked at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no controller can be asked")]
pub struct Unavailable;

/// A look-up under way.
pub type LookupFuture<T> = Pin<Box<dyn Future<Output = Result<T, Unavailable>> + Send>>;

/// The controller's store of records.
pub trait OwnerLookup: Send + Sync + 'static {
    /// The record of an id, if there is one.
    fn find(&self, id: &str) -> LookupFuture<Option<ResponseRecord>>;
    /// Keeps a record; done when it is confirmed.
    fn record(&self, record: ResponseRecord) -> LookupFuture<()>;
}

/// Records, cached. Cheap to clone.
#[derive(Clone)]
pub struct Owners {
    cache: Cache<Arc<str>, ResponseRecord>,
    lookup: Arc<dyn OwnerLookup>,
    runtime: Handle,
}

impl Owners {
    /// Calls of `lookup` run on `runtime`.
    pub fn new(lookup: Arc<dyn OwnerLookup>, runtime: Handle) -> Self {
        Self {
            cache: Cache::new(CACHED),
            lookup,
            runtime,
        }
    }

    /// The record of `id`, from the cache or the controller.
    pub(super) async fn find(&self, id: &str) -> Result<Option<ResponseRecord>, Unavailable> {
        if let Some(record) = self.cache.get(id) {
            return Ok(Some(record));
        }
        let found = self.runtime.spawn(timeout(FIND_WAIT, self.lookup.find(id)));
        let found = match found.await {
            Ok(Ok(answer)) => answer?,
            Ok(Err(_)) | Err(_) => return Err(Unavailable),
        };
        if let Some(record) = &found {
            self.cache.insert(Arc::clone(&record.id), record.clone());
        }
        Ok(found)
    }

    /// Keeps a record here and sends it to the controller; the receiver resolves when it is
    /// confirmed or cannot be.
    pub(super) fn record(&self, record: ResponseRecord) -> oneshot::Receiver<()> {
        self.cache.insert(Arc::clone(&record.id), record.clone());
        let (confirmed, wait) = oneshot::channel();
        let sent = self.lookup.record(record);
        self.runtime.spawn(async move {
            if sent.await.is_err() {
                tracing::warn!("a response's owner could not be recorded: no controller answers");
            }
            // The relay may have gone on without the confirmation.
            let _ = confirmed.send(());
        });
        wait
    }
}

impl fmt::Debug for Owners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owners({} cached)", self.cache.entry_count())
    }
}
