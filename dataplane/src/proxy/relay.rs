//! Passing a response on: bytes as they come, never held, and an honest end when whoever
//! sends them breaks off.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};

use super::UpstreamBody;
use super::farewell::Place;
use super::local::Answer;
use super::responses::Recorder;
use super::stream::{EventBoundary, terminal_event};
use super::{Exchange, body};
use crate::api::Call;
use crate::api::error::Failure;
use crate::api::headers::is_event_stream;
use crate::provider::InFlight;
use crate::telemetry::access_log::End;

/// Ends a connection whose response cannot be completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response was broken off")]
pub struct Aborted;

/// A response body on its way to a client.
#[derive(Debug)]
pub struct ReplyBody(Kind);

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Relay(Box<Relay>),
}

impl ReplyBody {
    pub(super) fn full(body: Bytes) -> Self {
        Self(Kind::Full((!body.is_empty()).then_some(body)))
    }
}

/// A response in transit.
#[derive(Debug)]
pub(super) struct Relay {
    source: Source,
    state: State,
    /// How to say in the client's format that a stream failed; `None` where nothing may follow.
    events: Option<Events>,
    farewell: Place,
    exchange: Option<Exchange>,
}

/// Where the bytes come from.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "the relay around it is boxed, and most hold the larger one"
)]
pub(super) enum Source {
    /// A provider, byte for byte.
    Upstream {
        /// Its response's body.
        body: UpstreamBody,
        /// Keeps whose a new response is.
        recorder: Option<Recorder>,
        /// Its place among the provider's requests.
        _permit: InFlight,
    },
    /// A worker, in the client's format.
    Worker(Answer),
}

impl Source {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Failure>>> {
        match self {
            Self::Upstream { body, recorder, .. } => poll_upstream(cx, body, recorder),
            Self::Worker(answer) => answer.poll_next(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Upstream { body, .. } => body.is_end_stream(),
            Self::Worker(answer) => answer.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Upstream { body, .. } => body.size_hint(),
            Self::Worker(_) => SizeHint::default(),
        }
    }
}

fn poll_upstream(
    cx: &mut Context<'_>,
    body: &mut UpstreamBody,
    recorder: &mut Option<Recorder>,
) -> Poll<Option<Result<Bytes, Failure>>> {
    loop {
        let next = match recorder {
            Some(recorder) => recorder.poll_next(cx, body),
            None => Pin::new(&mut *body)
                .poll_frame(cx)
                .map(|next| next.map(|frame| frame.map(Frame::into_data))),
        };
        return Poll::Ready(match std::task::ready!(next) {
            Some(Ok(Ok(data))) => Some(Ok(data)),
            // Trailers are the connection's own.
            Some(Ok(Err(_trailers))) => continue,
            Some(Err(failure)) => Some(Err(super::failure::within_response(&failure))),
            None => None,
        });
    }
}

#[derive(Debug)]
enum State {
    Flowing,
    /// The last bytes were handed over; the connection gets a turn to write them out.
    Ending,
    /// Nothing follows but the abort.
    Broken,
    Done,
}

#[derive(Debug)]
struct Events {
    dialect: body::Dialect,
    boundary: EventBoundary,
}

impl Relay {
    pub(super) fn new(call: &Call, headers: &HeaderMap, source: Source, farewell: Place) -> Self {
        Self {
            source,
            state: State::Flowing,
            events: is_event_stream(headers).then(|| Events {
                dialect: super::intake::dialect(call),
                boundary: EventBoundary::default(),
            }),
            farewell,
            exchange: None,
        }
    }

    /// Joins the exchange to the response that carries it to its end.
    pub(super) fn joined(
        response: Response<Box<Self>>,
        mut exchange: Exchange,
    ) -> Response<ReplyBody> {
        exchange.status(response.status().as_u16());
        response.map(|mut relay| {
            relay.exchange = Some(exchange);
            // A body that is known to be empty is not polled at all.
            if relay.source.is_end_stream() {
                relay.complete();
            }
            ReplyBody(Kind::Relay(relay))
        })
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match self.state {
            State::Flowing => {}
            State::Ending => return self.give_a_turn(cx),
            State::Broken => {
                self.state = State::Done;
                return Poll::Ready(Some(Err(Aborted)));
            }
            State::Done => return Poll::Ready(None),
        }
        if self.farewell.is_closing() {
            return self.broke(cx, &Failure::Draining);
        }
        let Poll::Ready(next) = self.source.poll_next(cx) else {
            self.farewell.wait(cx.waker());
            return Poll::Pending;
        };
        match next {
            Some(Ok(data)) => {
                let frame = Frame::data(self.passed(data));
                // Nobody asks for more of a body that is known to be complete.
                if self.source.is_end_stream() {
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                self.complete();
                Poll::Ready(None)
            }
            Some(Err(failure)) => self.broke(cx, &failure),
        }
    }

    fn passed(&mut self, data: Bytes) -> Bytes {
        if let Some(events) = &mut self.events {
            events.boundary.push(&data);
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.sent(data.len());
        }
        data
    }

    /// The upstream broke off: says so if the client is at an event's boundary, then aborts.
    fn broke(
        &mut self,
        cx: &mut Context<'_>,
        failure: &Failure,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let request_id = self
            .exchange
            .as_ref()
            .map_or_else(String::new, |e| e.id().to_string());
        if let Some(exchange) = &mut self.exchange {
            exchange.failed(failure);
        }
        self.finish(End::Aborted);
        match &self.events {
            Some(events) if events.boundary.is_between_events() => {
                self.state = State::Ending;
                let event = terminal_event(
                    events.dialect,
                    failure,
                    &request_id,
                    events.boundary.events(),
                );
                Poll::Ready(Some(Ok(Frame::data(event))))
            }
            _ => self.give_a_turn(cx),
        }
    }

    /// hyper writes what it was handed when a body has nothing more to give, and throws it away
    /// when a body fails: so what came before the failure goes out before the abort.
    fn give_a_turn(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        self.state = State::Broken;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn complete(&mut self) {
        self.finish(End::Complete);
        self.state = State::Done;
    }

    fn finish(&mut self, end: End) {
        if let Some(exchange) = &mut self.exchange {
            exchange.end(end);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        match &mut self.0 {
            Kind::Full(body) => Poll::Ready(body.take().map(|b| Ok(Frame::data(b)))),
            Kind::Relay(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(body) => body.is_none(),
            Kind::Relay(relay) => matches!(relay.state, State::Done),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(body) => SizeHint::with_exact(body.as_ref().map_or(0, |b| b.len() as u64)),
            Kind::Relay(relay) => relay.source.size_hint(),
        }
    }
}
