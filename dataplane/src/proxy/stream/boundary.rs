//! Where an event stream may be continued with an event of our own.

/// Follows a `text/event-stream` and knows whether it is between two events.
/// Lines end with LF, CRLF or CR, and a blank one ends an event
/// (<https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>).
#[derive(Debug, Clone, Copy, Default)]
pub struct EventBoundary {
    place: Place,
    /// The last byte was CR: a LF now belongs to the same line end.
    after_cr: bool,
    events: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Before the first byte of an event.
    #[default]
    Between,
    /// Inside an event, before the first byte of a line.
    LineStart,
    InLine,
}

impl EventBoundary {
    /// Takes what was sent.
    pub fn push(&mut self, sent: &[u8]) {
        let mut rest = sent;
        while let Some((&first, after)) = rest.split_first() {
            let continues = std::mem::take(&mut self.after_cr) && first == b'\n';
            match first {
                _ if continues => rest = after,
                b'\r' | b'\n' => {
                    self.after_cr = first == b'\r';
                    self.line_ends();
                    rest = after;
                }
                _ => {
                    self.place = Place::InLine;
                    let line = memchr::memchr2(b'\r', b'\n', rest);
                    rest = &rest[line.unwrap_or(rest.len())..];
                }
            }
        }
    }

    fn line_ends(&mut self) {
        self.place = match self.place {
            Place::InLine => Place::LineStart,
            Place::LineStart => {
                self.events += 1;
                Place::Between
            }
            Place::Between => Place::Between,
        };
    }

    /// Whether another event may follow the last byte: so it is before the
    /// first one, too.
    #[must_use]
    pub fn is_between_events(&self) -> bool {
        self.place == Place::Between
    }

    /// Complete events so far. Blocks of comments count too.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pieces: &[&[u8]]) -> EventBoundary {
        let mut boundary = EventBoundary::default();
        pieces.iter().for_each(|piece| boundary.push(piece));
        boundary
    }

    #[test]
    fn nothing_sent_is_a_boundary() {
        assert!(after(&[]).is_between_events());
        assert!(after(&[b""]).is_between_events());
    }

    #[test]
    fn a_blank_line_ends_an_event_whatever_the_line_ends() {
        for end in ["\n", "\r\n", "\r"] {
            let line = format!("data: x{end}");
            let event = format!("{line}{end}");
            assert!(!after(&[b"data: x"]).is_between_events());
            assert!(!after(&[line.as_bytes()]).is_between_events(), "{end:?}");
            assert!(after(&[event.as_bytes()]).is_between_events(), "{end:?}");
            assert_eq!(after(&[event.as_bytes()]).events(), 1);
        }
    }

    #[test]
    fn the_lf_of_a_crlf_is_no_line_of_its_own() {
        assert!(!after(&[b"data: x\r\n"]).is_between_events());
        assert!(!after(&[b"data: x\r", b"\n"]).is_between_events());
        assert!(after(&[b"data: x\r", b"\n", b"\r"]).is_between_events());
        let whole = after(&[b"data: x\r", b"\n", b"\r", b"\n"]);
        assert!(whole.is_between_events());
        assert_eq!(whole.events(), 1);
    }

    #[test]
    fn further_blank_lines_and_comments_keep_the_place() {
        assert!(after(&[b"\n\n\r\r\n"]).is_between_events());
        assert!(after(&[b": ping\n\n"]).is_between_events());
        assert!(!after(&[b": ping\n"]).is_between_events());
        assert_eq!(after(&[b"a\n\n\n\nb\n\n"]).events(), 2);
    }

    #[test]
    fn every_partition_tells_the_same() {
        let streams: [&[u8]; 5] = [
            b"event: a\ndata: 1\n\ndata: 2\n\n",
            b"event: a\r\ndata: 1\r\n\r\ndata: 2\r\n",
            b"data: 1\r\rdata: 2\r\r",
            b"data: a\r\n\ndata: b\n\r\n\r\n\rx",
            "data: é€🦀\n\n".as_bytes(),
        ];
        for stream in streams {
            for end in 0..=stream.len() {
                let sent = &stream[..end];
                let whole = after(&[sent]);
                let bytes: Vec<&[u8]> = sent.chunks(1).collect();
                let single = after(&bytes);
                assert_eq!(single.is_between_events(), whole.is_between_events());
                assert_eq!(single.events(), whole.events());
                for cut in 0..=end {
                    let (first, second) = sent.split_at(cut);
                    let parts = after(&[first, second]);
                    assert_eq!(parts.is_between_events(), whole.is_between_events());
                    assert_eq!(parts.events(), whole.events());
                }
            }
        }
    }
}
