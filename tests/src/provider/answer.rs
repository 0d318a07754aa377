//! An answer, and how it gets onto the wire: whole or in parts, with the faults of a script.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

use super::conn::{Conn, Gone};
use super::journal::Outcome;
use super::script::{Cut, Framing, Script};

/// The body of an answer.
#[derive(Debug)]
pub(super) enum Body {
    Whole(Bytes),
    /// Each part is a chunk and a write of its own.
    Parts(Vec<Bytes>),
}

/// A response before it is written.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Body,
}

impl Answer {
    /// 200 with a JSON document, on one line.
    pub(super) fn json(value: &Value) -> Self {
        Self::bytes("application/json", value.to_string().into())
    }

    /// 200 with a JSON document, indented as OpenAI and Gemini do.
    pub(super) fn pretty(value: &Value) -> Self {
        Self::bytes(
            "application/json; charset=UTF-8",
            format!("{value:#}\n").into(),
        )
    }

    pub(super) fn bytes(content_type: &str, body: Bytes) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", content_type.to_owned())],
            body: Body::Whole(body),
        }
    }

    /// A stream of server-sent events, each with its empty line.
    pub(super) fn events(events: Vec<String>) -> Self {
        Self {
            status: 200,
            headers: vec![
                (
                    "content-type",
                    "text/event-stream; charset=utf-8".to_owned(),
                ),
                ("cache-control", "no-cache".to_owned()),
            ],
            body: Body::Parts(events.into_iter().map(Bytes::from).collect()),
        }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn length(&self) -> usize {
        match &self.body {
            Body::Whole(bytes) => bytes.len(),
            Body::Parts(parts) => parts.iter().map(Bytes::len).sum(),
        }
    }

    fn head(&self, framing: Framing, padding: (usize, usize)) -> Vec<u8> {
        let reason = http::StatusCode::from_u16(self.status)
            .ok()
            .and_then(|status| status.canonical_reason());
        let mut head = format!(
            "HTTP/1.1 {} {}\r\n",
            self.status,
            reason.unwrap_or("Scripted")
        );
        let mut line = |name: &str, value: &str| {
            head.push_str(name);
            head.push_str(": ");
            head.push_str(value);
            head.push_str("\r\n");
        };
        // A fixed date, so that a relay that writes its own is noticed.
        line("date", "Tue, 14 Nov 2023 22:13:20 GMT");
        for (name, value) in &self.headers {
            line(name, value);
        }
        let (bytes, count) = padding;
        for index in 0..count {
            line(&format!("x-padding-{index}"), &"p".repeat(bytes / count));
        }
        match framing {
            Framing::Chunked => line("transfer-encoding", "chunked"),
            Framing::Length => line("content-length", &self.length().to_string()),
            Framing::Close => line("connection", "close"),
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// Whether the connection can carry another request.
pub(super) enum After {
    KeepAlive,
    Close(Outcome),
    Reset(Outcome),
}

/// Writes the answer as the script says.
pub(super) async fn send(conn: &mut Conn, answer: &Answer, script: &Script) -> Result<After, Gone> {
    conn.pause(script.first_byte).await?;
    let framing = script.framing.unwrap_or(match answer.body {
        Body::Whole(_) => Framing::Length,
        Body::Parts(_) => Framing::Chunked,
    });
    let head = answer.head(framing, script.padding);
    let whole;
    let parts = match &answer.body {
        Body::Whole(bytes) => {
            whole = [bytes.clone()];
            &whole[..]
        }
        Body::Parts(parts) => parts,
    };
    // A short body travels with its head, as servers do; parts never do.
    let mut buffer = head;
    if matches!(answer.body, Body::Parts(_)) || script.cut.is_some() || script.drip.is_some() {
        conn.write(&buffer).await?;
        buffer.clear();
    }
    let mut sent = 0;
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            if script.gap.is_zero() {
                tokio::task::yield_now().await;
            }
            conn.pause(script.gap).await?;
        }
        let chunked = framing == Framing::Chunked && !part.is_empty();
        if chunked {
            buffer.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        }
        if let Some((at, cut)) = script.cut
            && at < sent + part.len()
        {
            buffer.extend_from_slice(&part[..at - sent]);
            drip(conn, &buffer, script.drip).await?;
            return end(conn, cut).await;
        }
        buffer.extend_from_slice(part);
        if chunked {
            buffer.extend_from_slice(b"\r\n");
        }
        drip(conn, &buffer, script.drip).await?;
        buffer.clear();
        sent += part.len();
    }
    if let Some((_, cut)) = script.cut {
        return end(conn, cut).await;
    }
    match framing {
        Framing::Chunked => conn.write(b"0\r\n\r\n").await.map(|()| After::KeepAlive),
        Framing::Length => Ok(After::KeepAlive),
        Framing::Close => Ok(After::Close(Outcome::Answered)),
    }
}

async fn drip(conn: &mut Conn, bytes: &[u8], drip: Option<(usize, Duration)>) -> Result<(), Gone> {
    let Some((size, pause)) = drip else {
        return conn.write(bytes).await;
    };
    for piece in bytes.chunks(size) {
        conn.write(piece).await?;
        conn.pause(pause).await?;
    }
    Ok(())
}

async fn end(conn: &mut Conn, cut: Cut) -> Result<After, Gone> {
    match cut {
        Cut::Reset => Ok(After::Reset(Outcome::Cut)),
        Cut::Close => Ok(After::Close(Outcome::Cut)),
        Cut::Stall => {
            conn.left().await;
            Err(Gone::Left)
        }
    }
}
