//! The cluster's own identities as callers: projected ServiceAccount tokens of audience `bodhi`,
//! for the ServiceAccounts that the operator maps.
//!
//! Nobody is asked. A token whose signature was computed is known by its hash from then on, be it
//! right (until it expires) or wrong, so that a client that repeats itself costs no second one;
//! what is wrong besides shows before. With other keys both are forgotten. Whether a ServiceAccount
//! is mapped is looked up each time.

use std::sync::Arc;

use bodhi_net::service_account::{self, Claims, Expected, TokenError};
use bodhi_proto::names::{ServiceAccountName, TokenId};
use bodhi_proto::snapshot::{
    Map, MappedAccount, ServiceAccounts, Token, TokenHash, TokenLimits, VerifyingKey,
};
use moka::sync::Cache;

use crate::api::error::Failure;

/// What a caller's token has to be made for.
const AUDIENCE: &str = "bodhi";
/// Verified tokens that are remembered: each pod has one at a time.
const VERIFIED: u64 = 20_000;
/// Forged ones. Apart from the others, so that a flood of them pushes out no good one.
const FORGED: u64 = 2_000;

/// Who may call by its ServiceAccount.
#[derive(Debug)]
pub struct Accounts {
    verifier: Arc<Verifier>,
    callers: Map<ServiceAccountName, Arc<Token>>,
}

impl Accounts {
    /// What `given` says; with the same keys as `previous` its memory goes on.
    pub fn new(given: &ServiceAccounts, previous: Option<&Self>) -> Self {
        let verifier = match previous {
            Some(before) if before.verifier.is_of(given) => Arc::clone(&before.verifier),
            _ => Arc::new(Verifier::new(given)),
        };
        let callers = given.callers.iter().map(|mapped| {
            let token = Arc::new(caller(mapped));
            (mapped.account.clone(), token)
        });
        Self {
            verifier,
            callers: callers.collect(),
        }
    }

    /// Whose token this is, as a token of ours would say it. `now` is Unix seconds.
    ///
    /// # Errors
    /// It is refused, or the cluster's keys have not arrived yet.
    pub fn authenticate(
        &self,
        presented: &[u8],
        hash: TokenHash,
        now: i64,
    ) -> Result<Arc<Token>, Failure> {
        if self.verifier.keys.is_empty() {
            return Err(Failure::NotReady(
                "This data plane has not received the keys of the cluster's ServiceAccount tokens \
                 yet."
                    .into(),
            ));
        }
        let claims = self
            .verifier
            .verify(presented, hash, now)
            .map_err(refusal)?;
        self.callers.get(&claims.account).cloned().ok_or_else(|| {
            let account = &claims.account;
            Failure::InvalidToken(
                format!(
                    "the ServiceAccount '{account}' may not call this gateway; the operator allows \
                     it with --service-account {account}=user"
                )
                .into(),
            )
        })
    }
}

/// A caller of scope and models as mapped. Response ids belong to the ServiceAccount.
fn caller(mapped: &MappedAccount) -> Token {
    Token {
        id: TokenId::of_service_account(&mapped.account),
        // Of no token: it is found by its name.
        hash: TokenHash::of(b""),
        owner: mapped.account.user().into(),
        scope: mapped.scope,
        expires: None,
        models: mapped.models.clone(),
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    }
}

fn refusal(error: TokenError) -> Failure {
    match error {
        TokenError::Expired(_) => Failure::ExpiredToken,
        error => Failure::InvalidToken(format!("as a ServiceAccount's, {error}").into()),
    }
}

/// One set of keys, and what was verified with it.
struct Verifier {
    issuer: Arc<str>,
    keys: Arc<[VerifyingKey]>,
    verified: Cache<TokenHash, Arc<Claims>>,
    forged: Cache<TokenHash, ()>,
}

impl Verifier {
    fn new(given: &ServiceAccounts) -> Self {
        Self {
            issuer: Arc::clone(&given.issuer),
            keys: Arc::clone(&given.keys),
            verified: Cache::new(VERIFIED),
            forged: Cache::new(FORGED),
        }
    }

    fn is_of(&self, given: &ServiceAccounts) -> bool {
        self.issuer == given.issuer && self.keys == given.keys
    }

    fn verify(
        &self,
        presented: &[u8],
        hash: TokenHash,
        now: i64,
    ) -> Result<Arc<Claims>, TokenError> {
        if let Some(claims) = self.verified.get(&hash) {
            if !claims.has_expired(now) {
                return Ok(claims);
            }
            self.verified.invalidate(&hash);
        }
        if self.forged.contains_key(&hash) {
            return Err(TokenError::Signature);
        }
        let expected = Expected {
            issuer: &self.issuer,
            audience: AUDIENCE,
        };
        match service_account::verify(presented, &self.keys, expected, now) {
            Ok(claims) => {
                let claims = Arc::new(claims);
                self.verified.insert(hash, Arc::clone(&claims));
                Ok(claims)
            }
            Err(TokenError::Signature) => {
                self.forged.insert(hash, ());
                Err(TokenError::Signature)
            }
            Err(error) => Err(error),
        }
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier({} keys of '{}')", self.keys.len(), self.issuer)
    }
}

#[cfg(test)]
mod tests;
