//! An HTTP/1.1 client that costs little: prepared bytes out, and of an answer no more than its
//! framing.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Longest head or chunk-size line taken.
const MAX_LINE: usize = 64 * 1024;

/// The bytes of a request with a JSON body, as an SDK would send it.
pub(crate) fn request(host: SocketAddr, token: &str, target: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nhost: {host}\r\naccept: application/json\r\n\
         content-type: application/json\r\nuser-agent: bodhi-bench/1\r\n\
         authorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// What came back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Bytes of the body without transfer coding.
    pub(crate) length: usize,
    /// From the first byte sent to the first body byte received.
    pub(crate) first_byte: Duration,
    /// From the first byte sent to the last byte received.
    pub(crate) total: Duration,
}

/// How a body ends.
enum Framing {
    Length(usize),
    Chunked,
}

/// A kept connection.
#[derive(Debug)]
pub(crate) struct Conn {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Where the bytes that are not consumed begin.
    at: usize,
}

impl Conn {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .await
            .with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(64 * 1024),
            at: 0,
        })
    }

    /// Sends a request and reads its whole answer; `body` gets each piece of it.
    pub(crate) async fn call(
        &mut self,
        request: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> anyhow::Result<Answer> {
        let started = Instant::now();
        self.stream.write_all(request).await?;
        let (status, framing) = self.head().await?;
        let mut first_byte = None;
        let mut length = 0;
        let mut sink = |piece: &[u8]| {
            first_byte.get_or_insert_with(|| started.elapsed());
            length += piece.len();
            body(piece);
        };
        match framing {
            Framing::Length(length) => self.take(length, &mut sink).await?,
            Framing::Chunked => loop {
                let size = self.chunk_size().await?;
                self.take(size, &mut sink).await?;
                // The line's end behind the data, or the empty line of no trailers.
                ensure!(
                    self.line().await?.is_empty(),
                    "a chunk does not end where it says"
                );
                if size == 0 {
                    break;
                }
            },
        }
        Ok(Answer {
            status,
            length,
            first_byte: first_byte.unwrap_or_else(|| started.elapsed()),
            total: started.elapsed(),
        })
    }

    /// Sends a request and returns once the first byte of a 200's body is there.
    pub(crate) async fn begin(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        let (status, _) = self.head().await?;
        ensure!(status == 200, "status {status}");
        if self.at == self.buffer.len() {
            self.fill().await?;
        }
        Ok(())
    }

    async fn head(&mut self) -> anyhow::Result<(u16, Framing)> {
        let line = self.line().await?;
        let status = line
            .get(9..12)
            .and_then(|digits| digits.parse().ok())
            .with_context(|| format!("not a status line: {line}"))?;
        let mut framing = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').context("a header without a colon")?;
            if name.eq_ignore_ascii_case("content-length") {
                framing = Some(Framing::Length(value.trim().parse()?));
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                framing = Some(Framing::Chunked);
            }
        }
        Ok((status, framing.context("a body without an end")?))
    }

    async fn chunk_size(&mut self) -> anyhow::Result<usize> {
        let line = self.line().await?;
        usize::from_str_radix(line.trim(), 16).with_context(|| format!("no chunk size: '{line}'"))
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut seen = 0;
        loop {
            let unread = &self.buffer[self.at..];
            if let Some(end) = memchr::memmem::find(&unread[seen..], b"\r\n") {
                let line = std::str::from_utf8(&unread[..seen + end])?.to_owned();
                self.at += seen + end + 2;
                return Ok(line);
            }
            if unread.len() > MAX_LINE {
                bail!("a line of more than {MAX_LINE} bytes");
            }
            seen = unread.len().saturating_sub(1);
            self.fill().await?;
        }
    }

    async fn take(&mut self, mut length: usize, sink: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while length > 0 {
            if self.at == self.buffer.len() {
                self.fill().await?;
            }
            let unread = &self.buffer[self.at..];
            let piece = &unread[..length.min(unread.len())];
            sink(piece);
            length -= piece.len();
            self.at += piece.len();
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.at);
        self.at = 0;
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
