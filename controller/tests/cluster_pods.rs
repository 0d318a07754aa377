//! Workers as pods, on a real API server with its Deployment controller. No node runs the pods:
//! the tests say what becomes of them, as a kubelet would.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bodhi_controller::api::Engine;
use bodhi_controller::compile::{Rollout, WorkerPod, WorkerSpec};
use bodhi_controller::runtime::kube::{Config, KubeRuntime, Release, Settings};
use bodhi_controller::runtime::{ModelState, Observed, Runtime as _, Wanted};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::{EgressScope, LocalFeatures};
use bodhi_tests::cluster::{Cluster, Part};
use bodhi_tests::process::eventually;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A cluster with the namespace `team`, and what a controller's task needs.
struct World {
    cluster: Cluster,
    tokio: Runtime,
    client: kube::Client,
}

impl World {
    fn new(parts: &[Part]) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let cluster = Cluster::start(parts).unwrap();
        cluster.install_crds().unwrap();
        cluster.kubectl(&["create", "namespace", "team"]).unwrap();
        let tokio = Runtime::new().unwrap();
        let client = tokio.block_on(async {
            let file = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
            let options = KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(file, &options).await;
            kube::Client::try_from(config.unwrap()).unwrap()
        });
        Self {
            cluster,
            tokio,
            client,
        }
    }

    /// A controller that writes while `leads`.
    fn controller(&self, leads: &Arc<AtomicBool>) -> KubeRuntime {
        let (_, authorities) = watch::channel(Some("a certificate".into()));
        let config = Config {
            namespaces: None,
            settings: Settings {
                release_namespace: "bodhi".into(),
                release: Release {
                    image: "none".into(),
                    image_pull_policy: "Never".into(),
                    listen: "0.0.0.0".parse().unwrap(),
                    controllers: "https://bodhi-controller.bodhi.svc:1138".into(),
                    drain_seconds: 1,
                },
            },
            authorities,
        };
        let leads = Arc::clone(leads);
        let may_write = Arc::new(move || leads.load(Ordering::Relaxed));
        let _inside = self.tokio.enter();
        KubeRuntime::new(self.client.clone(), config, may_write)
    }

    fn leader(&self) -> KubeRuntime {
        self.controller(&Arc::new(AtomicBool::new(true)))
    }

    /// Declares a local Alias; what its workers should be.
    fn alias(&self, name: &str, replicas: u32) -> Wanted {
        let yaml = format!(
            "apiVersion: bodhi.dev/v1alpha1\nkind: Alias\nmetadata: {{name: {name}, namespace: team}}\n\
             spec: {{target: {{type: Local, local: {{source: 'https://a.example/m.gguf'}}}}}}\n"
        );
        self.cluster.apply(&yaml).unwrap();
        Wanted {
            object: ObjectRef::alias("team", name),
            uid: self.get("alias", name).unwrap()["metadata"]["uid"]
                .as_str()
                .unwrap()
                .into(),
            worker: WorkerSpec {
                source: "https://a.example/m.gguf".into(),
                revision: None,
                sha256: None,
                allow_floating: false,
                credentials: None,
                egress: EgressScope::Tenant([].into()),
                engine: Engine::default(),
                features: LocalFeatures::default(),
            },
            pod: WorkerPod::default(),
            replicas,
            ceiling: replicas,
            rollout: Rollout::Surge,
        }
    }

    fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let arguments = ["get", kind, name, "-n", "team", "-o", "json"];
        let text = self.cluster.kubectl(&arguments).ok()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    fn deployment(&self, alias: &str) -> Option<Value> {
        self.get("deployment", &format!("bodhi-worker-{alias}"))
    }

    fn applied(&self, alias: &str) -> Value {
        eventually("a Deployment", || self.deployment(alias)).unwrap()
    }

    /// The names and uids of an Alias's pods, once there are so many.
    fn pods(&self, alias: &str, count: usize) -> Vec<(String, String)> {
        let selector = format!("app.kubernetes.io/instance=bodhi-worker-{alias}");
        let arguments = ["get", "pods", "-n", "team", "-l", &selector, "-o", "json"];
        eventually("pods", || {
            let list = self.cluster.kubectl(&arguments).ok()?;
            let list: Value = serde_json::from_str(&list).unwrap();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let items = list["items"].as_array()?.iter();
            let pods: Vec<_> = items
                .map(|pod| &pod["metadata"])
                .map(|metadata| (text(&metadata["name"]), text(&metadata["uid"])))
                .collect();
            (pods.len() == count).then_some(pods)
        })
        .unwrap()
    }

    /// What a kubelet would say of a pod.
    fn say(&self, pod: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        let arguments = ["patch", "pod", pod, "-n", "team", "--subresource=status"];
        let patch = [&arguments[..], &["--type=merge", "-p", &patch]].concat();
        self.cluster.kubectl(&patch).unwrap();
    }
}

fn observed(runtime: &KubeRuntime) -> Arc<Observed> {
    runtime.observed().borrow().clone()
}

/// Waits until an Alias's workers are so.
fn await_model(
    runtime: &KubeRuntime,
    alias: &ObjectRef,
    what: &str,
    holds: impl Fn(&ModelState) -> bool,
) -> ModelState {
    let found = eventually(what, || {
        let observed = observed(runtime);
        observed.models.get(alias).filter(|m| holds(m)).cloned()
    });
    found.unwrap_or_else(|error| panic!("{error:#}; there is {:?}", observed(runtime)))
}

fn serving(ip: &str) -> Value {
    json!({
        "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    })
}

fn version_of(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn what_is_wanted_is_written_once_and_kept_so() {
    let world = World::new(&[]);
    let leads = Arc::new(AtomicBool::new(true));
    let runtime = world.controller(&leads);
    let first = world.alias("a", 2);
    runtime.want(vec![first.clone()]);
    let deployment = world.applied("a");
    let service = eventually("a Service", || world.get("service", "bodhi-worker-a")).unwrap();
    let believed = world.get("configmap", "bodhi-authorities-bodhi").unwrap();
    assert_eq!(believed["data"]["ca.crt"], "a certificate");
    assert_eq!(service["spec"]["clusterIP"], "None");
    let owner = &deployment["metadata"]["ownerReferences"][0];
    assert_eq!(owner["uid"], &*first.uid);

    // Another controller takes over. It goes by name: once it has written `b`, it has been at `a`.
    world.tokio.block_on(runtime.stop());
    let runtime = world.controller(&leads);
    let second = world.alias("b", 1);
    runtime.want(vec![first.clone(), second.clone()]);
    world.applied("b");
    assert_eq!(version_of(&world.applied("a")), version_of(&deployment));
    let after = world.get("service", "bodhi-worker-a").unwrap();
    assert_eq!(version_of(&after), version_of(&service));

    // Somebody else's hand is undone.
    let by_hand = [
        "scale",
        "deployment",
        "bodhi-worker-a",
        "-n",
        "team",
        "--replicas=7",
    ];
    world.cluster.kubectl(&by_hand).unwrap();
    let replicas = |n: u32| {
        eventually("replicas", || {
            (world.deployment("a")?["spec"]["replicas"] == n).then_some(())
        })
        .unwrap();
    };
    replicas(2);

    // Who does not lead writes nothing, and all of it once it leads.
    leads.store(false, Ordering::Relaxed);
    let before = world.deployment("a").unwrap();
    let more = Wanted {
        replicas: 5,
        ..first
    };
    runtime.want(vec![more, second]);
    let follower = world.controller(&leads);
    eventually("a list", || (observed(&follower).version > 0).then_some(())).unwrap();
    assert_eq!(world.deployment("a").unwrap(), before);
    leads.store(true, Ordering::Relaxed);
    replicas(5);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn pods_become_endpoints_and_reasons() {
    let mut world = World::new(&[Part::Controllers]);
    let runtime = world.leader();
    let wanted = world.alias("q", 2);
    let alias = wanted.object.clone();
    runtime.want(vec![wanted]);
    let pods = world.pods("q", 2);
    let ((first, uid), (second, _)) = (&pods[0], &pods[1]);
    let model = await_model(&runtime, &alias, "pods", |m| m.replicas == 2);
    assert_eq!(model.ready, []);

    let word = r#"{"reason":"InsufficientMemory","message":"needs 11.2 GiB, 8.0 GiB free"}"#;
    world.say(
        second,
        &json!({ "phase": "Running", "containerStatuses": [{
            "name": "worker", "image": "none", "imageID": "", "ready": false, "restartCount": 3,
            "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
            "lastState": { "terminated": { "exitCode": 30, "reason": "Error", "message": word } },
        }] }),
    );
    let model = await_model(&runtime, &alias, "a failure", |m| m.failure.is_some());
    let trouble = model.failure.unwrap();
    assert_eq!(trouble.times, 3);
    assert_eq!(trouble.failure.reason, "InsufficientMemory");
    assert_eq!(trouble.failure.message, "needs 11.2 GiB, 8.0 GiB free");

    let before = observed(&runtime).version;
    world.say(first, &serving("10.0.0.7"));
    let model = await_model(&runtime, &alias, "an endpoint", |m| !m.ready.is_empty());
    assert_eq!(model.ready[0].address.to_string(), "10.0.0.7:1139");
    assert_eq!(*model.ready[0].id.worker, **uid);
    assert_eq!(
        runtime.alias_of_pod("team", first, uid),
        Some(alias.clone())
    );
    assert_eq!(runtime.alias_of_pod("team", second, uid), None);

    // Every controller sees the same, by the same number.
    let other = world.controller(&Arc::new(AtomicBool::new(false)));
    eventually("a second controller", || {
        let (one, other) = (observed(&runtime), observed(&other));
        (one.models == other.models && one.version > before).then_some(())
    })
    .unwrap();

    // A copy of a pod is no worker, whatever its labels are.
    let mut copy = world.get("pod", first).unwrap();
    let labels = copy["metadata"]["labels"].as_object_mut().unwrap();
    // With it the ReplicaSet would take the copy for its own.
    labels.remove("pod-template-hash").unwrap();
    let (metadata, spec) = (&copy["metadata"], &copy["spec"]);
    let copy = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "copy", "namespace": "team",
            "labels": metadata["labels"], "annotations": metadata["annotations"],
        },
        "spec": { "containers": [{ "name": "worker", "image": spec["containers"][0]["image"] }] },
    });
    world.cluster.apply(&copy.to_string()).unwrap();
    world.say("copy", &serving("10.0.0.8"));

    // Without an API server everything stays as it was.
    world.cluster.stop_api_server();
    let during = observed(&runtime);
    assert_eq!(during.models[&alias].ready.len(), 1);
    world.cluster.start_api_server().unwrap();
    assert_eq!(
        observed(&runtime).models[&alias].ready,
        during.models[&alias].ready
    );

    world
        .cluster
        .kubectl(&[
            "delete",
            "pod",
            first,
            "-n",
            "team",
            "--grace-period=0",
            "--force",
        ])
        .unwrap();
    await_model(&runtime, &alias, "no endpoint", |m| m.ready.is_empty());
    // Its Deployment makes another one.
    await_model(&runtime, &alias, "two pods", |m| m.replicas == 2);
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn what_nobody_wants_goes_once_data_planes_know_of_what_replaces_it() {
    let world = World::new(&[]);
    let runtime = world.leader();
    let (moved, kept) = (world.alias("moved", 1), world.alias("kept", 1));
    runtime.want(vec![moved.clone(), kept.clone()]);
    world.applied("moved");
    world.applied("kept");
    let to_provider = json!({ "spec": { "target": {
        "type": "Api", "local": null, "api": { "routes": [{ "apiModel": "a", "model": "m" }] },
    } } });
    let patch = to_provider.to_string();
    let patch = [
        "patch",
        "alias",
        "moved",
        "-n",
        "team",
        "--type=merge",
        "-p",
        &patch,
    ];
    world.cluster.kubectl(&patch).unwrap();
    // The watches have seen both.
    let both = |m: &Observed| m.models.len() == 2 && m.version > 0;
    eventually("both", || both(&observed(&runtime)).then_some(())).unwrap();
    runtime.want(Vec::new());
    let hidden = observed(&runtime);
    assert!(hidden.models.is_empty());
    // They may be chosen still: data planes know this version, and not what came after.
    runtime.acknowledge(hidden.version);
    let third = world.alias("third", 1);
    runtime.want(vec![third]);
    world.applied("third");
    assert!(world.deployment("moved").is_some());

    runtime.acknowledge(u64::MAX);
    eventually("the sweep", || {
        world.deployment("moved").is_none().then_some(())
    })
    .unwrap();
    assert!(world.get("service", "bodhi-worker-moved").is_none());
    // An Alias that only lacks its Secret keeps what it has.
    assert!(world.deployment("kept").is_some());
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn what_the_api_server_refuses_is_told_and_holds_nobody_up() {
    let world = World::new(&[]);
    let runtime = world.leader();
    let mut wrong = world.alias("a", 1);
    wrong.pod.affinity = json!({ "nodeAffinity": { "wrong": true } })
        .as_object()
        .cloned();
    let mut negative = world.alias("b", 1);
    let limits = &mut negative.pod.resources.limits;
    limits.insert("memory".into(), json!("-1Gi"));
    let fine = world.alias("c", 1);
    let refused = [wrong.object.clone(), negative.object.clone()];
    runtime.want(vec![wrong, negative, fine]);
    world.applied("c");
    for alias in refused {
        let model = await_model(&runtime, &alias, "a refusal", |m| m.failure.is_some());
        let failure = model.failure.unwrap().failure;
        assert_eq!(failure.reason, "PodRefused");
        let field = match &*alias.name {
            "a" => "wrong",
            _ => "memory",
        };
        assert!(failure.message.contains(field), "{}", failure.message);
    }
}
