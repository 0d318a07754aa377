//! Rows of sealed provider keys.

use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::BaseUrl;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::{audit, damaged, next_change};
use crate::store::seal::{self, Binding, KeyRing, Purpose};
use crate::store::{Actor, AuditAction, AuditEvent, KeyChange, ObjectUid, StoreError, StoredKey};

const COLUMNS: &str = "uid, object, origin, sealed, change_seq";

pub(super) fn set(
    tx: &Transaction<'_>,
    ring: &KeyRing,
    key: &StoredKey,
    by: Actor,
    now: i64,
) -> Result<u64, StoreError> {
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
        sealed(ring, key)?,
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
    ring: &KeyRing,
    uid: &ObjectUid,
) -> Result<Option<StoredKey>, StoreError> {
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM keys WHERE uid = ?1"))?;
    let mut rows = statement.query([uid.as_str()])?;
    match rows.next()? {
        Some(row) => Ok(parse(row, ring)?.key),
        None => Ok(None),
    }
}

pub(super) fn changed_since(
    tx: &Transaction<'_>,
    ring: &KeyRing,
    seq: u64,
) -> Result<Vec<KeyChange>, StoreError> {
    let mut statement = tx.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM keys WHERE change_seq > ?1 ORDER BY change_seq"
    ))?;
    let mut rows = statement.query([seq])?;
    let mut changed = Vec::new();
    while let Some(row) = rows.next()? {
        changed.push(parse(row, ring)?);
    }
    Ok(changed)
}

/// Seals with the newest master key what an older one sealed.
pub(super) fn reseal(tx: &Transaction<'_>, ring: &KeyRing) -> Result<(), StoreError> {
    let mut outdated = Vec::new();
    let mut statement = tx.prepare(&format!(
        "SELECT {COLUMNS} FROM keys WHERE sealed IS NOT NULL"
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let old: Vec<u8> = row.get(3)?;
        if !ring.is_newest(seal::key_id(&old)?) {
            outdated.extend(parse(row, ring)?.key);
        }
    }
    for key in outdated {
        tx.prepare_cached("UPDATE keys SET sealed = ?2 WHERE uid = ?1")?
            .execute(params![key.uid.as_str(), sealed(ring, &key)?])?;
    }
    Ok(())
}

fn sealed(ring: &KeyRing, key: &StoredKey) -> Result<Vec<u8>, StoreError> {
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce)
        .map_err(|e| StoreError::Unavailable(format!("no random numbers: {e}")))?;
    let binding = Binding {
        purpose: Purpose::ProviderKey,
        row: &key.uid,
        origin: &key.origin,
    };
    Ok(seal::seal(ring, &binding, nonce, &key.secret))
}

fn parse(row: &Row<'_>, ring: &KeyRing) -> Result<KeyChange, StoreError> {
    let uid: String = row.get(0)?;
    let uid = ObjectUid::parse(&uid).map_err(|e| damaged("a key's uid", e))?;
    let object: String = row.get(1)?;
    let object = ObjectRef::parse(&object).map_err(|e| damaged("a key's object", e))?;
    let origin: String = row.get(2)?;
    let origin = BaseUrl::parse(&origin)
        .map_err(|e| damaged("a key's origin", e))?
        .origin;
    let sealed: Option<Vec<u8>> = row.get(3)?;
    let key = match sealed {
        None => None,
        Some(sealed) => {
            let binding = Binding {
                purpose: Purpose::ProviderKey,
                row: &uid,
                origin: &origin,
            };
            Some(StoredKey {
                secret: seal::open(ring, &binding, &sealed)?,
                uid: uid.clone(),
                object,
                origin,
            })
        }
    };
    Ok(KeyChange {
        uid,
        key,
        change_seq: row.get(4)?,
    })
}
