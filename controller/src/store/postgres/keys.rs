//! Rows of sealed provider keys.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::pool::Transaction;
use super::{audit, next_change, number, unsigned};
use crate::store::rows::{KeyRow, count_by_master_key, holding, seal_key};
use crate::store::seal::Keys;
use crate::store::{
    Actor, AuditAction, AuditEvent, KeyChange, ObjectUid, Resealed, Sealing, StoreError, StoredKey,
};

const COLUMNS: &str = "uid, object, origin, sealed, change_seq";

pub(super) async fn set(
    tx: &Transaction,
    keys: &Keys,
    key: StoredKey,
    by: Actor,
    now: i64,
) -> Result<u64, StoreError> {
    let seals = match seals(tx).await? {
        Some(id) => id,
        None => {
            let id = keys.ring().newest().to_owned();
            set_seals(tx, &id).await?;
            id
        }
    };
    let change_seq = next_change(tx).await?;
    let object = key.object.to_string();
    tx.execute_typed(
        "INSERT INTO keys (uid, object, origin, sealed, changed, change_seq)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (uid) DO UPDATE SET object = $2, origin = $3, sealed = $4,
                                         changed = $5, change_seq = $6",
        &[
            (&key.uid.as_str(), Type::TEXT),
            (&object, Type::TEXT),
            (&key.origin.to_string(), Type::TEXT),
            (&seal_key(keys, &seals, &key)?, Type::BYTEA),
            (&now, Type::INT8),
            (&number(change_seq), Type::INT8),
        ],
    )
    .await?;
    let action = AuditAction::KeySet;
    audit::append(tx, AuditEvent { action, object }, by, now).await?;
    Ok(change_seq)
}

pub(super) async fn remove(
    tx: &Transaction,
    uid: &ObjectUid,
    by: Actor,
    now: i64,
) -> Result<Option<u64>, StoreError> {
    let object = tx
        .query_typed_opt(
            "SELECT object FROM keys WHERE uid = $1 AND sealed IS NOT NULL",
            &[(&uid.as_str(), Type::TEXT)],
        )
        .await?;
    let Some(object) = object else {
        return Ok(None);
    };
    let object: String = object.try_get(0)?;
    let change_seq = next_change(tx).await?;
    tx.execute_typed(
        "UPDATE keys SET sealed = NULL, changed = $2, change_seq = $3 WHERE uid = $1",
        &[
            (&uid.as_str(), Type::TEXT),
            (&now, Type::INT8),
            (&number(change_seq), Type::INT8),
        ],
    )
    .await?;
    let action = AuditAction::KeyRemove;
    audit::append(tx, AuditEvent { action, object }, by, now).await?;
    Ok(Some(change_seq))
}

pub(super) async fn find(
    client: &Client,
    keys: &Keys,
    uid: ObjectUid,
) -> Result<Option<StoredKey>, StoreError> {
    let row = client
        .query_typed_opt(
            &format!("SELECT {COLUMNS} FROM keys WHERE uid = $1"),
            &[(&uid.as_str(), Type::TEXT)],
        )
        .await?;
    match row {
        Some(row) => parse(&row)?.parse(keys)?.key.opened(),
        None => Ok(None),
    }
}

pub(super) async fn changed_since(
    client: &Client,
    keys: &Keys,
    seq: u64,
) -> Result<Vec<KeyChange>, StoreError> {
    let rows = client
        .query_typed(
            &format!("SELECT {COLUMNS} FROM keys WHERE change_seq > $1 ORDER BY change_seq"),
            &[(&number(seq), Type::INT8)],
        )
        .await?;
    rows.iter().map(|row| parse(row)?.parse(keys)).collect()
}

pub(super) async fn sealing(tx: &Transaction) -> Result<Sealing, StoreError> {
    let rows = tx
        .query_typed("SELECT sealed FROM keys WHERE sealed IS NOT NULL", &[])
        .await?;
    let sealed = rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Sealing {
        seals: seals(tx).await?,
        sealed: count_by_master_key(&sealed)?,
    })
}

pub(super) async fn seal_with(
    tx: &Transaction,
    keys: &Keys,
    id: String,
    by: Actor,
    now: i64,
) -> Result<(), StoreError> {
    holding(keys, &id)?;
    if seals(tx).await?.as_deref() == Some(&*id) {
        return Ok(());
    }
    set_seals(tx, &id).await?;
    let event = AuditEvent {
        action: AuditAction::MasterKeyRotate,
        object: format!("MasterKey/{id}"),
    };
    audit::append(tx, event, by, now).await
}

/// Looks at the key after this one, in order of uid, and seals it anew if it is outdated. The
/// transaction must be an ordered one: a key that is entered meanwhile is not written over.
pub(super) async fn reseal_next(
    tx: &Transaction,
    keys: &Keys,
    after: Option<&ObjectUid>,
) -> Result<Option<Resealed>, StoreError> {
    let row = tx
        .query_typed_opt(
            &format!(
                "SELECT {COLUMNS} FROM keys WHERE sealed IS NOT NULL AND uid > $1
                 ORDER BY uid LIMIT 1"
            ),
            &[(&after.map_or("", ObjectUid::as_str), Type::TEXT)],
        )
        .await?;
    let (Some(row), Some(seals)) = (row, seals(tx).await?) else {
        return Ok(None);
    };
    let (resealed, sealed) = parse(&row)?.resealed(keys, &seals)?;
    if let Some(sealed) = sealed {
        tx.execute_typed(
            "UPDATE keys SET sealed = $2 WHERE uid = $1",
            &[(&resealed.uid.as_str(), Type::TEXT), (&sealed, Type::BYTEA)],
        )
        .await?;
    }
    Ok(Some(resealed))
}

async fn seals(tx: &Transaction) -> Result<Option<String>, StoreError> {
    let row = tx
        .query_typed_one("SELECT sealing_key FROM counters", &[])
        .await?;
    Ok(row.try_get(0)?)
}

async fn set_seals(tx: &Transaction, id: &str) -> Result<(), StoreError> {
    tx.execute_typed("UPDATE counters SET sealing_key = $1", &[(&id, Type::TEXT)])
        .await?;
    Ok(())
}

fn parse(row: &Row) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        uid: row.try_get(0)?,
        object: row.try_get(1)?,
        origin: row.try_get(2)?,
        sealed: row.try_get(3)?,
        change_seq: unsigned(row, 4)?,
    })
}
