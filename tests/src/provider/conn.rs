//! One client connection, read and written by hand.
//!
//! An HTTP library hides what the tests ask about: the spelling of a header, the bytes of a
//! chunk, the moment a client left. So the scripted provider speaks HTTP/1.1 itself. Every wait
//! on a [`Conn`], be it a write or a pause, also watches for the client to leave.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// Heads larger than this end the connection; the gateway's own limit is 64 KiB.
const HEAD_LIMIT: usize = 256 * 1024;

/// A client's socket, plain or inside TLS.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// The head of a request, as it was spelled.
#[derive(Debug)]
pub(super) struct Head {
    /// Every byte up to and with the empty line.
    pub(super) raw: Vec<u8>,
    pub(super) method: String,
    /// The request target, not decoded.
    pub(super) target: String,
    /// Names as spelled, values trimmed, in order, repeats kept.
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    /// The value of the first header of that name, compared without regard to case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub(super) fn wants_close(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn parse(raw: &[u8]) -> Option<Self> {
        // Bytes above ASCII are kept one to one (ISO 8859-1), so nothing is lost to decoding.
        let text: String = raw.iter().map(|&byte| char::from(byte)).collect();
        let mut lines = text.split("\r\n");
        let mut first = lines.next()?.splitn(3, ' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
        first
            .next()
            .filter(|version| version.starts_with("HTTP/1."))?;
        let headers = lines
            .take_while(|line| !line.is_empty())
            .map(|line| {
                line.split_once(':')
                    .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            })
            .collect::<Option<Vec<_>>>()?;
        Some(Self {
            raw: raw.to_vec(),
            method,
            target,
            headers,
        })
    }
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub(super) enum Gone {
    /// The client closed or reset the connection.
    Left,
    /// What came is not HTTP/1.1.
    NotHttp(&'static str),
}

/// A connection with the bytes that were read ahead.
#[derive(Debug)]
pub(super) struct Conn {
    stream: Stream,
    inbox: BytesMut,
    closed: bool,
}

impl Conn {
    pub(super) fn new(stream: Stream) -> Self {
        // Parts of an answer are packets of their own; without this the kernel would join them.
        let _ = stream.tcp().set_nodelay(true);
        Self {
            stream,
            inbox: BytesMut::with_capacity(16 * 1024),
            closed: false,
        }
    }

    async fn fill(&mut self) -> Result<(), Gone> {
        match self.stream.read_buf(&mut self.inbox).await {
            Ok(n) if n > 0 => Ok(()),
            _ => {
                self.closed = true;
                Err(Gone::Left)
            }
        }
    }

    /// Reads the next request's head; `None` when the client ends the connection before one.
    pub(super) async fn head(&mut self) -> Result<Option<Head>, Gone> {
        let mut seen = 0_usize;
        loop {
            // Empty lines before a request are allowed (RFC 9112, 2.2).
            while seen == 0 && self.inbox.starts_with(b"\r\n") {
                let _ = self.inbox.split_to(2);
            }
            let from = seen.saturating_sub(3);
            if let Some(at) = self.inbox[from..]
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
            {
                let raw = self.inbox.split_to(from + at + 4);
                return Head::parse(&raw)
                    .map(Some)
                    .ok_or(Gone::NotHttp("malformed head"));
            }
            if self.inbox.len() > HEAD_LIMIT {
                return Err(Gone::NotHttp("head too large"));
            }
            seen = self.inbox.len();
            if self.fill().await.is_err() {
                return if self.inbox.is_empty() {
                    Ok(None)
                } else {
                    Err(Gone::Left)
                };
            }
        }
    }

    /// Reads the body that the head announces. `sink` gets each piece as it was on the wire and
    /// as it decodes; both are the same unless the body is chunked.
    pub(super) async fn body(
        &mut self,
        head: &Head,
        mut sink: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Gone> {
        let chunked = head
            .header("transfer-encoding")
            .is_some_and(|te| te.to_ascii_lowercase().contains("chunked"));
        let length = match head.header("content-length").map(str::parse::<usize>) {
            None => 0,
            Some(Ok(length)) => length,
            Some(Err(_)) => return Err(Gone::NotHttp("content-length is no number")),
        };
        if !chunked && length == 0 {
            return Ok(());
        }
        if head
            .header("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
        {
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        if !chunked {
            return self.take(length, |piece| sink(piece, piece)).await;
        }
        loop {
            let line = self.line().await?;
            sink(&line, b"");
            let digits = line
                .as_ref()
                .split(|&byte| byte == b';' || byte == b'\r')
                .next()
                .unwrap_or_default();
            let size = std::str::from_utf8(digits)
                .ok()
                .and_then(|hex| usize::from_str_radix(hex.trim(), 16).ok());
            let size = size.ok_or(Gone::NotHttp("chunk size is no number"))?;
            if size == 0 {
                break;
            }
            self.take(size, |piece| sink(piece, piece)).await?;
            let end = self.line().await?;
            sink(&end, b"");
        }
        loop {
            let trailer = self.line().await?;
            sink(&trailer, b"");
            if trailer.as_ref() == b"\r\n" {
                return Ok(());
            }
        }
    }

    async fn take(&mut self, mut length: usize, mut sink: impl FnMut(&[u8])) -> Result<(), Gone> {
        while length > 0 {
            if self.inbox.is_empty() {
                self.fill().await?;
            }
            let piece = self.inbox.split_to(length.min(self.inbox.len()));
            sink(&piece);
            length -= piece.len();
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<BytesMut, Gone> {
        loop {
            if let Some(at) = self.inbox.windows(2).position(|two| two == b"\r\n") {
                return Ok(self.inbox.split_to(at + 2));
            }
            if self.inbox.len() > HEAD_LIMIT {
                return Err(Gone::NotHttp("chunk line too long"));
            }
            self.fill().await?;
        }
    }

    /// Reads ahead without waiting; ready only when the client has left.
    fn poll_left(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.closed {
            let mut space = [0; 4096];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    self.inbox.extend_from_slice(buf.filled())
                }
                Poll::Ready(_) => self.closed = true,
            }
        }
        Poll::Ready(())
    }

    /// Writes all of `bytes`, or stops as soon as the client has left.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), Gone> {
        while !bytes.is_empty() {
            let written = poll_fn(|cx| {
                if self.poll_left(cx).is_ready() {
                    return Poll::Ready(Err(Gone::Left));
                }
                Pin::new(&mut self.stream)
                    .poll_write(cx, bytes)
                    .map_err(|_| Gone::Left)
            })
            .await?;
            bytes = &bytes[written..];
        }
        // TLS keeps records back until it is flushed.
        self.stream.flush().await.map_err(|_| Gone::Left)
    }

    /// Waits, or stops as soon as the client has left.
    pub(super) async fn pause(&mut self, pause: Duration) -> Result<(), Gone> {
        if pause.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.left() => Err(Gone::Left),
        }
    }

    /// Returns when the client has left.
    pub(super) async fn left(&mut self) {
        poll_fn(|cx| self.poll_left(cx)).await;
    }

    /// Ends the connection with RST instead of FIN.
    pub(super) fn reset(self) {
        // Closing a socket with a linger time of zero discards what is unsent and resets.
        let _ = self.stream.tcp().set_zero_linger();
    }

    /// Ends the connection in good order.
    pub(super) async fn close(mut self) {
        let _ = self.stream.shutdown().await;
    }
}
