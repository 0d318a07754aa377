//! Rows of what files cannot say about their objects. Lists travel whole, in one statement.

use std::collections::BTreeMap;

use bodhi_proto::names::ObjectRef;
use serde_json::Value;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::keys;
use super::pool::Transaction;
use crate::store::rows::{damaged, new_uid};
use crate::store::{Actor, ObjectRecord, ObjectUid, SeenObject, StoreError};

pub(super) async fn see(
    tx: &Transaction,
    seen: Vec<SeenObject>,
    now: i64,
) -> Result<Vec<ObjectRecord>, StoreError> {
    // One statement touches a row once; the last word on an object counts.
    let distinct: BTreeMap<String, [u8; 32]> = seen
        .iter()
        .map(|object| (object.object.to_string(), object.digest))
        .collect();
    let mut uids = Vec::with_capacity(distinct.len());
    for _ in 0..distinct.len() {
        uids.push(new_uid()?.to_string());
    }
    let names: Vec<&str> = distinct.keys().map(String::as_str).collect();
    let digests: Vec<&[u8]> = distinct.values().map(<[u8; 32]>::as_slice).collect();
    let rows = tx
        .query_typed(
            "INSERT INTO objects (object, uid, digest, created, generation)
             SELECT object, uid, digest, $4, 1 FROM UNNEST($1, $2, $3) AS new (object, uid, digest)
             ON CONFLICT (object) DO UPDATE
                SET generation = objects.generation + (objects.digest <> excluded.digest)::int,
                    digest = excluded.digest
             RETURNING object, uid, created, generation",
            &[
                (&names, Type::TEXT_ARRAY),
                (&uids, Type::TEXT_ARRAY),
                (&digests, Type::BYTEA_ARRAY),
                (&now, Type::INT8),
            ],
        )
        .await?;
    let records = rows.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let records: BTreeMap<&ObjectRef, &ObjectRecord> = records
        .iter()
        .map(|record| (&record.object, record))
        .collect();
    let record = |seen: &SeenObject| {
        let record = records.get(&seen.object).copied().cloned();
        record.ok_or_else(|| damaged("an object was not kept:", &seen.object))
    };
    seen.iter().map(record).collect()
}

pub(super) async fn all(client: &Client) -> Result<Vec<ObjectRecord>, StoreError> {
    let rows = client
        .query_typed(
            "SELECT object, uid, created, generation FROM objects ORDER BY object",
            &[],
        )
        .await?;
    rows.iter().map(parse).collect()
}

fn parse(row: &Row) -> Result<ObjectRecord, StoreError> {
    Ok(ObjectRecord {
        object: name(row)?,
        uid: ObjectUid::parse(row.try_get(1)?).map_err(|e| damaged("an object's uid", e))?,
        created: row.try_get(2)?,
        generation: row.try_get(3)?,
    })
}

fn name(row: &Row) -> Result<ObjectRef, StoreError> {
    ObjectRef::parse(row.try_get(0)?).map_err(|e| damaged("an object's name", e))
}

pub(super) async fn forget(
    tx: &Transaction,
    objects: Vec<ObjectRef>,
    now: i64,
) -> Result<(), StoreError> {
    let names: Vec<String> = objects.iter().map(ToString::to_string).collect();
    let gone = tx
        .query_typed(
            "DELETE FROM objects WHERE object = ANY ($1) RETURNING uid",
            &[(&names, Type::TEXT_ARRAY)],
        )
        .await?;
    tx.execute_typed(
        "DELETE FROM statuses WHERE object = ANY ($1)",
        &[(&names, Type::TEXT_ARRAY)],
    )
    .await?;
    for row in gone {
        let uid = ObjectUid::parse(row.try_get(0)?).map_err(|e| damaged("an object's uid", e))?;
        keys::remove(tx, &uid, Actor::program("bodhi-controller"), now).await?;
    }
    Ok(())
}

pub(super) async fn put_statuses(
    tx: &Transaction,
    statuses: Vec<(ObjectRef, Value)>,
) -> Result<(), StoreError> {
    let distinct: BTreeMap<String, String> = statuses
        .iter()
        .map(|(object, status)| (object.to_string(), status.to_string()))
        .collect();
    let (names, texts): (Vec<&String>, Vec<&String>) = distinct.iter().unzip();
    tx.execute_typed(
        "INSERT INTO statuses (object, status)
         SELECT object, status FROM UNNEST($1, $2) AS new (object, status)
         ON CONFLICT (object) DO UPDATE SET status = excluded.status",
        &[(&names, Type::TEXT_ARRAY), (&texts, Type::TEXT_ARRAY)],
    )
    .await?;
    Ok(())
}

pub(super) async fn statuses(client: &Client) -> Result<Vec<(ObjectRef, Value)>, StoreError> {
    let rows = client
        .query_typed("SELECT object, status FROM statuses ORDER BY object", &[])
        .await?;
    let parse = |row: &Row| {
        let status = serde_json::from_str(row.try_get(1)?).map_err(|e| damaged("a status", e))?;
        Ok((name(row)?, status))
    };
    rows.iter().map(parse).collect()
}
