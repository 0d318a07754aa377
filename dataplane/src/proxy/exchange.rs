//! What is told of a request while it is served: the log record and the counters.

use std::rc::Rc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Method};

use bodhi_proto::names::{ObjectRef, TokenId};

use super::ReplyBody;
use crate::api::Label;
use crate::api::error::Failure;
use crate::telemetry::access_log::End;
use crate::telemetry::{Record, RequestId, ThreadTelemetry};

/// One request and its answer, as the log will tell it.
///
/// It ends exactly once: by [`Exchange::end`], or, when hyper drops the handler or the body
/// because the client is gone, by being dropped.
#[derive(Debug)]
pub struct Exchange {
    id: RequestId,
    started: Instant,
    /// Until the end.
    record: Option<Record>,
    mark: Option<HeaderValue>,
    telemetry: Rc<ThreadTelemetry>,
}

impl Exchange {
    pub(super) fn begin(id: RequestId, method: &Method, telemetry: Rc<ThreadTelemetry>) -> Self {
        telemetry.counters.started();
        Self {
            id,
            started: Instant::now(),
            record: Some(Record {
                id,
                at: SystemTime::now(),
                endpoint: Label::Other,
                method: bounded(method),
                status: 499,
                end: End::ClientGone,
                error: None,
                model: None,
                upstream: None,
                attempts: 0,
                token: None,
                bytes_in: 0,
                bytes_out: 0,
                first_byte: None,
                duration: std::time::Duration::ZERO,
            }),
            mark: None,
            telemetry,
        }
    }

    pub(super) fn id(&self) -> RequestId {
        self.id
    }

    /// The configuration that serves it; of a request that is routed anew the last.
    pub(super) fn served_from(&mut self, mark: &HeaderValue) {
        self.mark = Some(mark.clone());
    }

    /// The mark of the configuration that serves it.
    pub(super) fn mark(&self) -> Option<&HeaderValue> {
        self.mark.as_ref()
    }

    pub(super) fn endpoint(&mut self, label: Label) {
        self.note(|r| r.endpoint = label);
    }

    pub(super) fn caller(&mut self, token: &TokenId) {
        self.note(|r| r.token = Some(token.clone()));
    }

    pub(super) fn model(&mut self, asked: &str) {
        self.note(|r| r.model = Some(asked.into()));
    }

    pub(super) fn attempt(&mut self, upstream: &ObjectRef) {
        self.note(|r| {
            r.upstream = Some(upstream.clone());
            r.attempts += 1;
        });
    }

    pub(super) fn received(&mut self, bytes: u64) {
        self.note(|r| r.bytes_in += bytes);
    }

    pub(super) fn status(&mut self, status: u16) {
        self.note(|r| r.status = status);
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        self.note(|r| r.error = Some(failure.code()));
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        let started = self.started;
        self.note(|r| {
            r.first_byte.get_or_insert_with(|| started.elapsed());
            r.bytes_out += bytes as u64;
        });
    }

    /// A whole answer: there is nothing to wait for, so the exchange ends here.
    pub(super) fn full(mut self, status: u16, body: Bytes) -> ReplyBody {
        self.status(status);
        self.sent(body.len());
        self.end(End::Complete);
        ReplyBody::full(body)
    }

    /// Ends the exchange; later calls change nothing.
    pub(super) fn end(&mut self, end: End) {
        if let Some(mut record) = self.record.take() {
            record.end = end;
            record.duration = self.started.elapsed();
            self.telemetry.counters.ended(&record);
            self.telemetry.log.write(record);
        }
    }

    fn note(&mut self, note: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.record {
            note(record);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.end(End::ClientGone);
    }
}

/// Methods are a client's to invent; logs want a bounded set.
fn bounded(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        _ => "other",
    }
}
