//! A worker's standard error: into our log, line by line, and its last word.

use bodhi_proto::chat::Failure;
use bodhi_proto::names::ObjectRef;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

/// Bytes of one line that are kept; a model file may make the runtime print anything.
const LINE_MAX: usize = 4096;

/// The JSON object that a worker ends with.
#[derive(Deserialize)]
struct LastWord {
    reason: String,
    message: String,
}

/// A line of the worker's log.
#[derive(Deserialize)]
struct LogLine<'a> {
    #[serde(borrow)]
    level: &'a str,
    message: std::borrow::Cow<'a, str>,
}

/// Logs until the stream ends; answers why the worker ended, if it said so.
pub(super) async fn log(
    object: ObjectRef,
    worker: u64,
    stream: impl AsyncRead + Unpin,
) -> Option<Failure> {
    let mut stream = BufReader::new(stream);
    let mut last = None;
    let mut line = Vec::new();
    loop {
        // A broken pipe is the end of it too.
        let chunk = stream.fill_buf().await.unwrap_or_default();
        let ended = chunk.is_empty();
        let end = line_end(chunk);
        let taken = end.map_or(chunk.len(), |at| at + 1);
        let room = LINE_MAX.saturating_sub(line.len());
        line.extend(chunk[..end.unwrap_or(chunk.len())].iter().take(room));
        stream.consume(taken);
        if end.is_none() && !ended {
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        if !text.is_empty() {
            match serde_json::from_str::<LastWord>(text) {
                Ok(word) => last = Some(word),
                Err(_) => pass_on(&object, worker, text),
            }
        }
        line.clear();
        if ended {
            return last.map(|LastWord { reason, message }| Failure { reason, message });
        }
    }
}

/// A line of the worker's own log keeps its level and its words; what the model runtime prints is
/// taken as it is.
fn pass_on(alias: &ObjectRef, worker: u64, text: &str) {
    let Ok(line) = serde_json::from_str::<LogLine<'_>>(text) else {
        tracing::info!(target: "worker", %alias, worker, "{text}");
        return;
    };
    let message = line.message;
    match line.level {
        "ERROR" => tracing::error!(target: "worker", %alias, worker, "{message}"),
        "WARN" => tracing::warn!(target: "worker", %alias, worker, "{message}"),
        "INFO" => tracing::info!(target: "worker", %alias, worker, "{message}"),
        _ => tracing::debug!(target: "worker", %alias, worker, "{message}"),
    }
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_word_is_found_among_lines_of_any_length() {
        let long = "x".repeat(3 * LINE_MAX);
        let word = r#"{"reason":"InsufficientMemory","message":"needs 2 GiB","exitCode":30}"#;
        let object = || ObjectRef::alias("bodhi", "q");
        for (text, found) in [
            (format!("a\n{long}\n{word}\n"), true),
            (word.to_owned(), true),
            (format!("{long}\n{{\"reason\": 3}}\n"), false),
            (String::new(), false),
        ] {
            let said = log(object(), 1, text.as_bytes()).await;
            assert_eq!(said.is_some(), found, "{text:.40}");
            assert!(said.is_none_or(|said| said.message == "needs 2 GiB"));
        }
    }
}
