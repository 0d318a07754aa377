//! One worker: a process, and another when it ends by itself, until it is told to leave.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::{Failure, ModelInfo, Phase, Progress, Report};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::{WorkerAddress, WorkerEndpoint, WorkerId};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStdin};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::command::{self, Start};
use super::report;
use super::stderr;
use crate::api::Reason;
use crate::compile::WorkerSpec;
use crate::runtime::Trouble;
use crate::runtime::backoff::Backoff;

/// Longest wait until data planes have forgotten a worker; those that have not are told by the
/// worker itself that it drains.
const ACKNOWLEDGED: Duration = Duration::from_secs(5);
/// How long requests that chose it a moment before may be on their way.
const ON_THEIR_WAY: Duration = Duration::from_millis(500);
/// What a worker gets besides its drain time before it is killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long what a process has printed may take to be read once it is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a worker is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Serve.
    Serve,
    /// Finish what is in flight and end, once `hidden_at` is acknowledged.
    Leave { hidden_at: u64 },
}

/// What became of it.
pub(super) enum Change {
    /// It does not take requests (any more); how far it is, once it has said so.
    Starting(Option<Phase>),
    /// It takes requests.
    Ready {
        endpoint: WorkerEndpoint,
        info: Option<ModelInfo>,
    },
    /// It ended by itself and will be started again.
    Ended(Trouble),
    /// It left.
    Gone,
}

/// All that a worker's task needs.
pub(super) struct Job {
    pub(super) id: u64,
    pub(super) object: ObjectRef,
    pub(super) spec: WorkerSpec,
    pub(super) threads: usize,
    pub(super) shared: Arc<Shared>,
    pub(super) orders: watch::Receiver<Order>,
    pub(super) tell: mpsc::Sender<(u64, Change)>,
}

/// How a process ended.
enum End {
    /// It was told to.
    Left,
    /// By itself; `ready`: for how long it had taken requests.
    Failed {
        failure: Failure,
        ready: Option<Duration>,
    },
}

/// Runs until it is told to leave and has left.
pub(super) async fn run(mut job: Job) {
    let mut backoff = Backoff::default();
    loop {
        let (failure, ready) = match job.live().await {
            End::Left => break,
            End::Failed { failure, ready } => (failure, ready),
        };
        let wait = backoff.next(ready, rand::random());
        let (alias, times) = (&job.object, backoff.failures());
        tracing::warn!(%alias, worker = job.id, times, again_in = ?wait, "a worker ended: {failure}");
        job.change(Change::Ended(Trouble { failure, times })).await;
        tokio::select! {
            () = sleep(wait) => {}
            _ = left(&mut job.orders) => break,
        }
    }
    job.change(Change::Gone).await;
}

/// Waits for the order to leave. A model's task that is gone is one too.
async fn left(orders: &mut watch::Receiver<Order>) -> u64 {
    match orders.wait_for(|order| *order != Order::Serve).await {
        Ok(order) => match *order {
            Order::Leave { hidden_at } => hidden_at,
            Order::Serve => 0,
        },
        Err(_) => 0,
    }
}

impl Job {
    async fn change(&self, change: Change) {
        // A model's task that is gone needs no news.
        let _ = self.tell.send((self.id, change)).await;
    }

    /// One process from its start to its end.
    async fn live(&mut self) -> End {
        let mut process = match Process::start(self) {
            Ok(process) => process,
            Err(failure) => {
                return End::Failed {
                    failure,
                    ready: None,
                };
            }
        };
        let mut ready_since: Option<Instant> = None;
        let mut told: Option<Step> = None;
        let mut failed: Option<Failure> = None;
        let ended = loop {
            tokio::select! {
                status = process.child.wait() => break process.why(status.ok()).await,
                report = process.reports.recv() => match report {
                    Some(report) => {
                        if let Phase::Failed(failure) = &report.phase {
                            failed = Some(failure.clone());
                        }
                        let stand = Step::of(&report);
                        if told.as_ref() == Some(&stand) {
                            continue;
                        }
                        let change = process.change(&stand, report);
                        if let Change::Ready { .. } = change {
                            ready_since.get_or_insert_with(Instant::now);
                        }
                        told = Some(stand);
                        self.change(change).await;
                    }
                    None => {
                        self.change(Change::Starting(None)).await;
                        process.kill().await;
                        let patience = self.shared.config.patience.as_secs_f64();
                        break Failure {
                            reason: Reason::WorkerHung.as_str().into(),
                            message: format!("it did not answer for {patience} s and was killed"),
                        };
                    }
                },
                hidden_at = left(&mut self.orders) => {
                    process.leave(hidden_at, &self.shared).await;
                    return End::Left;
                }
            }
        };
        let failure = failed.unwrap_or(ended);
        End::Failed {
            failure,
            ready: ready_since.map(|since| since.elapsed()),
        }
    }
}

/// What is worth telling of a report: progress in steps of ten percent.
#[derive(PartialEq)]
enum Step {
    Phase(std::mem::Discriminant<Phase>, Option<u8>),
    Ready,
}

impl Step {
    fn of(report: &Report) -> Self {
        let step = |progress: &Progress| progress.percent().map(|percent| percent / 10);
        match &report.phase {
            Phase::Ready => Self::Ready,
            phase @ (Phase::Downloading(progress) | Phase::Loading(progress)) => {
                Self::Phase(std::mem::discriminant(phase), step(progress))
            }
            phase => Self::Phase(std::mem::discriminant(phase), None),
        }
    }
}

/// A running process. Dropping it kills it.
struct Process {
    child: Child,
    /// It ends when this is closed, by whatever closes it.
    _stdin: Option<ChildStdin>,
    id: WorkerId,
    socket: PathBuf,
    reports: mpsc::Receiver<Report>,
    last_word: JoinHandle<Option<Failure>>,
    /// The system's count of processes that it killed for memory, when this one began.
    oom_kills: Option<u64>,
}

impl Process {
    fn start(job: &Job) -> Result<Self, Failure> {
        let shared = &job.shared;
        let serial = shared.next_serial();
        let socket = shared.folder.join(format!("{serial}.sock"));
        let program = command::find(shared.config.program.as_deref())?;
        let start = Start {
            program: &program,
            object: &job.object,
            spec: &job.spec,
            socket: &socket,
            threads: job.threads,
            drain: shared.config.drain,
        };
        let mut child = start.command().spawn().map_err(|error| Failure {
            reason: Reason::WorkerNotInstalled.as_str().into(),
            message: format!("{} cannot be started: {error}", program.display()),
        })?;
        let (tell, reports) = mpsc::channel(8);
        let watched = report::watch(socket.clone(), shared.config.patience, tell);
        tokio::spawn(watched);
        let stderr = child.stderr.take();
        let object = job.object.clone();
        let last_word = tokio::spawn(async move {
            match stderr {
                Some(stderr) => stderr::log(object, serial, stderr).await,
                None => None,
            }
        });
        Ok(Self {
            _stdin: child.stdin.take(),
            child,
            id: WorkerId {
                pool: job.object.clone(),
                worker: serial.to_string().into(),
            },
            socket,
            reports,
            last_word,
            oom_kills: oom_kills(),
        })
    }

    fn change(&self, stand: &Step, report: Report) -> Change {
        match stand {
            Step::Phase(..) => Change::Starting(Some(report.phase)),
            Step::Ready => Change::Ready {
                endpoint: WorkerEndpoint {
                    id: self.id.clone(),
                    address: WorkerAddress::Unix(self.socket.as_path().into()),
                    slots: report.load.map_or(1, |load| load.slots.max(1)),
                },
                info: report.model,
            },
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(pid) = pid {
            // Gone already: that was the wish.
            let _ = kill_process_group(pid, signal);
        }
    }

    async fn kill(&mut self) {
        self.signal(Signal::KILL);
        // It cannot refuse; what waiting answers is known.
        let _ = self.child.wait().await;
    }

    /// Lets data planes forget it, then its requests end, then ends it.
    async fn leave(&mut self, hidden_at: u64, shared: &Shared) {
        let mut acknowledged = shared.acknowledged.subscribe();
        let forgotten = acknowledged.wait_for(|version| *version >= hidden_at);
        // Late or not, it goes.
        let _ = timeout(ACKNOWLEDGED, forgotten).await;
        if *shared.acknowledged.borrow() != super::NOBODY_ASKS {
            sleep(ON_THEIR_WAY).await;
        }
        self.signal(Signal::TERM);
        let most = shared.config.drain + GRACE;
        if timeout(most, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Why it ended by itself: its own word, else what the system says.
    async fn why(&mut self, status: Option<ExitStatus>) -> Failure {
        if let Ok(Ok(Some(failure))) = timeout(LAST_WORDS, &mut self.last_word).await {
            return failure;
        }
        let signal = status.and_then(|status| status.signal());
        let killed = signal == Some(Signal::KILL.as_raw());
        if killed && oom_kills() > self.oom_kills {
            return Failure {
                reason: Reason::OutOfMemoryKilled.as_str().into(),
                message: "the system killed it because memory ran out: give it less \
                          contextLength or parallelSlots, or a smaller model"
                    .into(),
            };
        }
        let how = match (signal, status.and_then(|status| status.code())) {
            (Some(signal), _) => format!("ended by signal {signal}"),
            (None, Some(code)) => format!("ended with exit code {code}"),
            (None, None) => "ended".to_owned(),
        };
        Failure {
            reason: Reason::WorkerCrashed.as_str().into(),
            message: format!("it {how}; its last lines are in the log"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it left behind; one that ended in good order left nothing.
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// How many processes the kernel has killed for memory since it began, where it says so.
fn oom_kills() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/vmstat").ok()?;
    let line = counters
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill "))?;
    line.trim().parse().ok()
}
