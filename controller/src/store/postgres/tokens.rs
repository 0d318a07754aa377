//! Rows of tokens.

use bodhi_proto::names::TokenId;
use bodhi_proto::snapshot::TokenHash;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::pool::Transaction;
use super::{audit, bytes32, next_change, number, unsigned};
use crate::store::rows::{TokenRow, damaged, taken};
use crate::store::{
    Actor, AuditAction, AuditEvent, NewToken, Revoked, StoreError, TokenQuery, TokenRecord,
};

const COLUMNS: &str = "id, hash, name, owner, scope, created, expires, revoked, models, \
    output_caps, requests_per_minute, tokens_per_minute, concurrency, change_seq";

pub(super) async fn create(
    tx: &Transaction,
    new: NewToken,
    by: Actor,
    now: i64,
) -> Result<TokenRecord, StoreError> {
    let token = &new.token;
    let existing = tx
        .query_typed(
            &format!("SELECT {COLUMNS} FROM tokens WHERE id = $1 OR hash = $2"),
            &[
                (&token.id.as_str(), Type::TEXT),
                (&token.hash.0.as_slice(), Type::BYTEA),
            ],
        )
        .await?;
    if let Some(existing) = existing.first() {
        return taken(parse(existing)?, &new);
    }
    let row = TokenRow::of(&new, now, next_change(tx).await?);
    let limit = |n: Option<u32>| n.map(i64::from);
    tx.execute_typed(
        &format!(
            "INSERT INTO tokens ({COLUMNS})
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
        ),
        &[
            (&row.id, Type::TEXT),
            (&row.hash.as_slice(), Type::BYTEA),
            (&row.name, Type::TEXT),
            (&row.owner, Type::TEXT),
            (&row.scope, Type::TEXT),
            (&row.created, Type::INT8),
            (&row.expires, Type::INT8),
            (&row.revoked, Type::INT8),
            (&row.models, Type::TEXT),
            (&row.output_caps, Type::TEXT),
            (&limit(row.requests_per_minute), Type::INT8),
            (&limit(row.tokens_per_minute), Type::INT8),
            (&limit(row.concurrency), Type::INT8),
            (&number(row.change_seq), Type::INT8),
        ],
    )
    .await?;
    record(tx, AuditAction::TokenCreate, &token.id, by, now).await?;
    row.parse()
}

pub(super) async fn revoke(
    tx: &Transaction,
    id: TokenId,
    by: Actor,
    now: i64,
) -> Result<Option<Revoked>, StoreError> {
    let known = tx
        .query_typed_opt(
            "SELECT revoked, change_seq FROM tokens WHERE id = $1",
            &[(&id.as_str(), Type::TEXT)],
        )
        .await?;
    let Some(known) = known else { return Ok(None) };
    // Nothing changes a revoked token, so its last change is the revocation.
    if let Some(at) = known.try_get(0)? {
        let change_seq = unsigned(&known, 1)?;
        return Ok(Some(Revoked { change_seq, at }));
    }
    let change_seq = next_change(tx).await?;
    tx.execute_typed(
        "UPDATE tokens SET revoked = $2, change_seq = $3 WHERE id = $1",
        &[
            (&id.as_str(), Type::TEXT),
            (&now, Type::INT8),
            (&number(change_seq), Type::INT8),
        ],
    )
    .await?;
    record(tx, AuditAction::TokenRevoke, &id, by, now).await?;
    Ok(Some(Revoked {
        change_seq,
        at: now,
    }))
}

async fn record(
    tx: &Transaction,
    action: AuditAction,
    id: &TokenId,
    by: Actor,
    now: i64,
) -> Result<(), StoreError> {
    let object = format!("Token/{id}");
    audit::append(tx, AuditEvent { action, object }, by, now).await
}

pub(super) async fn find(
    client: &Client,
    hash: TokenHash,
) -> Result<Option<TokenRecord>, StoreError> {
    let row = client
        .query_typed_opt(
            &format!("SELECT {COLUMNS} FROM tokens WHERE hash = $1"),
            &[(&hash.0.as_slice(), Type::BYTEA)],
        )
        .await?;
    row.as_ref().map(parse).transpose()
}

pub(super) async fn by_id(client: &Client, id: TokenId) -> Result<Option<TokenRecord>, StoreError> {
    let row = client
        .query_typed_opt(
            &format!("SELECT {COLUMNS} FROM tokens WHERE id = $1"),
            &[(&id.as_str(), Type::TEXT)],
        )
        .await?;
    row.as_ref().map(parse).transpose()
}

pub(super) async fn page(
    client: &Client,
    query: TokenQuery,
) -> Result<Vec<TokenRecord>, StoreError> {
    let rows = client
        .query_typed(
            &format!(
                "SELECT {COLUMNS} FROM tokens
                 WHERE ($1 IS NULL OR owner = $1)
                   AND ($2 IS NULL OR number > (SELECT number FROM tokens WHERE id = $2))
                 ORDER BY number LIMIT $3"
            ),
            &[
                (&query.owner.as_deref(), Type::TEXT),
                (&query.after.as_ref().map(TokenId::as_str), Type::TEXT),
                (&i64::from(query.limit), Type::INT8),
            ],
        )
        .await?;
    rows.iter().map(parse).collect()
}

pub(super) async fn changed_since(
    client: &Client,
    seq: u64,
) -> Result<Vec<TokenRecord>, StoreError> {
    let rows = client
        .query_typed(
            &format!("SELECT {COLUMNS} FROM tokens WHERE change_seq > $1 ORDER BY change_seq"),
            &[(&number(seq), Type::INT8)],
        )
        .await?;
    rows.iter().map(parse).collect()
}

fn parse(row: &Row) -> Result<TokenRecord, StoreError> {
    let limit = |column: usize| -> Result<Option<u32>, StoreError> {
        let value: Option<i64> = row.try_get(column)?;
        let value = value.map(u32::try_from).transpose();
        value.map_err(|e| damaged("a token's limit:", e))
    };
    let row = TokenRow {
        id: row.try_get(0)?,
        hash: bytes32(row, 1)?,
        name: row.try_get(2)?,
        owner: row.try_get(3)?,
        scope: row.try_get(4)?,
        created: row.try_get(5)?,
        expires: row.try_get(6)?,
        revoked: row.try_get(7)?,
        models: row.try_get(8)?,
        output_caps: row.try_get(9)?,
        requests_per_minute: limit(10)?,
        tokens_per_minute: limit(11)?,
        concurrency: limit(12)?,
        change_seq: unsigned(row, 13)?,
    };
    row.parse()
}
