//! Requests that the parser forgives and we do not.
//!
//! hyper reads a request with both `content-length` and `transfer-encoding` as chunked and removes
//! the length, and folds equal lengths into one: right by RFC 9112 §6.3, but another hop may have read it
//! the other way (request smuggling). By the time a service sees the headers the evidence is gone. So
//! [`HeadScan`] looks over the head's bytes as they arrive and counts; [`judge`] decides.

use http::header::{HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Version};

use super::Refusal;

/// Most header fields; hyper's own limit for HTTP/1.
const MAX_HEADERS: usize = 100;

const CONTENT_LENGTH: &[u8] = b"content-length:";
const TRANSFER_CODING: &[u8] = b"transfer-encoding:";

/// How far a head has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not one byte of it.
    Awaited,
    /// Begun.
    Partial,
    /// Its empty line was seen; what follows is not looked at.
    Complete,
}

/// A push machine over the bytes of one request head: counts the fields that frame the body.
#[derive(Debug)]
pub(super) struct HeadScan {
    progress: Progress,
    /// The beginning of a line that is not complete yet, in lower case.
    start: [u8; TRANSFER_CODING.len()],
    /// How long that line is so far, saturating.
    length: usize,
    content_lengths: usize,
    transfer_codings: usize,
}

impl HeadScan {
    pub(super) fn new() -> Self {
        Self {
            progress: Progress::Awaited,
            start: [0; TRANSFER_CODING.len()],
            length: 0,
            content_lengths: 0,
            transfer_codings: 0,
        }
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress
    }

    /// Takes what has arrived; bytes after the head are ignored.
    pub(super) fn push(&mut self, mut bytes: &[u8]) {
        while self.progress != Progress::Complete && !bytes.is_empty() {
            let end = memchr::memchr(b'\n', bytes);
            let line = &bytes[..end.unwrap_or(bytes.len())];
            self.extend_line(line);
            let Some(end) = end else { return };
            self.end_line();
            bytes = &bytes[end + 1..];
        }
    }

    fn extend_line(&mut self, part: &[u8]) {
        if self.progress == Progress::Awaited && !part.is_empty() && part != b"\r" {
            self.progress = Progress::Partial;
        }
        let free = self.start.get_mut(self.length..).unwrap_or_default();
        for (to, from) in free.iter_mut().zip(part) {
            *to = from.to_ascii_lowercase();
        }
        self.length = self.length.saturating_add(part.len());
    }

    fn end_line(&mut self) {
        let line = &self.start[..self.length.min(self.start.len())];
        match line {
            // Empty lines before the request line are skipped (RFC 9112 §2.2).
            b"" | b"\r" if self.progress == Progress::Partial => {
                self.progress = Progress::Complete;
            }
            _ if line.starts_with(CONTENT_LENGTH) => self.content_lengths += 1,
            _ if line.starts_with(TRANSFER_CODING) => self.transfer_codings += 1,
            _ => {}
        }
        self.length = 0;
    }
}

/// Whether the request is refused. `scan` is of its head over HTTP/1, `None` over HTTP/2, whose frames
/// end a body beyond doubt.
pub(super) fn judge(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    scan: Option<&HeadScan>,
) -> Option<Refusal> {
    if headers.len() > MAX_HEADERS {
        return Some(Refusal::TooManyHeaders);
    }
    if matches!(*method, Method::CONNECT | Method::TRACE) {
        return Some(Refusal::Method);
    }
    let scan = scan?;
    // An offer of HTTP/2 is left unanswered (RFC 9110 §7.8), for Java's own client makes it
    // with every first request. Who asks for anything else would misread our answer.
    let offers_h2c = |offer: &HeaderValue| offer.as_bytes().eq_ignore_ascii_case(b"h2c");
    if !headers.get_all(UPGRADE).iter().all(offers_h2c) {
        return Some(Refusal::Upgrade);
    }
    let mut hosts = headers.get_all(HOST).iter();
    if hosts.next().is_none() && version == Version::HTTP_11 || hosts.next().is_some() {
        return Some(Refusal::Host);
    }
    if scan.content_lengths > 1 {
        return Some(Refusal::Framing(
            "the request has more than one content-length",
        ));
    }
    let coding = headers.get(TRANSFER_ENCODING)?;
    if scan.progress != Progress::Complete {
        // It was sent behind another request before that one was answered, so its head went by unseen.
        return Some(Refusal::Framing("a chunked request must not be pipelined"));
    }
    if scan.content_lengths > 0 {
        return Some(Refusal::Framing(
            "the request has both content-length and transfer-encoding",
        ));
    }
    if scan.transfer_codings != 1 || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Some(Refusal::Framing(
            "the only transfer-encoding that is understood is chunked, once",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(parts: &[&[u8]]) -> HeadScan {
        let mut scan = HeadScan::new();
        for part in parts {
            scan.push(part);
        }
        scan
    }

    const HEAD: &[u8] = b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-LENGTH: 5\r\n\
        Transfer-Encoding: chunked\r\nx-content-length: 1\r\ncontent-length:5\r\n\r\ncontent-length: 9\r\n";

    #[test]
    fn counts_the_same_however_the_bytes_are_split() {
        for cut in 0..HEAD.len() {
            for second in cut..HEAD.len() {
                let scan = scan(&[&HEAD[..cut], &HEAD[cut..second], &HEAD[second..]]);
                let found = (scan.progress, scan.content_lengths, scan.transfer_codings);
                assert_eq!(found, (Progress::Complete, 2, 1), "cut at {cut}, {second}");
            }
        }
    }

    #[test]
    fn progress_tells_an_unbegun_head_from_a_partial_one() {
        assert_eq!(scan(&[b"\r\n"]).progress(), Progress::Awaited);
        assert_eq!(scan(&[b"G"]).progress(), Progress::Partial);
        assert_eq!(
            scan(&[b"GET / HTTP/1.1\r\nHost: a\r\n"]).progress(),
            Progress::Partial
        );
        assert_eq!(
            scan(&[b"GET / HTTP/1.1\nHost: a\n\n"]).progress(),
            Progress::Complete
        );
    }

    fn verdict(head: &str) -> Option<Refusal> {
        let mut lines = head.split("\r\n");
        let method = lines
            .next()
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let mut headers = HeaderMap::new();
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').unwrap();
            let name: http::HeaderName = name.parse().unwrap();
            headers.append(name, value.trim().parse().unwrap());
        }
        judge(
            &method,
            Version::HTTP_11,
            &headers,
            Some(&scan(&[head.as_bytes()])),
        )
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        for bad in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(matches!(verdict(bad), Some(Refusal::Framing(_))), "{bad}");
        }
        for good in [
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        ] {
            assert_eq!(verdict(good), None, "{good}");
        }
    }

    #[test]
    fn other_protocols_methods_and_hosts_are_refused() {
        for (head, refusal) in [
            (
                "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c, websocket\r\n\r\n",
                Refusal::Upgrade,
            ),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Method),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Method),
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Host),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                Refusal::Host,
            ),
        ] {
            assert_eq!(verdict(head), Some(refusal), "{head}");
        }
    }
}
