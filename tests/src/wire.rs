//! An HTTP/1.1 client that sends exactly the bytes it is given and tells exactly what came back,
//! above all whether an answer ended as its framing promised.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As announced: all of `content-length`, the last chunk, or (with neither) a FIN.
    Complete,
    /// By FIN before that.
    Closed,
    /// By RST.
    Reset,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, values trimmed, in order, repeats kept.
    pub headers: Vec<(String, String)>,
    /// The body without its transfer coding, as far as it came.
    pub body: Vec<u8>,
    /// How it ended.
    pub end: End,
}

impl Response {
    /// The first header of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The bytes of a request. `host`, and `content-length` for a body, are added unless given.
pub fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\n").into_bytes();
    let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if !given("host") {
        bytes.extend_from_slice(b"host: localhost\r\n");
    }
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    if !given("content-length")
        && !given("transfer-encoding")
        && (!body.is_empty() || method == "POST")
    {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// When there is no connection or no head of an answer.
pub fn call(address: SocketAddr, request: &[u8]) -> anyhow::Result<Response> {
    let mut wire = Wire::connect(address)?;
    wire.send(request)?;
    wire.response()
}

/// A client's connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Wire {
    /// Connects; reads give up after 30 s.
    ///
    /// # Errors
    /// When the connection is refused.
    pub fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self {
            stream,
            inbox: Vec::new(),
        })
    }

    /// Writes the bytes as they are.
    ///
    /// # Errors
    /// When the peer does not take them.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(bytes).context("cannot send")
    }

    /// Reads until at least one more byte, or the end, has come. `false` at the end.
    fn fill(&mut self) -> anyhow::Result<Option<End>> {
        let mut space = [0; 16 * 1024];
        match self.stream.read(&mut space) {
            Ok(0) => Ok(Some(End::Closed)),
            Ok(n) => {
                self.inbox.extend_from_slice(&space[..n]);
                Ok(None)
            }
            Err(why)
                if matches!(
                    why.kind(),
                    ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
                ) =>
            {
                Ok(Some(End::Reset))
            }
            Err(why) => Err(why).context("no more bytes came"),
        }
    }

    /// Reads one answer, as far as it comes.
    ///
    /// # Errors
    /// When the connection ends, or nothing comes, before the end of the head.
    pub fn response(&mut self) -> anyhow::Result<Response> {
        let (status, headers) = self.head()?;
        let find = |name: &str| {
            headers
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.as_str())
        };
        let (body, end) = if status == 204 || status == 304 {
            (Vec::new(), End::Complete)
        } else if find("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            self.chunked()?
        } else if let Some(length) = find("content-length") {
            let length = length
                .parse()
                .with_context(|| format!("content-length '{length}'"))?;
            let end = self.at_least(length)?;
            let length = length.min(self.inbox.len());
            (self.inbox.drain(..length).collect(), end)
        } else {
            let end = self.at_least(usize::MAX)?;
            let end = if end == End::Closed {
                End::Complete
            } else {
                end
            };
            (std::mem::take(&mut self.inbox), end)
        };
        Ok(Response {
            status,
            headers,
            body,
            end,
        })
    }

    fn head(&mut self) -> anyhow::Result<(u16, Vec<(String, String)>)> {
        loop {
            let end = loop {
                if let Some(at) = self.inbox.windows(4).position(|four| four == b"\r\n\r\n") {
                    break at + 4;
                }
                if let Some(end) = self.fill()? {
                    bail!(
                        "no answer: the connection ended ({end:?}) after {} bytes",
                        self.inbox.len()
                    );
                }
            };
            let head: Vec<u8> = self.inbox.drain(..end).collect();
            let text = String::from_utf8_lossy(&head);
            let mut lines = text.split("\r\n");
            let line = lines.next().unwrap_or_default();
            let status = line
                .strip_prefix("HTTP/1.1 ")
                .and_then(|rest| rest.get(..3))
                .and_then(|code| code.parse().ok());
            let status: u16 = status.with_context(|| format!("not a status line: {line}"))?;
            if status / 100 == 1 {
                continue;
            }
            let fields = lines
                .take_while(|line| !line.is_empty())
                .filter_map(|line| line.split_once(':'));
            return Ok((
                status,
                fields
                    .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
                    .collect(),
            ));
        }
    }

    /// Reads until the inbox holds that many bytes; tells why it does not.
    fn at_least(&mut self, length: usize) -> anyhow::Result<End> {
        while self.inbox.len() < length {
            if let Some(end) = self.fill()? {
                return Ok(end);
            }
        }
        Ok(End::Complete)
    }

    fn chunked(&mut self) -> anyhow::Result<(Vec<u8>, End)> {
        let mut body = Vec::new();
        loop {
            let (line, end) = self.line()?;
            if end != End::Complete {
                return Ok((body, end));
            }
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)
                .with_context(|| format!("chunk size '{line}'"))?;
            if size == 0 {
                let end = loop {
                    let (trailer, end) = self.line()?;
                    if trailer.is_empty() || end != End::Complete {
                        break end;
                    }
                };
                return Ok((body, end));
            }
            let end = self.at_least(size + 2)?;
            let size = size.min(self.inbox.len());
            body.extend(self.inbox.drain(..size));
            if end != End::Complete {
                return Ok((body, end));
            }
            self.inbox.drain(..2);
        }
    }

    fn line(&mut self) -> anyhow::Result<(String, End)> {
        loop {
            if let Some(at) = self.inbox.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.inbox.drain(..at + 2).take(at).collect();
                return Ok((String::from_utf8_lossy(&line).into_owned(), End::Complete));
            }
            if let Some(end) = self.fill()? {
                return Ok((String::new(), end));
            }
        }
    }

    /// Reads bytes of a body until `enough` says so of all that came since the last call.
    ///
    /// # Errors
    /// When the connection ends before that.
    pub fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> anyhow::Result<()> {
        while !enough(&self.inbox) {
            if let Some(end) = self.fill()? {
                bail!(
                    "the connection ended ({end:?}) after: {}",
                    String::from_utf8_lossy(&self.inbox)
                );
            }
        }
        Ok(())
    }

    /// Whether the peer ends the connection, after whatever it still sends.
    ///
    /// # Errors
    /// When it is still open after 30 s.
    pub fn is_ended_by_peer(&mut self) -> anyhow::Result<bool> {
        self.at_least(usize::MAX).map(|end| end != End::Complete)
    }

    /// Says that nothing more will be sent; answers can still be read.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn half_close(&self) -> anyhow::Result<()> {
        self.stream
            .shutdown(Shutdown::Write)
            .context("cannot half-close")
    }
}
