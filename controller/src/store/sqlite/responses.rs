//! Rows of response owners.

use bodhi_proto::names::ObjectRef;
use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::store::rows::damaged;
use crate::store::{ResponseRecord, StoreError};

pub(super) fn record(tx: &Transaction<'_>, records: &[ResponseRecord]) -> Result<(), StoreError> {
    // The first owner stays: a provider that repeats an id must not hand one person's
    // response to another.
    let mut statement = tx.prepare_cached(
        "INSERT INTO responses (id, upstream, owner, created) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO NOTHING",
    )?;
    for record in records {
        statement.execute(params![
            record.id,
            record.upstream.to_string(),
            record.owner,
            record.created
        ])?;
    }
    Ok(())
}

pub(super) fn find(tx: &Transaction<'_>, id: &str) -> Result<Option<ResponseRecord>, StoreError> {
    let found: Option<(String, String, i64)> = tx
        .prepare_cached("SELECT upstream, owner, created FROM responses WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((upstream, owner, created)) = found else {
        return Ok(None);
    };
    Ok(Some(ResponseRecord {
        id: id.to_owned(),
        upstream: ObjectRef::parse(&upstream).map_err(|e| damaged("a response's upstream", e))?,
        owner,
        created,
    }))
}

pub(super) fn prune(tx: &Transaction<'_>, before: i64) -> Result<u64, StoreError> {
    let gone = tx
        .prepare_cached("DELETE FROM responses WHERE created < ?1")?
        .execute([before])?;
    Ok(gone as u64)
}
