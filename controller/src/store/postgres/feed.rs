//! Hears of changes that other controllers make: one connection of its own, which comes back.
//!
//! A notification only wakes; what changed is read from the tables, so that nothing depends on
//! whether, how often or in what order notifications arrive. Where they do not arrive at all (a
//! proxy in transaction mode takes LISTEN and forgets it) the counter is read more often instead.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::poll_fn;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client};

use super::config::PostgresConfig;
use super::connect::{Owned, Wire, connect};
use super::migrate::migrate;
use super::unsigned;
use crate::store::StoreError;

/// Where changes are told.
pub(super) const CHANNEL: &str = "bodhi_changes";
/// How often the counter is read without having been told.
const SLOW: Duration = Duration::from_secs(10);
/// The same where nobody tells.
const FAST: Duration = Duration::from_millis(300);
/// How long one statement of this connection may take.
const STATEMENT: Duration = Duration::from_secs(5);
/// How long a notification of our own may take to count as arriving.
const PROBE: Duration = Duration::from_secs(1);
/// Waits between attempts to connect grow from here, at random below the bound.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How far the store has come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// It is being reached for the first time.
    Connecting,
    /// It has not been reached yet, for this reason.
    Unreachable(String),
    /// It was reached and its schema is ours. From here on each operation sees for itself.
    Ready,
}

/// The task's parts.
pub(super) struct Feed {
    pub(super) config: PostgresConfig,
    /// The latest number known; within an incarnation it only grows.
    pub(super) latest: watch::Sender<u64>,
    pub(super) state: watch::Sender<State>,
    /// The incarnation that `latest` belongs to.
    pub(super) incarnation: AtomicU64,
}

impl Feed {
    /// Runs until it is aborted.
    pub(super) async fn run(self) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let Err(error) = self.follow().await;
            if began.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
            }
            if *self.state.borrow() != State::Ready {
                self.state
                    .send_replace(State::Unreachable(error.to_string()));
            }
            tracing::warn!(%error, "the database is not reached; trying again");
            sleep(wait.mul_f64(rand::random_range(0.5..1.0))).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Connects and follows until the connection ends.
    async fn follow(&self) -> Result<Infallible, StoreError> {
        let (mut client, wire) = connect(&self.config).await?;
        let (tell, mut told) = mpsc::channel(1);
        let _wire = Owned(tokio::spawn(carry(wire, tell)));
        if *self.state.borrow() != State::Ready {
            migrate(&self.config, &mut client).await?;
        }
        within(client.batch_execute(&format!("LISTEN {CHANNEL}"))).await?;
        self.look(&client).await?;
        if self.state.send_replace(State::Ready) != State::Ready {
            tracing::info!(database = %self.config, "the database is ready");
        }
        let pace = match self.notified(&mut told).await? {
            true => SLOW,
            false => {
                tracing::warn!(
                    "the database's notifications do not arrive (a proxy in transaction mode?): \
                     the counter of changes is read every {} ms instead",
                    FAST.as_millis()
                );
                FAST
            }
        };
        loop {
            if let Ok(None) = timeout(pace, told.recv()).await {
                return Err(StoreError::Unavailable("the connection ended".into()));
            }
            self.look(&client).await?;
        }
    }

    /// Whether a notification from another connection arrives. From the same one it would always:
    /// a proxy in transaction mode hands it on while that connection's own answer is due.
    async fn notified(&self, told: &mut mpsc::Receiver<()>) -> Result<bool, StoreError> {
        let (teller, wire) = connect(&self.config).await?;
        let _wire = Owned(tokio::spawn(async move { drop(wire.await) }));
        let notify = teller.execute_typed("SELECT pg_notify($1, '')", &[(&CHANNEL, Type::TEXT)]);
        within(notify).await?;
        match timeout(PROBE, told.recv()).await {
            Ok(Some(())) => Ok(true),
            Ok(None) => Err(StoreError::Unavailable("the connection ended".into())),
            Err(_) => Ok(false),
        }
    }

    /// Reads the counter and wakes whoever waits for it to grow.
    async fn look(&self, client: &Client) -> Result<(), StoreError> {
        let ask = "SELECT change_seq, incarnation FROM counters";
        let row = within(client.query_typed_one(ask, &[])).await?;
        let (seq, incarnation) = (unsigned(&row, 0)?, unsigned(&row, 1)?);
        if self.incarnation.swap(incarnation, Ordering::Relaxed) < incarnation {
            // Numbers may begin again below, where a backup was restored.
            self.latest.send_replace(seq);
            return Ok(());
        }
        let known = *self.latest.borrow();
        if seq < known {
            tracing::error!(
                known,
                seq,
                "the database has lost changes (a restore, or a failover to a standby that lagged): \
                 run 'bodhi store raise-incarnation', so that data planes take its word again"
            );
        }
        grow(&self.latest, seq);
        Ok(())
    }
}

/// Moves the latest number forward, never back.
pub(super) fn grow(latest: &watch::Sender<u64>, seq: u64) {
    latest.send_if_modified(|known| {
        let grows = seq > *known;
        *known = seq.max(*known);
        grows
    });
}

/// Moves the connection's bytes, and tells of notifications. One that is told while another
/// waits to be heard says nothing new.
async fn carry(mut wire: Wire, tell: mpsc::Sender<()>) {
    while let Some(message) = poll_fn(|cx| wire.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notification(_)) => drop(tell.try_send(())),
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the connection to the database ended");
                return;
            }
        }
    }
}

async fn within<T>(
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, StoreError> {
    match timeout(STATEMENT, statement).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(StoreError::Unavailable(format!(
            "no answer within {} s",
            STATEMENT.as_secs()
        ))),
    }
}
