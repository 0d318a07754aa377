//! The body as it came: the frames of the connection, in order and uncopied.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

/// Offsets into the whole body.
pub(super) type Span = Range<usize>;

/// Beyond this many frames, small ones are gathered: a client that sends one
/// byte per chunk must not cost forty bytes of bookkeeping for each.
const FREE: usize = 8;
/// Frames below this length are small.
const SMALL: usize = 512;
/// Small frames are gathered into blocks of this length.
const BLOCK: usize = 16 * 1024;

/// A growing list of frames with random access by offset.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Each with the offset of its first byte.
    list: SmallVec<[(usize, Bytes); 4]>,
    /// Small frames being gathered; they follow the last of `list`.
    tail: BytesMut,
    len: usize,
}

impl Frames {
    pub(super) fn push(&mut self, frame: Bytes) {
        let len = frame.len();
        if len < SMALL && self.list.len() >= FREE {
            if self.tail.len() + len > BLOCK {
                self.seal();
            }
            self.tail.extend_from_slice(&frame);
        } else {
            self.seal();
            self.list.push((self.len, frame));
        }
        self.len += len;
    }

    /// Ends the gathering of small frames; after it `slice` sees all.
    pub(super) fn seal(&mut self) {
        if !self.tail.is_empty() {
            let start = self.len - self.tail.len();
            self.list.push((start, self.tail.split().freeze()));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The frames, in order. Call `seal` first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.list.iter().map(|(_, frame)| frame)
    }

    /// The last `len` bytes, which came in one frame.
    pub(super) fn newest(&self, len: usize) -> &[u8] {
        let last = match self.list.last() {
            Some((_, frame)) if self.tail.is_empty() => frame,
            _ => &self.tail[..],
        };
        &last[last.len() - len..]
    }

    /// The bytes of `span`: copied only where they lie across frames.
    pub(super) fn bytes(&self, span: Span) -> Cow<'_, [u8]> {
        let sealed = self.len - self.tail.len();
        if span.start >= sealed {
            return Cow::Borrowed(&self.tail[span.start - sealed..span.end - sealed]);
        }
        let index = self.index(span.start);
        let (start, frame) = &self.list[index];
        if span.end <= start + frame.len() {
            return Cow::Borrowed(&frame[span.start - start..span.end - start]);
        }
        let mut copy = Vec::with_capacity(span.len());
        for (start, frame) in &self.list[index..] {
            if *start >= span.end {
                break;
            }
            let from = span.start.saturating_sub(*start);
            let to = (span.end - start).min(frame.len());
            copy.extend_from_slice(&frame[from..to]);
        }
        if span.end > sealed {
            copy.extend_from_slice(&self.tail[..span.end - sealed]);
        }
        Cow::Owned(copy)
    }

    /// The bytes of `span`, which lie in one frame. Call `seal` first.
    pub(super) fn share(&self, span: Span) -> Bytes {
        let (start, frame) = &self.list[self.index(span.start)];
        frame.slice(span.start - start..span.end - start)
    }

    /// Appends the frames' slices that make up `span`. Call `seal` first.
    pub(super) fn slice(&self, span: Span, out: &mut SmallVec<[Bytes; 8]>) {
        if span.is_empty() {
            return;
        }
        for (start, frame) in &self.list[self.index(span.start)..] {
            if *start >= span.end {
                break;
            }
            let from = span.start.saturating_sub(*start);
            let to = (span.end - start).min(frame.len());
            if from < to {
                out.push(frame.slice(from..to));
            }
        }
    }

    /// Which frame holds the byte at `at`.
    fn index(&self, at: usize) -> usize {
        self.list
            .partition_point(|(start, _)| *start <= at)
            .saturating_sub(1)
    }
}
