//! [`Store`] in PostgreSQL, for several controllers.
//!
//! Every change takes its number from a one-row counter whose lock is held until the commit: the
//! order of numbers is the order of commits, and a reader that has seen number n has seen all
//! below. The same lock keeps the audit trail's head still, so its chain runs through all
//! controllers. NOTIFY, in the same transaction, only wakes the others.
//!
//! Nothing here needs the database to be there. Until it is reached for the first time, and
//! whenever it is away, operations answer [`StoreError::Unavailable`] within [`OPERATION`]; what
//! was answered `Ok` is durable. Operations run to their end though the caller goes away.

mod audit;
mod config;
mod connect;
mod feed;
mod keys;
mod migrate;
mod objects;
mod pool;
mod responses;
#[cfg(test)]
mod tests;
mod tls;
mod tokens;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::snapshot::TokenHash;
use tokio::sync::watch;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

pub use config::{Password, PostgresConfig, PostgresConfigError, Tls};

use self::connect::Owned;
use self::feed::{CHANNEL, Feed, State, grow};
use self::pool::{Pool, Transaction};
use super::rows::damaged;
use super::seal::Keys;
use super::{
    Actor, AuditAction, AuditEvent, AuditRow, Changes, NewToken, ObjectRecord, ObjectUid, Resealed,
    ResponseRecord, Revoked, Sealing, SeenObject, Store, StoreError, StoreFuture, StoredKey,
    TokenQuery, TokenRecord,
};

/// The longest that any operation takes, whatever the database and the network do.
const OPERATION: Duration = Duration::from_secs(10);

/// A store in a database. Cloning shares it; its connections end with the last clone.
#[derive(Clone)]
pub struct PostgresStore {
    pool: Pool,
    keys: Arc<Keys>,
    latest: watch::Sender<u64>,
    state: watch::Receiver<State>,
    _feed: Arc<Owned>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Begins to reach for the database, on this runtime, and does not wait for it.
    pub fn connect(config: PostgresConfig, keys: Arc<Keys>) -> Self {
        if config.tls == Tls::Prefer {
            tracing::info!(database = %config, "sslmode=prefer: encrypted only if the server offers it");
        }
        let latest = watch::Sender::new(0);
        let (told, state) = watch::channel(State::Connecting);
        let feed = Feed {
            config: config.clone(),
            latest: latest.clone(),
            state: told,
            incarnation: AtomicU64::new(0),
        };
        Self {
            pool: Pool::new(config),
            keys,
            latest,
            state,
            _feed: Arc::new(Owned(tokio::spawn(feed.run()))),
        }
    }

    /// Single statements that change nothing.
    fn read<T: Send + 'static>(
        &self,
        operation: impl for<'a> FnOnce(&'a Client) -> StoreFuture<'a, T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let pool = self.pool.clone();
        self.bounded(async move {
            let session = pool.session().await?;
            let answer = operation(&session).await;
            if !matches!(answer, Err(StoreError::Unavailable(_))) {
                session.keep();
            }
            answer
        })
    }

    /// Several statements that read one moment.
    fn snapshot<T: Send + 'static>(
        &self,
        operation: impl for<'a> FnOnce(&'a Transaction) -> StoreFuture<'a, T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let pool = self.pool.clone();
        self.bounded(async move {
            let tx = pool.snapshot().await?;
            let answer = operation(&tx).await?;
            tx.commit().await?;
            Ok(answer)
        })
    }

    /// Writes what has no number.
    fn write<T: Send + 'static>(
        &self,
        operation: impl for<'a> FnOnce(&'a Transaction) -> StoreFuture<'a, T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let pool = self.pool.clone();
        self.bounded(async move { finish(pool.write().await?, operation).await.map(|(v, _)| v) })
    }

    /// Changes what has a number.
    fn change<T: Send + 'static>(
        &self,
        operation: impl for<'a> FnOnce(&'a Transaction) -> StoreFuture<'a, T> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let (pool, latest) = (self.pool.clone(), self.latest.clone());
        self.bounded(async move {
            let (value, change) = finish(pool.ordered().await?, operation).await?;
            if let Some(seq) = change {
                grow(&latest, seq);
            }
            Ok(value)
        })
    }

    /// Runs to its end, or to the end of patience, though the caller goes away: half of an
    /// operation is nobody's, and its connection would be lost.
    fn bounded<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let mut state = self.state.clone();
        Box::pin(async move {
            let task = tokio::spawn(tokio::time::timeout(OPERATION, async move {
                reached(&mut state).await?;
                work.await
            }));
            match task.await {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(StoreError::Unavailable(format!(
                    "no answer within {} s",
                    OPERATION.as_secs()
                ))),
                Err(error) => Err(StoreError::Unavailable(format!(
                    "an operation broke off: {error}"
                ))),
            }
        })
    }
}

/// Waits while the database is being reached for the first time.
async fn reached(state: &mut watch::Receiver<State>) -> Result<(), StoreError> {
    let state = state.wait_for(|state| *state != State::Connecting).await;
    match state.as_deref() {
        Ok(State::Unreachable(why)) => Err(StoreError::Unavailable(why.clone())),
        Ok(_) => Ok(()),
        Err(_) => Err(StoreError::Unavailable("it is closed".into())),
    }
}

/// Does the work of a transaction and ends it, as the work's outcome says.
async fn finish<T>(
    tx: Transaction,
    operation: impl for<'a> FnOnce(&'a Transaction) -> StoreFuture<'a, T>,
) -> Result<(T, Option<u64>), StoreError> {
    match operation(&tx).await {
        Ok(value) => Ok((value, tx.commit().await?)),
        // The connection may be the reason: it is closed with the transaction.
        Err(error @ StoreError::Unavailable(_)) => Err(error),
        Err(error) => {
            tx.roll_back().await?;
            Err(error)
        }
    }
}

/// Takes the number of a change that is part of this transaction, and wakes others at its commit.
async fn next_change(tx: &Transaction) -> Result<u64, StoreError> {
    let row = tx
        .query_typed_one(
            "WITH next AS (UPDATE counters SET change_seq = change_seq + 1 RETURNING change_seq)
             SELECT change_seq, pg_notify($1, '') FROM next",
            &[(&CHANNEL, Type::TEXT)],
        )
        .await?;
    let seq = unsigned(&row, 0)?;
    tx.took(seq);
    Ok(seq)
}

/// One number, of a statement without parameters.
async fn counter(client: &Client, sql: &str) -> Result<u64, StoreError> {
    unsigned(&client.query_typed_one(sql, &[]).await?, 0)
}

/// A column that counts.
fn unsigned(row: &Row, column: usize) -> Result<u64, StoreError> {
    let value: i64 = row.try_get(column)?;
    u64::try_from(value).map_err(|e| damaged("a number", e))
}

/// The same on its way in. No counter comes near the end of what a BIGINT holds.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A column that holds a digest.
fn bytes32(row: &Row, column: usize) -> Result<[u8; 32], StoreError> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map_err(|e| damaged("a digest", e))
}

impl Store for PostgresStore {
    fn watch(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    fn changes_since(&self, seq: u64) -> StoreFuture<'_, Changes> {
        let keys = Arc::clone(&self.keys);
        self.snapshot(move |tx| {
            Box::pin(async move {
                let ask = "SELECT change_seq, incarnation FROM counters";
                let counters = tx.query_typed_one(ask, &[]).await?;
                Ok(Changes {
                    seq: unsigned(&counters, 0)?,
                    incarnation: unsigned(&counters, 1)?,
                    tokens: tokens::changed_since(tx, seq).await?,
                    keys: keys::changed_since(tx, &keys, seq).await?,
                })
            })
        })
    }

    fn incarnation(&self) -> StoreFuture<'_, u64> {
        self.read(|client| Box::pin(counter(client, "SELECT incarnation FROM counters")))
    }

    fn raise_incarnation(&self, by: Actor, now: i64) -> StoreFuture<'_, u64> {
        self.change(move |tx| {
            Box::pin(async move {
                let raise =
                    "UPDATE counters SET incarnation = incarnation + 1 RETURNING incarnation";
                let raised = counter(tx, raise).await?;
                let event = AuditEvent {
                    action: AuditAction::IncarnationRaise,
                    object: raised.to_string(),
                };
                audit::append(tx, event, by, now).await?;
                next_change(tx).await?;
                Ok(raised)
            })
        })
    }

    fn create_token(&self, token: NewToken, by: Actor, now: i64) -> StoreFuture<'_, TokenRecord> {
        self.change(move |tx| Box::pin(tokens::create(tx, token, by, now)))
    }

    fn revoke_token(&self, id: TokenId, by: Actor, now: i64) -> StoreFuture<'_, Option<Revoked>> {
        self.change(move |tx| Box::pin(tokens::revoke(tx, id, by, now)))
    }

    fn find_token(&self, hash: TokenHash) -> StoreFuture<'_, Option<TokenRecord>> {
        self.read(move |client| Box::pin(tokens::find(client, hash)))
    }

    fn token(&self, id: TokenId) -> StoreFuture<'_, Option<TokenRecord>> {
        self.read(move |client| Box::pin(tokens::by_id(client, id)))
    }

    fn tokens(&self, query: TokenQuery) -> StoreFuture<'_, Vec<TokenRecord>> {
        self.read(move |client| Box::pin(tokens::page(client, query)))
    }

    fn set_key(&self, key: StoredKey, by: Actor, now: i64) -> StoreFuture<'_, u64> {
        let keys = Arc::clone(&self.keys);
        self.change(move |tx| Box::pin(async move { keys::set(tx, &keys, key, by, now).await }))
    }

    fn remove_key(&self, uid: ObjectUid, by: Actor, now: i64) -> StoreFuture<'_, Option<u64>> {
        self.change(move |tx| Box::pin(async move { keys::remove(tx, &uid, by, now).await }))
    }

    fn key(&self, uid: ObjectUid) -> StoreFuture<'_, Option<StoredKey>> {
        let keys = Arc::clone(&self.keys);
        self.read(move |client| Box::pin(async move { keys::find(client, &keys, uid).await }))
    }

    fn sealing(&self) -> StoreFuture<'_, Sealing> {
        self.snapshot(|tx| Box::pin(keys::sealing(tx)))
    }

    fn seal_with(&self, id: String, by: Actor, now: i64) -> StoreFuture<'_, ()> {
        let keys = Arc::clone(&self.keys);
        self.change(move |tx| {
            Box::pin(async move { keys::seal_with(tx, &keys, id, by, now).await })
        })
    }

    fn reseal_next(&self, after: Option<ObjectUid>) -> StoreFuture<'_, Option<Resealed>> {
        let keys = Arc::clone(&self.keys);
        self.change(move |tx| {
            Box::pin(async move { keys::reseal_next(tx, &keys, after.as_ref()).await })
        })
    }

    fn see_objects(
        &self,
        objects: Vec<SeenObject>,
        now: i64,
    ) -> StoreFuture<'_, Vec<ObjectRecord>> {
        self.change(move |tx| Box::pin(objects::see(tx, objects, now)))
    }

    fn objects(&self) -> StoreFuture<'_, Vec<ObjectRecord>> {
        self.read(|client| Box::pin(objects::all(client)))
    }

    fn forget_objects(&self, objects: Vec<ObjectRef>, now: i64) -> StoreFuture<'_, ()> {
        self.change(move |tx| Box::pin(objects::forget(tx, objects, now)))
    }

    fn manifests_revision(&self) -> StoreFuture<'_, u64> {
        self.read(|client| Box::pin(counter(client, "SELECT manifests_revision FROM counters")))
    }

    fn next_manifests_revision(&self) -> StoreFuture<'_, u64> {
        self.change(|tx| {
            Box::pin(counter(
                tx,
                "UPDATE counters SET manifests_revision = manifests_revision + 1
                 RETURNING manifests_revision",
            ))
        })
    }

    fn put_statuses(&self, statuses: Vec<(ObjectRef, serde_json::Value)>) -> StoreFuture<'_, ()> {
        self.write(move |tx| Box::pin(objects::put_statuses(tx, statuses)))
    }

    fn statuses(&self) -> StoreFuture<'_, Vec<(ObjectRef, serde_json::Value)>> {
        self.read(|client| Box::pin(objects::statuses(client)))
    }

    fn append_audit(&self, event: AuditEvent, by: Actor, now: i64) -> StoreFuture<'_, ()> {
        self.change(move |tx| Box::pin(audit::append(tx, event, by, now)))
    }

    fn audit_page(&self, before: Option<u64>, limit: u32) -> StoreFuture<'_, Vec<AuditRow>> {
        self.read(move |client| Box::pin(audit::page(client, before, limit)))
    }

    fn record_responses(&self, records: Vec<ResponseRecord>) -> StoreFuture<'_, ()> {
        self.write(move |tx| Box::pin(async move { responses::record(tx, &records).await }))
    }

    fn find_response(&self, id: String) -> StoreFuture<'_, Option<ResponseRecord>> {
        self.read(move |client| Box::pin(responses::find(client, id)))
    }

    fn prune_responses(&self, before: i64) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            let mut gone = 0;
            loop {
                match self
                    .write(move |tx| Box::pin(responses::prune(tx, before)))
                    .await?
                {
                    None => return Ok(gone),
                    Some(batch) => gone += batch,
                }
            }
        })
    }
}
