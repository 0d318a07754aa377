//! A worker's answer as a stream in the client's format.
//!
//! A task of its own drains the worker, whether or not the client reads: what a client does not
//! take stays here, up to a limit, and never in the connection that other answers share.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::task::AbortHandle;

use bodhi_proto::names::ObjectRef;

use super::ask::Asked;
use super::bad_reply;
use super::form::Writer;
use crate::api::error::Failure;

/// Most bytes that wait for a client. It reads far slower than tokens are made.
const WAITING: usize = 64 << 10;

/// A stream that is being made. Dropping it cancels the request at the worker.
pub(in crate::proxy) struct Answer {
    pipe: Rc<RefCell<Pipe>>,
    task: AbortHandle,
}

#[derive(Default)]
struct Pipe {
    ready: BytesMut,
    end: Option<Result<(), Failure>>,
    reader: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Answer")
    }
}

impl Answer {
    /// Starts to drain.
    pub(super) fn start(asked: Asked, writer: Writer, object: ObjectRef) -> Self {
        let pipe = Rc::<RefCell<Pipe>>::default();
        let drained = drain(asked, writer, object, Rc::clone(&pipe));
        let task = tokio::task::spawn_local({
            let pipe = Rc::clone(&pipe);
            async move {
                let end = drained.await;
                let mut pipe = pipe.borrow_mut();
                pipe.end = Some(end);
                pipe.wake();
            }
        });
        Self {
            pipe,
            task: task.abort_handle(),
        }
    }

    /// The next bytes: whole events.
    pub(in crate::proxy) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Failure>>> {
        let mut pipe = self.pipe.borrow_mut();
        if !pipe.ready.is_empty() {
            return Poll::Ready(Some(Ok(pipe.ready.split().freeze())));
        }
        match &pipe.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(failure)) => Poll::Ready(Some(Err(failure.clone()))),
            None => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Whether everything was handed over.
    pub(in crate::proxy) fn is_end(&self) -> bool {
        let pipe = self.pipe.borrow();
        pipe.ready.is_empty() && matches!(pipe.end, Some(Ok(())))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drain(
    mut asked: Asked,
    mut writer: Writer,
    object: ObjectRef,
    pipe: Rc<RefCell<Pipe>>,
) -> Result<(), Failure> {
    while let Some((prompt, events)) = asked.next().await? {
        let mut pipe = pipe.borrow_mut();
        for event in &events {
            let pushed = writer.push(prompt, event, &mut pipe.ready);
            pushed.map_err(|bad| bad_reply(&object, bad))?;
        }
        if pipe.ready.len() > WAITING {
            return Err(Failure::GatewayTimeout {
                code: "idle_timeout",
                message: "The client does not read what it asked for.".into(),
            });
        }
        pipe.wake();
    }
    match writer.is_complete() {
        true => Ok(()),
        false => Err(Failure::BadGateway {
            code: "worker_lost",
            message: format!("The worker of '{}' stopped in the middle.", object.short()),
        }),
    }
}
