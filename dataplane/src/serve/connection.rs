//! One connection from its first byte to its last.
//!
//! Which protocol it speaks is decided first: by ALPN under TLS, by a peek at the first bytes without. Then hyper
//! runs it, and [`drive`] keeps the time with a single timer: idle, a head that trickles in, a client that does
//! not read, old age, shutdown.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bodhi_net::stream::Stream;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsStream};

use super::drain::{Connections, Entry};
use super::state::{Due, Order, Outgoing, Protocol, Socket, State, Taken};
use super::tls::Tls;
use super::{ConnInfo, Limits, Service};
use crate::admission::memory::{Gauge, Pressure};
use crate::upstream::Deadline;

/// Largest request head, and the unit in which bodies are read.
const MAX_HEAD: usize = 64 * 1024;
/// The first bytes of HTTP/2 with prior knowledge that no HTTP/1 method begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 3] = b"PRI";
/// Between two looks at a preface that has come in part. A peek consumes nothing, so
/// the socket stays readable and waiting for it would spin.
const PEEK_AGAIN: Duration = Duration::from_millis(10);
/// For the first three bytes, from the first of them.
const PEEK_IN_ALL: Duration = Duration::from_secs(5);
/// For a connection that was told to finish, has no request in flight and yet something to do.
const FINISH: Duration = Duration::from_secs(5);
/// For a client that is still sending to see the answer before the connection is reset.
const LINGER: Duration = Duration::from_secs(2);

/// What a thread's connections share.
pub(super) struct Thread<S> {
    pub(super) service: Rc<S>,
    pub(super) limits: Limits,
    pub(super) connections: Rc<Connections>,
    pub(super) gauge: Arc<Gauge>,
    pub(super) tls: Option<Arc<Tls>>,
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Shut down in order; the client may not have read the last answer yet.
    Closed,
    /// No more to say.
    Dropped,
    /// Within a response: a reset tells the client that it is not complete.
    Cut,
}

/// Serves `tcp` until it closes. `entry` is its place among the thread's connections.
pub(super) async fn run<S: Service>(
    thread: Rc<Thread<S>>,
    entry: Entry,
    tcp: TcpStream,
    peer: std::net::SocketAddr,
) {
    let state = entry.state.clone();
    if let Err(error) = tune(&tcp) {
        tracing::debug!(%peer, %error, "socket options");
    }
    let born = Instant::now();
    let opening = open(&thread, tcp);
    let Some((stream, protocol)) = unless_told(&state, opening).await else {
        return;
    };
    let from = ConnInfo {
        peer,
        tls: matches!(stream, Stream::Tls(_)),
    };
    state.set_protocol(protocol);
    let socket = Socket::new(stream, state.clone());
    let retire = born + jittered(thread.limits.age, rand::random());
    match protocol {
        Protocol::Http1 => http1(thread, state, socket, from, retire).await,
        // Several times as large, and rarer: not in every connection's task.
        Protocol::Http2 => Box::pin(http2(thread, state, socket, from, retire)).await,
    }
}

fn tune(tcp: &TcpStream) -> std::io::Result<()> {
    bodhi_net::dial::tune(tcp)?;
    // Unsent bytes in the kernel beyond this would only be more of what a slow reader holds.
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(tcp).set_tcp_notsent_lowat(64 * 1024)?;
    Ok(())
}

/// `age` ± 10 %, so that connections made together do not end together. `random` is any byte.
fn jittered(age: Duration, random: u8) -> Duration {
    age * 9 / 10 + age / 5 * u32::from(random) / 255
}

/// `future`'s outcome, or `None` as soon as the thread wants the connection to end.
async fn unless_told<T>(state: &State, future: impl Future<Output = Option<T>>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match state.order(cx) {
        Order::Serve => future.as_mut().poll(cx),
        Order::Finish | Order::Abort => Poll::Ready(None),
    })
    .await
}

async fn open<S>(thread: &Thread<S>, tcp: TcpStream) -> Option<(Stream, Protocol)> {
    let Some(tls) = &thread.tls else {
        let protocol = peek(&tcp, thread.limits.idle).await?;
        return Some((Stream::Plain(tcp), protocol));
    };
    let handshake = TlsAcceptor::from(tls.current()).accept(tcp);
    // Port scans and health checks end here daily; not worth a warning.
    let tls = match timeout(thread.limits.head, Box::pin(handshake)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return None;
        }
        Err(_) => return None,
    };
    let protocol = match tls.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    Some((Stream::Tls(Box::new(TlsStream::Server(tls))), protocol))
}

/// The protocol of a cleartext connection; `None` when nothing comes in time.
async fn peek(tcp: &TcpStream, idle: Duration) -> Option<Protocol> {
    let mut start = [0; PREFACE.len()];
    let mut length = timeout(idle, tcp.peek(&mut start)).await.ok()?.ok()?;
    let deadline = Instant::now() + PEEK_IN_ALL;
    while length > 0 && Instant::now() < deadline {
        if let Some(protocol) = protocol_of(&start[..length]) {
            return Some(protocol);
        }
        sleep(PEEK_AGAIN).await;
        length = tcp.peek(&mut start).await.ok()?;
    }
    None
}

/// Decides as soon as the bytes differ from the preface or are as long.
fn protocol_of(start: &[u8]) -> Option<Protocol> {
    if !PREFACE.starts_with(start) {
        return Some(Protocol::Http1);
    }
    (start.len() == PREFACE.len()).then_some(Protocol::Http2)
}

/// What hyper calls for each request.
fn answer<S: Service>(
    thread: &Rc<Thread<S>>,
    state: &Rc<State>,
    from: ConnInfo,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Outgoing<S::Body>>, Infallible>> + 'static + use<S> {
    let refusal = state.judge(&request);
    let (in_flight, taken) = state.begin();
    let thread = thread.clone();
    let protocol = state.protocol();
    async move {
        let mut response = match refusal {
            Some(refusal) => thread.service.refuse(&request, refusal),
            None => thread.service.clone().call(request, from).await,
        };
        let closes = refusal.is_some() || thread.gauge.pressure() >= Pressure::StopKeepAlive;
        if closes && protocol == Protocol::Http1 {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        Ok(response.map(|body| Outgoing::new(body, in_flight, taken)))
    }
}

async fn http1<S: Service>(
    thread: Rc<Thread<S>>,
    state: Rc<State>,
    socket: Socket,
    from: ConnInfo,
    retire: Instant,
) {
    let limits = thread.limits;
    let service = {
        let (thread, state) = (thread.clone(), state.clone());
        service_fn(move |request| answer(&thread, &state, from, request))
    };
    // The time of the head is kept by `drive`, which needs no timer per request for it.
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(MAX_HEAD)
        .max_buf_size(MAX_HEAD)
        .writev(true)
        .serve_connection(TokioIo::new(socket), service);
    let end = drive(&state, &limits, retire, |cx, ask| {
        if ask == Ask::Finish {
            Pin::new(&mut connection).graceful_shutdown();
        }
        Pin::new(&mut connection).poll(cx)
    })
    .await;
    let mut socket = connection.into_parts().io.into_inner();
    if end != End::Cut {
        socket.uncut();
    }
    if end == End::Closed {
        // hyper has shut down our direction. Closing now, with bytes of the client unread, would reset the
        // connection and take the answer away from a client that is still sending (RFC 9112 §9.6).
        let rest = async {
            let mut ignored = [0; 1024];
            while matches!(socket.read(&mut ignored).await, Ok(1..)) {}
            None::<()>
        };
        // At its end, or late, or told: the socket closes in any case.
        let _ = timeout(LINGER, unless_aborted(&state, rest)).await;
    }
}

/// `future`'s outcome, or `None` as soon as the thread wants the connection gone.
async fn unless_aborted<T>(state: &State, future: impl Future<Output = Option<T>>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match state.order(cx) {
        Order::Serve | Order::Finish => future.as_mut().poll(cx),
        Order::Abort => Poll::Ready(None),
    })
    .await
}

async fn http2<S: Service>(
    thread: Rc<Thread<S>>,
    state: Rc<State>,
    socket: Socket,
    from: ConnInfo,
    retire: Instant,
) {
    let limits = thread.limits;
    let service = {
        let (thread, state) = (thread.clone(), state.clone());
        service_fn(move |request| answer(&thread, &state, from, request))
    };
    let streams = Streams {
        state: state.clone(),
        stall: limits.stall,
    };
    let mut connection = http2::Builder::new(streams)
        .timer(TokioTimer::new())
        .max_concurrent_streams(100)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(64 * 1024)
        .max_header_list_size(64 * 1024)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(socket), service);
    // However it ends, a stream that is cut lacks its END_STREAM, so nothing looks complete.
    drive(&state, &limits, retire, |cx, ask| {
        if ask == Ask::Finish {
            Pin::new(&mut connection).graceful_shutdown();
        }
        Pin::new(&mut connection).poll(cx)
    })
    .await;
}

/// What [`drive`] asks of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    /// To go on.
    Run,
    /// To take no further request, and go on.
    Finish,
}

/// Runs a connection under the limits and the thread's orders.
async fn drive(
    state: &State,
    limits: &Limits,
    retire: Instant,
    mut poll: impl FnMut(&mut Context<'_>, Ask) -> Poll<hyper::Result<()>>,
) -> End {
    let mut finishing: Option<Instant> = None;
    let mut deadline = Deadline::new(Instant::now() + limits.idle);
    let mut ask = Ask::Run;
    poll_fn(|cx| {
        match state.order(cx) {
            Order::Serve => {}
            Order::Finish if finishing.is_some() => {}
            Order::Finish => ask = Ask::Finish,
            Order::Abort => return Poll::Ready(End::Cut),
        }
        loop {
            if ask == Ask::Finish {
                finishing = Some(Instant::now());
            }
            match poll(cx, std::mem::replace(&mut ask, Ask::Run)) {
                Poll::Ready(Ok(())) => return Poll::Ready(End::Closed),
                Poll::Ready(Err(error)) => return Poll::Ready(end_of(&error)),
                Poll::Pending => {}
            }
            let overdue = match ready!(poll_due(
                cx,
                state,
                limits,
                retire,
                finishing,
                &mut deadline
            )) {
                Overdue::Client(Due::Head) => End::Dropped,
                Overdue::Client(Due::Stall) => End::Cut,
                Overdue::Finish => End::Dropped,
                Overdue::Client(Due::Idle) | Overdue::Age => {
                    ask = Ask::Finish;
                    continue;
                }
            };
            return Poll::Ready(overdue);
        }
    })
    .await
}

fn end_of(error: &hyper::Error) -> End {
    match error.is_parse() {
        // hyper has answered 400, 414 or 431.
        true => End::Closed,
        false => End::Cut,
    }
}

/// What was not in time.
enum Overdue {
    Client(Due),
    /// The connection is as old as it may become.
    Age,
    /// It was to finish, and did not although it has nothing to do.
    Finish,
}

fn poll_due(
    cx: &mut Context<'_>,
    state: &State,
    limits: &Limits,
    retire: Instant,
    finishing: Option<Instant>,
    deadline: &mut Deadline,
) -> Poll<Overdue> {
    let client = state
        .due(limits)
        .map(|(due, why)| (due, Overdue::Client(why)));
    let end = match finishing {
        None => Some((retire, Overdue::Age)),
        Some(since) if state.is_quiet() => Some((since, Overdue::Finish)),
        Some(since) if state.is_idle() => Some((since + FINISH, Overdue::Finish)),
        Some(_) => None,
    };
    // While it is finishing, being idle is not another reason.
    let client =
        client.filter(|(_, why)| finishing.is_none() || !matches!(why, Overdue::Client(Due::Idle)));
    let first = [client, end]
        .into_iter()
        .flatten()
        .min_by_key(|(due, _)| *due);
    match first {
        Some((due, why)) => deadline.poll_until(cx, due).map(|()| why),
        // Something happens first: a request ends, or an order comes.
        None => Poll::Pending,
    }
}

/// Runs HTTP/2 streams as tasks of this thread.
#[derive(Clone)]
struct Streams {
    state: Rc<State>,
    stall: Duration,
}

impl<F: Future<Output = ()> + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(StreamTask {
            stream: Some(Box::pin(stream)),
            taken: self.state.take_spawning(),
            stall: self.stall,
            deadline: None,
        });
    }
}

/// One stream, until it ends or its client takes nothing for too long: then it is dropped, which resets it
/// and leaves the connection's other streams alone.
struct StreamTask<F> {
    stream: Option<Pin<Box<F>>>,
    taken: Option<Rc<Taken>>,
    stall: Duration,
    deadline: Option<Deadline>,
}

impl<F: Future<Output = ()>> Future for StreamTask<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(());
        };
        if stream.as_mut().poll(cx).is_ready() {
            this.stream = None;
            return Poll::Ready(());
        }
        let waiting = this.taken.as_ref().and_then(|taken| taken.waiting_since());
        let Some(since) = waiting else {
            return Poll::Pending;
        };
        let due = since + this.stall;
        let deadline = this.deadline.get_or_insert_with(|| Deadline::new(due));
        ready!(deadline.poll_until(cx, due));
        this.stream = None;
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_bytes_decide_and_fewer_may() {
        assert_eq!(protocol_of(b"P"), None);
        assert_eq!(protocol_of(b"PR"), None);
        assert_eq!(protocol_of(b"PRI"), Some(Protocol::Http2));
        assert_eq!(protocol_of(b"PO"), Some(Protocol::Http1));
        assert_eq!(protocol_of(b"G"), Some(Protocol::Http1));
        assert_eq!(protocol_of(b"PRO"), Some(Protocol::Http1));
    }

    #[test]
    fn ages_differ_by_a_tenth_either_way() {
        let hour = Duration::from_secs(3600);
        assert_eq!(jittered(hour, 0), Duration::from_secs(3240));
        assert_eq!(jittered(hour, 255), Duration::from_secs(3960));
    }
}
