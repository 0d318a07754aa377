//! What a data plane keeps over a restart, as a sequence of frames of about 64 KiB.
//! Sealing and files are the caller's.

use prost::Message as _;

use super::hold::Hold;
use super::mark::Source;
use super::message::{Chunk, Deny, Put};
use crate::digest::Version;
use crate::snapshot::{DecodeError, KindSet, Resource};
use crate::wire::{self, WireError, sync as pb};

/// A frame is full at this many bytes.
const FRAME: usize = 64 << 10;
/// No more room than this is made on the word of a file.
const ROOM_MAX: usize = 250_000;

/// Why kept frames cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a frame of this release.
    #[error("a frame cannot be read: {0}")]
    Frame(#[from] prost::DecodeError),
    /// A frame with something in it that this release does not know.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A resource that this release does not accept, although it wrote it.
    #[error("resource {0} cannot be read: {1}")]
    Resource(String, DecodeError),
    /// A frame out of order, or missing.
    #[error("frames are missing or out of order")]
    Order,
}

impl Hold {
    /// Hands out the frames one by one; `version` is this program's. Stops at the first error
    /// of `sink`.
    pub fn image<E>(
        &self,
        version: &str,
        mut sink: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut frame = |frame: pb::stored_frame::Frame| {
            let frame = pb::StoredFrame { frame: Some(frame) };
            sink(&frame.encode_to_vec())
        };
        frame(pb::stored_frame::Frame::Head(pb::StoredHead {
            version: version.to_owned(),
            floor: wire::mark_to_wire(&self.floor),
            mark: wire::mark_to_wire(&self.mark),
            complete: self.complete.bits(),
            tokens: u32::try_from(self.shelves.tokens.len()).unwrap_or(0),
        }))?;
        let (mut chunk, mut size) = (Chunk::default(), 0);
        let shelves = &self.shelves;
        let upstreams = shelves
            .upstreams
            .iter()
            .map(|(_, v, r)| (v, Resource::Upstream(r.clone())));
        let credentials = shelves
            .credentials
            .iter()
            .map(|(_, v, r)| (v, Resource::Credential(r.clone())));
        let names = shelves
            .served_names
            .iter()
            .map(|(_, v, r)| (v, Resource::ServedName(r.clone())));
        let tokens = shelves
            .tokens
            .iter()
            .map(|(_, v, r)| (v, Resource::Token(r.clone())));
        let policy = shelves
            .policy
            .iter()
            .map(|(_, v, r)| (v, Resource::Policy(r.clone())));
        let pools = shelves
            .pools
            .iter()
            .map(|(_, v, r)| (v, Resource::Pool(r.clone())));
        let endpoints = shelves
            .endpoints
            .iter()
            .map(|(_, v, r)| (v, Resource::Endpoint(r.clone())));
        for (version, resource) in upstreams
            .chain(credentials)
            .chain(names)
            .chain(tokens)
            .chain(policy)
            .chain(pools)
            .chain(endpoints)
        {
            let (kind, name) = resource.key();
            let body = resource.encode();
            size += name.len() + body.len() + 24;
            chunk.puts.push(Put {
                kind,
                name,
                version,
                body,
            });
            if size >= FRAME {
                size = 0;
                frame(pb::stored_frame::Frame::Chunk(
                    std::mem::take(&mut chunk).into(),
                ))?;
            }
        }
        frame(pb::stored_frame::Frame::Chunk(chunk.into()))?;
        frame(pb::stored_frame::Frame::End(pb::StoredEnd {
            rejections: shelves.rejections().map(wire::rejection_to_wire).collect(),
            denies: self
                .denies
                .iter()
                .map(|(token, revision)| {
                    wire::deny_to_wire(&Deny {
                        token: token.clone(),
                        revision: *revision,
                    })
                })
                .collect(),
        }))
    }
}

/// Puts frames together again.
#[derive(Debug)]
pub struct Restore {
    version: String,
    hold: Hold,
    stage: Stage,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Body { same_release: bool },
    End,
}

impl Restore {
    /// `version` is this program's.
    pub fn new(version: &str) -> Self {
        Self {
            version: version.to_owned(),
            hold: Hold::new(),
            stage: Stage::Head,
        }
    }

    /// Takes the next frame in.
    pub fn push(&mut self, frame: &[u8]) -> Result<(), ImageError> {
        use pb::stored_frame::Frame;
        let frame = pb::StoredFrame::decode(bytes::Bytes::copy_from_slice(frame))?;
        match (frame.frame.ok_or(WireError::Unknown)?, &self.stage) {
            (Frame::Head(head), Stage::Head) => {
                self.hold.floor = wire::mark_from_wire(head.floor);
                self.hold.mark = wire::mark_from_wire(head.mark);
                self.hold.complete = KindSet::from_bits(head.complete);
                // At least this; a denial may be kept for longer than it is needed.
                self.hold.tokens_at = self.hold.mark.at(Source::Store);
                let room = usize::try_from(head.tokens).unwrap_or(0).min(ROOM_MAX);
                self.hold.shelves.tokens.reserve(room);
                self.stage = Stage::Body {
                    same_release: head.version == self.version,
                };
            }
            (Frame::Chunk(chunk), Stage::Body { .. }) => {
                for put in Chunk::try_from(chunk)?.puts {
                    let resource = Resource::decode(put.kind, &put.name, &put.body)
                        .map_err(|e| ImageError::Resource(put.name, e))?;
                    self.hold.shelves.accept(resource, put.version);
                }
            }
            (Frame::End(end), Stage::Body { same_release }) => {
                for mut rejection in wire::rejections_from_wire(end.rejections)? {
                    // Another release may accept it: a version that nobody has makes the
                    // controller offer it again.
                    if !same_release {
                        rejection.version = Version(0);
                    }
                    self.hold.shelves.reject(&rejection);
                }
                for deny in end.denies {
                    let deny = wire::deny_from_wire(deny)?;
                    self.hold.denies.insert(deny.token, deny.revision);
                }
                self.stage = Stage::End;
            }
            _ => return Err(ImageError::Order),
        }
        Ok(())
    }

    /// What was held, if every frame came.
    pub fn finish(mut self) -> Result<Hold, ImageError> {
        if self.stage != Stage::End {
            return Err(ImageError::Order);
        }
        self.hold.look_at_all();
        Ok(self.hold)
    }
}
