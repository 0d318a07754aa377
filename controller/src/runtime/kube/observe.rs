//! An Alias's pods as data planes and conditions are to know them. Pure.

use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::{WorkerAddress, WorkerEndpoint, WorkerId};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;

use super::template::{DEFAULT_SLOTS, GRPC_PORT, SLOTS_ANNOTATION};
use super::trouble;
use crate::runtime::{ModelState, Trouble};

/// The workers of one Alias.
///
/// A pod takes requests while it is ready and nobody has asked it to go: from its
/// `deletionTimestamp` on it is left out, and goes on serving for as long as it takes data planes
/// to hear of that.
pub(super) fn observe<'p>(
    alias: &ObjectRef,
    pods: impl IntoIterator<Item = &'p Pod>,
    deployment: Option<&Deployment>,
) -> ModelState {
    let replicas = deployment.and_then(|it| it.spec.replicas);
    let mut state = ModelState {
        sized: replicas.and_then(|replicas| u32::try_from(replicas).ok()),
        ..ModelState::default()
    };
    let mut troubles: Vec<Trouble> = Vec::new();
    let mut evictions: Vec<Trouble> = Vec::new();
    for pod in pods {
        if pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if is_over(pod) {
            evictions.extend(trouble::of_pod(pod));
            continue;
        }
        state.replicas += 1;
        match endpoint(alias, pod) {
            Some(endpoint) => state.ready.push(endpoint),
            None => troubles.extend(trouble::of_pod(pod)),
        }
    }
    state.ready.sort_by(|a, b| a.id.cmp(&b.id));
    if state.ready.is_empty() && !evictions.is_empty() {
        let times = u32::try_from(evictions.len()).unwrap_or(u32::MAX);
        // One that was ended by its node has been replaced already: the others say more.
        troubles.extend(evictions.pop().map(|last| Trouble { times, ..last }));
    }
    if troubles.is_empty() {
        troubles.extend(deployment.and_then(trouble::of_deployment));
    }
    state.failure = troubles.into_iter().max_by_key(|trouble| trouble.times);
    state
}

/// It will never run again, and is only kept to be read.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

fn endpoint(alias: &ObjectRef, pod: &Pod) -> Option<WorkerEndpoint> {
    let status = pod.status.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    if !conditions.any(|c| c.type_ == "Ready" && c.status == "True") {
        return None;
    }
    let address = match status.pod_ip.as_deref()? {
        ip if ip.contains(':') => format!("[{ip}]:{GRPC_PORT}"),
        ip => format!("{ip}:{GRPC_PORT}"),
    };
    let annotations = pod.metadata.annotations.as_ref();
    let slots = annotations.and_then(|all| all.get(SLOTS_ANNOTATION));
    Some(WorkerEndpoint {
        id: WorkerId {
            pool: alias.clone(),
            worker: pod.metadata.uid.as_deref()?.into(),
        },
        address: WorkerAddress::parse(&address)?,
        slots: slots
            .and_then(|slots| slots.parse().ok())
            .unwrap_or(DEFAULT_SLOTS)
            .max(1),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, status: Value) -> Pod {
        let pod = json!({
            "metadata": {
                "name": name, "uid": format!("uid-{name}"),
                "annotations": { "bodhi.dev/parallel-slots": "8" },
            },
            "spec": { "containers": [
                { "name": "worker", "resources": { "limits": { "memory": "8Gi" } } },
            ] },
            "status": status,
        });
        serde_json::from_value(pod).expect("a pod")
    }

    fn ready(name: &str, ip: &str) -> Pod {
        let ready = json!([{ "type": "Ready", "status": "True" }]);
        pod(
            name,
            json!({ "phase": "Running", "podIP": ip, "conditions": ready }),
        )
    }

    fn container(restarts: u32, state: Value, last: Value) -> Pod {
        let status = json!({
            "name": "worker", "image": "ghcr.io/bodhi/worker:1", "imageID": "", "ready": false,
            "restartCount": restarts, "state": state, "lastState": last,
        });
        pod(
            "a",
            json!({ "phase": "Running", "containerStatuses": [status] }),
        )
    }

    fn crash(reason: &str, code: i32, message: &str) -> Value {
        json!({ "terminated": { "exitCode": code, "reason": reason, "message": message } })
    }

    fn state(pods: &[Pod]) -> ModelState {
        observe(&ObjectRef::alias("team", "q"), pods, None)
    }

    #[test]
    fn pods_that_are_ready_and_stay_take_requests() {
        let leaving = {
            let mut pod = ready("c", "10.0.0.3");
            let at = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
            pod.metadata.deletion_timestamp = Some(at);
            pod
        };
        let unready = json!([{ "type": "Ready", "status": "False" }]);
        let unready = json!({ "phase": "Running", "podIP": "10.0.0.4", "conditions": unready });
        let over = json!({ "phase": "Succeeded" });
        let pods = [
            ready("b", "fd00::2"),
            ready("a", "10.0.0.1"),
            leaving,
            pod("d", unready),
            pod("e", over),
        ];
        let state = state(&pods);
        let shown: Vec<String> = state
            .ready
            .iter()
            .map(|e| format!("{} {} {}", e.id.worker, e.address, e.slots))
            .collect();
        assert_eq!(shown, ["uid-a 10.0.0.1:1139 8", "uid-b [fd00::2]:1139 8"]);
        assert_eq!(state.replicas, 3);
        assert_eq!(state.failure, None);
    }

    #[test]
    fn what_is_wrong_is_told_by_whoever_knows_with_its_numbers() {
        let backoff =
            json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 5m0s" } });
        let memory = r#"{"reason":"InsufficientMemory","message":"needs 11.2 GiB, 8.0 GiB free","exitCode":30}"#;
        let logged = format!("2026-01-01 loading\n{memory}\n");
        let pull = "rpc error: code = NotFound: no such manifest";
        let pull = json!({ "waiting": { "reason": "ImagePullBackOff", "message": pull } });
        let config = json!({ "waiting": {
            "reason": "CreateContainerConfigError", "message": "secret \"hub\" not found",
        } });
        let nowhere = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.";
        let nowhere = json!([{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": nowhere,
        }]);
        let killed = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi";
        let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": killed });
        let running = json!({ "running": {} });
        for (pod, reason, message, times) in [
            (
                container(3, backoff.clone(), crash("Error", 30, memory)),
                "InsufficientMemory",
                "needs 11.2 GiB, 8.0 GiB free",
                3,
            ),
            (
                container(1, crash("Error", 30, &logged), Value::Null),
                "InsufficientMemory",
                "needs 11.2 GiB, 8.0 GiB free",
                1,
            ),
            (
                container(7, running.clone(), crash("OOMKilled", 137, memory)),
                "OutOfMemoryKilled",
                "the worker needed more than its memory limit of 8Gi: raise \
                 resources.limits.memory, or lower engine.contextLength or parallelSlots",
                7,
            ),
            (
                container(2, backoff.clone(), crash("Error", 139, "")),
                "WorkerCrashed",
                "it was ended by signal 11",
                2,
            ),
            (
                container(
                    2,
                    backoff.clone(),
                    crash("Error", 2, "error: unexpected '--x'\n"),
                ),
                "WorkerCrashed",
                "it does not take its flags: error: unexpected '--x'",
                2,
            ),
            (
                container(2, backoff, crash("Error", 1, "oh\nno\n")),
                "WorkerCrashed",
                "it ended with exit code 1; its last words: no",
                2,
            ),
            (
                container(0, pull, Value::Null),
                "ImageUnavailable",
                "image ghcr.io/bodhi/worker:1: rpc error: code = NotFound: no such manifest",
                1,
            ),
            (
                container(0, config, Value::Null),
                "PodNotStarted",
                "secret \"hub\" not found",
                1,
            ),
            (
                pod("a", json!({ "phase": "Pending", "conditions": nowhere })),
                "Unschedulable",
                "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                1,
            ),
            (pod("a", evicted), "CacheFull", killed, 1),
        ] {
            let trouble = state(&[pod]).failure.expect(reason);
            let said = (&*trouble.failure.reason, &*trouble.failure.message);
            assert_eq!((said, trouble.times), ((reason, message), times));
        }
        // An end in good order is no failure, nor is a start.
        let fine = crash("Completed", 0, "");
        assert_eq!(state(&[container(1, running.clone(), fine)]).failure, None);
        assert_eq!(state(&[container(0, running, Value::Null)]).failure, None);
    }

    #[test]
    fn an_eviction_is_forgotten_once_another_pod_serves() {
        let message = "The node was low on resource: memory.";
        let evicted = json!({ "phase": "Failed", "reason": "Evicted", "message": message });
        let evicted = |name| pod(name, evicted.clone());
        let trouble = state(&[evicted("a"), evicted("b")]).failure.unwrap();
        assert_eq!(trouble.failure.reason, "OutOfMemoryKilled");
        assert_eq!(trouble.times, 2);
        let served = state(&[evicted("a"), ready("b", "10.0.0.1")]);
        assert_eq!((served.failure, served.replicas), (None, 1));
    }

    #[test]
    fn pods_that_may_not_be_made_are_told_by_their_deployment() {
        let message = "pods \"q-1\" is forbidden: exceeded quota: gpus";
        let deployment = json!({ "status": { "conditions": [
            { "type": "ReplicaFailure", "status": "True", "message": message },
        ] } });
        let deployment = serde_json::from_value(deployment).unwrap();
        let alias = ObjectRef::alias("team", "q");
        let trouble = observe(&alias, [], Some(&deployment)).failure.unwrap();
        assert_eq!(trouble.failure.reason, "PodRefused");
        assert_eq!(trouble.failure.message, message);
    }
}
