//! Master keys: which one seals, rotation, retirement. The keys themselves are never shown.

use axum::Json;
use axum::extract::State;
use bodhi_proto::snapshot::Scope;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::extract::Segments;
use super::{AdminState, ApiError};
use crate::store::{MasterKey, MasterKeys, Retired, Rotated};

/// The master keys and what they seal.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MasterKeyList {
    /// The id of the one that seals; null before the first provider key was stored.
    seals: Option<String>,
    data: Vec<MasterKeyInfo>,
    /// Stored provider keys that are still to be sealed anew.
    outdated: u64,
    /// An id for the next master key.
    next_id: String,
    /// The controller's file of master keys.
    file: Option<String>,
}

/// A master key, without the key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MasterKeyInfo {
    id: String,
    /// Whether the controller that answers holds it.
    held: bool,
    /// How many stored provider keys it seals.
    sealed_keys: u64,
}

impl From<MasterKeys> for MasterKeyList {
    fn from(state: MasterKeys) -> Self {
        let info = |key: MasterKey| MasterKeyInfo {
            id: key.id,
            held: key.held,
            sealed_keys: key.sealed,
        };
        Self {
            seals: state.seals,
            data: state.keys.into_iter().map(info).collect(),
            outdated: state.outdated,
            next_id: state.next,
            file: state.file.map(|path| path.display().to_string()),
        }
    }
}

/// Lists master keys and how many stored keys each seals (scope admin).
#[utoipa::path(get, path = "/bodhi/v1/master-keys", tag = "keys", responses((status = 200, body = MasterKeyList)), security(("token" = [])))]
pub(super) async fn list(
    State(state): State<AdminState>,
    caller: Caller,
) -> Result<Json<MasterKeyList>, ApiError> {
    caller.require(Scope::Admin)?;
    Ok(Json(state.rotation.state().await?.into()))
}

/// A rotation, and how far it is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RotationInfo {
    /// `sealing`: the newest master key seals, and `outdated` stored keys are being sealed anew.
    /// `needs_key`: nothing was done; add a key to the file of every controller first.
    step: &'static str,
    #[serde(flatten)]
    keys: MasterKeyList,
}

/// Lets the newest master key seal, and seals all stored keys anew (scope admin). A controller that
/// keeps its own file of master keys adds a key to it first.
#[utoipa::path(post, path = "/bodhi/v1/master-keys/rotate", tag = "keys", responses((status = 200, body = RotationInfo)), security(("token" = [])))]
pub(super) async fn rotate(
    State(state): State<AdminState>,
    caller: Caller,
) -> Result<Json<RotationInfo>, ApiError> {
    caller.require(Scope::Admin)?;
    let rotated = state.rotation.rotate(caller.actor(), state.now()).await?;
    Ok(Json(RotationInfo {
        step: match rotated {
            Rotated::Begun(_) => "sealing",
            Rotated::NeedsKey => "needs_key",
        },
        keys: state.rotation.state().await?.into(),
    }))
}

/// What became of a master key.
#[derive(Serialize, ToSchema)]
pub(super) struct RetiredKey {
    id: String,
    /// False: nothing needs it any more, and whoever keeps the file may take it out.
    removed: bool,
}

/// Gives up a master key that seals nothing any more (scope admin).
#[utoipa::path(delete, path = "/bodhi/v1/master-keys/{id}", tag = "keys", params(("id" = String, Path)), responses((status = 200, body = RetiredKey)), security(("token" = [])))]
pub(super) async fn retire(
    State(state): State<AdminState>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Json<RetiredKey>, ApiError> {
    caller.require(Scope::Admin)?;
    let retired = state
        .rotation
        .retire(&id, caller.actor(), state.now())
        .await?;
    Ok(Json(RetiredKey {
        id,
        removed: retired == Retired::Removed,
    }))
}

/// The store's incarnation.
#[derive(Serialize, ToSchema)]
pub(super) struct Incarnation {
    /// 1 in a new store; one more after each restore.
    incarnation: u64,
}

/// Makes data planes take the store's word again after a restore or a failover that lost changes
/// (scope admin).
#[utoipa::path(post, path = "/bodhi/v1/store/incarnation", tag = "store", responses((status = 200, body = Incarnation)), security(("token" = [])))]
pub(super) async fn raise_incarnation(
    State(state): State<AdminState>,
    caller: Caller,
) -> Result<Json<Incarnation>, ApiError> {
    caller.require(Scope::Admin)?;
    let raised = state
        .store
        .raise_incarnation(caller.actor(), state.now())
        .await?;
    Ok(Json(Incarnation {
        incarnation: raised,
    }))
}
