//! Event streams, as OpenAI writes them: events of one `data` line and no name
//! (<https://platform.openai.com/docs/api-reference/chat-streaming>).

use bytes::{BufMut, BytesMut};
use serde::Serialize;

/// The event that says that the stream is complete.
pub(super) const DONE: &[u8] = b"data: [DONE]\n\n";

/// Writes JSON of our own shapes.
pub(super) fn json(value: &impl Serialize, out: &mut BytesMut) {
    serde_json::to_writer(out.writer(), value)
        .expect("our shapes have string keys, and a buffer takes every write");
}

/// An event that differs from its siblings in its middle only. JSON has no line ends as we
/// write it, so an event is one line.
#[derive(Debug)]
pub(super) struct Frame {
    before: Vec<u8>,
    after: &'static [u8],
}

impl Frame {
    /// `before` and `after` are the JSON around the middle.
    pub(super) fn new(before: &str, after: &'static [u8]) -> Self {
        Self {
            before: ["data: ", before].concat().into_bytes(),
            after,
        }
    }

    pub(super) fn write(&self, middle: &impl Serialize, out: &mut BytesMut) {
        out.extend_from_slice(&self.before);
        json(middle, out);
        self.end(self.after, out);
    }

    /// An event with another end.
    pub(super) fn write_last(&self, middle: impl FnOnce(&mut BytesMut), out: &mut BytesMut) {
        out.extend_from_slice(&self.before);
        middle(out);
        self.end(b"}", out);
    }

    fn end(&self, after: &[u8], out: &mut BytesMut) {
        out.extend_from_slice(after);
        out.extend_from_slice(b"\n\n");
    }
}
