//! The token table: what the shelf has, less what was denied.

use std::sync::Arc;

use super::Hold;
use crate::names::TokenId;
use crate::snapshot::{Kind, Token, TokenHash, TokenTable};

/// What a transaction does to the table.
#[derive(Debug, Default)]
pub(super) struct TokenChanges {
    added: Vec<Arc<Token>>,
    /// No longer in the table, unless added again.
    lost: Vec<TokenHash>,
    removed: Vec<TokenId>,
}

impl TokenChanges {
    pub(super) fn added(&mut self, token: Arc<Token>) {
        self.added.push(token);
    }

    pub(super) fn replaced(&mut self, token: Option<Arc<Token>>) {
        self.lost.extend(token.map(|t| t.hash));
    }

    pub(super) fn removed(&mut self, token: Option<Arc<Token>>) {
        if let Some(token) = token {
            self.lost.push(token.hash);
            self.removed.push(token.id.clone());
        }
    }

    /// Whether a token was removed that `fits`.
    pub(super) fn any_removed(&self, fits: impl FnMut(&TokenId) -> bool) -> bool {
        self.removed.iter().any(fits)
    }
}

impl Hold {
    /// Forgets denials that the table's own revision contains; what they held back and is still
    /// offered was allowed again later.
    pub(super) fn prune_denies(&mut self, changes: &mut TokenChanges) {
        let contained: Vec<TokenId> = self
            .denies
            .iter()
            .filter(|(_, revision)| self.tokens_at >= Some(**revision))
            .map(|(id, _)| id.clone())
            .collect();
        for id in contained {
            self.denies.remove(&id);
            changes.added.extend(self.shelves.tokens.get(&id).cloned());
        }
    }

    /// Brings the table up to date.
    pub(super) fn apply_tokens(&mut self, changes: TokenChanges) {
        if !self.complete.contains(Kind::Token) {
            return;
        }
        let denies = &self.denies;
        let mut added = changes.added;
        // One that came and went within the transaction is on no shelf.
        let shelf = &self.shelves.tokens;
        added.retain(|t| {
            !denies.contains_key(&t.id) && shelf.get(&t.id).is_some_and(|held| Arc::ptr_eq(held, t))
        });
        if self.view.tokens.is_some() && added.is_empty() && changes.lost.is_empty() {
            return;
        }
        let table = self.view.tokens.take().unwrap_or_default();
        self.view.tokens = Some(table.changed(&added, &changes.lost));
    }

    /// The table afresh, from the shelf and the denials.
    pub(super) fn rebuild_tokens(&mut self) {
        if self.complete.contains(Kind::Token) {
            let held = self.shelves.tokens.iter();
            let allowed: Vec<_> = held
                .filter(|(id, ..)| !self.denies.contains_key(*id))
                .map(|(.., token)| Arc::clone(token))
                .collect();
            self.view.tokens = Some(TokenTable::default().changed(&allowed, &[]));
        }
    }
}
