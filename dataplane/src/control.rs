//! Where configuration comes from: the latest snapshot, kept up to date by a controller and
//! kept on disk for the next start.
//!
//! One task on the control runtime holds everything. It connects, drives the
//! [`Hold`](bodhi_proto::sync::Hold) machine, publishes snapshots and writes the sealed
//! last-known-good file. With every controller gone it goes on serving what it has.
//! A data plane is ready as soon as it holds a snapshot.
//!
//! Of several controllers any will do, and the leader is better: it is told of by all, and the
//! stream moves there.

mod connect;
mod disk;
mod fleet;
mod held;
mod leader;
mod owners;
mod stream;

pub use connect::{Connect, Connector, Controllers};
pub use disk::{Disk, DiskError};
pub use fleet::{Demand, PoolDemand};
pub use owners::ControllerOwners;

use std::sync::Arc;
use std::time::SystemTime;

use bodhi_proto::snapshot::Snapshot;
use bodhi_proto::sync::{Leader, Report};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use self::fleet::{Link, LinkTo};
use self::held::Held;
use self::leader::Lead;
use self::stream::Follower;

/// What the control task needs.
#[derive(Debug, Clone)]
pub struct Config {
    /// This data plane's name, for the controller's books: unique among data planes.
    pub node: String,
    /// Where controllers are.
    pub connect: Connect,
    /// Where the last snapshot is kept; `None`: nowhere.
    pub disk: Option<Disk>,
}

/// How the connection to the controller stands.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// The controller that is connected, if one is.
    pub controller: Option<String>,
    /// When a controller last confirmed what is held; none since the start of this process.
    pub confirmed: Option<SystemTime>,
    /// Who leads, where there is more than one controller.
    pub leader: Option<Leader>,
    /// How many streams have begun since the start.
    pub streams: u64,
    /// How often, since the start, something else was held than had been sent.
    pub divergences: u64,
    /// Why the last stream ended.
    pub last_end: Option<String>,
}

/// The control task. Dropping it stops it; [`Control::stop`] also writes what is unwritten.
#[derive(Debug)]
pub struct Control {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    status: watch::Receiver<Status>,
    owners: ControllerOwners,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    node: String,
    connect: Connect,
    link: watch::Receiver<LinkTo>,
    reports: watch::Receiver<Report>,
}

impl Control {
    /// Reads the kept snapshot (it is there when this returns) and starts the task on `runtime`.
    ///
    /// # Errors
    /// The folder or the key file cannot be used. A kept snapshot that cannot be read is no
    /// error: it is set aside and a controller sends a new one.
    pub fn start(config: Config, runtime: &Handle) -> Result<Self, DiskError> {
        let (publish, snapshots) = watch::channel(None);
        let (report, status) = watch::channel(Status::default());
        let held = Held::load(config.disk, publish, SystemTime::now())?;
        let _runtime = runtime.enter();
        let owners = ControllerOwners::new(connect::lazy_channel(&config.connect));
        let (stop, stopped) = oneshot::channel();
        let (link_to, link) = watch::channel(LinkTo::default());
        let reports = held.reports();
        let follower = Follower {
            node: config.node.clone(),
            connect: config.connect.clone(),
            held,
            report,
            link: link_to,
            lead: Lead::default(),
            shunned: None,
        };
        let task = runtime.spawn(follower.run(stopped));
        Ok(Self {
            snapshots,
            status,
            owners,
            stop: Some(stop),
            task,
            node: config.node,
            connect: config.connect,
            link,
            reports,
        })
    }

    /// The latest snapshot; `None` until there is one: not ready. Changes wake the receiver, on
    /// the control runtime, so that old snapshots are dropped there.
    pub fn snapshots(&self) -> watch::Receiver<Option<Arc<Snapshot>>> {
        self.snapshots.clone()
    }

    /// How the connection stands.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Asks the controller whose a response is.
    pub fn owners(&self) -> ControllerOwners {
        self.owners.clone()
    }

    /// Tells the leader of demand and of what is held, on this runtime, until the task is aborted.
    pub fn report(&self, demand: Arc<dyn Demand>) -> JoinHandle<()> {
        let link = Link {
            node: self.node.clone(),
            connect: self.connect.clone(),
            demand,
            to: self.link.clone(),
            reports: self.reports.clone(),
        };
        tokio::spawn(link.run())
    }

    /// Ends the stream, writes what is unwritten and ends the task.
    pub async fn stop(mut self) {
        self.stop.take();
        // It ends by itself; had it panicked there would be nothing left to stop.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.task.abort();
        }
    }
}
