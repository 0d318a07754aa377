//! The objects of one Alias's workers, as they are applied. Pure.
//!
//! A controller that is upgraded renders templates of its own kind and names another image, and
//! must not restart workers for that: loading a model takes minutes and its GPU. So a Deployment
//! remembers the intent behind its pods, which is what the Alias says, and the template that was
//! made of it. While the intent is the same, so is the template. The annotation
//! `bodhi.dev/restarted-at` on an Alias is part of its intent: another value renders anew.

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Settings;
use super::names::{ALIAS_ANNOTATION, INSTANCE_LABEL, NAME_LABEL, WORKER, hex, object_name};
use super::template::{ADMIN_PORT, AUTHORITIES_KEY, GRPC_PORT, authorities, labels, template};
use crate::api::{API_VERSION, Alias};
use crate::compile::{Credentials, Rollout};
use crate::runtime::Wanted;
use crate::runtime::flags::flags;

/// Raised where every worker pod must be replaced by an upgrade, which is said in its notes.
const TEMPLATE_REVISION: u32 = 1;

/// On a Deployment: the digest of what its template was made of.
const INTENT_ANNOTATION: &str = "bodhi.dev/intent";
/// On a Deployment: the template, as it was applied.
const TEMPLATE_ANNOTATION: &str = "bodhi.dev/template";

/// What is applied for one Alias.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Desired {
    pub(super) deployment: Value,
    /// Headless: its name has the addresses of all workers that are ready.
    pub(super) service: Value,
}

/// What should be there. `live` is the Deployment that is.
pub(super) fn desired(wanted: &Wanted, settings: &Settings, live: Option<&Deployment>) -> Desired {
    let intent = intent(wanted);
    let kept = live.and_then(|live| kept_template(live, &intent));
    let template =
        kept.unwrap_or_else(|| template(wanted, &settings.release_namespace, &settings.release));
    let selector = json!({
        NAME_LABEL: WORKER,
        INSTANCE_LABEL: object_name(&wanted.object.name),
    });
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(wanted, settings),
        "spec": {
            "replicas": wanted.replicas,
            "revisionHistoryLimit": 2,
            // A download may take its time.
            "progressDeadlineSeconds": 3600,
            "selector": { "matchLabels": selector },
            "strategy": strategy(wanted.rollout),
        },
    });
    deployment["metadata"]["annotations"][INTENT_ANNOTATION] = json!(intent);
    deployment["metadata"]["annotations"][TEMPLATE_ANNOTATION] = json!(template.to_string());
    deployment["spec"]["template"] = template;
    let port = |name: &str, port: u16| json!({ "name": name, "port": port, "targetPort": name, "protocol": "TCP" });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(wanted, settings),
        "spec": {
            "clusterIP": "None",
            "selector": selector,
            "ports": [port("grpc", GRPC_PORT), port("admin", ADMIN_PORT)],
        },
    });
    Desired {
        deployment,
        service,
    }
}

/// What the workers of a namespace believe, for which a Secret of the release cannot be mounted.
pub(super) fn authorities_of(namespace: &str, settings: &Settings, certificates: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": authorities(&settings.release_namespace),
            "namespace": namespace,
            "labels": {
                NAME_LABEL: WORKER,
                super::names::MANAGED_BY_LABEL: super::names::MANAGER,
                super::names::RELEASE_LABEL: &*settings.release_namespace,
            },
        },
        "data": { AUTHORITIES_KEY: certificates },
    })
}

fn metadata(wanted: &Wanted, settings: &Settings) -> Value {
    let alias = &wanted.object;
    json!({
        "name": object_name(&alias.name),
        "namespace": &*alias.namespace,
        "labels": labels(alias, &settings.release_namespace),
        "annotations": { ALIAS_ANNOTATION: &*alias.name },
        "ownerReferences": [{
            "apiVersion": API_VERSION,
            "kind": <Alias as kube::Resource>::kind(&()),
            "name": &*alias.name,
            "uid": &*wanted.uid,
            "controller": true,
            "blockOwnerDeletion": true,
        }],
    })
}

fn strategy(rollout: Rollout) -> Value {
    let rolling = |surge: u32, unavailable: u32| {
        json!({
            "type": "RollingUpdate",
            "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable },
        })
    };
    match rollout {
        Rollout::Surge => rolling(1, 0),
        Rollout::InPlace => rolling(0, 1),
        Rollout::Recreate => json!({ "type": "Recreate" }),
    }
}

/// A digest of what the Alias says of its pods. A release that adds something to say leaves it
/// out where nothing is said: this must not change for an Alias that did not.
fn intent(wanted: &Wanted) -> String {
    let pod = &wanted.pod;
    // Where downloads may go is the operator's to say, and a pod that runs has its model.
    let mut said = flags(&wanted.object, &wanted.worker);
    said.retain(|flag| !flag.starts_with("--egress="));
    let secret = match &wanted.worker.credentials {
        Some(Credentials::Reference(secret)) => json!([secret.name, secret.key]),
        _ => Value::Null,
    };
    let mut said = json!([
        TEMPLATE_REVISION,
        said,
        wanted.worker.engine.threads,
        secret,
        pod.cache,
        pod.resources,
        pod.node_selector,
        pod.tolerations,
        pod.affinity,
        pod.runtime_class_name,
        pod.priority_class_name,
        pod.restarted_at,
    ]);
    // Whatever order this build of serde_json keeps.
    said.sort_all_objects();
    hex(&Sha256::digest(said.to_string().as_bytes()), 32)
}

fn kept_template(live: &Deployment, intent: &str) -> Option<Value> {
    let annotations = live.annotations();
    if annotations.get(INTENT_ANNOTATION)? != intent {
        return None;
    }
    serde_json::from_str(annotations.get(TEMPLATE_ANNOTATION)?).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use bodhi_proto::names::ObjectRef;
    use bodhi_proto::snapshot::{EgressScope, LocalFeatures};

    use super::super::Release;
    use super::*;
    use crate::api::{Cache, CacheType, Engine, KeyRef, Resources, Toleration};
    use crate::compile::{WorkerPod, WorkerSpec};

    pub(crate) fn settings() -> Settings {
        Settings {
            release_namespace: "bodhi".into(),
            release: Release {
                image: "ghcr.io/bodhi/worker:1.0".into(),
                image_pull_policy: "IfNotPresent".into(),
                listen: "0.0.0.0".parse().unwrap(),
                controllers: "https://bodhi-controller.bodhi.svc:1138".into(),
                drain_seconds: 600,
            },
        }
    }

    pub(crate) fn wanted() -> Wanted {
        Wanted {
            object: ObjectRef::alias("team", "qwen"),
            uid: "1b6c".into(),
            worker: WorkerSpec {
                source: "hf://o/r/m.gguf".into(),
                revision: Some("abc".into()),
                sha256: None,
                allow_floating: false,
                credentials: None,
                egress: EgressScope::Tenant([].into()),
                engine: Engine::default(),
                features: LocalFeatures {
                    chat: true,
                    completions: true,
                    ..LocalFeatures::default()
                },
            },
            pod: WorkerPod::default(),
            replicas: 2,
            ceiling: 2,
            rollout: Rollout::Surge,
        }
    }

    /// All that an Alias can say.
    fn full() -> Wanted {
        let affinity = json!({ "nodeAffinity": {} });
        let mut wanted = wanted();
        wanted.worker.source = "pvc://models/a/m.gguf".into();
        wanted.worker.engine.parallel_slots = Some(8);
        wanted.worker.engine.threads = Some(6);
        wanted.worker.credentials = Some(Credentials::Reference(KeyRef {
            name: "hub".into(),
            key: "token".into(),
        }));
        wanted.rollout = Rollout::Recreate;
        wanted.pod = WorkerPod {
            cache: Cache {
                type_: CacheType::PersistentVolumeClaim,
                claim_name: Some("cache".into()),
                path: None,
            },
            resources: Resources {
                limits: BTreeMap::from([("nvidia.com/gpu".into(), json!(1))]),
                requests: BTreeMap::new(),
            },
            node_selector: BTreeMap::from([("gpu".into(), "a100".into())]),
            tolerations: vec![Toleration {
                key: Some("gpu".into()),
                operator: Some("Exists".into()),
                value: None,
                effect: None,
                toleration_seconds: None,
            }],
            affinity: affinity.as_object().cloned(),
            runtime_class_name: Some("nvidia".into()),
            priority_class_name: Some("high".into()),
            restarted_at: Some("2026-11-28".into()),
        };
        wanted
    }

    fn rendered(desired: &Desired) -> String {
        let pretty = |object: &Value| {
            let mut object = object.clone();
            object.sort_all_objects();
            serde_json::to_string_pretty(&object).unwrap()
        };
        let mut deployment = desired.deployment.clone();
        // It is the template once more.
        deployment["metadata"]["annotations"][TEMPLATE_ANNOTATION] = json!("…");
        format!("{}\n{}", pretty(&deployment), pretty(&desired.service))
    }

    #[test]
    fn an_alias_that_says_little_gets_a_hardened_pod() {
        insta::assert_snapshot!(rendered(&desired(&wanted(), &settings(), None)));
    }

    #[test]
    fn what_an_alias_says_of_its_pods_is_in_them() {
        insta::assert_snapshot!(rendered(&desired(&full(), &settings(), None)));
    }

    #[test]
    fn objects_read_as_what_the_api_server_takes_them_for() {
        for wanted in [wanted(), full()] {
            let desired = desired(&wanted, &settings(), None);
            let deployment: Deployment =
                serde_json::from_value(desired.deployment.clone()).unwrap();
            let service: k8s_openapi::api::core::v1::Service =
                serde_json::from_value(desired.service.clone()).unwrap();
            // Nothing was left out as unknown.
            assert_eq!(serde_json::to_value(service).unwrap(), desired.service);
            let again = serde_json::to_value(deployment).unwrap();
            assert_eq!(
                again["spec"]["template"]["spec"]["containers"][0]["lifecycle"],
                desired.deployment["spec"]["template"]["spec"]["containers"][0]["lifecycle"]
            );
        }
    }

    fn template_of(desired: &Desired) -> &Value {
        &desired.deployment["spec"]["template"]
    }

    #[test]
    fn an_upgrade_of_the_controller_restarts_no_pod() {
        let before = desired(&wanted(), &settings(), None);
        let mut live: Deployment = serde_json::from_value(before.deployment.clone()).unwrap();
        let mut newer = settings();
        newer.release.image = "ghcr.io/bodhi/worker:2.0".into();
        newer.release.drain_seconds = 30;
        let mut more = wanted();
        more.replicas = 5;
        more.worker.egress = EgressScope::Release;
        let after = desired(&more, &newer, Some(&live));
        assert_eq!(template_of(&after), template_of(&before));
        assert_eq!(after.deployment["spec"]["replicas"], 5);
        // Who renders otherwise next year finds what was applied, and not what it would render.
        let annotations = live.metadata.annotations.as_mut().unwrap();
        annotations.insert(TEMPLATE_ANNOTATION.into(), r#"{"old":1}"#.into());
        let after = desired(&wanted(), &newer, Some(&live));
        assert_eq!(*template_of(&after), json!({ "old": 1 }));
    }

    #[test]
    fn whatever_the_alias_says_anew_takes_the_new_release_along() {
        let before = desired(&wanted(), &settings(), None);
        let live: Deployment = serde_json::from_value(before.deployment).unwrap();
        let mut newer = settings();
        newer.release.image = "ghcr.io/bodhi/worker:2.0".into();
        let changes: [fn(&mut Wanted); 6] = [
            |w| w.worker.revision = Some("def".into()),
            |w| w.worker.engine.threads = Some(2),
            |w| w.pod.restarted_at = Some("now".into()),
            |w| w.pod.cache.type_ = CacheType::PersistentVolumeClaim,
            |w| drop(w.pod.node_selector.insert("zone".into(), "a".into())),
            |w| w.pod.priority_class_name = Some("high".into()),
        ];
        for change in changes {
            let mut wanted = wanted();
            change(&mut wanted);
            let after = desired(&wanted, &newer, Some(&live));
            let image = &template_of(&after)["spec"]["containers"][0]["image"];
            assert_eq!(*image, "ghcr.io/bodhi/worker:2.0");
        }
    }

    /// Where this fails, an upgrade would restart the workers of every Alias: put back what was,
    /// or raise [`TEMPLATE_REVISION`] and say so in the notes.
    #[test]
    fn the_intent_of_an_alias_is_the_same_in_every_release() {
        insta::assert_snapshot!(format!("{}\n{}", intent(&wanted()), intent(&full())));
    }
}
