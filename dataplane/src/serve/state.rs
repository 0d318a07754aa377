//! What a connection's parts tell one another: the socket, the requests on it, and the timers.
//!
//! All of it lives on one thread, so plain cells do. The socket notes what it sees, requests note that they begin and
//! end, and [`Driver`](super::connection) reads from it when the connection is due to be closed.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bodhi_net::stream::Stream;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::framing::{HeadScan, Progress};
use super::{Limits, Refusal};

/// Body bytes handed to hyper while the socket takes nothing, after which no more are handed over.
const MAX_HELD: usize = 32 * 1024;

/// What the thread wants of a connection. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Order {
    /// Go on.
    Serve,
    /// Close after the request in flight, at once if there is none.
    Finish,
    /// Close now, whatever is in flight.
    Abort,
}

/// The protocol, as far as the parts must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// One connection's state, shared by its parts.
#[derive(Debug)]
pub(super) struct State {
    protocol: Cell<Protocol>,
    order: Cell<Order>,
    /// The connection's task.
    waker: RefCell<Option<Waker>>,
    /// Requests in flight.
    active: Cell<usize>,
    /// When the last one ended, or the connection began.
    idle_since: Cell<Instant>,
    /// When the first byte of a head came that is not complete yet.
    head_since: Cell<Option<Instant>>,
    /// Since when the socket has taken nothing although there is something to write.
    blocked_since: Cell<Option<Instant>>,
    /// Body bytes handed over since the socket was last flushed.
    held: Cell<usize>,
    /// HTTP/1: bytes of a further request were seen on the socket behind the one in flight.
    pipelined: Cell<bool>,
    /// HTTP/1: the head that is arriving.
    scan: RefCell<HeadScan>,
    /// HTTP/2: the stream whose task is about to be spawned.
    spawning: RefCell<Option<Rc<Taken>>>,
}

/// Why a connection has to be closed by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// No request for too long.
    Idle,
    /// A head that takes too long.
    Head,
    /// A client that takes nothing of its response.
    Stall,
}

impl State {
    pub(super) fn new(now: Instant, order: Order) -> Rc<Self> {
        Rc::new(Self {
            protocol: Cell::new(Protocol::Http1),
            order: Cell::new(order),
            waker: RefCell::new(None),
            active: Cell::new(0),
            idle_since: Cell::new(now),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            held: Cell::new(0),
            pipelined: Cell::new(false),
            scan: RefCell::new(HeadScan::new()),
            spawning: RefCell::new(None),
        })
    }

    pub(super) fn set_protocol(&self, protocol: Protocol) {
        self.protocol.set(protocol);
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.protocol.get()
    }

    /// What the thread wants; the task is woken when that changes.
    pub(super) fn order(&self, cx: &Context<'_>) -> Order {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.order.get()
    }

    pub(super) fn give(&self, order: Order) {
        self.order.set(order.max(self.order.get()));
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// Whether there is nothing that closing now would cut off: no request, no part of
    /// one, no bytes still to be written. Over HTTP/2 only hyper knows.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_idle()
            && self.protocol() == Protocol::Http1
            && self.head_since.get().is_none()
            && self.blocked_since.get().is_none()
    }

    /// When the connection must be closed if nothing changes, and why. `None`: not by itself.
    pub(super) fn due(&self, limits: &Limits) -> Option<(Instant, Due)> {
        if let Some(since) = self.blocked_since.get() {
            return Some((since + limits.stall, Due::Stall));
        }
        if !self.is_idle() {
            return None;
        }
        Some(match self.head_since.get() {
            Some(since) => (since + limits.head, Due::Head),
            None => (self.idle_since.get() + limits.idle, Due::Idle),
        })
    }

    /// A request has come; its [`InFlight`] says when it is over. Over HTTP/2 its stream's task is
    /// spawned right after this.
    pub(super) fn begin(self: &Rc<Self>) -> (InFlight, Option<Rc<Taken>>) {
        self.active.set(self.active.get() + 1);
        let taken = match self.protocol() {
            Protocol::Http1 => None,
            Protocol::Http2 => {
                let taken = Rc::new(Taken::default());
                *self.spawning.borrow_mut() = Some(taken.clone());
                Some(taken)
            }
        };
        (InFlight(self.clone()), taken)
    }

    /// The stream that [`State::begin`] announced.
    pub(super) fn take_spawning(&self) -> Option<Rc<Taken>> {
        self.spawning.borrow_mut().take()
    }

    /// Whether the request that has just been parsed is refused.
    pub(super) fn judge<B>(&self, request: &http::Request<B>) -> Option<Refusal> {
        let scan = self.scan.borrow();
        let scan = match self.protocol() {
            Protocol::Http1 => Some(&*scan),
            Protocol::Http2 => None,
        };
        super::framing::judge(request.method(), request.version(), request.headers(), scan)
    }

    fn saw(&self, bytes: &[u8]) {
        if self.protocol() == Protocol::Http2 {
            return;
        }
        let mut scan = self.scan.borrow_mut();
        if scan.progress() == Progress::Complete {
            return;
        }
        scan.push(bytes);
        match scan.progress() {
            Progress::Awaited => {}
            Progress::Partial if self.head_since.get().is_some() => {}
            Progress::Partial => self.head_since.set(Some(Instant::now())),
            Progress::Complete => self.head_since.set(None),
        }
    }
}

/// A request from its head to the end of its response, or to where it was dropped.
#[derive(Debug)]
pub(super) struct InFlight(Rc<State>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.0;
        state.active.set(state.active.get() - 1);
        if state.is_idle() {
            state.idle_since.set(Instant::now());
            // The response's end is not written yet: the next head can only come after this,
            // unless it is pipelined.
            *state.scan.borrow_mut() = HeadScan::new();
            state.head_since.set(None);
            state.pipelined.set(false);
        }
    }
}

/// HTTP/2: whether the client has taken what its stream was given.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Since when a frame waits for the client's window.
    waiting_since: Cell<Option<Instant>>,
}

impl Taken {
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since.get()
    }
}

/// A response body on its way out.
pub(super) struct Outgoing<B> {
    body: B,
    request: InFlight,
    taken: Option<Rc<Taken>>,
}

impl<B> Outgoing<B> {
    pub(super) fn new(body: B, request: InFlight, taken: Option<Rc<Taken>>) -> Self {
        Self {
            body,
            request,
            taken,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outgoing<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let state = &this.request.0;
        if let Some(taken) = &this.taken {
            // Asked for the next frame: the client has taken the last one.
            taken.waiting_since.set(None);
        } else if state.blocked_since.get().is_some() && state.held.get() >= MAX_HELD {
            // The slow reader's share is spent. No waker is needed: this is polled by the task
            // that is waiting for the socket, and again after each flush.
            return Poll::Pending;
        }
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            match &this.taken {
                Some(taken) => taken.waiting_since.set(Some(Instant::now())),
                None => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    state.held.set(state.held.get() + length);
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket, noting what passes.
pub(super) struct Socket {
    stream: Stream,
    state: Rc<State>,
    /// Whether to reset the connection when this is dropped, be it by a panic: a response that only
    /// the end of the connection ends (HTTP/1.0) would look complete otherwise.
    cut: bool,
}

impl Socket {
    /// To be cut, if it is dropped before [`Socket::uncut`], unless the protocol marks every end itself.
    pub(super) fn new(stream: Stream, state: Rc<State>) -> Self {
        let cut = state.protocol() == Protocol::Http1;
        Self { stream, state, cut }
    }

    /// Dropping it will now close the connection in order.
    pub(super) fn uncut(&mut self) {
        self.cut = false;
    }

    /// Whether the client has gone although hyper does not look: it reads nothing while it holds bytes behind
    /// the request in flight, be it only the line break that old clients add to a body.
    fn is_left(&self, cx: &mut Context<'_>) -> bool {
        let state = &self.state;
        if state.protocol() == Protocol::Http2 || state.is_idle() || state.pipelined.get() {
            return false;
        }
        let tcp = self.stream.tcp();
        if tcp.poll_read_ready(cx).is_pending() {
            return false;
        }
        match SockRef::from(tcp).peek(&mut [MaybeUninit::uninit()]) {
            Ok(0) => true,
            Ok(_) => {
                state.pipelined.set(true);
                false
            }
            Err(_) => false,
        }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        let state = &self.state;
        match written {
            Poll::Pending if state.blocked_since.get().is_none() => {
                state.blocked_since.set(Some(Instant::now()));
            }
            Poll::Ready(Ok(1..)) => state.blocked_since.set(None),
            _ => {}
        }
        written
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.cut {
            // If even that fails, the client sees an end without the last chunk.
            let _ = self.stream.tcp().set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read {
            self.state.saw(&buf.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper comes by here whenever it has done what it can.
        if self.is_left(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        // hyper flushes the socket once it has nothing left to write.
        if let Poll::Ready(Ok(())) = flushed {
            self.state.held.set(0);
            self.state.blocked_since.set(None);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
