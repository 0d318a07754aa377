//! What the two sides say to each other, parsed. The wire form is in [`crate::wire`].

use std::sync::Arc;

use bytes::Bytes;

use super::mark::{Mark, Revision};
use crate::digest::{BucketSet, Digests, Sums, Version};
use crate::names::TokenId;
use crate::snapshot::{Kind, KindSet};

/// From a data plane.
#[derive(Debug, Clone, PartialEq)]
pub enum Up {
    /// First on every stream.
    Hello(Hello),
    /// The answer to a transaction.
    Ack(Ack),
    /// The answer to [`Down::ShowBuckets`].
    Buckets(Kind, Sums),
    /// A denial has been applied and journalled.
    Denied(Revision),
}

/// From a controller.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// The answer to a Hello.
    Welcome(Welcome),
    /// A part of a transaction.
    Chunk(Chunk),
    /// Asks for the bucket sums of a kind.
    ShowBuckets(Kind),
    /// A revoked token.
    Deny(Deny),
    /// Who leads now.
    Leader(Leader),
    /// The controller is about to close the stream, and why.
    Goodbye(String),
}

/// Who a data plane is and what it holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hello {
    /// Its own name.
    pub node: String,
    /// Its release.
    pub version: String,
    /// Nothing older may be applied.
    pub floor: Mark,
    /// Of the kinds that it holds completely.
    pub digests: Digests,
    /// What it does not accept.
    pub rejections: Vec<Rejection>,
    /// The kinds that its release understands. Nothing else is sent to it.
    pub kinds: KindSet,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ack {
    /// Which one.
    pub transaction: u64,
    /// Of the kinds that the transaction named; of all when it was refused.
    pub digests: Digests,
    /// Of this transaction.
    pub rejections: Vec<Rejection>,
    /// Why nothing of it was applied.
    pub refused: Option<String>,
    /// Nothing older may be applied; told when something was refused.
    pub floor: Mark,
}

/// A resource that a data plane does not accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Of what kind.
    pub kind: Kind,
    /// Its name, as it was sent.
    pub name: String,
    /// The version that is not accepted.
    pub version: Version,
    /// Why.
    pub text: String,
}

/// Who a controller is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Welcome {
    /// Its name.
    pub controller: String,
    /// Its release.
    pub version: String,
    /// Who leads, where there is more than one controller.
    pub leader: Option<Leader>,
}

/// The controller that writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Its name, as it is in its [`Welcome`].
    pub controller: String,
    /// Where it is reached: HOST:PORT.
    pub address: String,
    /// Grows with each election.
    pub epoch: u64,
}

/// What a data plane holds, as the leader is told, whichever controller it has it from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// What is fully contained of each source.
    pub mark: Mark,
    /// Of the kinds that it holds completely.
    pub digests: Digests,
    /// The store's revision that the token table is a picture of, if there is one.
    pub tokens: Option<Revision>,
    /// Denials in force and journalled that the table does not contain yet.
    pub denied: Vec<Revision>,
    /// What it does not accept; `None`: what was told last.
    pub rejections: Option<Arc<[Rejection]>>,
    /// How often, since its start, it held something else than had been sent.
    pub divergences: u64,
}

impl Report {
    /// Whether the token that was revoked at `revision` is refused.
    pub fn has_applied(&self, revision: Revision) -> bool {
        self.tokens >= Some(revision) || self.denied.contains(&revision)
    }
}

/// A part of a transaction; the one with a commit is its last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chunk {
    /// Which transaction.
    pub transaction: u64,
    /// New and changed resources.
    pub puts: Vec<Put>,
    /// Resources that are no more.
    pub removals: Vec<(Kind, String)>,
    /// Present at the end.
    pub commit: Option<Commit>,
}

/// A resource under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Put {
    /// Of what kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Its encoded body.
    pub body: Bytes,
}

/// What holds once a transaction is applied.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Commit {
    /// What the controller had read.
    pub mark: Mark,
    /// The kinds of which nothing is missing.
    pub complete: KindSet,
    /// Buckets of which the transaction holds all there is.
    pub replacements: Vec<(Kind, BucketSet)>,
}

/// A revoked token. Beats every allow of a lower revision of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deny {
    /// Which token.
    pub token: TokenId,
    /// The store's revision that revoked it.
    pub revision: Revision,
}
