//! Rows of what files cannot say about their objects.

use bodhi_proto::names::ObjectRef;
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::Value;

use super::keys;
use crate::store::rows::{damaged, new_uid};
use crate::store::{Actor, ObjectRecord, ObjectUid, SeenObject, StoreError};

pub(super) fn see(
    tx: &Transaction<'_>,
    objects: Vec<SeenObject>,
    now: i64,
) -> Result<Vec<ObjectRecord>, StoreError> {
    let mut upsert = tx.prepare_cached(
        "INSERT INTO objects (object, uid, digest, created, generation)
         VALUES (?1, ?2, ?3, ?4, 1)
         ON CONFLICT (object) DO UPDATE
            SET generation = generation + (digest <> ?3), digest = ?3
         RETURNING uid, created, generation",
    )?;
    let mut records = Vec::with_capacity(objects.len());
    for SeenObject { object, digest } in objects {
        let uid = new_uid()?;
        let row = upsert.query_row(
            params![object.to_string(), uid.as_str(), digest, now],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        records.push(record(object, row)?);
    }
    Ok(records)
}

pub(super) fn all(tx: &Transaction<'_>) -> Result<Vec<ObjectRecord>, StoreError> {
    let mut statement =
        tx.prepare_cached("SELECT object, uid, created, generation FROM objects ORDER BY object")?;
    let mut rows = statement.query([])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let object: String = row.get(0)?;
        let object = ObjectRef::parse(&object).map_err(|e| damaged("an object's name", e))?;
        records.push(record(object, (row.get(1)?, row.get(2)?, row.get(3)?))?);
    }
    Ok(records)
}

fn record(
    object: ObjectRef,
    (uid, created, generation): (String, i64, i64),
) -> Result<ObjectRecord, StoreError> {
    Ok(ObjectRecord {
        uid: ObjectUid::parse(&uid).map_err(|e| damaged("an object's uid", e))?,
        object,
        created,
        generation,
    })
}

pub(super) fn forget(
    tx: &Transaction<'_>,
    objects: &[ObjectRef],
    now: i64,
) -> Result<(), StoreError> {
    for object in objects {
        let name = object.to_string();
        let uid: Option<String> = tx
            .prepare_cached("DELETE FROM objects WHERE object = ?1 RETURNING uid")?
            .query_row([&name], |row| row.get(0))
            .optional()?;
        tx.prepare_cached("DELETE FROM statuses WHERE object = ?1")?
            .execute([&name])?;
        if let Some(uid) = uid {
            let uid = ObjectUid::parse(&uid).map_err(|e| damaged("an object's uid", e))?;
            keys::remove(tx, &uid, Actor::program("bodhi-controller"), now)?;
        }
    }
    Ok(())
}

pub(super) fn put_statuses(
    tx: &Transaction<'_>,
    statuses: &[(ObjectRef, Value)],
) -> Result<(), StoreError> {
    let mut upsert = tx.prepare_cached(
        "INSERT INTO statuses (object, status) VALUES (?1, ?2)
         ON CONFLICT (object) DO UPDATE SET status = ?2",
    )?;
    for (object, status) in statuses {
        upsert.execute(params![object.to_string(), status.to_string()])?;
    }
    Ok(())
}

pub(super) fn statuses(tx: &Transaction<'_>) -> Result<Vec<(ObjectRef, Value)>, StoreError> {
    let mut statement = tx.prepare_cached("SELECT object, status FROM statuses ORDER BY object")?;
    let mut rows = statement.query([])?;
    let mut statuses = Vec::new();
    while let Some(row) = rows.next()? {
        let (object, status): (String, String) = (row.get(0)?, row.get(1)?);
        let object = ObjectRef::parse(&object).map_err(|e| damaged("a status's object", e))?;
        let status = serde_json::from_str(&status).map_err(|e| damaged("a status", e))?;
        statuses.push((object, status));
    }
    Ok(statuses)
}
