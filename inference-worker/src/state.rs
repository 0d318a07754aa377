//! How far this worker is: one value, moved on by [`crate::app`], watched by everybody else.

use std::sync::{Arc, OnceLock};

use bodhi_proto::chat::{Fault, FaultCode, Phase, Progress, Report};
use tokio::sync::watch;

use crate::serving::Serving;

/// The phase and the hand that moves it, and the model once it can serve.
pub struct State {
    phase: watch::Sender<Phase>,
    serving: OnceLock<Arc<Serving>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: watch::Sender::new(Phase::Downloading(Progress::default())),
            serving: OnceLock::new(),
        }
    }
}

impl State {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Told of every change of phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Everything, as the controller is told it.
    pub fn report(&self) -> Report {
        Report {
            phase: self.phase(),
            load: self.serving.get().map(|serving| serving.load()),
            model: self.serving.get().map(|serving| serving.info.clone()),
        }
    }

    /// The model can serve. Only the first one counts.
    pub fn ready(&self, serving: Arc<Serving>) {
        let _ = self.serving.set(serving);
        self.move_to(Phase::Ready);
    }

    /// Moves on to `phase`; never back, and only once to the same.
    pub fn move_to(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let moves = place(&phase) > place(now) || progressed(&phase, now);
            if moves {
                *now = phase;
            }
            moves
        });
    }

    /// The model, if requests are served now.
    ///
    /// # Errors
    /// Why they are not, in words for the client.
    pub fn serving(&self) -> Result<Arc<Serving>, Fault> {
        let phase = self.phase.borrow();
        match (&*phase, self.serving.get()) {
            (Phase::Ready, Some(serving)) => Ok(Arc::clone(serving)),
            (Phase::Draining, _) => {
                Err(Fault::new(FaultCode::Draining, "the worker is going down"))
            }
            (Phase::Failed(failure), _) => Err(Fault::new(
                FaultCode::Failed,
                format!("the worker cannot serve: {failure}"),
            )),
            (starting, _) => Err(Fault::new(
                FaultCode::ModelLoading,
                format!("the model is not ready yet: {}", describe(starting)),
            )),
        }
    }
}

/// One word or two for a phase, with its progress where it is known.
pub fn describe(phase: &Phase) -> String {
    let (word, progress) = match phase {
        Phase::Downloading(progress) => ("downloading", Some(progress)),
        Phase::Loading(progress) => ("loading", Some(progress)),
        Phase::WarmingUp => ("warming up", None),
        Phase::Ready => ("ready", None),
        Phase::Draining => ("draining", None),
        Phase::Failed(failure) => return failure.to_string(),
    };
    match progress.and_then(|p| p.percent()) {
        Some(percent) => format!("{word}, {percent} %"),
        None => word.to_owned(),
    }
}

fn place(phase: &Phase) -> u8 {
    match phase {
        Phase::Downloading(_) => 0,
        Phase::Loading(_) => 1,
        Phase::WarmingUp => 2,
        Phase::Ready => 3,
        Phase::Draining => 4,
        Phase::Failed(_) => 5,
    }
}

fn progressed(to: &Phase, from: &Phase) -> bool {
    match (to, from) {
        (Phase::Downloading(to), Phase::Downloading(from))
        | (Phase::Loading(to), Phase::Loading(from)) => to != from,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bodhi_proto::chat::Failure;

    use super::*;
    use crate::start::fake::testing;

    #[test]
    fn phases_only_move_forward() {
        let state = State::default();
        let half = Phase::Loading(Progress::new(500, 1000));
        state.move_to(half.clone());
        state.move_to(Phase::Downloading(Progress::new(1, 2)));
        assert_eq!(state.phase(), half);
        state.move_to(Phase::Draining);
        state.move_to(Phase::Ready);
        assert_eq!(state.phase(), Phase::Draining);
    }

    #[test]
    fn watchers_hear_of_progress_and_of_nothing_twice() {
        let state = State::default();
        let mut watching = state.watch();
        watching.mark_unchanged();
        let some = Phase::Downloading(Progress::new(7, 10));
        state.move_to(some.clone());
        assert!(watching.has_changed().unwrap());
        watching.mark_unchanged();
        state.move_to(some);
        assert!(!watching.has_changed().unwrap());
    }

    fn why_not(state: &State) -> Fault {
        state.serving().err().expect("not serving")
    }

    #[test]
    fn who_asks_too_early_or_too_late_is_told_why() {
        let state = State::default();
        state.move_to(Phase::Loading(Progress::new(250, 1000)));
        let fault = why_not(&state);
        assert_eq!(fault.code, FaultCode::ModelLoading);
        assert!(fault.message.ends_with("loading, 25 %"), "{fault}");
        state.ready(testing::serving());
        assert!(state.serving().is_ok());
        state.move_to(Phase::Draining);
        assert_eq!(why_not(&state).code, FaultCode::Draining);
        state.move_to(Phase::Failed(Failure {
            reason: "EngineHung".into(),
            message: "nothing for 60 s".into(),
        }));
        let fault = why_not(&state);
        assert_eq!(fault.code, FaultCode::Failed);
        assert!(fault.message.contains("EngineHung: nothing"), "{fault}");
    }
}
