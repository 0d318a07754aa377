//! What is answered, and what is refused.

use super::*;

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    local(async {
        let served = serve().await;
        let mut tcp = served.send(HELLO).await;
        until(&mut tcp, "hello").await;
        let chunked = "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        for part in [chunked, "5\r\nworld\r\n", "0\r\n\r\n"] {
            tcp.write_all(part.as_bytes()).await.unwrap();
        }
        until(&mut tcp, "world").await;
        // Pipelined, with lengths.
        tcp.write_all(HELLO.repeat(2).as_bytes()).await.unwrap();
        let first = until(&mut tcp, "hello").await;
        if first.matches("hello").count() == 1 {
            until(&mut tcp, "hello").await;
        }
    });
}

#[test]
fn ambiguous_requests_are_refused_and_the_connection_closes() {
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nhost: a\r\n";
    for (head, refusal) in [
        (
            format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n{smuggled}"),
            "Framing",
        ),
        (
            format!("{post}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n{smuggled}"),
            "Framing",
        ),
        (
            format!("{post}content-length: 5\r\ncontent-length: 5\r\n\r\nhello"),
            "Framing",
        ),
        (
            format!("{post}transfer-encoding: gzip, chunked\r\n\r\n{smuggled}"),
            "Framing",
        ),
        (
            format!(
                "{post}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n{smuggled}"
            ),
            "Framing",
        ),
        (
            format!("{HELLO}{post}transfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
            "Framing",
        ),
        (
            format!("{post}upgrade: websocket\r\nconnection: upgrade\r\n\r\n"),
            "Upgrade",
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            "Method",
        ),
        ("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), "Method"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "Host"),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned(),
            "Host",
        ),
        // The parser's own, answered with a bare status.
        (
            format!("{post}content-length: 5\r\ncontent-length: 6\r\n\r\nhello!"),
            "",
        ),
        (format!("{post}content-length: +5\r\n\r\nhello"), ""),
        (
            format!("{post}transfer-encoding : chunked\r\n\r\n{smuggled}"),
            "",
        ),
        (
            format!("{post}transfer-encoding: chunked, gzip\r\n\r\n{smuggled}"),
            "",
        ),
        (format!("{post} folded: x\r\n\r\n"), ""),
        (
            "POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "",
        ),
        ("GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), ""),
        ("GET / HTTP/1.1 x\r\nhost: a\r\n\r\n".to_owned(), ""),
    ] {
        local(async {
            let answer = serve().await.answer(&head).await;
            assert!(
                answer.contains("HTTP/1.1 400") || answer.starts_with("HTTP/1.0 400"),
                "{head}: {answer}"
            );
            assert!(answer.contains(refusal), "{head}: {answer}");
            assert!(!answer.contains("smuggled"), "{head}: {answer}");
        });
    }
}

#[test]
fn heads_are_bounded() {
    let head = |fields: String| format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
    for (head, status) in [
        (head(format!("x: {}\r\n", "a".repeat(60_000))), "200"),
        (head(format!("x: {}\r\n", "a".repeat(66_000))), "431"),
        (head("x: y\r\n".repeat(98) + "connection: close\r\n"), "200"),
        (head("x: y\r\n".repeat(100)), "431"),
        (
            format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(66_000)),
            "431",
        ),
    ] {
        local(async {
            let served = serve().await;
            let mut tcp = served.connect().await;
            // It may be refused before its end.
            let _ = tcp.write_all(head.as_bytes()).await;
            let answer = timeout(PATIENCE, until(&mut tcp, "\r\n\r\n"))
                .await
                .unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
        });
    }
}

#[test]
fn an_early_answer_reaches_a_client_that_is_still_sending() {
    local(async {
        let served = serve().await;
        let mut tcp = served.connect().await;
        let head = "POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 8000000\r\n\r\n";
        tcp.write_all(head.as_bytes()).await.unwrap();
        // All of it, as clients do that do not look before they are done.
        for _ in 0..8 {
            tcp.write_all(&[0; 1_000_000]).await.unwrap();
        }
        let answer = timeout(PATIENCE, to_end(&mut tcp)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.ends_with("too large"), "{answer}");
    });
}

#[test]
fn under_memory_pressure_connections_close_after_the_request() {
    local(async {
        let served = serve().await;
        served.gauge.set(Pressure::StopKeepAlive);
        let answer = served.answer(HELLO).await;
        assert!(answer.contains("connection: close"), "{answer}");
        assert!(answer.ends_with("hello"), "{answer}");
    });
}
