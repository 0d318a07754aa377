//! ApiModels and Aliases: read, created, replaced, deleted. A body is what kubectl
//! sends: apiVersion, kind, metadata, spec.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::Scope;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::auth::Caller;
use super::extract::{Body, Plural, Segments, object};
use super::{AdminState, ApiError, WriteError};
use crate::store::{AuditAction, AuditEvent};

/// Resources with their statuses.
#[derive(Serialize, ToSchema)]
pub(super) struct ResourceList {
    #[schema(value_type = Vec<Object>)]
    items: Vec<Value>,
}

/// Lists the resources of a kind (scope power_user).
#[utoipa::path(get, path = "/bodhi/v1/{kind}", tag = "resources", params(("kind" = Plural, Path)), responses((status = 200, body = ResourceList)), security(("token" = [])))]
pub(super) async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    Segments(kind): Segments<Plural>,
) -> Result<Json<ResourceList>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let statuses = state.store.statuses().await?;
    let items = state.resources.list(kind.kind());
    let items = items.into_iter().map(|item| dressed(item, &statuses));
    Ok(Json(ResourceList {
        items: items.collect(),
    }))
}

fn names(item: &Value, object: &ObjectRef) -> bool {
    item["kind"] == object.kind.as_str()
        && item["metadata"]["name"] == *object.name
        && item["metadata"]["namespace"] == *object.namespace
}

/// One resource with its status (scope power_user).
#[utoipa::path(get, path = "/bodhi/v1/{kind}/{namespace}/{name}", tag = "resources", params(("kind" = Plural, Path), ("namespace" = String, Path), ("name" = String, Path)), responses((status = 200, body = Object)), security(("token" = [])))]
pub(super) async fn read(
    State(state): State<AdminState>,
    caller: Caller,
    Segments((kind, namespace, name)): Segments<(Plural, String, String)>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let object = object(kind.kind(), &namespace, &name)?;
    with_status(&state, &object).await.map(Json)
}

async fn with_status(state: &AdminState, object: &ObjectRef) -> Result<Value, ApiError> {
    let item = state.object(object)?;
    let statuses = state.store.statuses().await?;
    Ok(dressed(item, &statuses))
}

/// The object with its kept status, unless it brings a newer one along.
fn dressed(mut item: Value, statuses: &[(ObjectRef, Value)]) -> Value {
    let own = statuses.iter().find(|(object, _)| names(&item, object));
    if let (Some((_, status)), None) = (own, item.get("status")) {
        item["status"] = status.clone();
    }
    item
}

/// What was just written, as the index has it; as it was sent while the index is behind.
async fn written(state: &AdminState, object: &ObjectRef, sent: Value) -> Result<Value, ApiError> {
    match state.resources.get(object) {
        Some(_) => with_status(state, object).await,
        None => Ok(sent),
    }
}

/// Creates a resource (scope power_user). All faults of a manifest are listed at once.
#[utoipa::path(post, path = "/bodhi/v1/{kind}", tag = "resources", params(("kind" = Plural, Path)), request_body = Object, responses((status = 201, body = Object)), security(("token" = [])))]
pub(super) async fn create(
    State(state): State<AdminState>,
    caller: Caller,
    Segments(kind): Segments<Plural>,
    Body(manifest): Body<Value>,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    caller.require(Scope::PowerUser)?;
    let name = |field: &str| manifest["metadata"][field].as_str();
    let missing = |field| {
        ApiError::invalid(
            format!("metadata.{field}"),
            format!("metadata.{field} is needed."),
        )
    };
    let namespace = name("namespace").ok_or_else(|| missing("namespace"))?;
    let object = object(
        kind.kind(),
        namespace,
        name("name").ok_or_else(|| missing("name"))?,
    )?;
    check_envelope(&manifest, &object)?;
    if state.resources.get(&object).is_some() {
        return Err(WriteError::Exists(object).into());
    }
    state
        .writer
        .put(object.clone(), manifest.clone(), None)
        .await?;
    record(&state, &caller, AuditAction::ResourceCreate, &object).await?;
    Ok((
        StatusCode::CREATED,
        Json(written(&state, &object, manifest).await?),
    ))
}

/// Creates or replaces a resource (scope power_user).
#[utoipa::path(put, path = "/bodhi/v1/{kind}/{namespace}/{name}", tag = "resources", params(("kind" = Plural, Path), ("namespace" = String, Path), ("name" = String, Path)), request_body = Object, responses((status = 200, body = Object)), security(("token" = [])))]
pub(super) async fn replace(
    State(state): State<AdminState>,
    caller: Caller,
    Segments((kind, namespace, name)): Segments<(Plural, String, String)>,
    Body(manifest): Body<Value>,
) -> Result<Json<Value>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let object = object(kind.kind(), &namespace, &name)?;
    check_envelope(&manifest, &object)?;
    let old = state.resources.get(&object);
    let action = match old {
        Some(_) => AuditAction::ResourceUpdate,
        None => AuditAction::ResourceCreate,
    };
    state
        .writer
        .put(object.clone(), manifest.clone(), old)
        .await?;
    record(&state, &caller, action, &object).await?;
    written(&state, &object, manifest).await.map(Json)
}

/// A deleted resource.
#[derive(Serialize, ToSchema)]
pub(super) struct Deleted {
    /// `Kind/namespace/name`.
    deleted: String,
}

/// Deletes a resource that the admin API wrote (scope power_user), with its stored key.
#[utoipa::path(delete, path = "/bodhi/v1/{kind}/{namespace}/{name}", tag = "resources", params(("kind" = Plural, Path), ("namespace" = String, Path), ("name" = String, Path)), responses((status = 200, body = Deleted)), security(("token" = [])))]
pub(super) async fn delete(
    State(state): State<AdminState>,
    caller: Caller,
    Segments((kind, namespace, name)): Segments<(Plural, String, String)>,
) -> Result<Json<Deleted>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let object = object(kind.kind(), &namespace, &name)?;
    let old = state.resources.get(&object);
    state.writer.delete(object.clone(), old).await?;
    record(&state, &caller, AuditAction::ResourceDelete, &object).await?;
    Ok(Json(Deleted {
        deleted: object.to_string(),
    }))
}

/// What the body says of itself must be what the path says.
fn check_envelope(manifest: &Value, object: &ObjectRef) -> Result<(), ApiError> {
    if !manifest.is_object() {
        return Err(ApiError::invalid(
            "",
            "The body is a resource: apiVersion, kind, metadata, spec.",
        ));
    }
    for (field, pointer, expected) in [
        ("apiVersion", "/apiVersion", crate::api::API_VERSION),
        ("kind", "/kind", object.kind.as_str()),
        (
            "metadata.namespace",
            "/metadata/namespace",
            &*object.namespace,
        ),
        ("metadata.name", "/metadata/name", &*object.name),
    ] {
        match manifest.pointer(pointer) {
            None | Some(Value::Null) => {}
            Some(value) if value == expected => {}
            Some(_) => {
                let message = format!("'{field}' must be '{expected}' here.");
                return Err(ApiError::invalid(field, message));
            }
        }
    }
    Ok(())
}

async fn record(
    state: &AdminState,
    caller: &Caller,
    action: AuditAction,
    object: &ObjectRef,
) -> Result<(), ApiError> {
    let event = AuditEvent {
        action,
        object: object.to_string(),
    };
    Ok(state
        .store
        .append_audit(event, caller.actor(), state.now())
        .await?)
}
