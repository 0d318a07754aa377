//! Rows of the audit trail.

use bodhi_proto::names::TokenId;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::pool::Transaction;
use super::{bytes32, number, unsigned};
use crate::store::rows::damaged;
use crate::store::{Actor, AuditEvent, AuditRow, StoreError};

/// Appends a row. The transaction must be an ordered one: its lock keeps the chain's head still.
pub(super) async fn append(
    tx: &Transaction,
    event: AuditEvent,
    by: Actor,
    at: i64,
) -> Result<(), StoreError> {
    let last = tx
        .query_typed_opt(
            "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1",
            &[],
        )
        .await?;
    let last = match last {
        Some(row) => (unsigned(&row, 0)?, bytes32(&row, 1)?),
        None => (0, [0; 32]),
    };
    let row = AuditRow::after(last, event, by, at);
    tx.execute_typed(
        "INSERT INTO audit (number, at, token, owner, action, object, previous, hash)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        &[
            (&number(row.number), Type::INT8),
            (&row.at, Type::INT8),
            (&row.by.token.as_ref().map(TokenId::as_str), Type::TEXT),
            (&&*row.by.owner, Type::TEXT),
            (&row.action, Type::TEXT),
            (&row.object, Type::TEXT),
            (&row.previous.as_slice(), Type::BYTEA),
            (&row.hash.as_slice(), Type::BYTEA),
        ],
    )
    .await?;
    Ok(())
}

pub(super) async fn page(
    client: &Client,
    before: Option<u64>,
    limit: u32,
) -> Result<Vec<AuditRow>, StoreError> {
    let before = before.map_or(i64::MAX, number);
    let rows = client
        .query_typed(
            "SELECT number, at, token, owner, action, object, previous, hash FROM audit
             WHERE number < $1 ORDER BY number DESC LIMIT $2",
            &[(&before, Type::INT8), (&i64::from(limit), Type::INT8)],
        )
        .await?;
    rows.iter().map(parse).collect()
}

fn parse(row: &Row) -> Result<AuditRow, StoreError> {
    let token: Option<&str> = row.try_get(2)?;
    let token = token.map(TokenId::parse).transpose();
    Ok(AuditRow {
        number: unsigned(row, 0)?,
        at: row.try_get(1)?,
        by: Actor {
            token: token.map_err(|e| damaged("a token's id in the audit trail", e))?,
            owner: row.try_get::<_, &str>(3)?.into(),
        },
        action: row.try_get(4)?,
        object: row.try_get(5)?,
        previous: bytes32(row, 6)?,
        hash: bytes32(row, 7)?,
    })
}
