//! Tokens and keys as columns: what both databases keep, spelled once.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use bodhi_proto::names::{ModelName, ObjectRef, TokenId};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{BaseUrl, Globs, ModelCap, Scope, Token, TokenHash, TokenLimits};

use super::seal::{self, Binding, KeyRing, Keys, Purpose, SealError};
use super::{
    KeyChange, KeyState, NewToken, ObjectUid, ResealOutcome, Resealed, StoreError, StoredKey,
    TokenRecord,
};

/// A row of `tokens`.
pub(super) struct TokenRow {
    pub(super) id: String,
    pub(super) hash: [u8; 32],
    pub(super) name: String,
    pub(super) owner: String,
    pub(super) scope: String,
    pub(super) created: i64,
    pub(super) expires: Option<i64>,
    pub(super) revoked: Option<i64>,
    /// A JSON list of globs; `None` allows all.
    pub(super) models: Option<String>,
    /// A JSON list of `[model, limit]`.
    pub(super) output_caps: String,
    pub(super) requests_per_minute: Option<u32>,
    pub(super) tokens_per_minute: Option<u32>,
    pub(super) concurrency: Option<u32>,
    pub(super) change_seq: u64,
}

impl TokenRow {
    /// The row of a new token.
    pub(super) fn of(new: &NewToken, created: i64, change_seq: u64) -> Self {
        let token = &new.token;
        let models = token
            .models
            .as_ref()
            .map(|globs| serde_json::Value::from_iter(globs.patterns()).to_string());
        let caps = token
            .output_caps
            .iter()
            .map(|cap| serde_json::json!([cap.model.as_str(), cap.limit]));
        Self {
            id: token.id.to_string(),
            hash: token.hash.0,
            name: new.name.clone(),
            owner: token.owner.to_string(),
            scope: token.scope.as_str().to_owned(),
            created,
            expires: token.expires,
            revoked: None,
            models,
            output_caps: serde_json::Value::from_iter(caps).to_string(),
            requests_per_minute: token.limits.requests_per_minute.map(NonZeroU32::get),
            tokens_per_minute: token.limits.tokens_per_minute.map(NonZeroU32::get),
            concurrency: token.limits.concurrency.map(NonZeroU32::get),
            change_seq,
        }
    }

    /// What the row says.
    pub(super) fn parse(self) -> Result<TokenRecord, StoreError> {
        let id = TokenId::parse(&self.id).map_err(|e| damaged("a token's id", e))?;
        let bad = |what: &str| StoreError::Damaged(format!("token {id}: its {what}"));
        let models: Option<Vec<String>> = self
            .models
            .map(|json| serde_json::from_str(&json))
            .transpose()
            .map_err(|_| bad("models"))?;
        let caps: Vec<(String, NonZeroU32)> =
            serde_json::from_str(&self.output_caps).map_err(|_| bad("output caps"))?;
        let cap = |(model, limit): (String, NonZeroU32)| {
            let model = ModelName::parse(&model).map_err(|_| bad("output caps"))?;
            Ok::<_, StoreError>(ModelCap { model, limit })
        };
        let limit = |value: Option<u32>| -> Result<Option<NonZeroU32>, StoreError> {
            value
                .map(|n| NonZeroU32::new(n).ok_or_else(|| bad("limits")))
                .transpose()
        };
        let token = Token {
            hash: TokenHash(self.hash),
            owner: self.owner.into(),
            scope: Scope::parse(&self.scope).ok_or_else(|| bad("scope"))?,
            expires: self.expires,
            models: models.map(Globs::new),
            output_caps: caps.into_iter().map(cap).collect::<Result<_, _>>()?,
            limits: TokenLimits {
                requests_per_minute: limit(self.requests_per_minute)?,
                tokens_per_minute: limit(self.tokens_per_minute)?,
                concurrency: limit(self.concurrency)?,
            },
            id: id.clone(),
        };
        Ok(TokenRecord {
            token: Arc::new(token),
            name: self.name,
            created: self.created,
            revoked: self.revoked,
            change_seq: self.change_seq,
        })
    }
}

/// What becomes of a token whose id or hash is found taken: the same token once more is the
/// first time's answer, as whoever lost that answer asks again.
pub(super) fn taken(existing: TokenRecord, new: &NewToken) -> Result<TokenRecord, StoreError> {
    let same = *existing.token == new.token && existing.name == new.name;
    match same && existing.revoked.is_none() {
        true => Ok(existing),
        false => Err(StoreError::Exists(format!(
            "a token with id {} or its hash",
            new.token.id
        ))),
    }
}

/// A row of `keys`.
pub(super) struct KeyRow {
    pub(super) uid: String,
    pub(super) object: String,
    pub(super) origin: String,
    pub(super) sealed: Option<Vec<u8>>,
    pub(super) change_seq: u64,
}

impl KeyRow {
    /// What the row says, the key opened.
    pub(super) fn parse(self, keys: &Keys) -> Result<KeyChange, StoreError> {
        let uid = ObjectUid::parse(&self.uid).map_err(|e| damaged("a key's uid", e))?;
        let object = ObjectRef::parse(&self.object).map_err(|e| damaged("a key's object", e))?;
        let origin = BaseUrl::parse(&self.origin)
            .map_err(|e| damaged("a key's origin", e))?
            .origin;
        let key = match self.sealed {
            None => KeyState::Removed,
            Some(sealed) => {
                let binding = Binding {
                    purpose: Purpose::ProviderKey,
                    row: &uid,
                    origin: &origin,
                };
                match open(keys, &binding, &sealed) {
                    Err(error) => KeyState::Unreadable(error),
                    Ok(secret) => KeyState::Set(StoredKey {
                        secret,
                        uid: uid.clone(),
                        object,
                        origin,
                    }),
                }
            }
        };
        Ok(KeyChange {
            uid,
            key,
            change_seq: self.change_seq,
        })
    }
}

impl KeyRow {
    /// Sealed anew by the master key of this id: what became of it, and the new text, if any.
    pub(super) fn resealed(
        self,
        keys: &Keys,
        seals: &str,
    ) -> Result<(Resealed, Option<Vec<u8>>), StoreError> {
        let outdated = |text: &Vec<u8>| seal::key_id(text).is_ok_and(|id| id != seals);
        if !self.sealed.as_ref().is_some_and(outdated) {
            let uid = self.parse(keys)?.uid;
            let outcome = ResealOutcome::Current;
            return Ok((Resealed { uid, outcome }, None));
        }
        let KeyChange { uid, key, .. } = self.parse(keys)?;
        let (outcome, sealed) = match key {
            KeyState::Set(key) => (ResealOutcome::Done, Some(seal_key(keys, seals, &key)?)),
            KeyState::Removed => (ResealOutcome::Current, None),
            KeyState::Unreadable(error) => (ResealOutcome::Unreadable(error), None),
        };
        Ok((Resealed { uid, outcome }, sealed))
    }
}

impl KeyState {
    /// The key, for who wants this one and no other.
    pub(super) fn opened(self) -> Result<Option<StoredKey>, StoreError> {
        match self {
            Self::Set(key) => Ok(Some(key)),
            Self::Removed => Ok(None),
            Self::Unreadable(error) => Err(error.into()),
        }
    }
}

/// A master key that is not held may have been added to the file since.
fn open(keys: &Keys, binding: &Binding<'_>, sealed: &[u8]) -> Result<Secret, SealError> {
    match seal::open(&keys.ring(), binding, sealed) {
        Err(SealError::UnknownKey(id)) => match keys.read_again() {
            Ok(ring) => seal::open(&ring, binding, sealed),
            Err(error) => {
                tracing::warn!(%error, "the master keys could not be read again");
                Err(SealError::UnknownKey(id))
            }
        },
        other => other,
    }
}

/// A key sealed for its row, under the master key of this id.
pub(super) fn seal_key(keys: &Keys, id: &str, key: &StoredKey) -> Result<Vec<u8>, StoreError> {
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce)
        .map_err(|e| StoreError::Unavailable(format!("no random numbers: {e}")))?;
    let binding = Binding {
        purpose: Purpose::ProviderKey,
        row: &key.uid,
        origin: &key.origin,
    };
    let ring = holding(keys, id)?;
    Ok(seal::seal(&ring, id, &binding, nonce, &key.secret)?)
}

/// The ring with this master key in it, read again if need be.
pub(super) fn holding(keys: &Keys, id: &str) -> Result<Arc<KeyRing>, StoreError> {
    let ring = keys.ring();
    if ring.ids().any(|own| own == id) {
        return Ok(ring);
    }
    let again = keys.read_again().ok();
    again
        .filter(|ring| ring.ids().any(|own| own == id))
        .ok_or_else(|| SealError::UnknownKey(id.to_owned()).into())
}

/// How many stored keys each master key seals.
pub(super) fn count_by_master_key(sealed: &[Vec<u8>]) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut counts = BTreeMap::new();
    for text in sealed {
        *counts.entry(seal::key_id(text)?.to_owned()).or_default() += 1;
    }
    Ok(counts)
}

/// A new object's identity.
pub(super) fn new_uid() -> Result<ObjectUid, StoreError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|e| StoreError::Unavailable(format!("no random numbers: {e}")))?;
    Ok(ObjectUid::from_random(random))
}

/// What was read is not what was written.
pub(super) fn damaged(what: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Damaged(format!("{what} {error}"))
}
