//! What is told of a request while it is served: the log record and the counters.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::Method;

use bodhi_proto::names::{ObjectRef, TokenId};

use super::ReplyBody;
use crate::api::Label;
use crate::api::error::Failure;
use crate::telemetry::access_log::End;
use crate::telemetry::{AccessLog, Record, RequestId, ThreadCounters};

/// One request and its answer, as the log will tell it.
///
/// It ends exactly once: by [`Exchange::end`], or, when hyper drops the handler or the body
/// because the client is gone, by being dropped.
#[derive(Debug)]
pub struct Exchange {
    record: Record,
    started: Instant,
    ended: bool,
    counters: Arc<ThreadCounters>,
    log: AccessLog,
}

impl Exchange {
    pub(super) fn begin(
        id: RequestId,
        method: &Method,
        counters: Arc<ThreadCounters>,
        log: AccessLog,
    ) -> Self {
        counters.started();
        Self {
            record: Record {
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
            },
            started: Instant::now(),
            ended: false,
            counters,
            log,
        }
    }

    pub(super) fn id(&self) -> RequestId {
        self.record.id
    }

    pub(super) fn endpoint(&mut self, label: Label) {
        self.record.endpoint = label;
    }

    pub(super) fn caller(&mut self, token: &TokenId) {
        self.record.token = Some(token.clone());
    }

    pub(super) fn model(&mut self, asked: &str) {
        self.record.model = Some(asked.into());
    }

    pub(super) fn attempt(&mut self, upstream: &ObjectRef) {
        self.record.upstream = Some(upstream.clone());
        self.record.attempts += 1;
    }

    pub(super) fn received(&mut self, bytes: u64) {
        self.record.bytes_in += bytes;
    }

    pub(super) fn status(&mut self, status: u16) {
        self.record.status = status;
    }

    pub(super) fn failed(&mut self, failure: &Failure) {
        self.record.error = Some(failure.code());
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        if self.record.first_byte.is_none() {
            self.record.first_byte = Some(self.started.elapsed());
        }
        self.record.bytes_out += bytes as u64;
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
        if !self.ended {
            self.ended = true;
            self.record.end = end;
            self.record.duration = self.started.elapsed();
            self.counters.ended(&self.record);
            self.log.write(self.record.clone());
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
