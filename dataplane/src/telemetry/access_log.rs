//! One JSON line per request, written by a thread of its own.
//!
//! A line carries no prompt, completion, key or token; a token's id only.

use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use bodhi_proto::names::{ObjectRef, TokenId};

use crate::api::Label;

/// Lines waiting for the writer; beyond it they are dropped and counted.
const WAITING: usize = 4 * 1024;
/// How long lines may gather before they are written: waking the writer for each would cost a
/// request more than all the rest of its line does.
const GATHER: Duration = Duration::from_millis(10);

/// A request's name in `x-request-id` and in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Random per thread and start.
    pub thread: u32,
    /// Counts up within the thread.
    pub number: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req_{:08x}{:012x}", self.thread, self.number)
    }
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The last byte was handed over.
    Complete,
    /// The client went away first.
    ClientGone,
    /// The upstream broke off or stalled after the response had begun.
    Aborted,
}

/// What the log says of one exchange.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its name.
    pub id: RequestId,
    /// When its head had arrived.
    pub at: SystemTime,
    /// The endpoint.
    pub endpoint: Label,
    /// The method, as a bounded word.
    pub method: &'static str,
    /// The status sent; 499 when the client left before there was one.
    pub status: u16,
    /// How it ended.
    pub end: End,
    /// The gateway's error code, if the error is ours.
    pub error: Option<&'static str>,
    /// The model as asked.
    pub model: Option<Box<str>>,
    /// The ApiModel that was called last.
    pub upstream: Option<ObjectRef>,
    /// Attempts made upstream.
    pub attempts: u32,
    /// Who called.
    pub token: Option<TokenId>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// From the request's head to the response's first body byte.
    pub first_byte: Option<Duration>,
    /// From the request's head to the end.
    pub duration: Duration,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    request_id: String,
    endpoint: &'a str,
    method: &'a str,
    status: u16,
    end: End,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_byte_ms: Option<f64>,
    duration_ms: f64,
}

impl Record {
    fn line(&self) -> Line<'_> {
        // Tenths of a millisecond are what a reader can use.
        let ms = |d: Duration| (d.as_secs_f64() * 10_000.0).round() / 10.0;
        let time = jiff::Timestamp::try_from(self.at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Line {
            time: format!("{time:.3}"),
            request_id: self.id.to_string(),
            endpoint: self.endpoint.as_str(),
            method: self.method,
            status: self.status,
            end: self.end,
            error: self.error,
            model: self.model.as_deref(),
            upstream: self.upstream.as_ref().map(ObjectRef::short),
            attempts: (self.attempts > 0).then_some(self.attempts),
            token: self.token.as_ref().map(TokenId::as_str),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            first_byte_ms: self.first_byte.map(ms),
            duration_ms: ms(self.duration),
        }
    }
}

/// The way to the writer; one per thread, cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    lines: Option<SyncSender<Record>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the writer; it ends when the last clone is gone.
    pub fn start(out: impl Write + Send + 'static) -> Self {
        let (lines, records) = sync_channel(WAITING);
        let dropped = Arc::<AtomicU64>::default();
        let spawned = std::thread::Builder::new()
            .name("access-log".into())
            .stack_size(256 * 1024)
            .spawn(move || write_all(&records, out));
        let lines = match spawned {
            Ok(_) => Some(lines),
            Err(error) => {
                tracing::error!(%error, "the access log cannot be written: no thread");
                None
            }
        };
        Self { lines, dropped }
    }

    /// Writes nothing (`--access-log off`).
    pub fn off() -> Self {
        Self {
            lines: None,
            dropped: Arc::default(),
        }
    }

    /// Hands a record over without waiting.
    pub fn write(&self, record: Record) {
        if let Some(lines) = &self.lines
            && lines.try_send(record).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that the writer could not keep up with.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn write_all(records: &Receiver<Record>, out: impl Write) {
    let mut out = std::io::BufWriter::with_capacity(64 * 1024, out);
    while let Ok(first) = records.recv() {
        std::thread::sleep(GATHER);
        let batch = std::iter::once(first).chain(records.try_iter());
        for record in batch {
            let written = serde_json::to_writer(&mut out, &record.line())
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"));
            if written.is_err() {
                return;
            }
        }
        if out.flush().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_json_with_what_operators_filter_by() {
        let record = Record {
            id: RequestId {
                thread: 1,
                number: 2,
            },
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
            endpoint: Label::Chat,
            method: "POST",
            status: 200,
            end: End::Complete,
            error: None,
            model: Some("a\"b".into()),
            upstream: Some(ObjectRef::api_model("bodhi", "openai")),
            attempts: 1,
            token: Some(TokenId::parse("t1").unwrap()),
            bytes_in: 10,
            bytes_out: 20,
            first_byte: Some(Duration::from_micros(1250)),
            duration: Duration::from_micros(2000),
        };
        let line = serde_json::to_value(record.line()).unwrap();
        assert_eq!(
            line,
            serde_json::json!({
                "time": "1970-01-01T00:00:01.500Z", "request_id": "req_00000001000000000002",
                "endpoint": "chat_completions", "method": "POST", "status": 200, "end": "complete",
                "model": "a\"b", "upstream": "bodhi/openai", "attempts": 1, "token": "t1",
                "bytes_in": 10, "bytes_out": 20, "first_byte_ms": 1.3, "duration_ms": 2.0
            })
        );
    }
}
