//! Connections for operations, and transactions on them.
//!
//! Statements are never prepared by name: each travels with its parameters' types in one message
//! that a proxy in transaction mode (pgbouncer) may send to any server connection. A connection on
//! which anything went wrong, or whose operation was given up, is closed and not used again: so a
//! failed-over primary, a restart and a lost network heal with the next operation.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, PoolError, RecycleError, RecycleResult, Timeouts};
use tokio_postgres::Client;

use super::config::PostgresConfig;
use super::connect::{CONNECT, Owned, connect};
use crate::store::StoreError;

/// Connections of one controller. Changes wait for one another anyway.
const CONNECTIONS: usize = 8;
/// A connection that rested so long is asked for a sign of life before it is used.
const RESTED: Duration = Duration::from_millis(500);
/// How long that sign may take.
const SIGN: Duration = Duration::from_secs(2);

/// What every transaction begins with. The server gives up by itself before the caller does, and
/// does not keep the locks of a controller that froze or lost its network. A database that does not
/// wait for its disk is told to: an answer means that the change is durable.
const LIMITS: &str = "SET LOCAL statement_timeout = '8s'; \
    SET LOCAL idle_in_transaction_session_timeout = '10s'; \
    SELECT set_config('synchronous_commit', 'on', true) \
        WHERE current_setting('synchronous_commit') = 'off'";

/// The pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pool(managed::Pool<Manager>);

impl Pool {
    pub(super) fn new(config: PostgresConfig) -> Self {
        let timeouts = Timeouts {
            wait: Some(CONNECT),
            create: Some(CONNECT),
            recycle: Some(SIGN),
        };
        let pool = managed::Pool::builder(Manager { config })
            .max_size(CONNECTIONS)
            .timeouts(timeouts)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("the timeouts have a runtime");
        Self(pool)
    }

    /// A connection for single statements.
    pub(super) async fn session(&self) -> Result<Session, StoreError> {
        let object = self.0.get().await.map_err(|error| match error {
            PoolError::Backend(error) => error,
            PoolError::Timeout(_) => StoreError::Unavailable(format!(
                "no connection to the database within {} s",
                CONNECT.as_secs()
            )),
            other => StoreError::Unavailable(other.to_string()),
        })?;
        Ok(Session(Some(object)))
    }

    /// A transaction that reads one moment.
    pub(super) async fn snapshot(&self) -> Result<Transaction, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "")
            .await
    }

    /// A transaction that writes what has no number.
    pub(super) async fn write(&self) -> Result<Transaction, StoreError> {
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED", "").await
    }

    /// A transaction that takes numbers, of changes or of the audit trail. It begins with the lock
    /// that orders all of them, so that no two such transactions ever wait for each other.
    pub(super) async fn ordered(&self) -> Result<Transaction, StoreError> {
        let lock = "; SELECT one FROM counters FOR UPDATE";
        self.begin("BEGIN ISOLATION LEVEL READ COMMITTED", lock)
            .await
    }

    async fn begin(&self, begin: &str, lock: &str) -> Result<Transaction, StoreError> {
        let session = self.session().await?;
        session
            .batch_execute(&format!("{begin}; {LIMITS}{lock}"))
            .await?;
        Ok(Transaction {
            session,
            change: AtomicU64::new(0),
        })
    }
}

/// A connection on loan. Unless it is [given back](Session::keep), it is closed.
pub(super) struct Session(Option<Object<Manager>>);

impl Session {
    /// All went well: others may use the connection.
    pub(super) fn keep(mut self) {
        drop(self.0.take());
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        let live = self.0.as_ref().expect("only keep and drop take it");
        &live.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.0.take() {
            drop(Object::take(object));
        }
    }
}

/// An open transaction. Unless it is committed, it is rolled back with its connection.
pub(super) struct Transaction {
    session: Session,
    /// The last number that it took; 0: none.
    change: AtomicU64,
}

impl Transaction {
    /// Remembers the number of a change that is part of this transaction.
    pub(super) fn took(&self, change_seq: u64) {
        self.change.store(change_seq, Ordering::Relaxed);
    }

    /// Makes it durable and answers the last number that it took, if any. When the answer of the
    /// server is lost, nobody knows whether it was: that is [`StoreError::Unavailable`] too.
    pub(super) async fn commit(self) -> Result<Option<u64>, StoreError> {
        self.session.batch_execute("COMMIT").await.map_err(|e| {
            let cause = StoreError::from(e);
            StoreError::Unavailable(format!("{cause}; the change may have been made"))
        })?;
        self.session.keep();
        Ok(Some(self.change.into_inner()).filter(|n| *n > 0))
    }

    /// Undoes it.
    pub(super) async fn roll_back(self) -> Result<(), StoreError> {
        self.session.batch_execute("ROLLBACK").await?;
        self.session.keep();
        Ok(())
    }
}

impl Deref for Transaction {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.session
    }
}

/// Makes and judges connections.
pub(super) struct Manager {
    config: PostgresConfig,
}

/// A client and the task that moves its bytes.
pub(super) struct Live {
    client: Client,
    _wire: Owned,
}

impl managed::Manager for Manager {
    type Type = Live;
    type Error = StoreError;

    async fn create(&self) -> Result<Live, StoreError> {
        let (client, wire) = connect(&self.config).await?;
        let task = tokio::spawn(async move {
            // Whoever uses the client hears of it.
            if let Err(error) = wire.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
        });
        Ok(Live {
            client,
            _wire: Owned(task),
        })
    }

    async fn recycle(&self, live: &mut Live, metrics: &Metrics) -> RecycleResult<StoreError> {
        if live.client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        if metrics.last_used() > RESTED {
            live.client
                .check_connection()
                .await
                .map_err(StoreError::from)?;
        }
        Ok(())
    }
}
