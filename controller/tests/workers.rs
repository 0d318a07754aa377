//! Workers as child processes: started, watched, replaced, drained. The worker is the real one
//! with a fake engine (`fake-worker` of the package bodhi-tests).

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bodhi_controller::api::Engine;
use bodhi_controller::compile::{Rollout, WorkerPod, WorkerSpec};
use bodhi_controller::runtime::process::{Config, ProcessRuntime};
use bodhi_controller::runtime::{ModelState, Observed, Runtime, Wanted};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::{EgressScope, LocalFeatures, WorkerAddress, WorkerEndpoint};
use bodhi_proto::wire::inference as pb;
use bodhi_proto::wire::inference::inference_client::InferenceClient;
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before the test fails: machines under test are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// The program: in `BODHI_BIN_DIR`, else beside this test.
fn fake_worker() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().to_owned()
    };
    let folder = std::env::var_os("BODHI_BIN_DIR").map_or_else(beside, PathBuf::from);
    let path = folder.join("fake-worker");
    assert!(
        path.is_file(),
        "{} is missing: cargo build -p bodhi-tests --bins",
        path.display()
    );
    path
}

struct Bench {
    runtime: Arc<ProcessRuntime>,
    observed: watch::Receiver<Arc<Observed>>,
    _folder: tempfile::TempDir,
}

fn object() -> ObjectRef {
    ObjectRef::alias("bodhi", "q")
}

fn wanted(replicas: u32) -> Wanted {
    Wanted {
        object: object(),
        uid: "u".into(),
        pod: WorkerPod::default(),
        worker: WorkerSpec {
            source: "file:///m.gguf".into(),
            revision: None,
            sha256: None,
            allow_floating: false,
            credentials: None,
            egress: EgressScope::Standalone,
            engine: Engine {
                parallel_slots: Some(3),
                ..Engine::default()
            },
            features: LocalFeatures {
                chat: true,
                completions: true,
                ..LocalFeatures::default()
            },
        },
        replicas,
        ceiling: replicas,
        rollout: Rollout::Surge,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(|config| config.program = Some(fake_worker()))
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::new(folder.path().join("workers"));
        config.drain = Duration::from_secs(10);
        change(&mut config);
        let runtime = Arc::new(ProcessRuntime::new(config).unwrap());
        Self {
            observed: runtime.observed(),
            runtime,
            _folder: folder,
        }
    }

    fn want(&self, wanted: Wanted) {
        self.runtime.want(vec![wanted]);
    }

    async fn until(&mut self, holds: impl Fn(&ModelState) -> bool) -> ModelState {
        let seen = self
            .observed
            .wait_for(|o| o.models.get(&object()).is_some_and(&holds));
        let seen = timeout(PATIENCE, seen).await.expect("in time").unwrap();
        seen.models[&object()].clone()
    }

    async fn ready(&mut self, workers: usize) -> Vec<WorkerEndpoint> {
        self.until(|model| model.ready.len() == workers).await.ready
    }
}

fn socket(endpoint: &WorkerEndpoint) -> PathBuf {
    match &endpoint.address {
        WorkerAddress::Unix(path) => path.to_path_buf(),
        WorkerAddress::Tcp(address) => panic!("{address} is no socket"),
    }
}

/// The process that was started with this socket.
fn process(socket: &Path) -> Option<Pid> {
    let mut processes = std::fs::read_dir("/proc").unwrap();
    processes.find_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let is_it = words.any(|word| {
            word.strip_prefix(b"--listen=unix:") == Some(socket.as_os_str().as_encoded_bytes())
        });
        is_it.then(|| Pid::from_raw(pid)).flatten()
    })
}

async fn gone(socket: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while process(socket).is_some() {
        assert!(
            Instant::now() < deadline,
            "the worker at {} lives",
            socket.display()
        );
        sleep(Duration::from_millis(20)).await;
    }
}

/// How many tokens a worker generates for a prompt.
async fn generate(endpoint: &WorkerEndpoint) -> Result<u32, tonic::Status> {
    let path = socket(endpoint);
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    });
    let channel = tonic::transport::Endpoint::from_static("http://worker")
        .connect_with_connector(connector)
        .await
        .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let text = pb::text::Text::Plain("one two three".into());
    let raw = pb::RawPrompt {
        prompt: Some(pb::Text { text: Some(text) }),
        ..pb::RawPrompt::default()
    };
    let generation = pb::Generation {
        prompt: Some(pb::Prompt {
            prompt: Some(pb::prompt::Prompt::Raw(raw)),
        }),
        max_output_tokens: Some(4),
        ..pb::Generation::default()
    };
    let mut client = InferenceClient::new(channel);
    let mut replies = client.generate(generation).await?.into_inner();
    let mut tokens = None;
    while let Some(reply) = replies.message().await? {
        for event in reply.events {
            if let Some(pb::reply_event::Event::End(end)) = event.event {
                tokens = end.usage.map(|usage| usage.completion);
            }
        }
    }
    tokens.ok_or_else(|| tonic::Status::internal("no end"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_started_serves_and_is_ended() {
    let mut bench = Bench::new();
    bench.want(wanted(1));
    let ready = bench.ready(1).await;
    assert_eq!(ready[0].slots, 3);
    let socket = socket(&ready[0]);
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(generate(&ready[0]).await.unwrap() > 0);

    // Hidden at once; ended when that has been acknowledged.
    let shown = bench.observed.borrow().version;
    bench.want(wanted(0));
    bench.until(|model| model.ready.is_empty()).await;
    assert!(process(&socket).is_some());
    let hidden = bench.observed.borrow().version;
    assert!(hidden > shown);
    bench.runtime.acknowledge(hidden);
    gone(&socket).await;
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_is_replaced() {
    let mut bench = Bench::new();
    bench.want(wanted(1));
    let first = bench.ready(1).await;
    kill_process(process(&socket(&first[0])).unwrap(), Signal::KILL).unwrap();
    let replaced = |model: &ModelState| model.ready.len() == 1 && model.ready != first;
    let second = bench.until(replaced).await;
    assert_ne!(second.ready[0].id, first[0].id);
    assert!(generate(&second.ready[0]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_hangs_is_killed_and_replaced() {
    let mut bench = Bench::with(|config| {
        config.program = Some(fake_worker());
        config.patience = Duration::from_secs(4);
    });
    bench.want(wanted(1));
    let first = bench.ready(1).await;
    let hung = process(&socket(&first[0])).unwrap();
    kill_process(hung, Signal::STOP).unwrap();
    let after = bench
        .until(|model| model.ready.len() == 1 && model.ready != first)
        .await;
    gone(&socket(&first[0])).await;
    assert!(generate(&after.ready[0]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_spec_is_made_ready_before_the_old_one_goes() {
    let mut bench = Bench::new();
    bench.want(wanted(1));
    let first = bench.ready(1).await;
    let mut other = wanted(1);
    other.worker.engine.parallel_slots = Some(5);
    let mut observed = bench.runtime.observed();
    bench.want(other);
    let changed = async {
        loop {
            let ready = observed.borrow_and_update().models[&object()].ready.clone();
            assert!(!ready.is_empty(), "no moment without a worker");
            if ready.len() == 1 && ready[0].slots == 5 {
                return;
            }
            observed.changed().await.unwrap();
        }
    };
    timeout(PATIENCE, changed).await.expect("in time");
    gone(&socket(&first[0])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_and_fewer_workers_leave_the_others_alone() {
    let mut bench = Bench::new();
    bench.want(wanted(1));
    let one = bench.ready(1).await;
    bench.want(wanted(3));
    let three = bench.ready(3).await;
    assert!(three.contains(&one[0]));
    bench.want(wanted(1));
    assert_eq!(bench.ready(1).await, one);
    bench.runtime.stop().await;
    for worker in &three {
        gone(&socket(worker)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_start_says_why() {
    let scripts = tempfile::tempdir().unwrap();
    let script = scripts.path().join("worker.sh");
    let text = format!(
        "#!/bin/sh\nexec '{}' --fake-fail=InsufficientMemory \"$@\"\n",
        fake_worker().display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o700)).unwrap();
    let mut bench = Bench::with(|config| config.program = Some(script));
    bench.want(wanted(1));
    let failed_again = |model: &ModelState| model.failure.as_ref().is_some_and(|f| f.times > 1);
    let trouble = bench.until(failed_again).await.failure.unwrap();
    assert_eq!(trouble.failure.reason, "InsufficientMemory");
    assert!(!trouble.failure.message.is_empty());
    bench.runtime.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_program_it_is_said_how_to_get_it() {
    let mut bench = Bench::with(|config| config.program = Some("/nowhere/bodhi-worker".into()));
    bench.want(wanted(1));
    let model = bench.until(|model| model.failure.is_some()).await;
    let failure = model.failure.unwrap().failure;
    assert_eq!(failure.reason, "WorkerNotInstalled");
    assert!(
        failure.message.contains("make worker"),
        "{}",
        failure.message
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_end_with_a_controller_that_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let alias = "apiVersion: bodhi.dev/v1alpha1\nkind: Alias\nmetadata: {name: q}\nspec:\n  \
                 target: {type: Local, local: {source: \"file:///m.gguf\"}}\n";
    std::fs::write(manifests.join("q.yaml"), alias).unwrap();
    let mut controller = tokio::process::Command::new(env!("CARGO_BIN_EXE_bodhi-controller"))
        .arg("--data")
        .arg(folder.path())
        .arg("--worker-binary")
        .arg(fake_worker())
        .args(["--listen", "127.0.0.1:0"])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let sockets = folder.path().join("workers");
    let found = async {
        loop {
            let mut sockets = std::fs::read_dir(&sockets).into_iter().flatten().flatten();
            if let Some(socket) = sockets.next() {
                return socket.path();
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let socket = timeout(PATIENCE, found).await.expect("in time");
    assert!(process(&socket).is_some());
    controller.kill().await.unwrap();
    gone(&socket).await;
}
