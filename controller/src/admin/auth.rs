//! Who is calling the admin API: a token of the store, and its scope; or whoever reached the socket.

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use bodhi_proto::snapshot::{Scope, TokenHash};
use bodhi_proto::token;
use subtle::ConstantTimeEq as _;

use super::{AdminState, ApiError, socket};
use crate::store::{Actor, TokenRecord};

/// An authenticated caller.
pub(super) struct Caller {
    /// Their token, neither revoked nor expired.
    pub(super) record: TokenRecord,
}

impl Caller {
    /// 403 below `scope`.
    pub(super) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        match self.record.token.scope >= scope {
            true => Ok(()),
            false => Err(ApiError::insufficient_scope(scope.as_str())),
        }
    }

    pub(super) fn is_admin(&self) -> bool {
        self.record.token.scope >= Scope::Admin
    }

    pub(super) fn owns(&self, other: &TokenRecord) -> bool {
        self.record.token.owner == other.token.owner
    }

    /// As the audit trail names them.
    pub(super) fn actor(&self) -> Actor {
        Actor {
            token: Some(self.record.token.id.clone()),
            owner: self.record.token.owner.clone(),
        }
    }
}

impl FromRequestParts<AdminState> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, ApiError> {
        if parts.extensions.get::<socket::Local>().is_some()
            && !parts.headers.contains_key(header::AUTHORIZATION)
        {
            return Ok(socket::caller());
        }
        let value = parts
            .headers
            .get(header::AUTHORIZATION)
            .ok_or_else(ApiError::missing_credentials)?;
        let text = bearer(value.as_bytes()).ok_or_else(ApiError::missing_credentials)?;
        let hash = token::parse(text).map_err(ApiError::invalid_token)?;
        let found = state.store.find_token(hash).await?;
        let record = judge(found, &hash, state.now())?;
        Ok(Self { record })
    }
}

/// The scheme is compared without regard to case (RFC 9110 §11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(7)?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| rest.trim_ascii())
}

fn judge(found: Option<TokenRecord>, hash: &TokenHash, now: i64) -> Result<TokenRecord, ApiError> {
    let unknown = || ApiError::invalid_token("nobody knows it, or it was revoked");
    let record = found.ok_or_else(unknown)?;
    let same: bool = record.token.hash.0.ct_eq(&hash.0).into();
    if !same || record.revoked.is_some() {
        return Err(unknown());
    }
    match record.token.expires {
        Some(expires) if expires <= now => Err(ApiError::expired_token()),
        _ => Ok(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_read_without_regard_to_case() {
        assert_eq!(bearer(b"bEaReR  x "), Some(&b"x"[..]));
        assert_eq!(bearer(b"Basic x"), None);
        assert_eq!(bearer(b"Bearer"), None);
    }
}
