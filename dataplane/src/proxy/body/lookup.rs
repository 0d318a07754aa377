//! One string of a JSON document, found while the document arrives.

use bytes::Bytes;

use super::BodyError;
use super::frames::Frames;
use super::scan::{Inside, Kind, Note, Scanner, Visitor};
use super::text;

/// Looks for the string at a path of keys. Of the document it keeps the
/// frames, and only as long as it lives: bound what you push.
#[derive(Debug)]
pub(crate) struct Lookup {
    frames: Frames,
    scanner: Scanner,
    search: Search,
}

impl Lookup {
    pub(crate) fn new(path: &'static [&'static str]) -> Self {
        Self {
            frames: Frames::default(),
            scanner: Scanner::default(),
            search: Search {
                path,
                depth: 0,
                at_key: false,
                start: None,
                found: None,
            },
        }
    }

    /// Takes the next piece of the document; the string, once it is complete.
    /// Nothing may be pushed after that.
    ///
    /// # Errors
    /// Not JSON; nothing may be pushed after that either.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<Option<String>, BodyError> {
        let len = piece.len();
        if len > 0 {
            self.frames.push(piece);
            let data = self.frames.newest(len);
            let fed = self.scanner.feed(data, &self.frames, &mut self.search);
            // What was found before a fault counts, as it would have in a
            // piece of its own.
            if self.search.found.is_none() {
                fed?;
            }
        }
        Ok(self.search.found.take())
    }
}

#[derive(Debug)]
struct Search {
    path: &'static [&'static str],
    /// Objects of the path that are open, the document itself among them.
    depth: usize,
    /// The last key of the innermost is the one of the path.
    at_key: bool,
    /// The value's opening quote.
    start: Option<usize>,
    found: Option<String>,
}

impl Visitor for Search {
    fn key(&mut self, _: usize, inside: &[u8]) -> Result<(), BodyError> {
        let wanted = self.depth.checked_sub(1).and_then(|i| self.path.get(i));
        let is = |name: &&str| text::Key::new(inside).likeness(name) == text::Likeness::Same;
        self.at_key = wanted.is_some_and(is);
        Ok(())
    }

    fn begin(&mut self, kind: Kind, at: usize) -> Result<Inside, BodyError> {
        let on_path = self.depth == 0 || self.at_key;
        self.at_key = false;
        if on_path && kind == Kind::Object && self.depth < self.path.len() {
            self.depth += 1;
            return Ok(Inside::Watch);
        }
        let wanted = on_path && kind == Kind::String && self.depth == self.path.len();
        self.start = wanted.then_some(at);
        Ok(Inside::Skip)
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    fn end(&mut self, frames: &Frames, end: usize, _: Note) -> Result<(), BodyError> {
        if let Some(start) = self.start.take()
            && self.found.is_none()
        {
            self.found = text::decode(&frames.bytes(start + 1..end - 1)).ok();
        }
        Ok(())
    }
}
