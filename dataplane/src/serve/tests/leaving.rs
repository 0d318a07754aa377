//! Clients that go away or do not read, and answers that fail.

use super::*;

#[test]
fn a_client_that_goes_away_drops_its_handler_at_once() {
    let body_unread = "POST /hang HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhello";
    let hanging = "POST /hang HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
    let streaming = "GET /stream HTTP/1.1\r\nhost: a\r\n\r\n";
    // Old clients end a body with a line break that no length counts.
    let line_break = &format!("{hanging}\r\n");
    let pipelined = &format!("{streaming}GET /next");
    for (request, first) in [
        (hanging, ""),
        (streaming, "part"),
        (body_unread, ""),
        (line_break, ""),
        (pipelined, "part"),
    ] {
        for half in [false, true] {
            local(async {
                let served = serve().await;
                let mut tcp = served.send(request).await;
                until(&mut tcp, first).await;
                // Let the request arrive, when nothing of an answer tells that it has.
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                match half {
                    // Indistinguishable from going away until something is written.
                    true => tcp.shutdown().await.unwrap(),
                    false => drop(tcp),
                }
                let gone = std::time::Instant::now();
                served.until_dropped(1).await;
                // Promptly and not by a timeout; the promise of 100 ms is tested on the whole.
                assert!(gone.elapsed() < SECOND);
                timeout(PATIENCE, served.connections.emptied())
                    .await
                    .unwrap();
            });
        }
    }
}

#[test]
fn a_response_that_fails_midway_never_looks_complete() {
    // Chunked over HTTP/1.1; over 1.0 only the connection's end tells, so it must be a reset.
    for request in [
        "/fail HTTP/1.1",
        "/fail HTTP/1.0",
        "/panic HTTP/1.1",
        "/panic HTTP/1.0",
    ] {
        local(async {
            let served = serve().await;
            let request = format!("GET {request}\r\nhost: a\r\n\r\n");
            let mut tcp = served.send(request).await;
            let mut read = Vec::new();
            let error = timeout(PATIENCE, tcp.read_to_end(&mut read))
                .await
                .unwrap()
                .unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            assert!(!String::from_utf8_lossy(&read).contains("0\r\n\r\n"));
        });
    }
}

#[test]
fn a_client_that_does_not_read_is_reset_and_holds_little_of_ours() {
    paused(async {
        let served = serve().await;
        let started = Instant::now();
        let mut tcp = served.send("GET /flood HTTP/1.1\r\nhost: a\r\n\r\n").await;
        served.until_dropped(1).await;
        assert_eq!(started.elapsed().as_secs(), 30);
        let mut received = 0;
        let mut chunk = [0; 65_536];
        let error = loop {
            match tcp.read(&mut chunk).await {
                Ok(n) => received += n,
                Err(error) => break error,
            }
            assert!(received < served.flooded.get() * 2, "it never ends");
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn what_a_stalled_client_holds_is_bounded() {
    local(async {
        let served = serve().await;
        let tcp = served.send("GET /flood HTTP/1.1\r\nhost: a\r\n\r\n").await;
        // Until the flood stands still.
        let mut before = usize::MAX;
        while served.flooded.get() != before || before == 0 {
            before = served.flooded.get();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }
        // What went out lies in the kernel's buffers of both ends; the rest is ours.
        let socket = socket2::SockRef::from(&tcp);
        let kernel = socket.recv_buffer_size().unwrap() + 4 * 65_536;
        assert!(
            before <= kernel + 65_536,
            "{before} bytes for a client that takes none"
        );
    });
}

#[test]
fn a_slow_client_is_left_alone_while_it_makes_progress() {
    paused(async {
        let served = serve().await;
        let mut tcp = served.send("GET /flood HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let mut chunk = vec![0; 1_000_000];
        for _ in 0..10 {
            sleep(SECOND * 20).await;
            tcp.read_exact(&mut chunk).await.unwrap();
        }
        assert_eq!(served.dropped.get(), 0);
    });
}
