//! Rows of sealed provider keys.

use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{audit, next_change};
use crate::store::rows::{KeyRow, count_by_master_key, holding, seal_key};
use crate::store::seal::Keys;
use crate::store::{
    Actor, AuditAction, AuditEvent, KeyChange, ObjectUid, ResealOutcome, Resealed, Sealing,
    StoreError, StoredKey,
};

const COLUMNS: &str = "uid, object, origin, sealed, change_seq";

pub(super) fn set(
    tx: &Transaction<'_>,
    keys: &Keys,
    key: &StoredKey,
    by: Actor,
    now: i64,
) -> Result<u64, StoreError> {
    let seals = match seals(tx)? {
        Some(id) => id,
        None => {
            let id = keys.ring().newest().to_owned();
            set_seals(tx, &id)?;
            id
        }
    };
    let change_seq = next_change(tx)?;
    tx.prepare_cached(
        "INSERT INTO keys (uid, object, origin, sealed, changed, change_seq)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (uid) DO UPDATE SET object = ?2, origin = ?3, sealed = ?4,
                                         changed = ?5, change_seq = ?6",
    )?
    .execute(params![
        key.uid.as_str(),
        key.object.to_string(),
        key.origin.to_string(),
        seal_key(keys, &seals, key)?,
        now,
        change_seq,
    ])?;
    let event = AuditEvent {
        action: AuditAction::KeySet,
        object: key.object.to_string(),
    };
    audit::append(tx, event, by, now)?;
    Ok(change_seq)
}

pub(super) fn remove(
    tx: &Transaction<'_>,
    uid: &ObjectUid,
    by: Actor,
    now: i64,
) -> Result<Option<u64>, StoreError> {
    let object: Option<String> = tx
        .prepare_cached("SELECT object FROM keys WHERE uid = ?1 AND sealed IS NOT NULL")?
        .query_row([uid.as_str()], |row| row.get(0))
        .optional()?;
    let Some(object) = object else {
        return Ok(None);
    };
    let change_seq = next_change(tx)?;
    tx.prepare_cached(
        "UPDATE keys SET sealed = NULL, changed = ?2, change_seq = ?3 WHERE uid = ?1",
    )?
    .execute(params![uid.as_str(), now, change_seq])?;
    let event = AuditEvent {
        action: AuditAction::KeyRemove,
        object,
    };
    audit::append(tx, event, by, now)?;
    Ok(Some(change_seq))
}

pub(super) fn find(
    tx: &Transaction<'_>,
    keys: &Keys,
    uid: &ObjectUid,
) -> Result<Option<StoredKey>, StoreError> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM keys WHERE uid = ?1"))?;
    let mut rows = statement.query([uid.as_str()])?;
    match rows.next()? {
        Some(row) => parse(row)?.parse(keys)?.key.opened(),
        None => Ok(None),
    }
}

pub(super) fn changed_since(
    tx: &Transaction<'_>,
    keys: &Keys,
    seq: u64,
) -> Result<Vec<KeyChange>, StoreError> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM keys WHERE change_seq > ?1 ORDER BY change_seq"
    ))?;
    let mut rows = statement.query([seq])?;
    let mut changed = Vec::new();
    while let Some(row) = rows.next()? {
        changed.push(parse(row)?.parse(keys)?);
    }
    Ok(changed)
}

pub(super) fn sealing(tx: &Transaction<'_>) -> Result<Sealing, StoreError> {
    let mut statement = tx.prepare_cached("SELECT sealed FROM keys WHERE sealed IS NOT NULL")?;
    let sealed = statement.query_map([], |row| row.get(0))?;
    let sealed = sealed.collect::<Result<Vec<Vec<u8>>, _>>()?;
    Ok(Sealing {
        seals: seals(tx)?,
        sealed: count_by_master_key(&sealed)?,
    })
}

pub(super) fn seal_with(
    tx: &Transaction<'_>,
    keys: &Keys,
    id: &str,
    by: Actor,
    now: i64,
) -> Result<(), StoreError> {
    holding(keys, id)?;
    if seals(tx)?.as_deref() == Some(id) {
        return Ok(());
    }
    set_seals(tx, id)?;
    let event = AuditEvent {
        action: AuditAction::MasterKeyRotate,
        object: format!("MasterKey/{id}"),
    };
    audit::append(tx, event, by, now)
}

/// Looks at the key after this one, in order of uid, and seals it anew if it is outdated.
pub(super) fn reseal_next(
    tx: &Transaction<'_>,
    keys: &Keys,
    after: Option<&ObjectUid>,
) -> Result<Option<Resealed>, StoreError> {
    let row = {
        let mut statement = tx.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM keys WHERE sealed IS NOT NULL AND uid > ?1 ORDER BY uid LIMIT 1"
        ))?;
        let mut rows = statement.query([after.map_or("", ObjectUid::as_str)])?;
        rows.next()?.map(parse).transpose()?
    };
    let (Some(row), Some(seals)) = (row, seals(tx)?) else {
        return Ok(None);
    };
    let (resealed, sealed) = row.resealed(keys, &seals)?;
    if let Some(sealed) = sealed {
        tx.prepare_cached("UPDATE keys SET sealed = ?2 WHERE uid = ?1")?
            .execute(params![resealed.uid.as_str(), sealed])?;
    }
    Ok(Some(resealed))
}

/// Lets the newest master key seal, and seals anew what older ones sealed.
pub(super) fn take_newest(tx: &Transaction<'_>, keys: &Keys) -> Result<(), StoreError> {
    set_seals(tx, keys.ring().newest())?;
    let mut last = None;
    while let Some(Resealed { uid, outcome }) = reseal_next(tx, keys, last.as_ref())? {
        if let ResealOutcome::Unreadable(error) = outcome {
            tracing::error!(%uid, %error, "a stored key cannot be read");
        }
        last = Some(uid);
    }
    Ok(())
}

fn seals(tx: &Transaction<'_>) -> Result<Option<String>, StoreError> {
    Ok(tx
        .prepare_cached("SELECT sealing_key FROM counters")?
        .query_row([], |row| row.get(0))?)
}

fn set_seals(tx: &Transaction<'_>, id: &str) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE counters SET sealing_key = ?1")?
        .execute([id])?;
    Ok(())
}

fn parse(row: &Row<'_>) -> Result<KeyRow, StoreError> {
    Ok(KeyRow {
        uid: row.get(0)?,
        object: row.get(1)?,
        origin: row.get(2)?,
        sealed: row.get(3)?,
        change_seq: row.get(4)?,
    })
}
