//! Between the messages of [`crate::sync`] and their wire form. What comes in is checked
//! here. Kinds of a newer release are an error: a Hello says which ones are understood.

use std::sync::Arc;

use bytes::Bytes;

use super::sync as pb;
use crate::digest::{BUCKETS, BucketSet, Digests, Sums, Version};
use crate::names::TokenId;
use crate::snapshot::{Kind, KindSet};
use crate::sync::{
    Ack, Chunk, Commit, Deny, Down, Hello, Leader, Mark, Put, Rejection, Report, Revision, Source,
    Up, Welcome,
};

/// Why a message of the other side cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Nothing in it, or something of a newer release.
    #[error("a message that this release does not know")]
    Unknown,
    /// A kind of resource that this release does not know.
    #[error("resource kind {0} is not known to this release")]
    Kind(i32),
    /// A field that cannot be what it must.
    #[error("{0} is malformed")]
    Malformed(&'static str),
}

fn kind_from(kind: i32) -> Result<Kind, WireError> {
    Kind::ALL
        .into_iter()
        .find(|k| *k as i32 == kind)
        .ok_or(WireError::Kind(kind))
}

/// Sources of a newer release are left out: no kind that is known here depends on them.
pub(crate) fn mark_from(positions: Vec<pb::Position>) -> Mark {
    let mut mark = Mark::default();
    for position in positions {
        let source = Source::ALL
            .into_iter()
            .find(|s| *s as i32 == position.source);
        if let Some(source) = source {
            mark.raise(source, revision_from(&position));
        }
    }
    mark
}

fn revision_from(position: &pb::Position) -> Revision {
    Revision {
        incarnation: position.incarnation,
        number: position.revision,
    }
}

fn position(source: Source, revision: Revision) -> pb::Position {
    pb::Position {
        source: source as i32,
        revision: revision.number,
        incarnation: revision.incarnation,
    }
}

pub(crate) fn mark_to(mark: &Mark) -> Vec<pb::Position> {
    mark.iter().map(|(s, r)| position(s, r)).collect()
}

fn digests_to(digests: &Digests) -> Option<pb::Digests> {
    (!digests.is_empty()).then(|| pb::Digests {
        kinds: digests
            .iter()
            .map(|(kind, _)| kind)
            .collect::<KindSet>()
            .bits(),
        sums: digests.iter().flat_map(|(_, s)| s.to_le_bytes()).collect(),
    })
}

fn digests_from(given: Option<pb::Digests>) -> Result<Digests, WireError> {
    let mut digests = Digests::default();
    let Some(given) = given else {
        return Ok(digests);
    };
    // A newer release may hold kinds that are unknown here: each bit has its 16 bytes.
    let bits = (0..32_u32).filter(|bit| given.kinds & (1 << bit) != 0);
    if given.sums.len() != 16 * bits.clone().count() {
        return Err(WireError::Malformed("digests"));
    }
    for (bit, sum) in bits.zip(sums(&given.sums)) {
        if let Some(kind) = KindSet::from_bits(1 << bit).iter().next() {
            digests.set(kind, sum);
        }
    }
    Ok(digests)
}

fn sums(bytes: &[u8]) -> impl Iterator<Item = u128> {
    bytes.chunks_exact(16).map(|sixteen| {
        let mut sum = [0; 16];
        sum.copy_from_slice(sixteen);
        u128::from_le_bytes(sum)
    })
}

pub(crate) fn rejection_to(rejection: Rejection) -> pb::Rejection {
    pb::Rejection {
        kind: rejection.kind as i32,
        name: rejection.name,
        version: rejection.version.0,
        text: rejection.text,
    }
}

pub(crate) fn rejections_from(given: Vec<pb::Rejection>) -> Result<Vec<Rejection>, WireError> {
    given
        .into_iter()
        .map(|r| {
            Ok(Rejection {
                kind: kind_from(r.kind)?,
                name: r.name,
                version: Version(r.version),
                text: r.text,
            })
        })
        .collect()
}

/// The wire form of a denial.
pub fn deny_to_wire(deny: &Deny) -> pb::Deny {
    pb::Deny {
        token: deny.token.to_string(),
        position: Some(position(Source::Store, deny.revision)),
    }
}

/// The inverse of [`deny_to_wire`].
pub fn deny_from_wire(deny: pb::Deny) -> Result<Deny, WireError> {
    let position = deny.position.ok_or(WireError::Malformed("deny.position"))?;
    Ok(Deny {
        token: TokenId::parse(&deny.token).map_err(|_| WireError::Malformed("deny.token"))?,
        revision: revision_from(&position),
    })
}

/// The wire form of a revision of the store.
pub fn store_position(revision: Revision) -> pb::Position {
    position(Source::Store, revision)
}

/// The inverse of [`store_position`].
///
/// # Errors
/// There is none, or it is another source's.
pub fn store_revision(given: Option<pb::Position>) -> Result<Revision, WireError> {
    match given {
        Some(given) if given.source == Source::Store as i32 => Ok(revision_from(&given)),
        _ => Err(WireError::Malformed("position")),
    }
}

impl From<Report> for pb::Report {
    fn from(report: Report) -> Self {
        let rejections = report.rejections.map(|all| pb::Rejections {
            rejections: all.iter().cloned().map(rejection_to).collect(),
        });
        Self {
            mark: mark_to(&report.mark),
            digests: digests_to(&report.digests),
            tokens: report.tokens.map(store_position),
            denied: report.denied.into_iter().map(store_position).collect(),
            rejections,
            divergences: report.divergences,
        }
    }
}

impl TryFrom<pb::Report> for Report {
    type Error = WireError;

    fn try_from(given: pb::Report) -> Result<Self, WireError> {
        let rejections = given.rejections.map(|all| rejections_from(all.rejections));
        Ok(Self {
            mark: mark_from(given.mark),
            digests: digests_from(given.digests)?,
            tokens: given.tokens.map(|p| revision_from(&p)),
            denied: given.denied.iter().map(revision_from).collect(),
            rejections: rejections.transpose()?.map(Arc::from),
            divergences: given.divergences,
        })
    }
}

impl From<Up> for pb::FromDataPlane {
    fn from(up: Up) -> Self {
        use pb::from_data_plane::Message;
        let message = match up {
            Up::Hello(hello) => Message::Hello(pb::Hello {
                node: hello.node,
                version: hello.version,
                floor: mark_to(&hello.floor),
                digests: digests_to(&hello.digests),
                rejections: hello.rejections.into_iter().map(rejection_to).collect(),
                kinds: hello.kinds.bits(),
            }),
            Up::Ack(ack) => Message::Ack(pb::Ack {
                transaction: ack.transaction,
                digests: digests_to(&ack.digests),
                rejections: ack.rejections.into_iter().map(rejection_to).collect(),
                refused: ack.refused,
                floor: mark_to(&ack.floor),
            }),
            Up::Buckets(kind, sums) => Message::Buckets(pb::Buckets {
                kind: kind as i32,
                sums: sums
                    .buckets()
                    .iter()
                    .flat_map(|s| s.to_le_bytes())
                    .collect(),
            }),
            Up::Denied(revision) => Message::Denied(pb::Denied {
                position: Some(position(Source::Store, revision)),
            }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<pb::FromDataPlane> for Up {
    type Error = WireError;

    fn try_from(given: pb::FromDataPlane) -> Result<Self, WireError> {
        use pb::from_data_plane::Message;
        Ok(match given.message.ok_or(WireError::Unknown)? {
            Message::Hello(hello) => Self::Hello(Hello {
                node: hello.node,
                version: hello.version,
                floor: mark_from(hello.floor),
                digests: digests_from(hello.digests)?,
                rejections: rejections_from(hello.rejections)?,
                kinds: KindSet::from_bits(hello.kinds),
            }),
            Message::Ack(ack) => Self::Ack(Ack {
                transaction: ack.transaction,
                digests: digests_from(ack.digests)?,
                rejections: rejections_from(ack.rejections)?,
                refused: ack.refused,
                floor: mark_from(ack.floor),
            }),
            Message::Buckets(buckets) => {
                if buckets.sums.len() != 16 * BUCKETS {
                    return Err(WireError::Malformed("buckets.sums"));
                }
                let mut each = [0; BUCKETS];
                for (own, given) in each.iter_mut().zip(sums(&buckets.sums)) {
                    *own = given;
                }
                Self::Buckets(kind_from(buckets.kind)?, Sums::from_buckets(each))
            }
            Message::Denied(denied) => {
                let position = denied.position;
                let position = position.ok_or(WireError::Malformed("denied.position"))?;
                Self::Denied(revision_from(&position))
            }
        })
    }
}

impl From<Down> for pb::FromController {
    fn from(down: Down) -> Self {
        use pb::from_controller::Message;
        let message = match down {
            Down::Welcome(welcome) => Message::Welcome(pb::Welcome {
                controller: welcome.controller,
                version: welcome.version,
                leader: welcome.leader.map(leader_to),
            }),
            Down::Chunk(chunk) => Message::Chunk(chunk.into()),
            Down::ShowBuckets(kind) => Message::ShowBuckets(kind as i32),
            Down::Deny(deny) => Message::Deny(deny_to_wire(&deny)),
            Down::Leader(leader) => Message::Leader(leader_to(leader)),
            Down::Goodbye(reason) => Message::Goodbye(pb::Goodbye { reason }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<pb::FromController> for Down {
    type Error = WireError;

    fn try_from(given: pb::FromController) -> Result<Self, WireError> {
        use pb::from_controller::Message;
        Ok(match given.message.ok_or(WireError::Unknown)? {
            Message::Welcome(welcome) => Self::Welcome(Welcome {
                controller: welcome.controller,
                version: welcome.version,
                leader: welcome.leader.map(leader_from),
            }),
            Message::Chunk(chunk) => Self::Chunk(chunk.try_into()?),
            Message::ShowBuckets(kind) => Self::ShowBuckets(kind_from(kind)?),
            Message::Deny(deny) => Self::Deny(deny_from_wire(deny)?),
            Message::Leader(leader) => Self::Leader(leader_from(leader)),
            Message::Goodbye(goodbye) => Self::Goodbye(goodbye.reason),
        })
    }
}

fn leader_to(leader: Leader) -> pb::Leader {
    pb::Leader {
        controller: leader.controller,
        address: leader.address,
        epoch: leader.epoch,
    }
}

fn leader_from(leader: pb::Leader) -> Leader {
    Leader {
        controller: leader.controller,
        address: leader.address,
        epoch: leader.epoch,
    }
}

impl From<Chunk> for pb::Chunk {
    fn from(chunk: Chunk) -> Self {
        let put = |put: Put| pb::Resource {
            kind: put.kind as i32,
            name: put.name,
            version: put.version.0,
            body: put.body,
        };
        let removal = |(kind, name)| pb::Removal {
            kind: kind as i32,
            name,
        };
        Self {
            transaction: chunk.transaction,
            resources: chunk.puts.into_iter().map(put).collect(),
            removals: chunk.removals.into_iter().map(removal).collect(),
            commit: chunk.commit.map(|commit| pb::Commit {
                mark: mark_to(&commit.mark),
                complete: commit.complete.bits(),
                replacements: commit.replacements.into_iter().map(replace_to).collect(),
            }),
        }
    }
}

fn replace_to((kind, buckets): (Kind, BucketSet)) -> pb::Replace {
    pb::Replace {
        kind: kind as i32,
        buckets: match buckets == BucketSet::ALL {
            true => Bytes::new(),
            false => Bytes::copy_from_slice(&buckets.to_bytes()),
        },
    }
}

fn replace_from(replace: pb::Replace) -> Result<(Kind, BucketSet), WireError> {
    let buckets = match replace.buckets.is_empty() {
        true => BucketSet::ALL,
        false => BucketSet::from_bytes(
            <[u8; 32]>::try_from(&*replace.buckets)
                .map_err(|_| WireError::Malformed("replace.buckets"))?,
        ),
    };
    Ok((kind_from(replace.kind)?, buckets))
}

impl TryFrom<pb::Chunk> for Chunk {
    type Error = WireError;

    fn try_from(given: pb::Chunk) -> Result<Self, WireError> {
        let put = |r: pb::Resource| {
            Ok(Put {
                kind: kind_from(r.kind)?,
                name: r.name,
                version: Version(r.version),
                body: r.body,
            })
        };
        let removal = |r: pb::Removal| Ok((kind_from(r.kind)?, r.name));
        let commit = |c: pb::Commit| {
            Ok(Commit {
                mark: mark_from(c.mark),
                complete: KindSet::from_bits(c.complete),
                replacements: c
                    .replacements
                    .into_iter()
                    .map(replace_from)
                    .collect::<Result<_, _>>()?,
            })
        };
        Ok(Self {
            transaction: given.transaction,
            puts: given
                .resources
                .into_iter()
                .map(put)
                .collect::<Result<_, _>>()?,
            removals: given
                .removals
                .into_iter()
                .map(removal)
                .collect::<Result<_, _>>()?,
            commit: given.commit.map(commit).transpose()?,
        })
    }
}
