//! The listener over raw sockets: what it refuses, when it closes, and whom it tells.

mod http2;
mod leaving;
mod requests;
mod time;
mod whole;

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
