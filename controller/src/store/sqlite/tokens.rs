//! Rows of tokens.

use std::num::NonZeroU32;
use std::sync::Arc;

use bodhi_proto::names::{ModelName, TokenId};
use bodhi_proto::snapshot::{Globs, ModelCap, Scope, Token, TokenHash, TokenLimits};
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{audit, damaged, next_change};
use crate::store::{
    Actor, AuditAction, AuditEvent, NewToken, Revoked, StoreError, TokenQuery, TokenRecord,
};

const COLUMNS: &str = "id, hash, name, owner, scope, created, expires, revoked, models, \
    output_caps, requests_per_minute, tokens_per_minute, concurrency, change_seq";

pub(super) fn create(
    tx: &Transaction<'_>,
    new: NewToken,
    by: Actor,
    now: i64,
) -> Result<TokenRecord, StoreError> {
    let NewToken { token, name } = new;
    let taken: bool = tx
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM tokens WHERE id = ?1 OR hash = ?2)")?
        .query_row(params![token.id.as_str(), token.hash.0], |row| row.get(0))?;
    if taken {
        return Err(StoreError::Exists(format!("a token with id {}", token.id)));
    }
    let change_seq = next_change(tx)?;
    let models = token
        .models
        .as_ref()
        .map(|globs| serde_json::Value::from_iter(globs.patterns()).to_string());
    let caps = token
        .output_caps
        .iter()
        .map(|cap| serde_json::json!([cap.model.as_str(), cap.limit]));
    let limits = &token.limits;
    tx.prepare_cached(&format!(
        "INSERT INTO tokens ({COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL, ?8, ?9, ?10, ?11, ?12, ?13)"
    ))?
    .execute(params![
        token.id.as_str(),
        token.hash.0,
        name,
        &*token.owner,
        token.scope.as_str(),
        now,
        token.expires,
        models,
        serde_json::Value::from_iter(caps).to_string(),
        limits.requests_per_minute.map(NonZeroU32::get),
        limits.tokens_per_minute.map(NonZeroU32::get),
        limits.concurrency.map(NonZeroU32::get),
        change_seq,
    ])?;
    record(tx, AuditAction::TokenCreate, &token.id, by, now)?;
    Ok(TokenRecord {
        token: Arc::new(token),
        name,
        created: now,
        revoked: None,
        change_seq,
    })
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
    let id: String = row.get(0)?;
    let id = TokenId::parse(&id).map_err(|e| damaged("a token's id", e))?;
    let bad = |what: &str| StoreError::Damaged(format!("token {id}: its {what}"));
    let scope: String = row.get(4)?;
    let models: Option<String> = row.get(8)?;
    let models: Option<Vec<String>> = models
        .map(|json| serde_json::from_str(&json))
        .transpose()
        .map_err(|_| bad("models"))?;
    let caps: String = row.get(9)?;
    let caps: Vec<(String, NonZeroU32)> =
        serde_json::from_str(&caps).map_err(|_| bad("output caps"))?;
    let cap = |(model, limit): (String, NonZeroU32)| {
        let model = ModelName::parse(&model).map_err(|_| bad("output caps"))?;
        Ok::<_, StoreError>(ModelCap { model, limit })
    };
    let limit = |column: usize| -> Result<Option<NonZeroU32>, StoreError> {
        let value: Option<u32> = row.get(column)?;
        value
            .map(|n| NonZeroU32::new(n).ok_or_else(|| bad("limits")))
            .transpose()
    };
    let token = Token {
        hash: TokenHash(row.get(1)?),
        owner: row.get::<_, String>(3)?.into(),
        scope: Scope::parse(&scope).ok_or_else(|| bad("scope"))?,
        expires: row.get(6)?,
        models: models.map(Globs::new),
        output_caps: caps.into_iter().map(cap).collect::<Result<_, _>>()?,
        limits: TokenLimits {
            requests_per_minute: limit(10)?,
            tokens_per_minute: limit(11)?,
            concurrency: limit(12)?,
        },
        id: id.clone(),
    };
    Ok(TokenRecord {
        token: Arc::new(token),
        name: row.get(2)?,
        created: row.get(5)?,
        revoked: row.get(7)?,
        change_seq: row.get(13)?,
    })
}
