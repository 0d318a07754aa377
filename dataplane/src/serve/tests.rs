//! The listener over raw sockets: what it refuses, when it closes, and whom it tells.

use std::cell::Cell;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bodhi_net::drain::{self, Phase};
use http::StatusCode;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use super::connection::{self, Thread};
use super::drain::Connections;
use super::*;
use crate::admission::memory::{Gauge, Pressure};

/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);

fn runtime(paused: bool) -> tokio::runtime::LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build_local(LocalOptions::default())
        .unwrap()
}

/// Runs on a thread's runtime as in production.
fn local<T>(test: impl Future<Output = T>) -> T {
    runtime(false).block_on(test)
}

/// The same with the clock paused: it jumps when everything waits.
fn paused<T>(test: impl Future<Output = T>) -> T {
    runtime(true).block_on(test)
}

/// Answers by path, and counts what it was made to drop.
#[derive(Default)]
struct Script {
    /// Handlers and bodies that were dropped before their end.
    dropped: Rc<Cell<usize>>,
    /// Bytes that `/flood` has handed over.
    flooded: Rc<Cell<usize>>,
}

struct CountDrop(Rc<Cell<usize>>);

impl Drop for CountDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

type AnyBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>;

fn full(text: impl Into<Bytes>) -> AnyBody {
    Box::pin(Full::new(text.into()).map_err(BoxError::from))
}

/// Says `first`, then whatever `then` says.
struct Then<F> {
    first: Option<&'static str>,
    then: F,
    _guard: CountDrop,
}

impl<F> Body for Then<F>
where
    F: FnMut() -> Poll<Option<Result<Frame<Bytes>, BoxError>>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(first.as_bytes()))))),
            None => (self.then)(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

impl Service for Script {
    type Body = AnyBody;

    async fn call(self: Rc<Self>, request: Request<Incoming>, from: ConnInfo) -> Response<AnyBody> {
        assert!(from.peer.ip().is_loopback());
        let guard = CountDrop(self.dropped.clone());
        let path = request.uri().path().to_owned();
        let body: AnyBody = match path.as_str() {
            "/early" => {
                let mut response = Response::new(full("too large"));
                *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
                return response;
            }
            "/fail" => Box::pin(Then {
                first: Some("part"),
                then: || Poll::Ready(Some(Err("upstream reset".into()))),
                _guard: guard,
            }),
            "/stream" => Box::pin(Then {
                first: Some("part"),
                then: || Poll::Pending,
                _guard: guard,
            }),
            "/panic" => Box::pin(Then {
                first: Some("part"),
                then: || panic!("a handler's mistake"),
                _guard: guard,
            }),
            "/flood" => {
                let flooded = self.flooded.clone();
                Box::pin(Then {
                    first: None,
                    then: move || {
                        flooded.set(flooded.get() + 16_384);
                        let chunk = Bytes::from_static(&[b'a'; 16_384]);
                        Poll::Ready(Some(Ok(Frame::data(chunk))))
                    },
                    _guard: guard,
                })
            }
            _ => {
                let Ok(read) = request.into_body().collect().await else {
                    return Response::new(full(""));
                };
                if path == "/hang" {
                    pending::<()>().await;
                }
                let thread = std::thread::current();
                match path.as_str() {
                    "/thread" => full(thread.name().unwrap_or_default().to_owned()),
                    _ => full(read.to_bytes()),
                }
            }
        };
        Response::new(body)
    }

    fn refuse(&self, _: &Request<Incoming>, refusal: Refusal) -> Response<AnyBody> {
        let mut response = Response::new(full(format!("{refusal:?}")));
        *response.status_mut() = match refusal {
            Refusal::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        response
    }
}

/// A serving thread, without the acceptor, on the test's own runtime.
struct Served {
    address: SocketAddr,
    connections: Rc<Connections>,
    gauge: Arc<Gauge>,
    dropped: Rc<Cell<usize>>,
    flooded: Rc<Cell<usize>>,
}

async fn serve() -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Script::default();
    let served = Served {
        address,
        connections: Connections::new(Arc::new(usize::MAX.into())),
        gauge: Arc::default(),
        dropped: script.dropped.clone(),
        flooded: script.flooded.clone(),
    };
    let thread = Rc::new(Thread {
        service: Rc::new(script),
        limits: Limits::default(),
        connections: served.connections.clone(),
        gauge: served.gauge.clone(),
        tls: None,
    });
    spawn_local(async move {
        loop {
            let (tcp, peer) = listener.accept().await.unwrap();
            let entry = thread.connections.enter();
            spawn_local(connection::run(thread.clone(), entry, tcp, peer));
        }
    });
    served
}

impl Served {
    async fn connect(&self) -> TcpStream {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        // Else the kernel holds back the second of two small writes.
        tcp.set_nodelay(true).unwrap();
        tcp
    }

    async fn send(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut tcp = self.connect().await;
        tcp.write_all(bytes.as_ref()).await.unwrap();
        tcp
    }

    /// Everything that is answered until the connection closes in order.
    async fn answer(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut tcp = self.send(bytes).await;
        timeout(PATIENCE, to_end(&mut tcp)).await.unwrap().unwrap()
    }

    /// Looks every millisecond, of whichever clock; long enough for a stall to be noticed.
    async fn until_dropped(&self, count: usize) {
        let dropped = async {
            while self.dropped.get() < count {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SECOND * 40, dropped).await.unwrap();
    }
}

async fn to_end(tcp: &mut TcpStream) -> std::io::Result<String> {
    let mut read = Vec::new();
    tcp.read_to_end(&mut read).await?;
    Ok(String::from_utf8_lossy(&read).into_owned())
}

/// Reads until `text` has come.
async fn until(tcp: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        let mut chunk = [0; 1024];
        let n = tcp.read(&mut chunk).await.unwrap();
        assert!(n > 0, "ended after {:?}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&chunk[..n]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

const HELLO: &str = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";

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
                assert!(gone.elapsed() < Duration::from_millis(100));
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

mod http2 {
    use h2::client::SendRequest;

    use super::*;

    async fn connect(tcp: TcpStream) -> SendRequest<Bytes> {
        let (client, connection) = h2::client::handshake(tcp).await.unwrap();
        spawn_local(async move {
            // It ends when the server goes away, which some tests are about.
            let _ = connection.await;
        });
        client.ready().await.unwrap()
    }

    fn get(path: &str) -> Request<()> {
        Request::get(format!("http://a{path}")).body(()).unwrap()
    }

    #[test]
    fn prior_knowledge_is_recognised_in_a_preface_of_any_split() {
        for cut in [0, 1, 2, 3, 10] {
            paused(async {
                let served = serve().await;
                let mut tcp = served.connect().await;
                let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
                tcp.write_all(&preface[..cut]).await.unwrap();
                sleep(Duration::from_millis(25)).await;
                // The rest, and an empty SETTINGS frame.
                tcp.write_all(&preface[cut..]).await.unwrap();
                tcp.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
                let mut head = [0; 9];
                tcp.read_exact(&mut head).await.unwrap();
                assert_eq!(head[3], 4, "a SETTINGS frame answers, cut at {cut}");
            });
        }
    }

    #[test]
    fn requests_are_answered_and_cancelled_streams_drop_their_handlers() {
        local(async {
            let served = serve().await;
            let mut client = connect(served.connect().await).await;
            let (response, mut body) = client.send_request(get("/echo"), false).unwrap();
            body.send_data("hello".into(), true).unwrap();
            let mut answer = response.await.unwrap().into_body();
            assert_eq!(answer.data().await.unwrap().unwrap(), "hello");
            served.until_dropped(1).await;
            for path in ["/hang", "/stream"] {
                let before = served.dropped.get();
                let (response, _) = client.send_request(get(path), true).unwrap();
                match path {
                    "/stream" => drop(response.await.unwrap()),
                    _ => {
                        timeout(Duration::from_millis(50), response)
                            .await
                            .unwrap_err();
                    }
                }
                served.until_dropped(before + 1).await;
            }
            let (response, _) = client.send_request(get("/fail"), true).unwrap();
            // The reset may overtake the head.
            if let Ok(cut) = response.await {
                let mut cut = cut.into_body();
                while let Some(part) = cut.data().await {
                    if part.is_err() {
                        return;
                    }
                }
                panic!("a failed stream looks complete");
            }
        });
    }

    #[test]
    fn a_stalled_stream_is_reset_and_its_neighbours_are_not() {
        paused(async {
            let served = serve().await;
            // So that the flood spends its own window and not the connection's.
            let (client, connection) = h2::client::Builder::new()
                .initial_connection_window_size(1 << 20)
                .handshake(served.connect().await)
                .await
                .unwrap();
            spawn_local(connection);
            let mut client: SendRequest<Bytes> = client.ready().await.unwrap();
            let started = Instant::now();
            let (flood, _) = client.send_request(get("/flood"), true).unwrap();
            let flood = flood.await.unwrap();
            let (stream, _) = client.send_request(get("/stream"), true).unwrap();
            let mut stream = stream.await.unwrap().into_body();
            assert_eq!(stream.data().await.unwrap().unwrap(), "part");
            served.until_dropped(1).await;
            assert_eq!(started.elapsed().as_secs(), 30);
            drop(flood);
            let (response, mut body) = client.send_request(get("/echo"), false).unwrap();
            body.send_data("hello".into(), true).unwrap();
            let mut answer = response.await.unwrap().into_body();
            assert_eq!(answer.data().await.unwrap().unwrap(), "hello");
            timeout(SECOND, stream.data()).await.unwrap_err();
        });
    }

    #[test]
    fn trace_and_too_many_fields_are_refused() {
        local(async {
            let served = serve().await;
            let mut client = connect(served.connect().await).await;
            let mut trace = get("/");
            *trace.method_mut() = http::Method::TRACE;
            let mut many = get("/");
            for n in 0..101 {
                let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
                many.headers_mut().insert(name, 1.into());
            }
            for (request, status) in [(trace, 400), (many, 431)] {
                let (response, _) = client.send_request(request, true).unwrap();
                assert_eq!(response.await.unwrap().status(), status);
            }
        });
    }

    #[test]
    fn an_idle_connection_is_closed_in_time() {
        paused(async {
            let served = serve().await;
            let mut client = connect(served.connect().await).await;
            let (response, _) = client.send_request(get("/echo"), true).unwrap();
            response.await.unwrap();
            let started = Instant::now();
            served.connections.emptied().await;
            let after = started.elapsed().as_secs();
            assert!((75..=80).contains(&after), "{after}");
        });
    }
}

mod whole {
    use std::collections::HashSet;

    use super::*;

    fn config(tls: Option<TlsFiles>) -> Config {
        Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls,
            threads: 2.try_into().unwrap(),
            limits: Limits::default(),
        }
    }

    fn make(_: usize) -> Rc<Script> {
        Rc::new(Script::default())
    }

    #[test]
    fn threads_share_the_connections_and_end_with_the_drain() {
        local(async {
            let listener = bind(config(None)).unwrap();
            let address = listener.address();
            let taken = Config {
                listen: address,
                ..config(None)
            };
            let error = bind(taken).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("cannot listen on {address}")),
                "{error}"
            );
            let (drain, signal) = drain::channel();
            let serving = spawn_local(listener.serve(signal, Arc::default(), make));
            let mut threads = HashSet::new();
            let mut open = Vec::new();
            for _ in 0..4 {
                let mut tcp = TcpStream::connect(address).await.unwrap();
                let request = b"GET /thread HTTP/1.1\r\nhost: a\r\n\r\n";
                tcp.write_all(request).await.unwrap();
                let answer = until(&mut tcp, "serve-").await;
                threads.insert(answer[answer.find("serve-").unwrap()..].to_owned());
                open.push(tcp);
            }
            assert_eq!(threads.len(), 2, "{threads:?}");
            drain.move_to(Phase::Draining);
            timeout(PATIENCE, serving).await.unwrap().unwrap().unwrap();
            TcpStream::connect(address).await.unwrap_err();
        });
    }

    #[test]
    fn tls_offers_both_protocols() {
        let folder = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let files = TlsFiles {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
        };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = |alpn: &[u8]| {
            let mut config =
                rustls::ClientConfig::builder_with_provider(bodhi_net::tls::provider())
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth();
            config.alpn_protocols = vec![alpn.to_vec()];
            tokio_rustls::TlsConnector::from(Arc::new(config))
        };
        local(async {
            let listener = bind(config(Some(files))).unwrap();
            let address = listener.address();
            let (_drain, signal) = drain::channel();
            spawn_local(listener.serve(signal, Arc::default(), make));
            let name = || "localhost".try_into().unwrap();

            let tcp = TcpStream::connect(address).await.unwrap();
            let mut tls = client(b"http/1.1").connect(name(), tcp).await.unwrap();
            tls.write_all(HELLO.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            tls.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");

            let tcp = TcpStream::connect(address).await.unwrap();
            let tls = client(b"h2").connect(name(), tcp).await.unwrap();
            let executor = hyper_util::rt::TokioExecutor::new();
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(executor, TokioIo::new(tls))
                    .await
                    .unwrap();
            spawn_local(connection);
            let request = Request::get("https://localhost/echo").body(Full::<Bytes>::default());
            let response = sender.send_request(request.unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
        });
    }
}
