//! One request from its first byte to its end: counted once, and ended when the service is.

use std::sync::Arc;

use bodhi_proto::chat::{Fault, FaultCode, Usage};
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use super::InFlight;
use crate::metrics::{Counters, Method, Outcome};

/// A request in flight. Dropped before it ended, its caller has gone.
pub(super) struct Call {
    counters: Arc<Counters>,
    method: Method,
    outcome: Outcome,
    in_flight: InFlight,
}

impl Call {
    pub(super) fn new(counters: Arc<Counters>, method: Method, in_flight: InFlight) -> Self {
        in_flight.count.send_modify(|count| *count += 1);
        Self {
            counters,
            method,
            outcome: Outcome::CallerGone,
            in_flight,
        }
    }

    /// Ends the request when it is cancelled.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.in_flight.cut
    }

    /// What its caller is told then.
    pub(super) fn last_word(&self) -> Fault {
        self.in_flight.last_word()
    }

    /// A part of the request's work.
    pub(super) async fn run<T>(
        &mut self,
        work: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Status> {
        let done = tokio::select! {
            done = work => done,
            () = self.in_flight.cut.cancelled() => Err(self.in_flight.last_word()),
        };
        done.map_err(|fault| self.fail(fault))
    }

    /// All of the work of a request with one answer.
    pub(super) async fn answer<T>(
        mut self,
        work: impl Future<Output = Result<(T, Usage), Fault>>,
    ) -> Result<Response<T>, Status> {
        let (answer, usage) = self.run(work).await?;
        self.complete(&usage);
        Ok(Response::new(answer))
    }

    /// The answer is whole.
    pub(super) fn complete(&mut self, usage: &Usage) {
        self.outcome = Outcome::Complete;
        self.counters.used(usage);
    }

    /// There will be no answer, or no more of it.
    pub(super) fn fail(&mut self, fault: Fault) -> Status {
        self.outcome = match fault.code {
            FaultCode::Failed | FaultCode::Lost => Outcome::Failed,
            _ => Outcome::Refused,
        };
        if self.outcome == Outcome::Failed {
            tracing::warn!(method = ?self.method, error = %fault, "a request failed");
        }
        fault.into()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.counters.ended(self.method, self.outcome);
        self.in_flight.count.send_modify(|count| *count -= 1);
    }
}
