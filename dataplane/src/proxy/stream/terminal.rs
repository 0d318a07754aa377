//! The last event of a stream that failed after it had begun.

use bytes::Bytes;
use serde_json::json;

use crate::api::Surface;
use crate::api::error::Failure;
use crate::proxy::body::Dialect;

/// The event that tells a client, in its own format, that its stream ends
/// here because of `failure`. Only for event streams, and only between two
/// events; the connection is aborted after it. `events` is how many events
/// were sent before.
#[must_use]
pub fn terminal_event(dialect: Dialect, failure: &Failure, request_id: &str, events: u64) -> Bytes {
    let event = match dialect {
        Dialect::OpenAi => data("", &failure.envelope(Surface::OpenAi, request_id)),
        Dialect::Gemini => data("", &failure.envelope(Surface::Gemini, request_id)),
        // https://docs.anthropic.com/en/docs/build-with-claude/streaming#error-events
        Dialect::Anthropic => {
            let envelope = failure.envelope(Surface::Anthropic, request_id);
            data("event: error\n", &envelope)
        }
        // https://platform.openai.com/docs/api-reference/responses-streaming/error
        // has the members flat; the service itself sends them in `error`, and
        // there its SDKs look for them. `sequence_number` counts events from 0.
        Dialect::Responses => {
            let (code, message) = (failure.code(), failure.message());
            let error = json!({
                "type": "error",
                "code": code,
                "message": message,
                "param": null,
                "sequence_number": events,
                "error": {"type": failure.kind(), "code": code, "message": message, "param": null},
            });
            data("event: error\n", error.to_string().as_bytes())
        }
    };
    event.into()
}

/// One event. JSON as we write it has no line ends, so one `data` line holds it.
fn data(event: &str, json: &[u8]) -> Vec<u8> {
    [event.as_bytes(), b"data: ", json, b"\n\n"].concat()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::proxy::stream::EventBoundary;

    fn failure() -> Failure {
        Failure::GatewayTimeout {
            code: "idle_timeout",
            message: "Nothing came for 120 s.\nReally.".into(),
        }
    }

    /// The event's type and its data.
    fn parse(event: &Bytes) -> (Option<String>, Value) {
        let text = std::str::from_utf8(event).unwrap();
        let lines: Vec<&str> = text.strip_suffix("\n\n").unwrap().lines().collect();
        let (name, data) = match &lines[..] {
            [data] => (None, *data),
            [name, data] => (name.strip_prefix("event: ").map(str::to_owned), *data),
            other => panic!("not one event: {other:?}"),
        };
        let json = data.strip_prefix("data: ").unwrap();
        (name, serde_json::from_str(json).unwrap())
    }

    #[test]
    fn chat_and_gemini_get_a_data_line_with_the_envelope() {
        let (name, chat) = parse(&terminal_event(Dialect::OpenAi, &failure(), "r1", 3));
        assert_eq!(name, None);
        assert_eq!(chat["error"]["code"], "idle_timeout");
        assert_eq!(chat["error"]["type"], "backend_timeout");
        let (name, gemini) = parse(&terminal_event(Dialect::Gemini, &failure(), "r1", 3));
        assert_eq!(name, None);
        assert_eq!(gemini["error"]["code"], 504);
        assert_eq!(gemini["error"]["status"], "DEADLINE_EXCEEDED");
    }

    #[test]
    fn messages_and_responses_get_an_error_event() {
        let (name, messages) = parse(&terminal_event(Dialect::Anthropic, &failure(), "r1", 3));
        assert_eq!(name.as_deref(), Some("error"));
        assert_eq!(messages["type"], "error");
        assert_eq!(messages["error"]["type"], "timeout_error");
        assert_eq!(messages["request_id"], "r1");
        let (name, responses) = parse(&terminal_event(Dialect::Responses, &failure(), "r1", 3));
        assert_eq!(name.as_deref(), Some("error"));
        assert_eq!(responses["type"], "error");
        assert_eq!(responses["code"], "idle_timeout");
        assert_eq!(responses["param"], Value::Null);
        assert_eq!(responses["sequence_number"], 3);
        assert_eq!(responses["error"]["message"], responses["message"]);
    }

    #[test]
    fn it_is_one_whole_event_and_no_invented_end() {
        for dialect in [
            Dialect::OpenAi,
            Dialect::Responses,
            Dialect::Anthropic,
            Dialect::Gemini,
        ] {
            let event = terminal_event(dialect, &failure(), "r1", 0);
            let mut boundary = EventBoundary::default();
            boundary.push(&event);
            assert!(boundary.is_between_events());
            assert_eq!(boundary.events(), 1);
            let text = std::str::from_utf8(&event).unwrap();
            for end in ["[DONE]", "message_stop", "finish_reason", "finishReason"] {
                assert!(!text.contains(end));
            }
        }
    }
}
