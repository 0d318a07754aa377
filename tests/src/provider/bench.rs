//! Bench mode: fixed answers, made once per model name, so that the provider costs the machine as
//! little as it can while a gateway in front of it is measured.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;

use super::conn::{Conn, Gone};
use super::script::{Script, Source};

/// The wire bytes of one model's answers.
#[derive(Debug)]
struct Prepared {
    whole: Vec<u8>,
    stream_head: Vec<u8>,
    chunk: Vec<u8>,
    chunks: usize,
    stream_end: Vec<u8>,
    gap: Duration,
}

/// Answers by model name.
#[derive(Debug, Default)]
pub(super) struct Bench {
    prepared: Mutex<HashMap<Vec<u8>, Arc<Prepared>>>,
}

impl Bench {
    /// Answers a request without parsing it: the model's name is the string behind the first
    /// `"model":`, and `"stream":true` anywhere asks for a stream.
    pub(super) async fn answer(&self, conn: &mut Conn, body: &[u8]) -> Result<(), Gone> {
        let prepared = self.prepared(model_in(body));
        if !contains(body, b"\"stream\":true") && !contains(body, b"\"stream\": true") {
            return conn.write(&prepared.whole).await;
        }
        conn.write(&prepared.stream_head).await?;
        for _ in 0..prepared.chunks {
            conn.pause(prepared.gap).await?;
            conn.write(&prepared.chunk).await?;
            if prepared.gap.is_zero() {
                tokio::task::yield_now().await;
            }
        }
        conn.write(&prepared.stream_end).await
    }

    fn prepared(&self, model: &[u8]) -> Arc<Prepared> {
        let mut all = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prepared) = all.get(model) {
            return prepared.clone();
        }
        let prepared = Arc::new(Prepared::new(&String::from_utf8_lossy(model)));
        all.insert(model.to_vec(), prepared.clone());
        prepared
    }
}

impl Prepared {
    fn new(model: &str) -> Self {
        let script = Script::of(model).unwrap_or_default();
        let (chunks, size) = match script.source {
            Source::Bench { chunks, size } => (chunks, size),
            _ => (100, 120),
        };
        let answer = json!({
            "id": "chatcmpl-bench", "object": "chat.completion", "created": 1_700_000_000, "model": model,
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "x".repeat(size)}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        });
        let answer = answer.to_string();
        let whole = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        let event = |content: &str| {
            let chunk = json!({
                "id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_700_000_000,
                "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": null}],
            });
            format!("data: {chunk}\n\n")
        };
        // The event is padded to the size asked for; a smaller size gives the smallest event.
        let event = event(&"x".repeat(size.saturating_sub(event("").len())));
        Self {
            whole: whole.into_bytes(),
            stream_head: b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(),
            chunk: format!("{:x}\r\n{event}\r\n", event.len()).into_bytes(),
            chunks,
            stream_end: b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n".to_vec(),
            gap: script.gap,
        }
    }
}

fn model_in(body: &[u8]) -> &[u8] {
    let Some(at) = memchr::memmem::find(body, b"\"model\":") else {
        return b"";
    };
    let rest = body[at + 8..].trim_ascii_start();
    let rest = rest.strip_prefix(b"\"").unwrap_or_default();
    &rest[..memchr::memchr(b'"', rest).unwrap_or(0)]
}

fn contains(body: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(body, needle).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_have_the_size_asked_for() {
        let prepared = Prepared::new("bench:chunks=3,size=200,gap=1ms");
        assert_eq!(prepared.chunks, 3);
        assert_eq!(prepared.chunk.len(), "c8\r\n".len() + 200 + 2);
    }

    #[test]
    fn finds_the_model_without_parsing() {
        assert_eq!(
            model_in(br#"{"a":1,"model": "bench:size=1","b":2}"#),
            b"bench:size=1"
        );
        assert_eq!(model_in(b"{}"), b"");
    }
}
