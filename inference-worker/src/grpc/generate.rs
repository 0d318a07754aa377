//! Answers on their way out.
//!
//! There is no timer. The transport asks for a message when it has taken the last one; the
//! message is whatever happened since, joined. A quick caller gets every token as it comes, a
//! slow one gets more in fewer messages.

use std::pin::Pin;
use std::task::{Context, Poll};

use bodhi_proto::chat::{Fault, FaultCode, ReplyEvent};
use bodhi_proto::wire::inference as pb;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::call::Call;
use crate::serving::Answers;

type Events = BoxStream<'static, Result<Vec<ReplyEvent>, Fault>>;

/// The messages of one request.
pub(super) struct Replies {
    /// `None` once they are over.
    events: Option<Events>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    call: Call,
}

impl Replies {
    pub(super) fn new(answers: Answers, call: Call) -> Self {
        Self {
            events: Some(answers.into_stream().boxed()),
            cut: Box::pin(call.cut().clone().cancelled_owned()),
            call,
        }
    }

    fn say(&mut self, events: Vec<ReplyEvent>) -> pb::Reply {
        if let Some(ReplyEvent::End { usage, .. }) = events.last() {
            self.call.complete(usage);
            self.events = None;
        }
        ReplyEvent::encode_all(events)
    }

    fn fail(&mut self, fault: Fault) -> Status {
        self.events = None;
        self.call.fail(fault)
    }
}

impl Stream for Replies {
    type Item = Result<pb::Reply, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(events) = &mut self.events else {
            return Poll::Ready(None);
        };
        let next = match events.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(events))) => Ok(self.say(events)),
            Poll::Ready(Some(Err(fault))) => Err(self.fail(fault)),
            Poll::Ready(None) => {
                let message = "the engine ended before the answer did";
                Err(self.fail(Fault::new(FaultCode::Failed, message)))
            }
            Poll::Pending if self.cut.as_mut().poll(cx).is_ready() => {
                let fault = self.call.last_word();
                Err(self.fail(fault))
            }
            Poll::Pending => return Poll::Pending,
        };
        Poll::Ready(Some(next))
    }
}
