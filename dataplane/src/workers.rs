//! The workers of local models: who there is, how busy each one is, and who waits for one.
//!
//! A [`Pool`] is shared by all serving threads and outlives changes of configuration. A request
//! takes a [`Seat`] at a worker; where there is no worker yet it waits, and its waiting is the
//! demand that wakes one. [`Connections`] are a thread's own.

mod connection;
mod others;
mod seat;

pub use connection::{CallFailure, Client, Connections, NotSent};
pub use seat::{NoSeat, NotAtOnce, Seat};

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::Instant;

use bodhi_proto::chat::Load;
use bodhi_proto::snapshot::{self, WorkerEndpoint};

use others::Others;

/// One worker, and what is known of its load.
#[derive(Debug)]
pub struct Worker {
    /// Where it is.
    pub endpoint: Arc<WorkerEndpoint>,
    /// Requests of this data plane.
    own: AtomicU32,
    /// Requests of others.
    others: Others,
}

impl Worker {
    fn new(endpoint: Arc<WorkerEndpoint>) -> Self {
        Self {
            endpoint,
            own: AtomicU32::new(0),
            others: Others::new(Instant::now()),
        }
    }

    /// Requests it has, as far as is known here.
    fn load(&self, now: Instant) -> u32 {
        let own = self.own.load(Ordering::Relaxed);
        own.saturating_add(self.others.at(now))
    }

    /// Takes in what the worker says of itself, at the end of one of our requests.
    pub fn reported(&self, load: &Load, now: Instant) {
        // The request that brings the report may still count on both sides, or on ours alone: too
        // little is soon put right, too much would keep requests away until the next report.
        let own = self.own.load(Ordering::Relaxed);
        let others = (load.busy + load.queued).saturating_sub(own);
        self.others.say(others, now);
    }
}

/// A pool as it is configured at one moment.
#[derive(Debug)]
struct View {
    pool: Arc<snapshot::Pool>,
    workers: Vec<Arc<Worker>>,
}

/// A local model's workers.
#[derive(Debug)]
pub struct Pool {
    view: ArcSwap<View>,
    /// Requests at workers.
    in_flight: AtomicU32,
    /// Requests that wait for a worker.
    held: AtomicU32,
    /// Wakes one of those that wait.
    room: Notify,
    /// Told when the first request comes.
    demand: Arc<Notify>,
}

impl Pool {
    /// A pool that nobody has asked for anything. `demand` is told when somebody does.
    pub fn new(
        pool: Arc<snapshot::Pool>,
        workers: Option<&Arc<[Arc<WorkerEndpoint>]>>,
        demand: Arc<Notify>,
    ) -> Self {
        Self {
            view: ArcSwap::from_pointee(View::new(pool, workers, &[])),
            in_flight: AtomicU32::new(0),
            held: AtomicU32::new(0),
            room: Notify::new(),
            demand,
        }
    }

    /// Goes on with another configuration. Workers that stay keep what is known of them;
    /// requests at those that go run on.
    pub fn update(&self, pool: Arc<snapshot::Pool>, workers: Option<&Arc<[Arc<WorkerEndpoint>]>>) {
        let before = self.view.load();
        let view = View::new(pool, workers, &before.workers);
        self.view.store(Arc::new(view));
        self.room.notify_one();
        if self.held.load(Ordering::Relaxed) > 0 {
            // One that cannot be served is told so, and tells the next.
            self.demand.notify_one();
        }
    }

    /// The configuration.
    pub fn pool(&self) -> Arc<snapshot::Pool> {
        Arc::clone(&self.view.load().pool)
    }

    /// How many workers are ready.
    pub fn workers(&self) -> usize {
        self.view.load().workers.len()
    }

    /// Requests at workers, and requests that wait.
    pub fn demand(&self) -> (u32, u32) {
        (
            self.in_flight.load(Ordering::Relaxed),
            self.held.load(Ordering::Relaxed),
        )
    }
}

impl View {
    fn new(
        pool: Arc<snapshot::Pool>,
        workers: Option<&Arc<[Arc<WorkerEndpoint>]>>,
        before: &[Arc<Worker>],
    ) -> Self {
        let worker = |endpoint: &Arc<WorkerEndpoint>| {
            let known = before.iter().find(|w| w.endpoint == *endpoint);
            known
                .cloned()
                .unwrap_or_else(|| Arc::new(Worker::new(Arc::clone(endpoint))))
        };
        Self {
            pool,
            workers: workers.map_or_else(Vec::new, |all| all.iter().map(worker).collect()),
        }
    }
}
