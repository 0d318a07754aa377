//! The id of a new response, read from the first bytes of the answer.

use bytes::Bytes;

use crate::proxy::body::Lookup;

/// How much of an answer is looked at. Ids come first.
const LIMIT: usize = 64 * 1024;
/// Longest id that is one.
const MAX_ID: usize = 256;

/// Finds the response id in what a Responses endpoint answers: the `id` of a
/// document, or `response.id` of the first event that has it
/// (`response.created`). Looks at 64 KiB at most and keeps no more.
#[derive(Debug)]
pub struct ResponseIdFinder {
    looked: usize,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Document(Lookup),
    Events {
        lines: Lines,
        /// None after an event's data turned out not to be JSON.
        data: Option<Lookup>,
    },
    /// Found, or not there.
    Done,
}

impl ResponseIdFinder {
    /// For a JSON document.
    #[must_use]
    pub fn in_document() -> Self {
        Self {
            looked: 0,
            source: Source::Document(Lookup::new(&["id"])),
        }
    }

    /// For an event stream.
    #[must_use]
    pub fn in_events() -> Self {
        Self {
            looked: 0,
            source: Source::Events {
                lines: Lines::default(),
                data: Some(event_data()),
            },
        }
    }

    /// Takes the next chunk; the id, when this chunk completes it. It is made
    /// of `A-Z a-z 0-9 _ -` and at most 256 long; others are no ids.
    pub fn push(&mut self, chunk: &Bytes) -> Option<String> {
        let chunk = chunk.slice(..chunk.len().min(LIMIT - self.looked));
        self.looked += chunk.len();
        let found = match &mut self.source {
            Source::Document(lookup) => match lookup.push(chunk) {
                Ok(found) => found,
                Err(_) => {
                    self.source = Source::Done;
                    None
                }
            },
            Source::Events { lines, data } => lines.find(&chunk, data),
            Source::Done => None,
        };
        if found.is_some() || self.looked == LIMIT {
            self.source = Source::Done;
        }
        found.filter(|id| is_id(id))
    }

    /// Whether further chunks change nothing: the id was found, or is not
    /// where it should be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.source, Source::Done)
    }
}

fn event_data() -> Lookup {
    Lookup::new(&["response", "id"])
}

fn is_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(allowed)
}

/// The lines of an event stream, of which only `data` matters here.
#[derive(Debug, Default)]
struct Lines {
    line: Line,
    /// The last byte was CR: a LF now belongs to the same line end.
    after_cr: bool,
    /// The event has data already; a further line adds to it.
    has_data: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// So much of `data:` was read.
    Name(usize),
    /// One space after the colon is no part of the data.
    Colon,
    Data,
    Other,
}

impl Default for Line {
    fn default() -> Self {
        Self::Name(0)
    }
}

const DATA: &[u8] = b"data:";

impl Lines {
    /// Hands the data in `chunk` to `data`, which is a fresh look-up for each
    /// event, until it finds something.
    fn find(&mut self, chunk: &Bytes, data: &mut Option<Lookup>) -> Option<String> {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            if std::mem::take(&mut self.after_cr) && byte == b'\n' {
                at += 1;
                continue;
            }
            if matches!(byte, b'\r' | b'\n') {
                self.after_cr = byte == b'\r';
                if self.line == Line::Name(0) {
                    *data = Some(event_data());
                    self.has_data = false;
                }
                self.line = Line::Name(0);
                at += 1;
                continue;
            }
            match self.line {
                Line::Name(read) if byte == DATA[read] => {
                    at += 1;
                    self.line = match read + 1 == DATA.len() {
                        true => Line::Colon,
                        false => Line::Name(read + 1),
                    };
                    if self.line == Line::Colon && std::mem::replace(&mut self.has_data, true) {
                        // Lines of data are joined by a line end.
                        look(data, Bytes::from_static(b"\n"));
                    }
                }
                Line::Name(_) => self.line = Line::Other,
                Line::Colon => {
                    at += usize::from(byte == b' ');
                    self.line = Line::Data;
                }
                Line::Data | Line::Other => {
                    let end = memchr::memchr2(b'\r', b'\n', &chunk[at..]);
                    let end = end.map_or(chunk.len(), |len| at + len);
                    if self.line == Line::Data
                        && let Some(found) = look(data, chunk.slice(at..end))
                    {
                        return Some(found);
                    }
                    at = end;
                }
            }
        }
        None
    }
}

/// Looks on; data that is not JSON is not looked at any further.
fn look(data: &mut Option<Lookup>, piece: Bytes) -> Option<String> {
    match data.as_mut()?.push(piece) {
        Ok(found) => found,
        Err(_) => {
            *data = None;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The id, if one was found, under a partition into pieces of `size`.
    fn find(mut finder: ResponseIdFinder, answer: &[u8], size: usize) -> Option<String> {
        let mut found = None;
        for piece in answer.chunks(size) {
            let id = finder.push(&Bytes::copy_from_slice(piece));
            assert!(found.is_none() || id.is_none(), "found twice");
            found = found.or(id);
        }
        found
    }

    fn in_events(answer: &str) -> Option<String> {
        let whole = find(ResponseIdFinder::in_events(), answer.as_bytes(), usize::MAX);
        for size in 1..9 {
            let parts = find(ResponseIdFinder::in_events(), answer.as_bytes(), size);
            assert_eq!(parts, whole, "pieces of {size}");
        }
        whole
    }

    fn in_document(answer: &str) -> Option<String> {
        let bytes = answer.as_bytes();
        let whole = find(ResponseIdFinder::in_document(), bytes, usize::MAX);
        for size in 1..9 {
            let parts = find(ResponseIdFinder::in_document(), bytes, size);
            assert_eq!(parts, whole, "pieces of {size}");
        }
        whole
    }

    #[test]
    fn a_documents_id_is_its_own_and_not_one_inside() {
        let answer =
            r#"{"output":[{"id":"msg_1"}],"error":{"id":"x"},"id":"resp_1-A","object":""}"#;
        assert_eq!(in_document(answer).as_deref(), Some("resp_1-A"));
        assert_eq!(in_document(r#"{"response":{"id":"resp_1"}}"#), None);
        assert_eq!(in_document(r#"{"id":5}"#), None);
        assert_eq!(in_document(r#"["id"]"#), None);
        assert_eq!(in_document("<html>"), None);
    }

    #[test]
    fn a_streams_id_is_in_its_first_events() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = [
                ": hello",
                "",
                "event: response.created",
                r#"data: {"type":"response.created","response":{"object":"response","#,
                r#"data:"id":"resp_7","output":[]},"sequence_number":0}"#,
                "",
                r#"data: {"type":"response.in_progress","response":{"id":"resp_8"}}"#,
                "",
                "",
            ]
            .join(end);
            assert_eq!(in_events(&stream).as_deref(), Some("resp_7"), "{end:?}");
        }
    }

    #[test]
    fn data_that_is_not_json_is_passed_over() {
        let stream = "data: [DONE\n\ndata\n\ndatax: {\"response\":{\"id\":\"no\"}}\n\n\
                      data: {\"response\":{\"id\":\"yes\"}}\n\n";
        assert_eq!(in_events(stream).as_deref(), Some("yes"));
    }

    #[test]
    fn what_is_no_id_is_not_taken_for_one() {
        assert_eq!(in_document(r#"{"id":"../x"}"#), None);
        assert_eq!(in_document(r#"{"id":""}"#), None);
        assert_eq!(
            in_document(&format!(r#"{{"id":"{}"}}"#, "a".repeat(257))),
            None
        );
        assert_eq!(in_document(r#"{"id":"a\u0062"}"#).as_deref(), Some("ab"));
    }

    #[test]
    fn the_id_is_told_before_the_event_is_complete() {
        let mut finder = ResponseIdFinder::in_events();
        let begun =
            Bytes::from_static(b"data: {\"response\":{\"id\":\"resp_1\",\"instructions\":\"");
        assert_eq!(finder.push(&begun).as_deref(), Some("resp_1"));
        assert!(finder.is_done());
    }

    #[test]
    fn looking_ends_after_64_kib() {
        let mut finder = ResponseIdFinder::in_document();
        let begun = format!("{{\"x\":\"{}", "y".repeat(LIMIT));
        assert_eq!(finder.push(&begun.into()), None);
        assert!(finder.is_done());
        assert_eq!(
            finder.push(&Bytes::from_static(b"\",\"id\":\"resp_1\"}")),
            None
        );
    }
}
