//! What a worker's pod is: hardened, with its model's volumes, and told by probes.
//!
//! Everything here may change from release to release without restarting a pod: what is applied
//! stays until the [intent](super::intent) behind it changes.

use bodhi_proto::names::ObjectRef;
use serde_json::{Map, Value, json};

use super::Release;
use super::names::{ALIAS_ANNOTATION, INSTANCE_LABEL, MANAGED_BY_LABEL, MANAGER, NAME_LABEL};
use super::names::{RELEASE_LABEL, WORKER, object_name};
use crate::api::{CacheType, RESTARTED_AT_ANNOTATION};
use crate::compile::Credentials;
use crate::runtime::Wanted;
use crate::runtime::flags::{TOKEN, flags};

/// The container's name.
pub(super) const CONTAINER: &str = "worker";
/// Where data planes connect.
pub(super) const GRPC_PORT: u16 = 1139;
/// Probes and metrics.
pub(super) const ADMIN_PORT: u16 = 1140;
/// On a pod: requests that its worker serves at once.
pub(super) const SLOTS_ANNOTATION: &str = "bodhi.dev/parallel-slots";
/// What a worker serves at once that was not told (`--parallel-slots`).
pub(super) const DEFAULT_SLOTS: u32 = 4;

/// A pod that is to go serves on for as long as data planes may take to hear of it.
const WITHDRAWN: u32 = 5;
/// What is left after the last request, before the kubelet kills.
const FAREWELL: u32 = 5;
/// The user and group of our images.
const USER: u32 = 65_532;
/// A start that makes no progress ends by itself (`--stall`): the kubelet need not know how long
/// a download takes.
const STARTUP_SECONDS: u32 = 24 * 60 * 60;
const STARTUP_PERIOD: u32 = 2;

const CACHE: &str = "/var/cache/bodhi";
const CLAIMS: &str = "/claims";
const TOKEN_FOLDER: &str = "/var/run/secrets/bodhi";
const AUTHORITIES_FOLDER: &str = "/etc/bodhi/ca";
/// The key of [`authorities`]'s certificates (PEM).
pub(super) const AUTHORITIES_KEY: &str = "ca.crt";
/// Whom the token of a pod is for.
const AUDIENCE: &str = "bodhi-controller";

/// The ConfigMap, in each namespace with workers, of the certificates that they believe.
pub(super) fn authorities(release: &str) -> String {
    format!("bodhi-authorities-{release}")
}

/// The labels of everything that belongs to an Alias's workers.
pub(super) fn labels(alias: &ObjectRef, release: &str) -> Value {
    json!({
        NAME_LABEL: WORKER,
        INSTANCE_LABEL: object_name(&alias.name),
        MANAGED_BY_LABEL: MANAGER,
        RELEASE_LABEL: release,
    })
}

/// The pod template of an Alias's Deployment.
pub(super) fn template(wanted: &Wanted, namespace: &str, release: &Release) -> Value {
    let pod = &wanted.pod;
    let slots = wanted.worker.engine.parallel_slots.unwrap_or(DEFAULT_SLOTS);
    let mut annotations = json!({
        ALIAS_ANNOTATION: &*wanted.object.name,
        SLOTS_ANNOTATION: slots.to_string(),
        "kubectl.kubernetes.io/default-container": CONTAINER,
    });
    if let Some(at) = &pod.restarted_at {
        annotations[RESTARTED_AT_ANNOTATION] = json!(at);
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": WITHDRAWN + release.drain_seconds + FAREWELL,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "containers": [container(wanted, release)],
        "volumes": volumes(wanted, namespace),
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            spec[key] = value;
        }
    };
    let named = |name: &Option<String>| name.as_ref().map(|name| json!(name));
    set("runtimeClassName", named(&pod.runtime_class_name));
    set("priorityClassName", named(&pod.priority_class_name));
    set("affinity", pod.affinity.clone().map(Value::Object));
    let selector = Some(&pod.node_selector).filter(|selector| !selector.is_empty());
    set("nodeSelector", selector.map(|selector| json!(selector)));
    let tolerations = Some(&pod.tolerations).filter(|all| !all.is_empty());
    set("tolerations", tolerations.map(|all| json!(all)));
    json!({
        "metadata": { "labels": labels(&wanted.object, namespace), "annotations": annotations },
        "spec": spec,
    })
}

fn container(wanted: &Wanted, release: &Release) -> Value {
    let probe = |path: &str| json!({ "httpGet": { "path": path, "port": "admin" } });
    let with = |mut probe: Value, more: Value| {
        merge(&mut probe, more);
        probe
    };
    let mut container = json!({
        "name": CONTAINER,
        "image": release.image,
        "imagePullPolicy": release.image_pull_policy,
        "args": arguments(wanted, release),
        "env": environment(wanted, release),
        "ports": [
            { "name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP" },
            { "name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP" },
        ],
        "startupProbe": with(probe("/startupz"), json!({
            "periodSeconds": STARTUP_PERIOD,
            "failureThreshold": STARTUP_SECONDS / STARTUP_PERIOD,
        })),
        "livenessProbe": with(probe("/livez"), json!({
            "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6,
        })),
        "readinessProbe": with(probe("/readyz"), json!({
            "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 3,
        })),
        // KEP 3960; on since Kubernetes 1.30.
        "lifecycle": { "preStop": { "sleep": { "seconds": WITHDRAWN } } },
        "terminationMessagePath": "/dev/termination-log",
        // Of one that ends without its last word, such as by a signal.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": mounts(wanted),
    });
    let resources = json!(wanted.pod.resources);
    if resources != json!({}) {
        container["resources"] = resources;
    }
    container
}

fn arguments(wanted: &Wanted, release: &Release) -> Vec<String> {
    let mut arguments = flags(&wanted.object, &wanted.worker);
    let listen = |port| std::net::SocketAddr::new(release.listen, port);
    if let Some(threads) = wanted.worker.engine.threads {
        arguments.push(format!("--threads={threads}"));
    }
    arguments.extend([
        format!("--cache={CACHE}"),
        format!("--claims={CLAIMS}"),
        format!("--drain={}", release.drain_seconds),
        format!("--listen={}", listen(GRPC_PORT)),
        format!("--admin-listen={}", listen(ADMIN_PORT)),
        "--termination-log=/dev/termination-log".to_owned(),
    ]);
    arguments
}

/// How it buys its certificate, and the token of its download.
fn environment(wanted: &Wanted, release: &Release) -> Vec<Value> {
    let mut variables = vec![
        json!({ "name": "BODHI_WORKER_CONTROLLER", "value": release.controllers }),
        json!({
            "name": "BODHI_WORKER_TLS_TOKEN_FILE",
            "value": format!("{TOKEN_FOLDER}/token"),
        }),
        json!({
            "name": "BODHI_WORKER_TLS_CA",
            "value": format!("{AUTHORITIES_FOLDER}/{AUTHORITIES_KEY}"),
        }),
        json!({ "name": "HOME", "value": "/tmp" }),
    ];
    if let Some(Credentials::Reference(secret)) = &wanted.worker.credentials {
        let from = json!({ "secretKeyRef": { "name": secret.name, "key": secret.key } });
        variables.push(json!({ "name": TOKEN, "valueFrom": from }));
    }
    variables
}

fn volumes(wanted: &Wanted, namespace: &str) -> Vec<Value> {
    let cache = &wanted.pod.cache;
    let kept = match cache.type_ {
        CacheType::EmptyDir => json!({ "name": "cache", "emptyDir": {} }),
        CacheType::PersistentVolumeClaim => json!({
            "name": "cache", "persistentVolumeClaim": { "claimName": cache.claim_name },
        }),
        // It is not made: what the kubelet makes belongs to root.
        CacheType::HostPath => json!({
            "name": "cache", "hostPath": { "path": cache.path, "type": "Directory" },
        }),
    };
    let token = json!({
        "audience": AUDIENCE, "expirationSeconds": 3600, "path": "token",
    });
    let mut volumes = vec![
        kept,
        json!({ "name": "tmp", "emptyDir": {} }),
        json!({ "name": "token", "projected": {
            "defaultMode": 0o440, "sources": [{ "serviceAccountToken": token }],
        } }),
        json!({ "name": "authorities", "configMap": { "name": authorities(namespace) } }),
    ];
    if let Some(claim) = claim(wanted) {
        volumes.push(json!({
            "name": "model", "persistentVolumeClaim": { "claimName": claim, "readOnly": true },
        }));
    }
    volumes
}

fn mounts(wanted: &Wanted) -> Vec<Value> {
    let mut mounts = vec![
        json!({ "name": "cache", "mountPath": CACHE }),
        json!({ "name": "tmp", "mountPath": "/tmp" }),
        json!({ "name": "token", "mountPath": TOKEN_FOLDER, "readOnly": true }),
        json!({ "name": "authorities", "mountPath": AUTHORITIES_FOLDER, "readOnly": true }),
    ];
    if let Some(claim) = claim(wanted) {
        let path = format!("{CLAIMS}/{claim}");
        mounts.push(json!({ "name": "model", "mountPath": path, "readOnly": true }));
    }
    mounts
}

/// The claim that holds the model, of `pvc://CLAIM/PATH`.
fn claim(wanted: &Wanted) -> Option<&str> {
    let rest = wanted.worker.source.strip_prefix("pvc://")?;
    rest.split('/').next().filter(|claim| !claim.is_empty())
}

fn merge(into: &mut Value, more: Value) {
    let (Some(into), Value::Object(more)) = (into.as_object_mut(), more) else {
        return;
    };
    into.extend::<Map<String, Value>>(more);
}
