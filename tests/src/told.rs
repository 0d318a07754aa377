//! What a stream of OpenAI's formats told a client, read as strictly as the strictest client does.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::wire::Response;

/// A stream, as far as it came.
#[derive(Debug)]
pub struct Told {
    /// The chunks in order.
    pub chunks: Vec<Value>,
    /// The error that is its last event.
    pub error: Option<Value>,
    /// Whether its last event is `[DONE]`.
    pub done: bool,
}

impl Told {
    /// Reads the body of an answer. What was cut within an event is no event.
    ///
    /// # Errors
    /// When it is no such stream: another status or type, an event that is no JSON, anything
    /// after `[DONE]` or an error.
    pub fn read(answer: &Response) -> anyhow::Result<Self> {
        let kind = answer.header("content-type").unwrap_or_default();
        ensure!(
            answer.status == 200 && kind.starts_with("text/event-stream"),
            "no stream: {} {}",
            answer.status,
            answer.text()
        );
        let mut told = Self {
            chunks: Vec::new(),
            error: None,
            done: false,
        };
        let text = answer.text();
        let whole = text.rfind("\n\n").map_or("", |end| &text[..end + 2]);
        for event in whole.split_terminator("\n\n") {
            ensure!(
                !told.done && told.error.is_none(),
                "'{event}' comes after the end"
            );
            let data = event.strip_prefix("data: ").context(event.to_owned())?;
            if data == "[DONE]" {
                told.done = true;
                continue;
            }
            let mut chunk: Value = serde_json::from_str(data).context(data.to_owned())?;
            match chunk.get_mut("error") {
                Some(error) => told.error = Some(error.take()),
                None => told.chunks.push(chunk),
            }
        }
        Ok(told)
    }

    /// All that was said in one choice, in conversations or completions.
    pub fn text(&self, choice: u64) -> String {
        let of_choice = self.of(choice);
        let piece = |choice: &Value| {
            let piece = choice["delta"]["content"].as_str();
            piece.or(choice["text"].as_str()).map(str::to_owned)
        };
        of_choice.filter_map(piece).collect()
    }

    /// Why a choice ended, if it did.
    pub fn finish(&self, choice: u64) -> Option<&str> {
        self.of(choice)
            .find_map(|choice| choice["finish_reason"].as_str())
    }

    fn of(&self, index: u64) -> impl Iterator<Item = &Value> {
        let choices = self.chunks.iter().map(|chunk| &chunk["choices"]);
        let choices = choices.filter_map(Value::as_array).flatten();
        choices.filter(move |choice| choice["index"] == index)
    }
}
