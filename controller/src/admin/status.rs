//! How the gateway is: data planes, faults in the sources, objects that are not ready.

use axum::Json;
use axum::extract::State;
use bodhi_proto::names::ObjectKind;
use bodhi_proto::snapshot::Scope;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::auth::Caller;
use super::{AdminState, ApiError};

/// The gateway's state.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Status {
    /// Connected data planes.
    #[schema(value_type = Vec<Object>)]
    data_planes: Value,
    /// What is wrong in the manifests, with file and line.
    #[schema(value_type = Vec<Object>)]
    problems: Value,
    /// Each object with its conditions.
    #[schema(value_type = Vec<Object>)]
    objects: Vec<Value>,
}

/// Tells how the gateway is (scope power_user).
#[utoipa::path(get, path = "/bodhi/v1/status", tag = "resources", responses((status = 200, body = Status)), security(("token" = [])))]
pub(super) async fn status(
    State(state): State<AdminState>,
    caller: Caller,
) -> Result<Json<Status>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let kinds = [ObjectKind::ApiModel, ObjectKind::Alias].into_iter();
    let objects = kinds.flat_map(|kind| state.resources.list(kind));
    let object = |item: Value| {
        let metadata = |field: &str| item["metadata"][field].as_str().unwrap_or_default();
        let (kind, namespace) = (
            item["kind"].as_str().unwrap_or_default(),
            metadata("namespace"),
        );
        json!({
            "object": format!("{kind}/{namespace}/{}", metadata("name")),
            "conditions": item["status"]["conditions"],
        })
    };
    Ok(Json(Status {
        data_planes: state.health.data_planes(),
        problems: state.health.problems(),
        objects: objects.map(object).collect(),
    }))
}
