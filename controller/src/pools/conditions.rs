//! What the owner of a local model is told of its workers. Pure.

use std::sync::Arc;

use bodhi_proto::chat::{ModelInfo, Phase, Progress};
use bodhi_proto::names::ObjectRef;

use super::Workers;
use crate::api::{Artifact, ConditionStatus, ConditionType, Reason};
use crate::compile::CompiledCondition;
use crate::runtime::{ModelState, Trouble};

/// Longest message of a condition, in characters (the CRD's bound).
const MESSAGE_MAX: usize = 1024;

/// The part of an Alias's status that comes from its workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observation {
    /// ArtifactResolved and Available.
    pub conditions: Vec<CompiledCondition>,
    /// Workers that exist.
    pub replicas: u32,
    /// What selects their pods, for the scale subresource.
    pub selector: Option<Arc<str>>,
    /// The model file.
    pub artifact: Option<Artifact>,
}

/// What there is to say of a local model.
pub fn observe(workers: &Workers, object: &ObjectRef) -> Observation {
    let none = ModelState::default();
    let model = workers.of(object).unwrap_or(&none);
    // Until it is counted, one is on its way.
    let wanted = workers.wanted.get(object).copied().unwrap_or(1);
    let mut conditions = Vec::new();
    conditions.extend(artifact_resolved(model, wanted));
    conditions.push(available(model, wanted));
    Observation {
        conditions,
        replicas: model.replicas,
        selector: model.selector.clone(),
        artifact: model.model.as_ref().map(artifact),
    }
}

/// Nothing is known of the file of a model that was never started.
fn artifact_resolved(model: &ModelState, wanted: u32) -> Option<CompiledCondition> {
    let type_ = ConditionType::ArtifactResolved;
    let trouble = model.failure.as_ref().filter(|_| model.ready.is_empty());
    if let Some(trouble) = trouble.filter(|trouble| reason_of(trouble).concerns_artifact()) {
        return Some(condition(
            type_,
            ConditionStatus::False,
            reason_of(trouble),
            told(trouble),
        ));
    }
    let read = matches!(model.starting, Some(Phase::Loading(_) | Phase::WarmingUp));
    if model.model.is_some() || !model.ready.is_empty() || read {
        let yes = Reason::ArtifactResolved;
        return Some(condition(type_, ConditionStatus::True, yes, String::new()));
    }
    match &model.starting {
        Some(Phase::Downloading(progress)) => {
            let message = format!("fetched {}", share(*progress));
            Some(condition(
                type_,
                ConditionStatus::Unknown,
                Reason::Downloading,
                message,
            ))
        }
        _ if wanted == 0 => None,
        _ => {
            let message = "no worker has read the model file yet".to_owned();
            Some(condition(
                type_,
                ConditionStatus::Unknown,
                Reason::Starting,
                message,
            ))
        }
    }
}

fn available(model: &ModelState, wanted: u32) -> CompiledCondition {
    let type_ = ConditionType::Available;
    let (ready, trouble) = (model.ready.len(), model.failure.as_ref());
    let (status, reason, message) = if ready > 0 {
        let message = match (trouble, ready < wanted as usize) {
            (Some(trouble), _) => format!(
                "{ready} of {wanted} workers ready; {}: {}",
                trouble.failure.reason,
                told(trouble)
            ),
            (None, true) => format!("{ready} of {wanted} workers ready"),
            (None, false) => String::new(),
        };
        (ConditionStatus::True, Reason::Available, message)
    } else if wanted == 0 {
        let message = "no worker runs until a request comes".to_owned();
        (ConditionStatus::True, Reason::ScaledToZero, message)
    } else if let Some(trouble) = trouble {
        (ConditionStatus::False, reason_of(trouble), told(trouble))
    } else {
        let message = match &model.starting {
            Some(Phase::Downloading(progress)) => {
                format!("the model is fetched: {}", share(*progress))
            }
            Some(Phase::Loading(progress)) => format!("the model is loaded: {}", share(*progress)),
            Some(Phase::WarmingUp) => "the model computes its first token".to_owned(),
            _ => "a worker starts".to_owned(),
        };
        (ConditionStatus::False, Reason::Starting, message)
    };
    condition(type_, status, reason, message)
}

fn condition(
    type_: ConditionType,
    status: ConditionStatus,
    reason: Reason,
    message: String,
) -> CompiledCondition {
    CompiledCondition {
        type_,
        status,
        reason,
        message: message.chars().take(MESSAGE_MAX).collect(),
    }
}

/// A worker of another release may know reasons that we do not.
fn reason_of(trouble: &Trouble) -> Reason {
    Reason::parse(&trouble.failure.reason).unwrap_or(Reason::WorkerCrashed)
}

fn told(trouble: &Trouble) -> String {
    let Trouble { failure, times } = trouble;
    match times {
        0 | 1 => failure.message.clone(),
        _ => format!("{} ({times} times in a row)", failure.message),
    }
}

/// In steps of ten percent: a status is not written for every byte.
fn share(progress: Progress) -> String {
    match progress.percent() {
        Some(percent) => format!("{} %", percent / 10 * 10),
        None => "how much there is to come is not known".to_owned(),
    }
}

fn artifact(model: &ModelInfo) -> Artifact {
    Artifact {
        size: (model.file_bytes > 0).then(|| size(model.file_bytes)),
        digest: (!model.sha256.is_empty()).then(|| format!("sha256:{}", model.sha256)),
    }
}

/// `2.3 GiB`.
fn size(bytes: u64) -> String {
    let mut scaled = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1024.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                unit => format!("{scaled:.1} {unit}"),
            };
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} TiB")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bodhi_proto::chat::Failure;

    use super::*;
    use crate::runtime::Observed;

    fn said(
        model: ModelState,
        wanted: u32,
    ) -> Vec<(&'static str, ConditionStatus, &'static str, String)> {
        let object = ObjectRef::alias("bodhi", "q");
        let workers = Workers {
            observed: Arc::new(Observed {
                version: 1,
                models: BTreeMap::from([(object.clone(), model)]),
                ..Observed::default()
            }),
            wanted: BTreeMap::from([(object.clone(), wanted)]),
        };
        let conditions = observe(&workers, &object).conditions.into_iter();
        conditions
            .map(|c| (c.type_.as_str(), c.status, c.reason.as_str(), c.message))
            .collect()
    }

    fn failed(reason: &str, times: u32) -> ModelState {
        let failure = Failure {
            reason: reason.into(),
            message: "needs 11.2 GiB, 8.0 GiB free".into(),
        };
        ModelState {
            failure: Some(Trouble { failure, times }),
            ..ModelState::default()
        }
    }

    #[test]
    fn a_file_at_fault_is_told_apart_from_a_worker_at_fault() {
        let file = said(failed("NotFound", 1), 1);
        assert_eq!((file[0].1, file[0].2), (ConditionStatus::False, "NotFound"));
        assert_eq!((file[1].1, file[1].2), (ConditionStatus::False, "NotFound"));
        let memory = said(failed("InsufficientMemory", 3), 1);
        assert_eq!(memory[0].1, ConditionStatus::Unknown);
        assert_eq!(memory[1].2, "InsufficientMemory");
        assert_eq!(
            memory[1].3,
            "needs 11.2 GiB, 8.0 GiB free (3 times in a row)"
        );
        assert_eq!(said(failed("OfTheFuture", 1), 1)[1].2, "WorkerCrashed");
    }

    #[test]
    fn progress_comes_in_steps_of_ten_percent() {
        let starting = |phase| ModelState {
            starting: Some(phase),
            ..ModelState::default()
        };
        let fetched = said(starting(Phase::Downloading(Progress::new(47, 100))), 1);
        assert_eq!(
            (fetched[0].2, &*fetched[0].3),
            ("Downloading", "fetched 40 %")
        );
        assert_eq!(&*fetched[1].3, "the model is fetched: 40 %");
        let loaded = said(starting(Phase::Loading(Progress::new(999, 1000))), 1);
        assert_eq!(
            (loaded[0].1, loaded[0].2),
            (ConditionStatus::True, "ArtifactResolved")
        );
        assert_eq!(&*loaded[1].3, "the model is loaded: 90 %");
    }

    #[test]
    fn none_on_purpose_is_available_and_says_so() {
        let asleep = said(ModelState::default(), 0);
        assert_eq!(asleep.len(), 1);
        assert_eq!(
            (asleep[0].1, asleep[0].2),
            (ConditionStatus::True, "ScaledToZero")
        );
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 20, "1.0 MiB"),
            (2_469_606_195, "2.3 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
