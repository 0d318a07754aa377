//! Calls over real sockets to scripted servers on loopback.

mod tls;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use bodhi_proto::names::ObjectRef;
use bodhi_proto::provider::Format;
use bodhi_proto::snapshot::{
    Auth, BaseUrl, EgressScope, Features, OutputLimitField, Roots, Timeouts,
};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs on a thread's runtime as in production.
fn local<T>(test: impl Future<Output = T>) -> T {
    runtime(false).block_on(test)
}

/// The same with the clock paused: it jumps when everything waits.
fn paused<T>(test: impl Future<Output = T>) -> T {
    runtime(true).block_on(test)
}

fn runtime(paused: bool) -> tokio::runtime::LocalRuntime {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build_local(LocalOptions::default())
        .unwrap()
}

fn upstream(base_url: &str) -> Upstream {
    Upstream {
        object: ObjectRef::api_model("ns", "test"),
        format: Format::OpenAi,
        base_url: BaseUrl::parse(base_url).unwrap(),
        auth: Auth::None,
        features: Features::ALL,
        output_limit_field: OutputLimitField::MaxTokens,
        extra_headers: vec![],
        extra_body: None,
        timeouts: Timeouts::default(),
        attempts: 2.try_into().unwrap(),
        max_in_flight: 100.try_into().unwrap(),
        roots: Roots::System,
        egress: EgressScope::Standalone,
    }
}

/// Frames that are there at once.
#[derive(Debug)]
struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|bytes| bytes.len() as u64).sum())
    }
}

fn post(frames: &[&'static str]) -> Request<Frames> {
    let frames = frames.iter().map(|f| Bytes::from_static(f.as_bytes()));
    Request::post("/v1/x?y=1")
        .body(Frames(frames.collect()))
        .unwrap()
}

fn upstreams() -> Upstreams<Frames> {
    Upstreams::new(Shared::default())
}

/// A server that gives its n-th connection to the n-th step; the last step serves all further ones.
/// Counts connections.
struct Server {
    address: SocketAddr,
    connections: Rc<Cell<usize>>,
}

impl Server {
    async fn start<F>(step: impl Fn(usize, TcpStream) -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        spawn_local(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let number = counted.replace(counted.get() + 1);
                spawn_local(step(number, tcp));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Reads a request and writes `answer`, then closes.
    async fn saying(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::start(move |_, mut tcp| {
            let answer = answer.clone();
            async move {
                read_request(&mut tcp).await;
                // The client may have hung up on an answer it does not like.
                let _ = tcp.write_all(&answer).await;
            }
        })
        .await
    }

    fn upstream(&self) -> Upstream {
        upstream(&format!("http://{}/v1", self.address))
    }
}

/// One request whose length is given by `content-length`.
async fn read_request(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let n = io.read(&mut chunk).await.unwrap_or(0);
        read.extend_from_slice(&chunk[..n]);
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                return text;
            }
        }
        if n == 0 {
            return text;
        }
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn text<B: 'static>(response: Response<UpstreamBody<B>>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn connections_are_reused_but_never_across_roots_or_scopes() {
    local(async {
        let server = Server::start(|_, mut tcp| async move {
            while !read_request(&mut tcp).await.is_empty() {
                tcp.write_all(OK.as_bytes()).await.unwrap();
            }
        })
        .await;
        let upstreams = upstreams();
        let own = server.upstream();
        for _ in 0..3 {
            let response = upstreams.call(&own, post(&["a"])).await.unwrap();
            assert_eq!(text(response).await, "ok");
        }
        assert_eq!(server.connections.get(), 1);
        let other_roots = Upstream {
            roots: Roots::Bundle("pem".into()),
            ..own.clone()
        };
        let other_scope = Upstream {
            egress: EgressScope::Tenant(["127.0.0.0/8".parse().unwrap()].into()),
            ..own.clone()
        };
        text(upstreams.call(&other_roots, post(&["a"])).await.unwrap()).await;
        assert_eq!(server.connections.get(), 2);
        // Loopback is never a tenant's: were the connection shared, this would answer.
        let refused = upstreams
            .call(&other_scope, post(&["a"]))
            .await
            .unwrap_err();
        assert!(matches!(refused, Failure::EgressRefused(_)), "{refused}");
        text(upstreams.call(&own, post(&["a"])).await.unwrap()).await;
        assert_eq!(server.connections.get(), 2);
    });
}

#[test]
fn a_body_of_slices_goes_out_with_its_head_in_one_write() {
    local(async {
        let first_read = Rc::new(RefCell::new(String::new()));
        let seen = first_read.clone();
        let server = Server::start(move |_, mut tcp| {
            let seen = seen.clone();
            async move {
                let mut chunk = [0; 4096];
                let n = tcp.read(&mut chunk).await.unwrap();
                *seen.borrow_mut() = String::from_utf8_lossy(&chunk[..n]).into_owned();
                tcp.write_all(OK.as_bytes()).await.unwrap();
            }
        })
        .await;
        let body = ["{\"model\":\"", "gpt", "\",\"messages\":[]}"];
        let response = upstreams().call(&server.upstream(), post(&body)).await;
        text(response.unwrap()).await;
        let expected = format!(
            "POST /v1/x?y=1 HTTP/1.1\r\nhost: {}\r\ncontent-length: 29\r\n\r\n{}",
            server.address,
            body.concat()
        );
        assert_eq!(*first_read.borrow(), expected);
    });
}

#[test]
fn a_connection_closed_while_idle_is_replaced_unnoticed() {
    local(async {
        // Each connection answers once and closes without saying that it would.
        let server = Server::saying(OK).await;
        let upstreams = upstreams();
        let mut own = server.upstream();
        own.attempts = 1.try_into().unwrap();
        for n in 1..=20 {
            let response = upstreams.call(&own, post(&["a"])).await.unwrap();
            assert_eq!(text(response).await, "ok");
            assert_eq!(server.connections.get(), n);
            // The close arrives; whether it is looked at before the next call is left to chance.
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn idle_connections_expire() {
    paused(async {
        let server = Server::start(|_, mut tcp| async move {
            while !read_request(&mut tcp).await.is_empty() {
                tcp.write_all(OK.as_bytes()).await.unwrap();
            }
        })
        .await;
        let upstreams = upstreams();
        let own = server.upstream();
        for (wait, connections) in [(0, 1), (3, 1), (5, 2)] {
            tokio::time::sleep(SECOND * wait).await;
            text(upstreams.call(&own, post(&["a"])).await.unwrap()).await;
            assert_eq!(server.connections.get(), connections, "after {wait} s");
        }
        // The sweep forgets them without another call.
        tokio::time::sleep(SECOND * 6).await;
        assert_eq!(format!("{:?}", upstreams.pool), "Pool(0)");
    });
}

#[test]
fn what_was_written_is_never_sent_twice() {
    local(async {
        let server = Server::saying("").await;
        let failure = upstreams()
            .call(&server.upstream(), post(&["a"]))
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::ConnectionReset(_)), "{failure}");
        assert!(!failure.never_written());
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn a_response_that_is_not_http_is_invalid() {
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_owned();
    for answer in ["garbage\r\n\r\n".to_owned(), huge, many, switch] {
        local(async {
            let server = Server::saying(answer.clone()).await;
            let failure = upstreams()
                .call(&server.upstream(), post(&["a"]))
                .await
                .unwrap_err();
            let start = &answer[..20.min(answer.len())];
            assert!(
                matches!(failure, Failure::InvalidResponse(_)),
                "{start}: {failure}"
            );
            assert_eq!(server.connections.get(), 1);
        });
    }
}

#[test]
fn a_body_cut_short_is_a_reset_and_broken_chunks_are_invalid() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let cut = [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok".to_owned(),
        format!("{chunked}2\r\nok\r\n"),
        format!("{chunked}2\r\nok\r\n0\r\n"),
        format!("{chunked}2\r\no"),
    ];
    let broken = [
        format!("{chunked}2\r\nokay\r\n"),
        format!("{chunked}zz\r\nok\r\n0\r\n\r\n"),
    ];
    let failure = |answer: String| {
        local(async {
            let server = Server::saying(answer).await;
            let response = upstreams().call(&server.upstream(), post(&["a"])).await;
            response.unwrap().into_body().collect().await.unwrap_err()
        })
    };
    for answer in cut {
        let failure = failure(answer.clone());
        assert!(
            matches!(failure, BodyFailure::ConnectionReset(_)),
            "{answer}: {failure}"
        );
    }
    for answer in broken {
        let failure = failure(answer.clone());
        assert!(
            matches!(failure, BodyFailure::InvalidResponse(_)),
            "{answer}: {failure}"
        );
    }
}

/// Answers each question with the next address, and counts.
struct Turns(RefCell<VecDeque<&'static str>>, Rc<Cell<usize>>);

impl Resolve for Turns {
    async fn resolve(&self, _: &str) -> std::io::Result<Vec<IpAddr>> {
        self.1.set(self.1.get() + 1);
        let mut turns = self.0.borrow_mut();
        let next = turns.pop_front().unwrap();
        turns.push_back(next);
        Ok(vec![next.parse().unwrap()])
    }
}

#[test]
fn connect_failures_are_retried_and_policy_refusals_are_not() {
    local(async {
        let server = Server::saying(OK).await;
        let asked = Rc::new(Cell::new(0));
        let with = |turns: &[&'static str]| {
            let turns = turns.iter().copied().collect();
            Upstreams::with_resolver(Shared::default(), Turns(RefCell::new(turns), asked.clone()))
        };
        let own = upstream(&format!("http://name.test:{}", server.address.port()));
        // Nothing listens at the first address.
        let response = with(&["127.0.0.2", "127.0.0.1"])
            .call(&own, post(&["a"]))
            .await;
        assert_eq!(text(response.unwrap()).await, "ok");
        assert_eq!(asked.replace(0), 2);

        let dead = with(&["127.0.0.2"]);
        let failure = dead.call(&own, post(&["a"])).await.unwrap_err();
        assert!(matches!(failure, Failure::ConnectFailed(_)), "{failure}");
        assert_eq!(asked.replace(0), 2, "attempts");

        let forbidden = with(&["169.254.169.254"]);
        let failure = forbidden.call(&own, post(&["a"])).await.unwrap_err();
        assert!(matches!(failure, Failure::EgressRefused(_)), "{failure}");
        assert_eq!(asked.get(), 1);
    });
}

#[test]
fn the_first_byte_is_waited_for_from_the_last_one_written() {
    paused(async {
        let server = Server::start(|_, mut tcp| async move {
            read_request(&mut tcp).await;
            std::future::pending::<()>().await;
        })
        .await;
        let started = Instant::now();
        let failure = upstreams()
            .call(&server.upstream(), post(&["a"]))
            .await
            .unwrap_err();
        assert!(matches!(failure, Failure::FirstByteTimeout(_)), "{failure}");
        assert_eq!(started.elapsed().as_secs(), 300);
        assert_eq!(server.connections.get(), 1);
    });
}

#[test]
fn a_stream_may_last_for_ever_but_not_be_silent() {
    paused(async {
        let server = Server::start(|_, mut tcp| async move {
            read_request(&mut tcp).await;
            tcp.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await
                .unwrap();
            for _ in 0..10 {
                tokio::time::sleep(SECOND * 100).await;
                tcp.write_all(b"1\r\na\r\n").await.unwrap();
            }
            std::future::pending::<()>().await;
        })
        .await;
        let started = Instant::now();
        let response = upstreams().call(&server.upstream(), post(&["a"])).await;
        let mut body = response.unwrap().into_body();
        for n in 1..=10 {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "a");
            assert_eq!(started.elapsed().as_secs(), n * 100);
        }
        let failure = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(failure, BodyFailure::IdleTimeout(_)), "{failure}");
        assert_eq!(started.elapsed().as_secs(), 1000 + 120);
    });
}

#[test]
fn dropping_a_call_or_a_body_closes_the_connection_at_once() {
    for answer in ["", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok"] {
        local(async {
            let (gone, went) = tokio::sync::oneshot::channel();
            let gone = RefCell::new(Some(gone));
            let server = Server::start(move |_, mut tcp| {
                let gone = gone.take().unwrap();
                async move {
                    read_request(&mut tcp).await;
                    tcp.write_all(answer.as_bytes()).await.unwrap();
                    // End or reset: the client is gone.
                    let _ = tcp.read(&mut [0; 16]).await;
                    gone.send(()).unwrap();
                }
            })
            .await;
            let upstreams = upstreams();
            let own = server.upstream();
            let call = upstreams.call(&own, post(&["a"]));
            match answer {
                "" => {
                    let moment = Duration::from_millis(50);
                    timeout(moment, call).await.unwrap_err();
                }
                _ => drop(call.await.unwrap()),
            }
            let dropped = std::time::Instant::now();
            timeout(PATIENCE, went).await.unwrap().unwrap();
            // Promptly and not by a timeout; the promise of 100 ms is tested on the whole.
            assert!(dropped.elapsed() < SECOND);
        });
    }
}
