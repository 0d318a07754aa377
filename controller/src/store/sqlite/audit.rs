//! Rows of the audit trail.

use bodhi_proto::names::TokenId;
use rusqlite::{OptionalExtension as _, Transaction, params};

use crate::store::rows::damaged;
use crate::store::{Actor, AuditEvent, AuditRow, StoreError};

pub(super) fn append(
    tx: &Transaction<'_>,
    event: AuditEvent,
    by: Actor,
    at: i64,
) -> Result<(), StoreError> {
    let last = tx
        .prepare_cached("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .unwrap_or((0, [0; 32]));
    let row = AuditRow::after(last, event, by, at);
    tx.prepare_cached(
        "INSERT INTO audit (number, at, token, owner, action, object, previous, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        row.number,
        row.at,
        row.by.token.as_ref().map(TokenId::as_str),
        &*row.by.owner,
        row.action,
        row.object,
        row.previous,
        row.hash,
    ])?;
    Ok(())
}

pub(super) fn page(
    tx: &Transaction<'_>,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<AuditRow>, StoreError> {
    let before = before.map_or(i64::MAX, |n| i64::try_from(n).unwrap_or(i64::MAX));
    let mut statement = tx.prepare_cached(
        "SELECT number, at, token, owner, action, object, previous, hash FROM audit
         WHERE number < ?1 ORDER BY number DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![before, limit])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let token: Option<String> = row.get(2)?;
        let token = token.map(|id| TokenId::parse(&id)).transpose();
        page.push(AuditRow {
            number: row.get(0)?,
            at: row.get(1)?,
            by: Actor {
                token: token.map_err(|e| damaged("a token's id in the audit trail", e))?,
                owner: row.get::<_, String>(3)?.into(),
            },
            action: row.get(4)?,
            object: row.get(5)?,
            previous: row.get(6)?,
            hash: row.get(7)?,
        });
    }
    Ok(page)
}
