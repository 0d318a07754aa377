//! Taking in request bodies: bounded, judged as they arrive, never for longer than the pause
//! a client may make.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body::{Body, BodyError, Dialect, Intake};
use super::{Exchange, Proxy};
use crate::admission::memory::{Grows, Reservation, Revocation};
use crate::api::Call;
use crate::api::error::Failure;

/// A body that may be taken in.
pub(super) struct Admitted {
    incoming: Incoming,
    limit: usize,
    memory: Reservation,
}

/// A body and the memory it was granted.
pub(super) struct Taken {
    pub body: Body,
    /// Given back when the body is no longer held.
    _memory: Reservation,
}

impl Admitted {
    /// What tells that the memory is taken back; `None`: it is too little for that.
    pub(super) fn revocable(&mut self) -> Option<Revocation> {
        let grows = match self.incoming.size_hint().exact() {
            Some(_) => Grows::No,
            None => Grows::Perhaps,
        };
        self.memory.revocable(grows)
    }
}

/// Does `work` for a request, unless the memory of its body is taken back before it is done.
pub(super) async fn unless_revoked<T>(
    revocation: Option<Revocation>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    poll_fn(|cx| match (work.as_mut().poll(cx), &revocation) {
        (Poll::Pending, Some(revocation)) => {
            let revoked = revocation.poll_revoked(cx);
            revoked.map(|()| Err(Failure::MemoryPressure))
        }
        (polled, _) => polled,
    })
    .await
}

impl Proxy {
    /// Judges a body by its head, before any of it is read.
    pub(super) fn admit(
        &self,
        call: &Call,
        headers: &HeaderMap,
        incoming: Incoming,
    ) -> Result<Admitted, Failure> {
        let limit = self.limit(call);
        let memory = self.admit_body(headers, &incoming, limit)?;
        judge_type(headers)?;
        Ok(Admitted {
            incoming,
            limit,
            memory,
        })
    }

    /// Takes in a JSON body and judges it as it arrives.
    pub(super) async fn take_in(
        &self,
        call: &Call,
        admitted: Admitted,
        exchange: &mut Exchange,
    ) -> Result<Taken, Failure> {
        let Admitted {
            mut incoming,
            limit,
            mut memory,
        } = admitted;
        let mut intake = Intake::new(dialect(call), limit);
        while let Some(frame) = self.frame(&mut incoming).await? {
            memory.grow(frame.len())?;
            intake.push(frame)?;
        }
        exchange.received(intake.len() as u64);
        Ok(Taken {
            body: intake.finish()?,
            _memory: memory,
        })
    }

    /// Takes in a body whose content is somebody else's to judge.
    pub(super) async fn take_in_plain(
        &self,
        headers: &HeaderMap,
        mut incoming: Incoming,
        limit: usize,
    ) -> Result<Bytes, Failure> {
        let mut memory = self.admit_body(headers, &incoming, limit)?;
        let mut whole = BytesMut::new();
        while let Some(frame) = self.frame(&mut incoming).await? {
            if frame.len() > limit - whole.len() {
                return Err(Failure::BodyTooLarge(limit));
            }
            memory.grow(frame.len())?;
            whole.extend_from_slice(&frame);
        }
        Ok(whole.freeze())
    }

    fn limit(&self, call: &Call) -> usize {
        match call {
            Call::CountTokens | Call::Response(..) => self.shared.limits.other_body,
            _ => self.shared.limits.generation_body,
        }
    }

    /// Refuses a body that is announced too long, or for which there is no room, before any of
    /// it is read.
    fn admit_body(
        &self,
        headers: &HeaderMap,
        incoming: &Incoming,
        limit: usize,
    ) -> Result<Reservation, Failure> {
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse::<u64>().ok())
            .or(incoming.size_hint().exact())
            .unwrap_or(0);
        if announced > limit as u64 {
            return Err(Failure::BodyTooLarge(limit));
        }
        self.shared.memory.reserve(announced as usize)
    }

    /// The next piece of the body. Most bodies have arrived with their head, so a timer is made
    /// only when there is something to wait for.
    async fn frame(&self, incoming: &mut Incoming) -> Result<Option<Bytes>, Failure> {
        loop {
            let next = {
                let mut next = pin!(incoming.frame());
                let ready = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
                match ready {
                    Poll::Ready(frame) => frame,
                    Poll::Pending => timeout(self.shared.limits.body_idle, next)
                        .await
                        .map_err(|_| Failure::BodyTimeout)?,
                }
            };
            match next {
                None => return Ok(None),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Ok(Some(data)),
                    // Trailers of a request mean nothing here.
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    return Err(Failure::InvalidRequest {
                        code: "invalid_body",
                        message: format!("The request body could not be read: {error}."),
                        param: None,
                    });
                }
            }
        }
    }
}

pub(super) fn dialect(call: &Call) -> Dialect {
    match call {
        Call::CreateResponse | Call::Response(..) => Dialect::Responses,
        Call::Messages | Call::CountTokens => Dialect::Anthropic,
        Call::Gemini { .. } => Dialect::Gemini,
        _ => Dialect::OpenAi,
    }
}

/// What cannot be judged is refused: compressed bodies, and types that are plainly not JSON.
/// Others are taken at their content, as `curl -d` sends JSON under a form's type.
fn judge_type(headers: &HeaderMap) -> Result<(), Failure> {
    let encoded = headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded {
        return Err(Failure::UnsupportedMedia(
            "Compressed request bodies are not taken: send JSON without Content-Encoding.".into(),
        ));
    }
    let multipart = headers.get(CONTENT_TYPE).is_some_and(|v| {
        let value = v.as_bytes();
        value.len() >= 10 && value[..10].eq_ignore_ascii_case(b"multipart/")
    });
    match multipart {
        true => Err(Failure::UnsupportedMedia(
            "Multipart bodies are not taken: send JSON with Content-Type application/json.".into(),
        )),
        false => Ok(()),
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => Self::BodyTooLarge(limit),
            other => Self::InvalidRequest {
                code: other.code(),
                message: format!("{other}."),
                param: other.param().map(str::to_owned),
            },
        }
    }
}
