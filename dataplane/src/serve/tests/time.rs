//! Limits of time, with the clock paused, and the drain.

use super::*;

#[test]
fn idle_connections_and_trickling_heads_are_closed_in_time() {
    for (sent, closed_after) in [
        ("", 75),
        ("GET / HT", 10),
        ("\r\n", 75),
        ("P", 5),
        (HELLO, 75),
    ] {
        paused(async {
            let served = serve().await;
            let started = Instant::now();
            let mut tcp = served.send(sent).await;
            if sent == HELLO {
                until(&mut tcp, "hello").await;
            }
            // In order or by a reset: closed is closed.
            let _ = to_end(&mut tcp).await;
            assert_eq!(started.elapsed().as_secs(), closed_after, "after {sent:?}");
        });
    }
}

#[test]
fn a_head_has_ten_seconds_from_its_first_byte_and_not_from_the_last_request() {
    paused(async {
        let served = serve().await;
        let mut tcp = served.send(HELLO).await;
        until(&mut tcp, "hello").await;
        sleep(SECOND * 60).await;
        for part in [
            "POST /echo HTTP/1.1\r\nhost: a\r\n",
            "content-length: 2\r\n",
            "\r\nok",
        ] {
            tcp.write_all(part.as_bytes()).await.unwrap();
            sleep(SECOND * 4).await;
        }
        until(&mut tcp, "ok").await;
    });
}

#[test]
fn a_connection_grows_no_older_than_an_hour_and_a_tenth() {
    paused(async {
        let served = serve().await;
        let started = Instant::now();
        let mut tcp = served.connect().await;
        let mut answered = 0;
        loop {
            if tcp.write_all(HELLO.as_bytes()).await.is_err() {
                break;
            }
            let mut chunk = [0; 1024];
            if !matches!(tcp.read(&mut chunk).await, Ok(1..)) {
                break;
            }
            answered += 1;
            sleep(SECOND * 60).await;
        }
        let age = started.elapsed().as_secs();
        assert!(
            (3240..=3960 + 60).contains(&age),
            "{age} s, {answered} requests"
        );
    });
}

#[test]
fn draining_ends_idle_connections_and_lets_requests_run_on() {
    paused(async {
        let served = serve().await;
        let (drain, signal) = drain::channel();
        let following = served.connections.clone();
        spawn_local(async move { following.follow(signal, SECOND).await });
        let mut silent = served.connect().await;
        let mut idle = served.send(HELLO).await;
        until(&mut idle, "hello").await;
        let mut busy = served.send("GET /stream HTTP/1.1\r\nhost: a\r\n\r\n").await;
        until(&mut busy, "part").await;
        drain.move_to(Phase::LameDuck);
        idle.write_all(HELLO.as_bytes()).await.unwrap();
        until(&mut idle, "hello").await;
        drain.move_to(Phase::Draining);
        assert_eq!(to_end(&mut idle).await.unwrap(), "");
        assert_eq!(to_end(&mut silent).await.unwrap(), "");
        sleep(SECOND * 300).await;
        assert_eq!(served.dropped.get(), 2, "the two that said hello");
        drain.move_to(Phase::Closing);
        to_end(&mut busy).await.unwrap_err();
        served.connections.emptied().await;
    });
}
