//! The admin port: what the provider got. It is a port of its own, so that every path on the
//! other one belongs to the providers and is recorded.

use serde_json::json;

use super::answer::{self, Answer};
use super::conn::{Conn, Head};
use super::journal::Journal;
use super::script::Script;

pub(super) async fn serve(mut conn: Conn, journal: Journal) {
    while let Ok(Some(head)) = conn.head().await {
        if conn.body(&head, |_, _| ()).await.is_err() {
            return;
        }
        if answer::send(&mut conn, &answer(&head, &journal), &Script::default())
            .await
            .is_err()
            || head.wants_close()
        {
            break;
        }
    }
    conn.close().await;
}

fn answer(head: &Head, journal: &Journal) -> Answer {
    let segments: Vec<&str> = head.target.split('/').skip(1).collect();
    let bytes = |bytes: Option<Vec<u8>>| {
        bytes.map(|bytes| Answer::bytes("application/octet-stream", bytes.into()))
    };
    let found = match (head.method.as_str(), segments.as_slice()) {
        ("GET", ["_active"]) => Some(Answer::json(&json!(journal.active()))),
        ("GET", ["_requests"]) => Some(Answer::json(&json!(journal.entries()))),
        ("GET", ["_requests", n, "raw"]) => bytes(n.parse().ok().and_then(|n| journal.raw(n))),
        ("GET", ["_requests", n, "body"]) => bytes(n.parse().ok().and_then(|n| journal.body(n))),
        ("DELETE", ["_requests"]) => {
            journal.clear();
            Some(Answer::json(&json!({"cleared": true})))
        }
        _ => None,
    };
    found.unwrap_or_else(|| Answer {
        status: 404,
        ..Answer::json(&json!({"error": "no such record or path"}))
    })
}
