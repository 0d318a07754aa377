//! A second pass over a body, only where an extra body is configured: which
//! of its keys does the client have already, and where?

use smallvec::SmallVec;

use super::extra::{self, ExtraBody, Member, Node};
use super::fields::Value;
use super::frames::Frames;
use super::scan::{Inside, Kind, Note, Scanner, Visitor};
use super::{Body, BodyError, Dialect, text};

/// Where the client has the members of an extra body. Of a key that occurs
/// several times the last counts, as it does for decoders.
#[derive(Debug)]
pub(super) struct Located(Vec<Option<Value>>);

impl Located {
    /// The client's value for the member of that number.
    pub(super) fn get(&self, id: usize) -> Option<Value> {
        self.0.get(id).copied().flatten()
    }
}

/// Looks for every member of `extra`.
pub(super) fn locate(body: &Body, extra: &ExtraBody) -> Located {
    let mut search = Search {
        dialect: extra.dialect,
        members: &extra.members,
        levels: SmallVec::new(),
        located: vec![None; extra.count],
    };
    let mut scanner = Scanner::default();
    for frame in body.frames.iter() {
        scanner
            .feed(frame, &body.frames, &mut search)
            .expect("the body was accepted by the same scanner, and the search refuses nothing");
    }
    Located(search.located)
}

struct Search<'e> {
    dialect: Dialect,
    members: &'e [Member],
    levels: SmallVec<[Level<'e>; 4]>,
    located: Vec<Option<Value>>,
}

/// An object of the client that has a counterpart in the extra body.
struct Level<'e> {
    members: &'e [Member],
    /// The member whose value is being read.
    open: Option<Open<'e>>,
}

struct Open<'e> {
    member: &'e Member,
    kind: Kind,
    start: usize,
}

impl<'e> Search<'e> {
    fn enter(&mut self, members: &'e [Member]) -> Inside {
        self.levels.push(Level {
            members,
            open: None,
        });
        Inside::Watch
    }

    /// Forgets what an earlier occurrence of the same key held.
    fn forget(&mut self, member: &Member) {
        self.located[member.id] = None;
        if let Node::Object(members) = &member.node {
            members.iter().for_each(|member| self.forget(member));
        }
    }
}

impl Visitor for Search<'_> {
    fn key(&mut self, at: usize, inside: &[u8]) -> Result<(), BodyError> {
        let dialect = self.dialect;
        let Some(level) = self.levels.last_mut() else {
            return Ok(());
        };
        // A key that is no text is none of ours.
        let Ok(key) = text::decode(inside) else {
            return Ok(());
        };
        let name = extra::name(dialect, &key);
        let Some(member) = level.members.iter().find(|member| member.name == name) else {
            return Ok(());
        };
        level.open = Some(Open {
            member,
            kind: Kind::Null,
            start: at,
        });
        self.forget(member);
        Ok(())
    }

    fn begin(&mut self, kind: Kind, at: usize) -> Result<Inside, BodyError> {
        let Some(level) = self.levels.last_mut() else {
            let members = self.members;
            return Ok(self.enter(members));
        };
        let Some(open) = &mut level.open else {
            return Ok(Inside::Skip);
        };
        (open.kind, open.start) = (kind, at);
        match (&open.member.node, kind) {
            (Node::Object(members), Kind::Object) => Ok(self.enter(members)),
            _ => Ok(Inside::Skip),
        }
    }

    fn leave(&mut self) {
        self.levels.pop();
    }

    fn end(&mut self, _: &Frames, end: usize, note: Note) -> Result<(), BodyError> {
        let open = self.levels.last_mut().and_then(|level| level.open.take());
        if let Some(Open {
            member,
            kind,
            start,
        }) = open
        {
            self.located[member.id] = Some(Value {
                kind,
                note,
                start,
                end,
            });
        }
        Ok(())
    }
}
