//! The audit trail, page by page, with the verdict over its chain.

use axum::Json;
use axum::extract::State;
use bodhi_proto::snapshot::Scope;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::extract::Params;
use super::tokens::PAGE_MAX;
use super::{AdminState, ApiError};
use crate::store::{AuditRow, Chain, verify_chain};

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Page {
    /// Rows before this number; default: the latest.
    before: Option<u64>,
    /// At most so many, up to 1,000; default 100.
    limit: Option<u32>,
}

/// Rows, newest first.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trail {
    data: Vec<Row>,
    /// `intact`, or `broken` when a row is not as it was written.
    chain: &'static str,
    /// The row that does not fit.
    broken_at: Option<u64>,
    /// For `before`; null: this is the last page.
    next: Option<u64>,
}

/// Who did what to which object, and when.
#[derive(Serialize, ToSchema)]
pub(super) struct Row {
    number: u64,
    /// Unix seconds.
    at: i64,
    /// The id of the token that was used; null: the program itself.
    token: Option<String>,
    owner: String,
    action: String,
    object: String,
    /// SHA-256 over this row and the hash of the one before, in hexadecimal.
    hash: String,
}

/// Reads the audit trail, newest first (scope admin).
#[utoipa::path(get, path = "/bodhi/v1/audit", tag = "audit", params(Page), responses((status = 200, body = Trail)), security(("token" = [])))]
pub(super) async fn page(
    State(state): State<AdminState>,
    caller: Caller,
    Params(page): Params<Page>,
) -> Result<Json<Trail>, ApiError> {
    caller.require(Scope::Admin)?;
    let limit = page.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let rows = state.store.audit_page(page.before, limit).await?;
    let (chain, broken_at) = match verify_chain(&rows) {
        Chain::Intact => ("intact", None),
        Chain::BrokenAt(number) => ("broken", Some(number)),
    };
    let next = rows.last().map(|r| r.number);
    Ok(Json(Trail {
        next: next.filter(|n| *n > 1 && rows.len() == limit as usize),
        data: rows.into_iter().map(row).collect(),
        chain,
        broken_at,
    }))
}

fn row(row: AuditRow) -> Row {
    Row {
        number: row.number,
        at: row.at,
        token: row.by.token.map(|id| id.to_string()),
        owner: row.by.owner.to_string(),
        action: row.action,
        object: row.object,
        hash: row.hash.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
