//! The worker's state, for as long as somebody watches: at once, and at each change, but no
//! faster than it can be of use.

use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::{Phase, Report};
use bodhi_proto::wire::inference as pb;
use futures_util::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::state::State;

/// Between two reports, at least.
const GAP: Duration = Duration::from_millis(100);
/// Between two reports of which only the progress differs.
const PROGRESS_GAP: Duration = Duration::from_millis(250);

struct Watching {
    state: Arc<State>,
    phase: watch::Receiver<Phase>,
    cut: CancellationToken,
    last: Option<(Report, Instant)>,
    /// The last report was told.
    over: bool,
}

/// Reports, until the worker has failed or the service is cut.
pub(super) fn reports(
    state: Arc<State>,
    cut: CancellationToken,
) -> impl Stream<Item = Result<pb::Report, Status>> {
    let watching = Watching {
        phase: state.watch(),
        state,
        cut,
        last: None,
        over: false,
    };
    futures_util::stream::unfold(watching, |mut watching| async {
        let report = watching.next().await?;
        Some((Ok(report.encode()), watching))
    })
}

impl Watching {
    async fn next(&mut self) -> Option<Report> {
        if self.over {
            return None;
        }
        if let Some((last, at)) = self.last.take() {
            tokio::select! {
                () = news(&self.state, &mut self.phase, &last, at) => {}
                () = self.cut.cancelled() => {}
            }
        }
        let report = self.state.report();
        self.over = self.cut.is_cancelled() || matches!(report.phase, Phase::Failed(_));
        self.last = Some((report.clone(), Instant::now()));
        Some(report)
    }
}

/// Returns when there is something new, and it is time to say so.
async fn news(state: &State, phase: &mut watch::Receiver<Phase>, last: &Report, at: Instant) {
    while state.report() == *last {
        // The load says nothing by itself: it is looked at, which costs next to nothing.
        tokio::select! {
            _ = phase.changed() => {}
            () = sleep(GAP) => {}
        }
    }
    // A new phase is worth more than the progress of the old one.
    tokio::select! {
        () = left(phase, &last.phase) => {}
        () = sleep_until(at + PROGRESS_GAP) => {}
    }
    sleep_until(at + GAP).await;
}

/// Returns when more than the progress of `before` is new.
async fn left(phase: &mut watch::Receiver<Phase>, before: &Phase) {
    let is_progress = |now: &Phase| {
        matches!(
            (before, now),
            (Phase::Downloading(_), Phase::Downloading(_)) | (Phase::Loading(_), Phase::Loading(_))
        )
    };
    // The state lives as long as the service: the sender is not gone.
    let _ = phase.wait_for(|now| !is_progress(now)).await;
}

#[cfg(test)]
mod tests {
    use bodhi_proto::chat::{Failure, Progress};
    use futures_util::StreamExt as _;

    use super::*;

    async fn told(
        reports: &mut (impl Stream<Item = Result<pb::Report, Status>> + Unpin),
    ) -> Option<(Phase, Duration)> {
        let before = Instant::now();
        let report = reports.next().await?.unwrap();
        Some((Report::decode(report).unwrap().phase, before.elapsed()))
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_told_four_times_a_second_and_phases_sooner() {
        let state = Arc::new(State::default());
        let mut reports = Box::pin(reports(Arc::clone(&state), CancellationToken::new()));
        let none = Phase::Downloading(Progress::default());
        assert_eq!(told(&mut reports).await, Some((none, Duration::ZERO)));
        let some = Phase::Downloading(Progress::new(1, 2));
        state.move_to(some.clone());
        assert_eq!(told(&mut reports).await, Some((some, PROGRESS_GAP)));
        state.move_to(Phase::Loading(Progress::default()));
        state.move_to(Phase::WarmingUp);
        assert_eq!(told(&mut reports).await, Some((Phase::WarmingUp, GAP)));
        let failed = Phase::Failed(Failure {
            reason: "ChatTemplateInvalid".into(),
            message: "line 3".into(),
        });
        state.move_to(failed.clone());
        assert_eq!(told(&mut reports).await, Some((failed, GAP)));
        assert_eq!(
            told(&mut reports).await,
            None,
            "nothing comes after a failure"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_service_ends_the_watching() {
        let cut = CancellationToken::new();
        let state = Arc::new(State::default());
        let mut reports = Box::pin(reports(Arc::clone(&state), cut.clone()));
        told(&mut reports).await.unwrap();
        cut.cancel();
        assert!(told(&mut reports).await.is_some(), "the last state");
        assert_eq!(told(&mut reports).await, None);
    }
}
