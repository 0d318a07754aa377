//! Workers as child processes of this one, each on a Unix socket of its own.
//!
//! A task per model ([`model`]) keeps the number of workers; a task per worker ([`worker`])
//! starts its process, listens to it and starts it again when it ends by itself. They meet on a
//! board, which is what is observed.

mod command;
mod model;
mod report;
mod stderr;
mod worker;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bodhi_proto::names::ObjectRef;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{ModelState, Observed, Runtime, Wanted};

/// Longest path of a Unix socket, in bytes, as the system has it
/// (<https://man7.org/linux/man-pages/man7/unix.7.html>), less a socket's own name.
const FOLDER_MAX: usize = 107 - "/1234567890123456.sock".len();

/// The version that stands for all: no data plane chooses workers any more.
const NOBODY_ASKS: u64 = u64::MAX;

/// How workers are run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the sockets; it is made, for us alone.
    pub folder: PathBuf,
    /// The worker's program; `None`: `bodhi-worker` beside the running one.
    pub program: Option<PathBuf>,
    /// How long a worker may be silent before it counts as hung.
    pub patience: Duration,
    /// How long its requests may run on when it is to go.
    pub drain: Duration,
}

impl Config {
    /// Sockets in this folder, and the usual times.
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            program: None,
            patience: Duration::from_secs(30),
            drain: Duration::from_secs(600),
        }
    }
}

/// Runs workers as child processes.
pub struct ProcessRuntime {
    shared: Arc<Shared>,
    models: Mutex<HashMap<ObjectRef, Model>>,
    /// Set once; whatever is wanted later comes too late.
    stopping: AtomicBool,
}

/// A model's task.
struct Model {
    wanted: watch::Sender<Option<Wanted>>,
    task: JoinHandle<()>,
}

/// What all tasks share.
struct Shared {
    config: Config,
    folder: PathBuf,
    board: watch::Sender<Arc<Observed>>,
    acknowledged: watch::Sender<u64>,
    serial: AtomicU64,
}

impl ProcessRuntime {
    /// A runtime without workers.
    ///
    /// # Errors
    /// The folder of the sockets cannot be made.
    pub fn new(config: Config) -> anyhow::Result<Self> {
        let folder = socket_folder(&config.folder)?;
        let began = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
        let observed = Observed {
            version: began,
            ..Observed::default()
        };
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                folder,
                board: watch::channel(Arc::new(observed)).0,
                acknowledged: watch::channel(0).0,
                serial: AtomicU64::new(began),
            }),
            models: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }
}

impl Runtime for ProcessRuntime {
    fn want(&self, mut models: Vec<Wanted>) {
        let mut tasks = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopping.load(Ordering::Relaxed) {
            models.clear();
        }
        tasks.retain(|_, model| !model.task.is_finished());
        let mut left: HashMap<ObjectRef, Wanted> = models
            .into_iter()
            .map(|wanted| (wanted.object.clone(), wanted))
            .collect();
        for (object, model) in tasks.iter() {
            let wanted = left.remove(object);
            model.wanted.send_if_modified(|before| {
                let differs = *before != wanted;
                *before = wanted;
                differs
            });
        }
        for (object, wanted) in left {
            let (sender, wanted) = watch::channel(Some(wanted));
            let task = model::run(object.clone(), wanted, Arc::clone(&self.shared));
            let task = tokio::spawn(task);
            let model = Model {
                wanted: sender,
                task,
            };
            tasks.insert(object, model);
        }
    }

    fn observed(&self) -> watch::Receiver<Arc<Observed>> {
        self.shared.board.subscribe()
    }

    fn acknowledge(&self, version: u64) {
        self.shared.acknowledged.send_if_modified(|known| {
            let newer = version > *known;
            *known = version.max(*known);
            newer
        });
    }

    fn stop(&self) -> BoxFuture<'_, ()> {
        self.stopping.store(true, Ordering::Relaxed);
        self.want(Vec::new());
        // Data planes are gone or going: nobody is left to acknowledge.
        self.acknowledge(NOBODY_ASKS);
        let tasks: Vec<Model> = {
            let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
            models.drain().map(|(_, model)| model).collect()
        };
        Box::pin(async move {
            for model in tasks {
                // A task that panicked has dropped its processes, which kills them.
                let _ = model.task.await;
            }
        })
    }
}

impl Shared {
    /// A number that no other worker had or will have.
    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Shows a model's workers; `None`: it has none any more. Answers the version that shows it.
    fn show(&self, object: &ObjectRef, state: Option<ModelState>) -> u64 {
        self.board.send_if_modified(|observed| {
            if observed.models.get(object) == state.as_ref() {
                return false;
            }
            let observed = Arc::make_mut(observed);
            observed.version += 1;
            match state {
                Some(state) => observed.models.insert(object.clone(), state),
                None => observed.models.remove(object),
            };
            true
        });
        self.board.borrow().version
    }
}

/// A folder for us alone with a path short enough for sockets. What is in it is a dead
/// predecessor's.
fn socket_folder(wanted: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::path::absolute(wanted)?;
    let folder = match wanted.as_os_str().len() <= FOLDER_MAX {
        true => wanted,
        false => {
            let own = format!("bodhi-{}", std::process::id());
            std::env::temp_dir().join(own)
        }
    };
    let make = || {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
    };
    make().with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder)
}
