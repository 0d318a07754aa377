//! What the store keeps, as values.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bodhi_proto::names::{NameError, ObjectRef, TokenId};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{Origin, Token};

use super::seal::SealError;

/// Who caused a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The token that was presented; none when the program itself acts.
    pub token: Option<TokenId>,
    /// The user it was minted for, or the program's name.
    pub owner: Arc<str>,
}

impl Actor {
    /// The program itself, such as at its first start.
    pub fn program(name: &str) -> Self {
        Self {
            token: None,
            owner: name.into(),
        }
    }
}

/// A token to be added. Its text is not here: the store never sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What data planes will hold.
    pub token: Token,
    /// What a person calls it.
    pub name: String,
}

/// A token as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRecord {
    /// What data planes hold.
    pub token: Arc<Token>,
    /// What a person calls it.
    pub name: String,
    /// When it was created, Unix seconds.
    pub created: i64,
    /// When it was revoked, Unix seconds.
    pub revoked: Option<i64>,
    /// The number of its last change.
    pub change_seq: u64,
}

/// Which tokens to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenQuery {
    /// Only this owner's.
    pub owner: Option<Arc<str>>,
    /// Only those created after this one: the last of the page before.
    pub after: Option<TokenId>,
    /// At most so many.
    pub limit: u32,
}

/// A revocation that is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// The `change_seq` it took.
    pub change_seq: u64,
    /// When, Unix seconds.
    pub at: i64,
}

/// An object's identity: a name that was deleted and used again has another.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectUid(Arc<str>);

impl ObjectUid {
    /// Parses 1 to 64 characters of `[A-Za-z0-9-]` (a UUID in Kubernetes and here).
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 64 {
            return Err(NameError::TooLong(text.len(), 64));
        }
        match text
            .chars()
            .find(|c| !c.is_ascii_alphanumeric() && *c != '-')
        {
            Some(c) => Err(NameError::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// A version 4 UUID (RFC 9562 §5.4) over these random bytes.
    pub(super) fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0F) | 0x40;
        bytes[8] = (bytes[8] & 0x3F) | 0x80;
        let mut text = String::with_capacity(36);
        for (i, byte) in bytes.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            text.push(char::from_digit(u32::from(byte >> 4), 16).expect("4 bits are one digit"));
            text.push(char::from_digit(u32::from(byte & 0xF), 16).expect("4 bits are one digit"));
        }
        Self(text.into())
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A provider key that a person typed in (`auth.type: Stored`). It belongs to the object's
/// uid and may go only to the origin it was entered for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// The identity it is bound to.
    pub uid: ObjectUid,
    /// The object's name, for people.
    pub object: ObjectRef,
    /// Where it may be sent.
    pub origin: Origin,
    /// The key.
    pub secret: Secret,
}

/// A key that was set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyChange {
    /// The object it belongs or belonged to.
    pub uid: ObjectUid,
    /// What became of it.
    pub key: KeyState,
    /// The number of this change.
    pub change_seq: u64,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyState {
    /// It was entered.
    Set(StoredKey),
    /// It was erased.
    Removed,
    /// It is there and does not open here. Others are told of all the same: one key that cannot
    /// be read must not hold a revocation back.
    Unreadable(SealError),
}

/// What the store's keys are sealed with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sealing {
    /// The id of the master key that seals; none before the first key is stored.
    pub seals: Option<String>,
    /// How many stored keys each master key seals, by id.
    pub sealed: BTreeMap<String, u64>,
}

impl Sealing {
    /// How many stored keys another master key than the present one seals.
    pub fn outdated(&self) -> u64 {
        let others = self
            .sealed
            .iter()
            .filter(|(id, _)| Some(*id) != self.seals.as_ref());
        others.map(|(_, count)| count).sum()
    }
}

/// A stored key that was looked at during a rotation of master keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Whose it is.
    pub uid: ObjectUid,
    /// What became of it.
    pub outcome: ResealOutcome,
}

/// What became of a stored key during a rotation of master keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResealOutcome {
    /// The present master key seals it now.
    Done,
    /// The present master key sealed it already.
    Current,
    /// It does not open, and stays as it is.
    Unreadable(SealError),
}

/// What changed after a number, each thing once, in its latest state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Complete up to this `change_seq`.
    pub seq: u64,
    /// The incarnation that this is of.
    pub incarnation: u64,
    /// Tokens in order of `change_seq`; revoked ones say so.
    pub tokens: Vec<TokenRecord>,
    /// Keys in order of `change_seq`.
    pub keys: Vec<KeyChange>,
}

/// An object that a source without an API server holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenObject {
    /// Its name.
    pub object: ObjectRef,
    /// A digest of its spec: another one is another generation.
    pub digest: [u8; 32],
}

/// What an API server would say in an object's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Its name.
    pub object: ObjectRef,
    /// Its identity.
    pub uid: ObjectUid,
    /// When it was first seen, Unix seconds.
    pub created: i64,
    /// 1, and one more for each change of its spec.
    pub generation: i64,
}

/// Whose a response is, and where its provider keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRecord {
    /// The provider's id.
    pub id: String,
    /// The ApiModel that made it.
    pub upstream: ObjectRef,
    /// The owner of the token that asked.
    pub owner: String,
    /// When, Unix seconds.
    pub created: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_version_4_uuids() {
        let uid = ObjectUid::from_random([0xFF; 16]);
        assert_eq!(uid.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(ObjectUid::parse(uid.as_str()), Ok(uid));
        assert!(ObjectUid::parse("a/b").is_err());
    }
}
