//! Rows of tokens.

use bodhi_proto::names::TokenId;
use bodhi_proto::snapshot::TokenHash;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{audit, next_change};
use crate::store::rows::{TokenRow, taken};
use crate::store::{
    Actor, AuditAction, AuditEvent, NewToken, Revoked, StoreError, TokenQuery, TokenRecord,
};

const COLUMNS: &str = "id, hash, name, owner, scope, created, expires, revoked, models, \
    output_caps, requests_per_minute, tokens_per_minute, concurrency, change_seq";

pub(super) fn create(
    tx: &Transaction<'_>,
    new: &NewToken,
    by: Actor,
    now: i64,
) -> Result<TokenRecord, StoreError> {
    let token = &new.token;
    let existing = {
        let mut statement = tx.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM tokens WHERE id = ?1 OR hash = ?2"
        ))?;
        let mut rows = statement.query(params![token.id.as_str(), token.hash.0])?;
        rows.next()?.map(parse).transpose()?
    };
    if let Some(existing) = existing {
        return taken(existing, new);
    }
    let row = TokenRow::of(new, now, next_change(tx)?);
    tx.prepare_cached(&format!(
        "INSERT INTO tokens ({COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
    ))?
    .execute(params![
        row.id,
        row.hash,
        row.name,
        row.owner,
        row.scope,
        row.created,
        row.expires,
        row.revoked,
        row.models,
        row.output_caps,
        row.requests_per_minute,
        row.tokens_per_minute,
        row.concurrency,
        row.change_seq,
    ])?;
    record(tx, AuditAction::TokenCreate, &token.id, by, now)?;
    row.parse()
}

pub(super) fn revoke(
    tx: &Transaction<'_>,
    id: &TokenId,
    by: Actor,
    now: i64,
) -> Result<Option<Revoked>, StoreError> {
    let known: Option<(Option<i64>, u64)> = tx
        .prepare_cached("SELECT revoked, change_seq FROM tokens WHERE id = ?1")?
        .query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match known {
        None => return Ok(None),
        // Nothing changes a revoked token, so its last change is the revocation.
        Some((Some(at), change_seq)) => return Ok(Some(Revoked { change_seq, at })),
        Some((None, _)) => {}
    }
    let change_seq = next_change(tx)?;
    tx.prepare_cached("UPDATE tokens SET revoked = ?2, change_seq = ?3 WHERE id = ?1")?
        .execute(params![id.as_str(), now, change_seq])?;
    record(tx, AuditAction::TokenRevoke, id, by, now)?;
    Ok(Some(Revoked {
        change_seq,
        at: now,
    }))
}

fn record(
    tx: &Transaction<'_>,
    action: AuditAction,
    id: &TokenId,
    by: Actor,
    now: i64,
) -> Result<(), StoreError> {
    let object = format!("Token/{id}");
    audit::append(tx, AuditEvent { action, object }, by, now)
}

pub(super) fn find(
    tx: &Transaction<'_>,
    hash: &TokenHash,
) -> Result<Option<TokenRecord>, StoreError> {
    let mut statement =
        tx.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE hash = ?1"))?;
    let mut rows = statement.query([hash.0])?;
    rows.next()?.map(parse).transpose()
}

pub(super) fn by_id(tx: &Transaction<'_>, id: &TokenId) -> Result<Option<TokenRecord>, StoreError> {
    let mut statement =
        tx.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(parse).transpose()
}

pub(super) fn page(
    tx: &Transaction<'_>,
    query: &TokenQuery,
) -> Result<Vec<TokenRecord>, StoreError> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM tokens
         WHERE (?1 IS NULL OR owner = ?1)
           AND (?2 IS NULL OR number > (SELECT number FROM tokens WHERE id = ?2))
         ORDER BY number LIMIT ?3"
    ))?;
    let after = query.after.as_ref().map(TokenId::as_str);
    let mut rows = statement.query(params![query.owner.as_deref(), after, query.limit])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.push(parse(row)?);
    }
    Ok(page)
}

pub(super) fn changed_since(
    tx: &Transaction<'_>,
    seq: u64,
) -> Result<Vec<TokenRecord>, StoreError> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM tokens WHERE change_seq > ?1 ORDER BY change_seq"
    ))?;
    let mut rows = statement.query([seq])?;
    let mut changed = Vec::new();
    while let Some(row) = rows.next()? {
        changed.push(parse(row)?);
    }
    Ok(changed)
}

fn parse(row: &Row<'_>) -> Result<TokenRecord, StoreError> {
    let row = TokenRow {
        id: row.get(0)?,
        hash: row.get(1)?,
        name: row.get(2)?,
        owner: row.get(3)?,
        scope: row.get(4)?,
        created: row.get(5)?,
        expires: row.get(6)?,
        revoked: row.get(7)?,
        models: row.get(8)?,
        output_caps: row.get(9)?,
        requests_per_minute: row.get(10)?,
        tokens_per_minute: row.get(11)?,
        concurrency: row.get(12)?,
        change_seq: row.get(13)?,
    };
    row.parse()
}
