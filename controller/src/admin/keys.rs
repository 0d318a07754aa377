//! Provider keys of ApiModels with `auth.type: Stored`: set and removed, never shown.

use axum::Json;
use axum::extract::State;
use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::Scope;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::auth::Caller;
use super::extract::{Body, Segments, object};
use super::{AdminState, ApiError, uid_of};
use crate::api::ApiModelSpec;
use crate::store::StoredKey;
use crate::upstreams;

/// Longest key; Google's service-account JSON is not a key for us.
const KEY_MAX: usize = 4096;

/// A key on its way in. It has no way out.
pub(super) struct KeyIn(pub(super) Secret);

impl<'de> Deserialize<'de> for KeyIn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = zeroize::Zeroizing::new(String::deserialize(deserializer)?);
        Ok(Self(Secret::new(text.trim())))
    }
}

impl KeyIn {
    pub(super) fn checked(self) -> Result<Secret, ApiError> {
        let text = self.0.expose();
        let fits =
            (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        match fits {
            true => Ok(self.0),
            false => Err(ApiError::invalid(
                "key",
                format!("A key has 1 to {KEY_MAX} visible ASCII characters without blanks."),
            )),
        }
    }
}

/// A key to be stored.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SetKey {
    /// The provider's key.
    #[schema(value_type = String, format = Password)]
    key: KeyIn,
}

/// A stored key, without the key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct KeySet {
    /// `ApiModel/namespace/name`.
    object: String,
    /// Where it may go: a changed baseUrl needs the key again.
    origin: String,
    change_seq: u64,
}

/// The spec of an ApiModel's manifest.
pub(super) fn spec_of(manifest: &Value) -> Result<ApiModelSpec, ApiError> {
    let spec = manifest.get("spec").cloned().unwrap_or_default();
    serde_json::from_value(spec).map_err(|e| ApiError::internal(&e))
}

fn api_model(namespace: &str, name: &str) -> Result<ObjectRef, ApiError> {
    object(ObjectKind::ApiModel, namespace, name)
}

/// Stores an ApiModel's key (scope power_user), bound to the origin of its baseUrl.
#[utoipa::path(put, path = "/bodhi/v1/keys/{namespace}/{name}", tag = "keys", params(("namespace" = String, Path), ("name" = String, Path)), request_body = SetKey, responses((status = 200, body = KeySet)), security(("token" = [])))]
pub(super) async fn set(
    State(state): State<AdminState>,
    caller: Caller,
    Segments((namespace, name)): Segments<(String, String)>,
    Body(body): Body<SetKey>,
) -> Result<Json<KeySet>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let object = api_model(&namespace, &name)?;
    let manifest = state.object(&object)?;
    let uid = uid_of(&manifest).ok_or_else(|| ApiError::internal(&"an object without a uid"))?;
    let spec = spec_of(&manifest)?;
    let base_url = upstreams::base_url(&spec)
        .map_err(|e| ApiError::invalid("spec.baseUrl", format!("baseUrl {e}.")))?;
    let key = StoredKey {
        uid,
        object: object.clone(),
        origin: base_url.origin.clone(),
        secret: body.key.checked()?,
    };
    let change_seq = state
        .store
        .set_key(key, caller.actor(), state.now())
        .await?;
    Ok(Json(KeySet {
        object: object.to_string(),
        origin: base_url.origin.to_string(),
        change_seq,
    }))
}

/// What became of a key.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyRemoved {
    /// `ApiModel/namespace/name`.
    object: String,
    /// False: there was none.
    removed: bool,
}

/// Erases an ApiModel's key (scope power_user).
#[utoipa::path(delete, path = "/bodhi/v1/keys/{namespace}/{name}", tag = "keys", params(("namespace" = String, Path), ("name" = String, Path)), responses((status = 200, body = KeyRemoved)), security(("token" = [])))]
pub(super) async fn remove(
    State(state): State<AdminState>,
    caller: Caller,
    Segments((namespace, name)): Segments<(String, String)>,
) -> Result<Json<KeyRemoved>, ApiError> {
    caller.require(Scope::PowerUser)?;
    let object = api_model(&namespace, &name)?;
    let manifest = state.object(&object)?;
    let removed = match uid_of(&manifest) {
        Some(uid) => {
            state
                .store
                .remove_key(uid, caller.actor(), state.now())
                .await?
        }
        None => None,
    };
    Ok(Json(KeyRemoved {
        object: object.to_string(),
        removed: removed.is_some(),
    }))
}
