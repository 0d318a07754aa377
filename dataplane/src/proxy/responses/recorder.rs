//! Reads a new response's id as it passes by and holds it back until its owner is on record.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use bodhi_proto::names::ObjectRef;

use super::{Owners, ResponseRecord};
use crate::proxy::UpstreamBody;
use crate::proxy::stream::ResponseIdFinder;
use crate::upstream::BodyFailure;

type Next = Option<Result<Result<Bytes, Frame<Bytes>>, BodyFailure>>;

/// Stands between an upstream's body and the relay until the id is recorded.
#[derive(Debug)]
pub(crate) struct Recorder {
    owners: Owners,
    wait: Duration,
    upstream: ObjectRef,
    owner: Arc<str>,
    state: State,
}

#[derive(Debug)]
enum State {
    Seeking(Box<ResponseIdFinder>),
    Holding {
        data: Bytes,
        confirmed: oneshot::Receiver<()>,
        deadline: Pin<Box<Sleep>>,
    },
    Done,
}

impl Recorder {
    pub(super) fn new(
        owners: Owners,
        wait: Duration,
        finder: ResponseIdFinder,
        upstream: ObjectRef,
        owner: Arc<str>,
    ) -> Self {
        Self {
            owners,
            wait,
            upstream,
            owner,
            state: State::Seeking(Box::new(finder)),
        }
    }

    /// The next piece of the body. The piece that completes the id is held until the record is
    /// confirmed, at most for the time given.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut UpstreamBody,
    ) -> Poll<Next> {
        loop {
            match &mut self.state {
                State::Done => {
                    let next = ready!(Pin::new(body).poll_frame(cx));
                    return Poll::Ready(next.map(|r| r.map(Frame::into_data)));
                }
                State::Seeking(finder) => {
                    let next = ready!(Pin::new(&mut *body).poll_frame(cx));
                    let data = match next.map(|r| r.map(Frame::into_data)) {
                        Some(Ok(Ok(data))) => data,
                        other => return Poll::Ready(other),
                    };
                    let Some(id) = finder.push(&data) else {
                        if finder.is_done() {
                            self.state = State::Done;
                        }
                        return Poll::Ready(Some(Ok(Ok(data))));
                    };
                    self.state = State::Holding {
                        confirmed: self.owners.record(ResponseRecord {
                            id: id.into(),
                            upstream: self.upstream.clone(),
                            owner: Arc::clone(&self.owner),
                        }),
                        deadline: Box::pin(tokio::time::sleep(self.wait)),
                        data,
                    };
                }
                State::Holding {
                    data,
                    confirmed,
                    deadline,
                } => {
                    let confirmed = Pin::new(confirmed).poll(cx).is_ready();
                    if !confirmed && deadline.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let data = std::mem::take(data);
                    self.state = State::Done;
                    return Poll::Ready(Some(Ok(Ok(data))));
                }
            }
        }
    }
}
