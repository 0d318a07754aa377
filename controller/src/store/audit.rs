//! The audit trail: who did what to which object, and when.
//!
//! Each row's hash covers the row before it, so a row that was changed, taken out
//! or put in breaks the chain at that place. (Cutting off the end does not: keep a
//! copy of the latest hash elsewhere if that matters.)

use bodhi_proto::names::TokenId;
use sha2::{Digest as _, Sha256};

use super::Actor;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditAction {
    /// A token was minted.
    TokenCreate,
    /// A token was revoked.
    TokenRevoke,
    /// A provider key was entered.
    KeySet,
    /// A provider key was erased.
    KeyRemove,
    /// A resource was created.
    ResourceCreate,
    /// A resource was changed.
    ResourceUpdate,
    /// A resource was deleted.
    ResourceDelete,
    /// The incarnation was raised.
    IncarnationRaise,
    /// Another master key seals stored keys.
    MasterKeyRotate,
    /// A master key was given up.
    MasterKeyRetire,
}

impl AuditAction {
    /// The word in the trail, such as `token.create`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenCreate => "token.create",
            Self::TokenRevoke => "token.revoke",
            Self::KeySet => "key.set",
            Self::KeyRemove => "key.remove",
            Self::ResourceCreate => "resource.create",
            Self::ResourceUpdate => "resource.update",
            Self::ResourceDelete => "resource.delete",
            Self::IncarnationRaise => "incarnation.raise",
            Self::MasterKeyRotate => "master_key.rotate",
            Self::MasterKeyRetire => "master_key.retire",
        }
    }
}

/// Something to be put on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// What was done.
    pub action: AuditAction,
    /// To what: an [`ObjectRef`](bodhi_proto::names::ObjectRef) or a token's id.
    pub object: String,
}

/// A row of the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number; 1 is the first.
    pub number: u64,
    /// When, Unix seconds.
    pub at: i64,
    /// Who.
    pub by: Actor,
    /// What was done; a word of [`AuditAction::as_str`], maybe of another release.
    pub action: String,
    /// To what.
    pub object: String,
    /// The hash of the row before; zeros before the first.
    pub previous: [u8; 32],
    /// The hash of this row and `previous`.
    pub hash: [u8; 32],
}

impl AuditRow {
    /// The row that follows one of the given number and hash.
    pub(super) fn after(
        (number, previous): (u64, [u8; 32]),
        event: AuditEvent,
        by: Actor,
        at: i64,
    ) -> Self {
        let mut row = Self {
            number: number + 1,
            at,
            by,
            action: event.action.as_str().to_owned(),
            object: event.object,
            previous,
            hash: [0; 32],
        };
        row.hash = row.computed_hash();
        row
    }

    /// SHA-256 over the hash before, then every field with its length before it, so that no
    /// two rows spell alike.
    fn computed_hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.previous);
        hash.update(self.number.to_be_bytes());
        hash.update(self.at.to_be_bytes());
        let token = self.by.token.as_ref().map_or("", TokenId::as_str);
        for text in [token, &*self.by.owner, &*self.action, &*self.object] {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        hash.finalize().into()
    }
}

/// Whether rows are as they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chain {
    /// Each row's hash is right and names the row before.
    Intact,
    /// The row of this number does not fit.
    BrokenAt(u64),
}

/// Checks a page as [`Store::audit_page`](super::Store::audit_page) answers it: newest first,
/// without gaps.
pub fn verify_chain(page: &[AuditRow]) -> Chain {
    for (i, row) in page.iter().enumerate() {
        let linked = page
            .get(i + 1)
            .is_none_or(|older| older.number + 1 == row.number && older.hash == row.previous);
        if !linked || row.hash != row.computed_hash() {
            return Chain::BrokenAt(row.number);
        }
    }
    Chain::Intact
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Vec<AuditRow> {
        let mut rows: Vec<AuditRow> = Vec::new();
        for i in 0..4 {
            let last = rows.last().map_or((0, [0; 32]), |r| (r.number, r.hash));
            let event = AuditEvent {
                action: AuditAction::TokenCreate,
                object: format!("t{i}"),
            };
            let by = Actor {
                token: Some(TokenId::parse("admin").unwrap()),
                owner: "ada".into(),
            };
            rows.push(AuditRow::after(last, event, by, i));
        }
        rows.reverse();
        rows
    }

    #[test]
    fn an_untouched_page_is_intact() {
        assert_eq!(verify_chain(&page()), Chain::Intact);
        assert_eq!(verify_chain(&page()[1..3]), Chain::Intact);
        assert_eq!(verify_chain(&[]), Chain::Intact);
    }

    #[test]
    fn a_changed_moved_or_missing_row_breaks_it() {
        let mut changed = page();
        changed[2].object = "t9".into();
        assert_eq!(verify_chain(&changed), Chain::BrokenAt(2));
        let mut missing = page();
        missing.remove(1);
        assert_eq!(verify_chain(&missing), Chain::BrokenAt(4));
        let mut shifted = page();
        shifted[0].by.owner = "dad".into();
        assert_eq!(verify_chain(&shifted), Chain::BrokenAt(4));
    }
}
