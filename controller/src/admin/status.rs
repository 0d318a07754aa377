//! How the gateway is: data planes, faults in the sources, objects that are not ready.

use axum::Json;
use axum::extract::State;
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
    let statuses = state.store.statuses().await?;
    let object = |(object, status): (bodhi_proto::names::ObjectRef, Value)| json!({"object": object.to_string(), "conditions": status["conditions"]});
    Ok(Json(Status {
        data_planes: state.health.data_planes(),
        problems: state.health.problems(),
        objects: statuses.into_iter().map(object).collect(),
    }))
}
