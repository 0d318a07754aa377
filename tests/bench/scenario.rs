//! What is asked, and how often.

use std::time::Duration;

use serde_json::json;

use crate::load::Until;

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) connections: usize,
    pub(crate) ask: Ask,
    /// Chunks of each answer, when they are what is counted.
    pub(crate) chunks: Option<usize>,
    /// One stream per connection and round, begun at different times, instead of a closed loop.
    pub(crate) paced: Option<Duration>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    /// A whole answer to a short question.
    Chat,
    /// A whole answer to a question about an image.
    Image,
    /// An answer in chunks.
    Stream,
}

/// Chunks of a stream, and bytes of each.
const CHUNKS: usize = 200;
const CHUNK: usize = 120;

/// In the order they run.
pub(crate) const ALL: [Scenario; 5] = [
    Scenario {
        key: "chat_1",
        title: "Small chat request, 1 connection",
        connections: 1,
        ask: Ask::Chat,
        chunks: None,
        paced: None,
    },
    Scenario {
        key: "chat_32",
        title: "Small chat request, 32 connections",
        connections: 32,
        ask: Ask::Chat,
        chunks: None,
        paced: None,
    },
    Scenario {
        key: "image_4",
        title: "1 MiB request (base64 image), 4 connections",
        connections: 4,
        ask: Ask::Image,
        chunks: None,
        paced: None,
    },
    Scenario {
        key: "stream_paced_64",
        title: "Streams of 200 chunks of 120 bytes, one every 10 ms, 64 at a time",
        connections: 64,
        ask: Ask::Stream,
        chunks: Some(CHUNKS),
        paced: Some(Duration::from_millis(10)),
    },
    Scenario {
        key: "stream_fast_8",
        title: "Streams of 200 chunks of 120 bytes, as fast as they come, 8 at a time",
        connections: 8,
        ask: Ask::Stream,
        chunks: Some(CHUNKS),
        paced: None,
    },
];

impl Scenario {
    /// The body, with `prefix` before the model's name.
    pub(crate) fn body(&self, prefix: &str) -> String {
        match self.ask {
            Ask::Chat => chat(&format!("{prefix}{CHAT_MODEL}")),
            Ask::Image => image(&format!("{prefix}{CHAT_MODEL}")),
            Ask::Stream => {
                let gap = self.paced.unwrap_or_default().as_millis();
                stream(&format!(
                    "{prefix}bench:chunks={CHUNKS},size={CHUNK},gap={gap}ms"
                ))
            }
        }
    }

    /// The body of a first call over a connection, long enough that all first calls overlap.
    pub(crate) fn warm_up(&self, prefix: &str) -> String {
        match self.is_stream() {
            false => self.body(prefix),
            true => stream(&format!("{prefix}bench:chunks=2,size={CHUNK},gap=50ms")),
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.ask, Ask::Stream)
    }

    /// How long a round is, if the load decides.
    pub(crate) fn until(&self, seconds: f64) -> Until {
        match self.paced {
            Some(_) => Until::Calls(1),
            None => Until::Elapsed(Duration::from_secs_f64(seconds)),
        }
    }

    /// How far apart connections begin: paced streams must not send all at the same moment.
    pub(crate) fn stagger(&self) -> Duration {
        self.paced
            .map_or(Duration::ZERO, |gap| gap / self.connections as u32)
    }
}

/// A model of the scripted provider that answers with about 600 bytes.
pub(crate) const CHAT_MODEL: &str = "bench:size=400";

/// About 300 bytes.
pub(crate) fn chat(model: &str) -> String {
    json!({
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant. Answer in one sentence."},
            {"role": "user", "content": "What is the capital of France, and how many people live there?"},
        ],
        "temperature": 0.7,
        "max_tokens": 256,
        "user": "user-0123456789",
    })
    .to_string()
}

/// A stream that sends a chunk a second and does not end by itself.
pub(crate) fn held(prefix: &str) -> String {
    stream(&format!(
        "{prefix}bench:chunks=100000,size={CHUNK},gap=1000ms"
    ))
}

fn stream(model: &str) -> String {
    json!({
        "model": model,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "stream": true,
    })
    .to_string()
}

fn image(model: &str) -> String {
    // Base64 of nothing in particular: validators and splices look at each byte, not at its meaning.
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let pixels = alphabet.iter().cycle().step_by(7).take(1024 * 1024 - 400);
    let pixels: String = pixels.map(|&byte| char::from(byte)).collect();
    json!({
        "model": model,
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "What is in this image?"},
            {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{pixels}")}},
        ]}],
        "max_tokens": 256,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_sizes_that_their_titles_say() {
        let chat = ALL[1].body("b/");
        assert!((250..350).contains(&chat.len()), "{}", chat.len());
        let image = ALL[2].body("b/");
        assert!(
            (1_048_000..1_049_000).contains(&image.len()),
            "{}",
            image.len()
        );
    }
}
