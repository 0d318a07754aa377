//! What the controller must remember: tokens, stored provider keys, the audit
//! trail, who owns which response, and what files cannot say about themselves
//! (when an object was first seen, its generation, its status).
//!
//! [`Store`] speaks of these things, never of SQL, so that SQLite on one machine
//! and PostgreSQL in a cluster are held to one suite of tests. Every change of a
//! token or key takes the next `change_seq` in its own transaction: the order of
//! commits is the order of the numbers, and [`Store::changes_since`] misses none.
//!
//! Nothing that serves a request waits for the store (except ≤ 20 ms for the
//! record of a new response id). Times are Unix seconds and are passed in.

mod audit;
#[cfg(test)]
mod conformance;
mod postgres;
mod records;
mod rotation;
mod rows;
pub mod seal;
mod sqlite;

pub use audit::{AuditAction, AuditEvent, AuditRow, Chain, verify_chain};
pub use postgres::{Password, PostgresConfig, PostgresConfigError, PostgresStore, Tls};
pub use records::{
    Actor, Changes, KeyChange, KeyState, NewToken, ObjectRecord, ObjectUid, ResealOutcome,
    Resealed, ResponseRecord, Revoked, Sealing, SeenObject, StoredKey, TokenQuery, TokenRecord,
};
pub use rotation::{MasterKey, MasterKeys, Retired, Rotated, Rotation, RotationError};
pub use sqlite::SqliteStore;

use std::path::PathBuf;
use std::sync::Arc;

use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::snapshot::TokenHash;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use zeroize::Zeroizing;

use self::seal::{KeyRing, Keys, RingError, RingFile};

/// Which store, and which master keys.
#[derive(Debug)]
pub struct StoreConfig {
    /// Where everything is kept.
    pub database: Database,
    /// What seals the provider keys in it.
    pub master_keys: RingFrom,
}

/// Where the master keys come from.
#[derive(Debug)]
pub enum RingFrom {
    /// A file.
    File(RingFile),
    /// A Secret of this name in the controller's namespace, which whoever knows the cluster reads
    /// ([`seal::from_secret`]) before the store is opened.
    Secret(String),
    /// Read already.
    Held(KeyRing),
}

/// Where everything is kept.
#[derive(Debug)]
pub enum Database {
    /// In this file, for one controller.
    Sqlite(PathBuf),
    /// In a server, for several.
    Postgres(Box<PostgresConfig>),
}

/// A store that is open.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What rotates the master keys that it uses. One that was broken off goes on.
    pub rotation: Arc<Rotation>,
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The master keys cannot be used.
    #[error(transparent)]
    Keys(#[from] RingError),
    /// The file cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no cluster to ask.
    #[error(
        "--master-key-secret {0} goes with --kubernetes; elsewhere name a file with --master-key"
    )]
    NoCluster(String),
    /// Nothing can be made without chance.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Opens the store, on this runtime. A server need not be there yet: until it is, operations answer
/// [`StoreError::Unavailable`].
///
/// # Errors
/// A file cannot be read, made or understood.
pub async fn open(config: StoreConfig) -> Result<Opened, OpenError> {
    let mut random = Zeroizing::new([0; 32]);
    getrandom::fill(random.as_mut_slice()).map_err(OpenError::Random)?;
    let keys = Arc::new(match config.master_keys {
        RingFrom::File(file) => Keys::load(file, &random)?,
        RingFrom::Held(ring) => Keys::of(ring),
        RingFrom::Secret(name) => return Err(OpenError::NoCluster(name)),
    });
    let store: Arc<dyn Store> = match config.database {
        Database::Postgres(database) => {
            Arc::new(PostgresStore::connect(*database, Arc::clone(&keys)))
        }
        Database::Sqlite(path) => {
            let keys = Arc::clone(&keys);
            let opening = tokio::task::spawn_blocking(move || SqliteStore::open(&path, keys));
            let broken = |e| StoreError::Unavailable(format!("opening it broke off: {e}"));
            Arc::new(opening.await.map_err(broken)??)
        }
    };
    let rotation = Rotation::new(Arc::clone(&store), keys);
    rotation.resume();
    Ok(Opened { store, rotation })
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, opened or written. Later may work.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// A record of that identity exists.
    #[error("{0} exists already")]
    Exists(String),
    /// What was read is not what was written: a damaged or foreign file.
    #[error("the store holds a damaged record: {0}")]
    Damaged(String),
    /// A sealed key cannot be opened.
    #[error(transparent)]
    Seal(#[from] seal::SealError),
}

/// What every operation answers.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// The controller's memory. An operation that has answered `Ok` is durable.
///
/// Operations that change something by a person's will take an [`Actor`] and write
/// the audit record in the same transaction.
pub trait Store: Send + Sync + 'static {
    /// Holds the latest committed `change_seq` and wakes when it grows.
    fn watch(&self) -> watch::Receiver<u64>;

    /// All tokens and keys whose last change is after `seq`, and the number they are
    /// complete up to. `changes_since(0)` is everything, revoked and removed ones included.
    fn changes_since(&self, seq: u64) -> StoreFuture<'_, Changes>;

    /// The number that outranks marks; 1 in a new store.
    fn incarnation(&self) -> StoreFuture<'_, u64>;

    /// Adds one to the incarnation, after a restore from a backup; answers the new one. A change
    /// like others: watchers wake.
    fn raise_incarnation(&self, by: Actor, now: i64) -> StoreFuture<'_, u64>;

    /// Adds a token. [`StoreError::Exists`] when its id or hash is taken; the very same token
    /// once more is no fault and no change, as an answer may have been lost.
    fn create_token(&self, token: NewToken, by: Actor, now: i64) -> StoreFuture<'_, TokenRecord>;

    /// Revokes for ever. `None`: no such token. A second time changes nothing and answers
    /// with the first time's number.
    fn revoke_token(&self, id: TokenId, by: Actor, now: i64) -> StoreFuture<'_, Option<Revoked>>;

    /// The token with this hash, also when revoked or expired: the caller judges.
    fn find_token(&self, hash: TokenHash) -> StoreFuture<'_, Option<TokenRecord>>;

    /// The token of this id, also when revoked or expired.
    fn token(&self, id: TokenId) -> StoreFuture<'_, Option<TokenRecord>>;

    /// One page of tokens, oldest first.
    fn tokens(&self, query: TokenQuery) -> StoreFuture<'_, Vec<TokenRecord>>;

    /// Seals a key for an object, in place of any other it had. Answers the `change_seq`.
    fn set_key(&self, key: StoredKey, by: Actor, now: i64) -> StoreFuture<'_, u64>;

    /// Erases an object's key. `None`: it had none.
    fn remove_key(&self, uid: ObjectUid, by: Actor, now: i64) -> StoreFuture<'_, Option<u64>>;

    /// An object's key, opened.
    fn key(&self, uid: ObjectUid) -> StoreFuture<'_, Option<StoredKey>>;

    /// What stored keys are sealed with.
    fn sealing(&self) -> StoreFuture<'_, Sealing>;

    /// Lets the master key of this id seal from now on; [`StoreError::Seal`] when the ring does not
    /// hold it. What is stored stays sealed as it is until [`Store::reseal_next`] has been there.
    fn seal_with(&self, id: String, by: Actor, now: i64) -> StoreFuture<'_, ()>;

    /// Looks at the stored key after this one, in order of uid, and seals it anew if another
    /// master key than the present one did. `None`: that was the last one. One transaction each,
    /// so it may be broken off at any moment and begun again, by several at once.
    fn reseal_next(&self, after: Option<ObjectUid>) -> StoreFuture<'_, Option<Resealed>>;

    /// Records objects as existing and answers each one's identity, in the order given. A new
    /// one gets a uid and `now` as its creation; one whose digest changed, the next generation.
    /// For sources that have no API server to do so.
    fn see_objects(&self, objects: Vec<SeenObject>, now: i64)
    -> StoreFuture<'_, Vec<ObjectRecord>>;

    /// Everything that [`Store::see_objects`] recorded and nobody forgot, in order of reference.
    fn objects(&self) -> StoreFuture<'_, Vec<ObjectRecord>>;

    /// Forgets deleted objects with their status, and erases their keys. An object of the same
    /// name that comes later is another one.
    fn forget_objects(&self, objects: Vec<ObjectRef>, now: i64) -> StoreFuture<'_, ()>;

    /// The revision of the manifests that was last taken; 0 in a new store.
    fn manifests_revision(&self) -> StoreFuture<'_, u64>;

    /// Takes the next revision for a changed set of manifests.
    fn next_manifests_revision(&self) -> StoreFuture<'_, u64>;

    /// Replaces the status (a JSON object with `conditions`) of each object named.
    fn put_statuses(&self, statuses: Vec<(ObjectRef, serde_json::Value)>) -> StoreFuture<'_, ()>;

    /// Every status kept, in order of reference.
    fn statuses(&self) -> StoreFuture<'_, Vec<(ObjectRef, serde_json::Value)>>;

    /// Appends to the audit trail what changed outside the store (a manifest written).
    fn append_audit(&self, event: AuditEvent, by: Actor, now: i64) -> StoreFuture<'_, ()>;

    /// At most `limit` rows before number `before` (absent: the latest), newest first.
    fn audit_page(&self, before: Option<u64>, limit: u32) -> StoreFuture<'_, Vec<AuditRow>>;

    /// Remembers whose each response is. An id that is recorded stays with its first owner.
    fn record_responses(&self, records: Vec<ResponseRecord>) -> StoreFuture<'_, ()>;

    /// Whose response this is.
    fn find_response(&self, id: String) -> StoreFuture<'_, Option<ResponseRecord>>;

    /// Drops records created before `before`; answers how many.
    fn prune_responses(&self, before: i64) -> StoreFuture<'_, u64>;
}
