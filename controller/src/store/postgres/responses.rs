//! Rows of response owners.

use bodhi_proto::names::ObjectRef;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::pool::Transaction;
use crate::store::rows::damaged;
use crate::store::{ResponseRecord, StoreError};

/// Rows that one statement deletes, so that none runs long.
const PRUNE: i64 = 10_000;
/// The advisory lock of whoever prunes: any number that nobody else uses.
const PRUNER: i64 = 0x626f_6468_6900_0002;

pub(super) async fn record(client: &Client, records: &[ResponseRecord]) -> Result<(), StoreError> {
    let ids: Vec<&str> = records.iter().map(|r| &*r.id).collect();
    let upstreams: Vec<String> = records.iter().map(|r| r.upstream.to_string()).collect();
    let owners: Vec<&str> = records.iter().map(|r| &*r.owner).collect();
    let created: Vec<i64> = records.iter().map(|r| r.created).collect();
    // The first owner stays: a provider that repeats an id must not hand one person's
    // response to another.
    client
        .execute_typed(
            "INSERT INTO responses (id, upstream, owner, created)
             SELECT * FROM UNNEST($1, $2, $3, $4)
             ON CONFLICT (id) DO NOTHING",
            &[
                (&ids, Type::TEXT_ARRAY),
                (&upstreams, Type::TEXT_ARRAY),
                (&owners, Type::TEXT_ARRAY),
                (&created, Type::INT8_ARRAY),
            ],
        )
        .await?;
    Ok(())
}

pub(super) async fn find(
    client: &Client,
    id: String,
) -> Result<Option<ResponseRecord>, StoreError> {
    let row = client
        .query_typed_opt(
            "SELECT upstream, owner, created FROM responses WHERE id = $1",
            &[(&id, Type::TEXT)],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let upstream = ObjectRef::parse(row.try_get(0)?);
    Ok(Some(ResponseRecord {
        id,
        upstream: upstream.map_err(|e| damaged("a response's upstream", e))?,
        owner: row.try_get(1)?,
        created: row.try_get(2)?,
    }))
}

/// Drops one batch and answers how many; `None`: nothing is left, or another controller is at it.
pub(super) async fn prune(tx: &Transaction, before: i64) -> Result<Option<u64>, StoreError> {
    let alone = tx
        .query_typed_one(
            "SELECT pg_try_advisory_xact_lock($1)",
            &[(&PRUNER, Type::INT8)],
        )
        .await?;
    if !alone.try_get(0)? {
        return Ok(None);
    }
    let gone = tx
        .execute_typed(
            "DELETE FROM responses WHERE id IN
                (SELECT id FROM responses WHERE created < $1 LIMIT $2)",
            &[(&before, Type::INT8), (&PRUNE, Type::INT8)],
        )
        .await?;
    Ok(Some(gone).filter(|gone| *gone > 0))
}
