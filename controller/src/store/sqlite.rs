//! [`Store`] in one SQLite file, for one machine.
//!
//! The connection lives on a thread of its own; operations travel there as closures
//! over a bounded channel, so a slow disk makes callers wait and nobody's runtime.
//! WAL with `synchronous=FULL`: what was acknowledged survives a killed process and a
//! lost machine. The file is locked for as long as it is open: a second controller on
//! the same data would not hear of this one's revocations.

mod audit;
mod keys;
mod objects;
mod responses;
mod tokens;

use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::snapshot::TokenHash;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::seal::Keys;
use super::{
    Actor, AuditAction, AuditEvent, AuditRow, Changes, NewToken, ObjectRecord, ObjectUid, Resealed,
    ResponseRecord, Revoked, Sealing, SeenObject, Store, StoreError, StoreFuture, StoredKey,
    TokenQuery, TokenRecord,
};

mod embedded {
    refinery::embed_migrations!("src/store/migrations/sqlite");
}

/// Operations that may wait for the thread; more make their callers wait.
const QUEUE: usize = 256;
/// How long another process (one that is just ending) may keep the file.
const BUSY: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// A store in a file. Cloning shares it; it is closed when the last clone is gone.
#[derive(Clone)]
pub struct SqliteStore {
    jobs: mpsc::Sender<Job>,
    latest: watch::Sender<u64>,
    keys: Arc<Keys>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore").finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens or creates the file (mode 0600), brings its schema up to date and lets the newest
    /// master key seal from now on: nobody else has to have it first. What older ones sealed is
    /// sealed anew. Blocks; call it before the runtime is busy.
    pub fn open(path: &Path, keys: Arc<Keys>) -> Result<Self, StoreError> {
        let mut connection = connect(path)?;
        embedded::migrations::runner()
            .run(&mut connection)
            .map_err(|e| StoreError::Unavailable(format!("{}: {e}", path.display())))?;
        let change_seq = in_transaction(&mut connection, |tx| {
            keys::take_newest(tx, &keys)?;
            change_seq(tx)
        })?;
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    job(&mut connection);
                }
            })
            .map_err(|e| StoreError::Unavailable(format!("no thread for the store: {e}")))?;
        Ok(Self {
            jobs,
            latest: watch::Sender::new(change_seq),
            keys,
        })
    }

    /// Runs `operation` in one transaction on the store's thread.
    fn run<T: Send + 'static>(
        &self,
        operation: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let latest = self.latest.clone();
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let job: Job = Box::new(move |connection| {
                let outcome =
                    in_transaction(connection, |tx| Ok((operation(tx)?, change_seq(tx)?)));
                let outcome = outcome.map(|(value, seq)| {
                    latest.send_if_modified(|known| std::mem::replace(known, seq) != seq);
                    value
                });
                // A caller that went away has no use for the answer; the change stands.
                let _ = reply.send(outcome);
            });
            let closed = || StoreError::Unavailable("its thread has ended".into());
            self.jobs.send(job).await.map_err(|_| closed())?;
            answer.await.map_err(|_| closed())?
        })
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let unavailable =
        |e: &dyn std::fmt::Display| StoreError::Unavailable(format!("{}: {e}", path.display()));
    // Made here, so that it is private from its first byte; the WAL takes over its mode.
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)))
        .map_err(|e| unavailable(&e))?;
    let connection = Connection::open(path).map_err(|e| unavailable(&e))?;
    connection
        .busy_timeout(BUSY)
        .and_then(|()| {
            connection.execute_batch(
                "PRAGMA locking_mode = EXCLUSIVE;
                 PRAGMA journal_mode = WAL;
                 PRAGMA synchronous = FULL;
                 PRAGMA secure_delete = ON;
                 PRAGMA foreign_keys = ON;",
            )
        })
        .map_err(|e| match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => unavailable(
                &"another process has it open; only one controller may use a data folder",
            ),
            _ => unavailable(&e),
        })?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn in_transaction<T>(
    connection: &mut Connection,
    operation: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let value = operation(&tx)?;
    tx.commit()?;
    Ok(value)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match &error {
            E::FromSqlConversionFailure(..)
            | E::IntegralValueOutOfRange(..)
            | E::InvalidColumnType(..)
            | E::Utf8Error(..) => Self::Damaged(error.to_string()),
            _ => match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    Self::Damaged(error.to_string())
                }
                _ => Self::Unavailable(error.to_string()),
            },
        }
    }
}

fn change_seq(tx: &Transaction<'_>) -> Result<u64, StoreError> {
    counter(tx, "SELECT change_seq FROM counters")
}

/// Takes the number of a change that is part of this transaction.
fn next_change(tx: &Transaction<'_>) -> Result<u64, StoreError> {
    counter(
        tx,
        "UPDATE counters SET change_seq = change_seq + 1 RETURNING change_seq",
    )
}

fn counter(tx: &Transaction<'_>, sql: &str) -> Result<u64, StoreError> {
    Ok(tx.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

impl Store for SqliteStore {
    fn watch(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    fn changes_since(&self, seq: u64) -> StoreFuture<'_, Changes> {
        let keys = Arc::clone(&self.keys);
        self.run(move |tx| {
            Ok(Changes {
                seq: change_seq(tx)?,
                incarnation: counter(tx, "SELECT incarnation FROM counters")?,
                tokens: tokens::changed_since(tx, seq)?,
                keys: keys::changed_since(tx, &keys, seq)?,
            })
        })
    }

    fn incarnation(&self) -> StoreFuture<'_, u64> {
        self.run(|tx| counter(tx, "SELECT incarnation FROM counters"))
    }

    fn raise_incarnation(&self, by: Actor, now: i64) -> StoreFuture<'_, u64> {
        self.run(move |tx| {
            let raised = counter(
                tx,
                "UPDATE counters SET incarnation = incarnation + 1 RETURNING incarnation",
            )?;
            let event = AuditEvent {
                action: AuditAction::IncarnationRaise,
                object: raised.to_string(),
            };
            audit::append(tx, event, by, now)?;
            next_change(tx)?;
            Ok(raised)
        })
    }

    fn create_token(&self, token: NewToken, by: Actor, now: i64) -> StoreFuture<'_, TokenRecord> {
        self.run(move |tx| tokens::create(tx, &token, by, now))
    }

    fn revoke_token(&self, id: TokenId, by: Actor, now: i64) -> StoreFuture<'_, Option<Revoked>> {
        self.run(move |tx| tokens::revoke(tx, &id, by, now))
    }

    fn find_token(&self, hash: TokenHash) -> StoreFuture<'_, Option<TokenRecord>> {
        self.run(move |tx| tokens::find(tx, &hash))
    }

    fn token(&self, id: TokenId) -> StoreFuture<'_, Option<TokenRecord>> {
        self.run(move |tx| tokens::by_id(tx, &id))
    }

    fn tokens(&self, query: TokenQuery) -> StoreFuture<'_, Vec<TokenRecord>> {
        self.run(move |tx| tokens::page(tx, &query))
    }

    fn set_key(&self, key: StoredKey, by: Actor, now: i64) -> StoreFuture<'_, u64> {
        let keys = Arc::clone(&self.keys);
        self.run(move |tx| keys::set(tx, &keys, &key, by, now))
    }

    fn remove_key(&self, uid: ObjectUid, by: Actor, now: i64) -> StoreFuture<'_, Option<u64>> {
        self.run(move |tx| keys::remove(tx, &uid, by, now))
    }

    fn key(&self, uid: ObjectUid) -> StoreFuture<'_, Option<StoredKey>> {
        let keys = Arc::clone(&self.keys);
        self.run(move |tx| keys::find(tx, &keys, &uid))
    }

    fn sealing(&self) -> StoreFuture<'_, Sealing> {
        self.run(keys::sealing)
    }

    fn seal_with(&self, id: String, by: Actor, now: i64) -> StoreFuture<'_, ()> {
        let keys = Arc::clone(&self.keys);
        self.run(move |tx| keys::seal_with(tx, &keys, &id, by, now))
    }

    fn reseal_next(&self, after: Option<ObjectUid>) -> StoreFuture<'_, Option<Resealed>> {
        let keys = Arc::clone(&self.keys);
        self.run(move |tx| keys::reseal_next(tx, &keys, after.as_ref()))
    }

    fn see_objects(
        &self,
        objects: Vec<SeenObject>,
        now: i64,
    ) -> StoreFuture<'_, Vec<ObjectRecord>> {
        self.run(move |tx| objects::see(tx, objects, now))
    }

    fn objects(&self) -> StoreFuture<'_, Vec<ObjectRecord>> {
        self.run(objects::all)
    }

    fn forget_objects(&self, objects: Vec<ObjectRef>, now: i64) -> StoreFuture<'_, ()> {
        self.run(move |tx| objects::forget(tx, &objects, now))
    }

    fn manifests_revision(&self) -> StoreFuture<'_, u64> {
        self.run(|tx| counter(tx, "SELECT manifests_revision FROM counters"))
    }

    fn next_manifests_revision(&self) -> StoreFuture<'_, u64> {
        self.run(|tx| {
            counter(
                tx,
                "UPDATE counters SET manifests_revision = manifests_revision + 1
                 RETURNING manifests_revision",
            )
        })
    }

    fn put_statuses(&self, statuses: Vec<(ObjectRef, serde_json::Value)>) -> StoreFuture<'_, ()> {
        self.run(move |tx| objects::put_statuses(tx, &statuses))
    }

    fn statuses(&self) -> StoreFuture<'_, Vec<(ObjectRef, serde_json::Value)>> {
        self.run(objects::statuses)
    }

    fn append_audit(&self, event: AuditEvent, by: Actor, now: i64) -> StoreFuture<'_, ()> {
        self.run(move |tx| audit::append(tx, event, by, now))
    }

    fn audit_page(&self, before: Option<u64>, limit: u32) -> StoreFuture<'_, Vec<AuditRow>> {
        self.run(move |tx| audit::page(tx, before, limit))
    }

    fn record_responses(&self, records: Vec<ResponseRecord>) -> StoreFuture<'_, ()> {
        self.run(move |tx| responses::record(tx, &records))
    }

    fn find_response(&self, id: String) -> StoreFuture<'_, Option<ResponseRecord>> {
        self.run(move |tx| responses::find(tx, &id))
    }

    fn prune_responses(&self, before: i64) -> StoreFuture<'_, u64> {
        self.run(move |tx| responses::prune(tx, before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance;
    use crate::store::seal::KeyRing;
    use std::os::unix::fs::MetadataExt as _;

    const OLD: &str = "old AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    const NEW: &str = "new /////////////////////////////////////////w8=\n";

    fn open(path: &Path, ring: &str) -> SqliteStore {
        SqliteStore::open(path, Arc::new(Keys::of(KeyRing::parse(ring).unwrap()))).unwrap()
    }

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::check(async || {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("store.db");
            let store = SqliteStore::open(&path, conformance::keys()).unwrap();
            conformance::fresh(store, dir)
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_acknowledged_survives_a_killed_process() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store.db"), OLD);
        let key = conformance::stored_key("uid-1", "sk-canary");
        for n in 1..=20 {
            conformance::create(&store, n).await;
            store
                .set_key(key.clone(), Actor::program("test"), 1)
                .await
                .unwrap();
            // What the files hold at this moment is what a kill leaves: the first process is
            // still at it, nothing was closed and no checkpoint was forced.
            let left = tempfile::tempdir().unwrap();
            for name in ["store.db", "store.db-wal"] {
                std::fs::copy(dir.path().join(name), left.path().join(name)).unwrap();
            }
            let again = open(&left.path().join("store.db"), OLD);
            let changes = again.changes_since(0).await.unwrap();
            assert_eq!(changes, store.changes_since(0).await.unwrap());
            assert_eq!((changes.tokens.len() as u64, changes.seq), (n, 2 * n));
        }
    }

    #[tokio::test]
    async fn the_files_are_private_and_hold_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store.db"), OLD);
        let key = conformance::stored_key("uid-1", "sk-canary-in-file");
        store.set_key(key, Actor::program("test"), 1).await.unwrap();
        let mut seen = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(
                std::fs::metadata(&path).unwrap().mode() & 0o777,
                0o600,
                "{path:?}"
            );
            let bytes = std::fs::read(&path).unwrap();
            assert!(
                !bytes.windows(17).any(|w| w == b"sk-canary-in-file"),
                "{path:?}"
            );
            seen += 1;
        }
        assert!(seen >= 2, "database and WAL");
    }

    #[tokio::test]
    async fn a_new_master_key_takes_over_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let key = conformance::stored_key("uid-1", "sk-canary");
        let first = open(&path, OLD);
        first
            .set_key(key.clone(), Actor::program("test"), 1)
            .await
            .unwrap();
        drop(first);
        drop(open(&path, &format!("{OLD}{NEW}")));
        let third = open(&path, NEW);
        assert_eq!(third.key(key.uid.clone()).await.unwrap(), Some(key));
    }

    #[test]
    fn a_file_that_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let keys = Keys::of(KeyRing::parse(OLD).unwrap());
        let error = SqliteStore::open(&path, Arc::new(keys))
            .unwrap_err()
            .to_string();
        assert!(error.contains("store.db"), "{error}");
    }
}
