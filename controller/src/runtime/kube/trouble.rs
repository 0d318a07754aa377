//! Why a pod does not serve, in the words of whoever knows: the worker, the kubelet, the
//! scheduler. Pure.

use bodhi_proto::chat::Failure;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod,
};
use serde::Deserialize;

use super::template::CONTAINER;
use crate::api::Reason;
use crate::runtime::Trouble;

/// The exit code of a wrong command line, as clap has it.
const USAGE: i32 = 2;

/// What a worker leaves behind: `inference-worker/src/exit.rs` writes it.
#[derive(Deserialize)]
struct LastWord {
    reason: String,
    message: String,
}

/// Why this pod takes no requests, if something is wrong with it.
pub(super) fn of_pod(pod: &Pod) -> Option<Trouble> {
    evicted(pod)
        .or_else(|| of_container(pod))
        .or_else(|| unschedulable(pod))
}

/// Why there are no pods at all: a quota, an admission webhook, pod security.
pub(super) fn of_deployment(deployment: &Deployment) -> Option<Trouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failing = conditions.iter().find(|c| {
        c.type_.as_deref() == Some("ReplicaFailure") && c.status.as_deref() == Some("True")
    })?;
    let message = failing.message.clone().unwrap_or_default();
    Some(trouble(Reason::PodRefused, message, 1))
}

/// A pod that its node has ended: another one takes its place.
fn evicted(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Failed") {
        return None;
    }
    let message = status.message.as_deref().unwrap_or_default();
    let why = match status.reason.as_deref()? {
        "Evicted" if message.contains("memory") => Reason::OutOfMemoryKilled,
        "Evicted" if message.contains("ephemeral-storage") || message.contains("EmptyDir") => {
            Reason::CacheFull
        }
        _ => return None,
    };
    Some(trouble(why, message.to_owned(), 1))
}

fn of_container(pod: &Pod) -> Option<Trouble> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status = statuses.iter().find(|status| status.name == CONTAINER)?;
    let waiting = status.state.as_ref().and_then(|s| s.waiting.as_ref());
    let reason = waiting.and_then(|w| w.reason.as_deref());
    let message = || waiting.and_then(|w| w.message.clone()).unwrap_or_default();
    let why = match reason {
        Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
            let image = format!("image {}: {}", status.image, message());
            return Some(trouble(Reason::ImageUnavailable, image, 1));
        }
        Some(
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "StartError",
        ) => Some(Reason::PodNotStarted),
        _ => None,
    };
    if let Some(why) = why {
        return Some(trouble(why, message(), 1));
    }
    let ended = ended(status)?;
    let times = u32::try_from(status.restart_count).unwrap_or(1).max(1);
    let failure = last_word(ended).unwrap_or_else(|| unexplained(ended, pod));
    Some(Trouble { failure, times })
}

/// How its last run ended, if that was not in good order.
fn ended(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    fn end(state: &Option<ContainerState>) -> Option<&ContainerStateTerminated> {
        state.as_ref()?.terminated.as_ref()
    }
    let last = end(&status.state).or_else(|| end(&status.last_state))?;
    (last.exit_code != 0).then_some(last)
}

fn last_word(ended: &ContainerStateTerminated) -> Option<Failure> {
    // Nobody who is killed has a last word; what is there is an earlier one's.
    if ended.reason.as_deref() == Some("OOMKilled") {
        return None;
    }
    let line = ended.message.as_deref()?.trim_end().lines().last()?;
    let word: LastWord = serde_json::from_str(line).ok()?;
    Some(Failure {
        reason: word.reason,
        message: word.message,
    })
}

fn unexplained(ended: &ContainerStateTerminated, pod: &Pod) -> Failure {
    let code = ended.exit_code;
    let (why, message) = match ended.reason.as_deref() {
        Some("OOMKilled") => {
            let message = match memory_limit(pod) {
                Some(limit) => format!(
                    "the worker needed more than its memory limit of {limit}: raise \
                     resources.limits.memory, or lower engine.contextLength or parallelSlots"
                ),
                None => "its node ran out of memory: set resources.requests.memory, or lower \
                         engine.contextLength or parallelSlots"
                    .to_owned(),
            };
            (Reason::OutOfMemoryKilled, message)
        }
        _ if code == USAGE => {
            let message = format!("it does not take its flags: {}", said(ended));
            (Reason::WorkerCrashed, message)
        }
        // A shell's way to write a signal.
        _ if code > 128 => {
            let message = format!("it was ended by signal {}{}", code - 128, after(ended));
            (Reason::WorkerCrashed, message)
        }
        _ => {
            let message = format!("it ended with exit code {code}{}", after(ended));
            (Reason::WorkerCrashed, message)
        }
    };
    Failure {
        reason: why.as_str().into(),
        message,
    }
}

/// The last line of its log, where the kubelet kept it.
fn said(ended: &ContainerStateTerminated) -> &str {
    let message = ended.message.as_deref().unwrap_or_default();
    message.trim_end().lines().last().unwrap_or_default()
}

fn after(ended: &ContainerStateTerminated) -> String {
    match said(ended) {
        "" => String::new(),
        line => format!("; its last words: {line}"),
    }
}

fn memory_limit(pod: &Pod) -> Option<&str> {
    let containers = &pod.spec.as_ref()?.containers;
    let ours = |c: &&Container| c.name == CONTAINER;
    let resources = containers.iter().find(ours)?.resources.as_ref()?;
    let limit = resources.limits.as_ref()?.get("memory")?;
    Some(&limit.0)
}

fn unschedulable(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    let message = scheduled.message.clone()?;
    Some(trouble(Reason::Unschedulable, message, 1))
}

fn trouble(reason: Reason, message: String, times: u32) -> Trouble {
    let failure = Failure {
        reason: reason.as_str().into(),
        message,
    };
    Trouble { failure, times }
}
