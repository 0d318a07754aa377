//! Brings the schema up to date, by one controller at a time.
//!
//! Releases run side by side during an upgrade, so migrations only add (expand); what no supported
//! release reads any more goes with a later one (contract). A schema that is newer than this
//! release is therefore no fault. See docs/decisions/0016-postgres-as-a-store.md.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::config::PostgresConfig;
use super::connect::{Owned, connect};
use crate::store::StoreError;

mod embedded {
    refinery::embed_migrations!("src/store/migrations/postgres");
}

/// The advisory lock of whoever migrates: any number that nobody else uses.
const MIGRATOR: i64 = 0x626f_6468_6900_0001;
/// How long the wait for another controller's migrations and our own may take.
const MOST: Duration = Duration::from_secs(300);

/// Applies what is missing over `client`. The lock belongs to a transaction on a connection of its
/// own, so it is released however this ends, and holds behind a proxy in transaction mode too.
pub(super) async fn migrate(
    config: &PostgresConfig,
    client: &mut Client,
) -> Result<(), StoreError> {
    let (lock, wire) = connect(config).await?;
    let _wire = Owned(tokio::spawn(async move {
        if let Err(error) = wire.await {
            tracing::debug!(%error, "the connection of the migrations' lock ended");
        }
    }));
    let migrating = async {
        lock.batch_execute("BEGIN").await?;
        let parameters = [(
            &MIGRATOR as &(dyn tokio_postgres::types::ToSql + Sync),
            Type::INT8,
        )];
        lock.execute_typed("SELECT pg_advisory_xact_lock($1)", &parameters)
            .await?;
        run(client, embedded::migrations::runner()).await?;
        lock.batch_execute("COMMIT").await?;
        Ok(())
    };
    match timeout(MOST, migrating).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unavailable(format!(
            "the schema was not brought up to date within {} s",
            MOST.as_secs()
        ))),
    }
}

async fn run(client: &mut Client, runner: refinery::Runner) -> Result<(), StoreError> {
    let runner = runner.set_abort_missing(false);
    let report = runner.run_async(client).await.map_err(|error| {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        StoreError::Unavailable(format!("the schema cannot be brought up to date: {text}"))
    })?;
    for migration in report.applied_migrations() {
        tracing::info!(%migration, "the database's schema was extended");
    }
    Ok(())
}

/// Brings an empty database to an older schema, as an older release left it.
#[cfg(test)]
pub(super) async fn migrate_to(client: &mut Client, version: i32) -> Result<(), StoreError> {
    let target = refinery::Target::Version(version);
    run(client, embedded::migrations::runner().set_target(target)).await
}
