//! Which of several controllers writes: a Lease of `coordination.k8s.io`, held by client-go's
//! rules.
//!
//! A candidate takes the Lease when it has not seen it change for as long as its holder asked,
//! by its own monotonic clock: no two clocks are ever compared. Every write names the
//! resourceVersion that it follows, so of two candidates one is refused. The decisions are
//! [`election`]'s, which knows no clock and no API server; this file carries them out.
//!
//! A Lease alone does not stop a leader that was paused and wakes up late. So whoever writes as
//! leader writes through a [`Fence`], which is open only while no other candidate can have taken
//! over: for [`Timing::deadline`] after the last renewal that succeeded, and every write is given
//! up before [`Timing::lease`] has passed.

mod election;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt as _};
use tokio::sync::{RwLock, watch};
use tokio::time::{Instant, sleep, timeout};

use self::election::{Attempt, Election, Held};

/// On the Lease: where the holder's sync server is reached.
pub const ADDRESS_ANNOTATION: &str = "bodhi.dev/leader-address";

/// A controller that may lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Differs between any two processes: a pod's name and uid.
    pub identity: Arc<str>,
    /// Where data planes reach its sync server.
    pub address: Arc<str>,
}

/// The Lease and how it is held.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who asks.
    pub candidate: Candidate,
    /// Namespace of the Lease: the release's.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// client-go's defaults unless a test is in a hurry.
    pub timing: Timing,
}

/// How long is waited for what. `retry` < `deadline` < `lease`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// An unchanged Lease is free after this long.
    pub lease: Duration,
    /// A leader that could not renew for this long stops.
    pub deadline: Duration,
    /// Between two attempts.
    pub retry: Duration,
}

impl Default for Timing {
    /// client-go's: 15 s, 10 s, 2 s.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Who leads, as far as this controller knows.
#[derive(Debug, Clone, Default)]
pub struct Leadership {
    /// The holder that was seen last; `None` before the first and after one has let go.
    pub leader: Option<Leader>,
    /// There while this controller leads.
    pub fence: Option<Fence>,
}

impl Leadership {
    /// Whether this controller may write now.
    pub fn is_ours(&self) -> bool {
        self.fence.as_ref().is_some_and(Fence::is_open)
    }
}

/// A controller that leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Who.
    pub candidate: Candidate,
    /// Grows with each change of leaders (`leaseTransitions`).
    pub epoch: u64,
}

/// What every write of a leader goes through. Of one term; once closed it never opens again.
#[derive(Debug, Clone)]
pub struct Fence {
    epoch: u64,
    /// The most that one write may take.
    most: Duration,
    origin: Instant,
    /// Open until then, in milliseconds after `origin`; 0 once closed.
    until: Arc<AtomicU64>,
    /// Held for reading by each write; who lets the Lease go waits for them.
    writes: Arc<RwLock<()>>,
}

/// Why a leader's write was not made, or is not known to have been made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fenced {
    /// This controller does not lead any more.
    #[error("this controller does not lead any more")]
    Closed,
    /// The API server did not answer while the Lease was certainly ours.
    #[error("the API server did not answer in time")]
    Late,
}

impl Fence {
    fn new(epoch: u64, timing: Timing) -> Self {
        Self {
            epoch,
            most: timing.lease - timing.deadline,
            origin: Instant::now(),
            until: Arc::default(),
            writes: Arc::default(),
        }
    }

    /// The term's number.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether no other controller can lead now.
    pub fn is_open(&self) -> bool {
        let until = Duration::from_millis(self.until.load(Ordering::Acquire));
        self.origin.elapsed() < until
    }

    /// Makes a write, if this controller still leads, and gives it up before another could.
    ///
    /// # Errors
    /// [`Fenced::Closed`]: nothing was sent. [`Fenced::Late`]: it may have been applied.
    pub async fn write<T>(&self, write: impl Future<Output = T>) -> Result<T, Fenced> {
        let _write = self.writes.try_read().map_err(|_| Fenced::Closed)?;
        if !self.is_open() {
            return Err(Fenced::Closed);
        }
        timeout(self.most, write).await.map_err(|_| Fenced::Late)
    }

    fn extend(&self, until: Instant) {
        let millis = (until - self.origin).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.until.store(millis, Ordering::Release);
    }

    fn close(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Closes it and waits for the writes that are under way.
    async fn drain(&self) {
        self.close();
        drop(self.writes.write().await);
    }
}

/// Stands for election until `shutdown`, then lets the Lease go. The receiver wakes when the
/// leader changes, and not at renewals.
pub fn stand(
    client: Client,
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> (watch::Receiver<Leadership>, tokio::task::JoinHandle<()>) {
    let (tell, leadership) = watch::channel(Leadership::default());
    let standing = Standing {
        leases: Api::namespaced(client, &config.namespace),
        election: Election::new(config.candidate.clone(), config.timing),
        began: Instant::now(),
        fence: None,
        tell,
        config,
    };
    (leadership, tokio::spawn(standing.run(shutdown)))
}

/// Why an attempt came to nothing.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server did not answer in time")]
    Late,
}

struct Standing {
    leases: Api<Lease>,
    config: Config,
    election: Election,
    began: Instant,
    fence: Option<Fence>,
    tell: watch::Sender<Leadership>,
}

impl Standing {
    async fn run(mut self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let mut failing = false;
        loop {
            let attempt = tokio::select! {
                () = &mut shutdown => break,
                attempt = self.attempt_in_time() => attempt,
            };
            match attempt {
                Ok(()) => failing = false,
                // Once, not every two seconds of an outage.
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(lease = %self.config.name, %error, "the Lease could not be read or renewed");
                }
                Err(error) => {
                    tracing::debug!(%error, "the Lease could still not be read or renewed");
                }
            }
            self.show();
            let pause = self.election.pause(rand::random(), self.now());
            tokio::select! {
                () = &mut shutdown => break,
                () = sleep(pause) => {}
            }
            // A leader that waited past its deadline must not look like one.
            self.show();
        }
        self.release().await;
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// No attempt outlives the term that it is to prolong.
    async fn attempt_in_time(&mut self) -> Result<(), AttemptError> {
        let most = self.election.patience(self.now());
        match timeout(most, self.attempt()).await {
            Ok(done) => done,
            Err(_) => Err(AttemptError::Late),
        }
    }

    /// client-go's tryAcquireOrRenew: a leader renews what it knows, without reading it first.
    async fn attempt(&mut self) -> Result<(), AttemptError> {
        if let Some(attempt) = self.election.renewal(self.now(), Timestamp::now()) {
            match self.carry_out(attempt).await {
                Ok(()) => return Ok(()),
                // Somebody has changed it, or nobody answers: see what is there.
                Err(error) => tracing::debug!(%error, "the Lease was not renewed at once"),
            }
        }
        let lease = self.leases.get_opt(&self.config.name).await?;
        self.election.read(lease.as_ref().map(held), self.now());
        match self.election.attempt(self.now(), Timestamp::now()) {
            Some(attempt) => self.carry_out(attempt).await,
            None => Ok(()),
        }
    }

    async fn carry_out(&mut self, attempt: Attempt) -> Result<(), AttemptError> {
        let began = self.now();
        let params = PostParams::default();
        let lease = self.lease(&attempt);
        let written = match &attempt.follows {
            None => self.leases.create(&params, &lease).await?,
            Some(_) => {
                self.leases
                    .replace(&self.config.name, &params, &lease)
                    .await?
            }
        };
        self.election.written(held(&written), began);
        Ok(())
    }

    /// Tells what has changed.
    fn show(&mut self) {
        let now = self.now();
        let term = self.election.term(now);
        match (term, &self.fence) {
            (Some((epoch, until)), fence) => {
                let fence = fence.clone().filter(|fence| fence.epoch == epoch);
                let fence = fence.unwrap_or_else(|| Fence::new(epoch, self.config.timing));
                fence.extend(self.began + until);
                self.fence = Some(fence);
            }
            (None, _) => {
                if let Some(fence) = self.fence.take() {
                    fence.close();
                }
            }
        }
        let (leader, fence) = (self.election.leader(now), self.fence.clone());
        self.tell.send_if_modified(|told| {
            let epoch = |fence: &Option<Fence>| fence.as_ref().map(Fence::epoch);
            let differs = told.leader != leader || epoch(&told.fence) != epoch(&fence);
            if differs {
                match &leader {
                    Some(leader) if fence.is_some() => {
                        tracing::info!(epoch = leader.epoch, "this controller leads");
                    }
                    Some(leader) => {
                        let (identity, epoch) = (&leader.candidate.identity, leader.epoch);
                        tracing::info!(%identity, epoch, "another controller leads");
                    }
                    None => tracing::info!("no controller leads"),
                }
                *told = Leadership { leader, fence };
            }
            differs
        });
    }

    /// Lets another controller lead at once (client-go's ReleaseOnCancel).
    async fn release(mut self) {
        let Some(fence) = self.fence.take() else {
            return;
        };
        self.tell.send_replace(Leadership::default());
        let Some(attempt) = self.election.release(Timestamp::now()) else {
            return;
        };
        let most = self.config.timing.deadline;
        let release = async {
            fence.drain().await;
            self.carry_out(attempt).await
        };
        match timeout(most, release).await {
            Ok(Ok(())) => tracing::info!("the Lease is free"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease was not freed; it expires"),
            Err(_) => tracing::warn!("the Lease was not freed in time; it expires"),
        }
    }

    fn lease(&self, attempt: &Attempt) -> Lease {
        let micro = |at: Option<Timestamp>| at.map(MicroTime);
        let held = &attempt.held;
        let holder = held.holder.as_ref();
        let annotations = holder.map(|holder| {
            let address = holder.address.to_string();
            [(ADDRESS_ANNOTATION.to_owned(), address)].into()
        });
        Lease {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                resource_version: attempt.follows.clone(),
                annotations,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                // client-go writes an empty identity for "nobody".
                holder_identity: Some(holder.map_or("", |h| &*h.identity).to_owned()),
                lease_duration_seconds: Some(seconds(held.duration)),
                acquire_time: micro(held.acquired),
                renew_time: micro(held.renewed),
                lease_transitions: Some(i32::try_from(held.epoch).unwrap_or(i32::MAX)),
                ..LeaseSpec::default()
            }),
        }
    }
}

fn seconds(duration: Duration) -> i32 {
    // At least one: an API server refuses zero.
    i32::try_from(duration.as_secs().max(1)).unwrap_or(i32::MAX)
}

/// What a Lease says. What is missing is as client-go reads it: nobody, at once.
fn held(lease: &Lease) -> Held {
    let spec = lease.spec.clone().unwrap_or_default();
    let identity = spec.holder_identity.filter(|identity| !identity.is_empty());
    let address = lease.annotations().get(ADDRESS_ANNOTATION);
    Held {
        version: lease.resource_version().unwrap_or_default(),
        holder: identity.map(|identity| Candidate {
            identity: identity.into(),
            address: address.map_or("", String::as_str).into(),
        }),
        duration: Duration::from_secs(
            spec.lease_duration_seconds
                .and_then(|s| u64::try_from(s).ok())
                .unwrap_or(0),
        ),
        epoch: spec
            .lease_transitions
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(0),
        acquired: spec.acquire_time.map(|time| time.0),
        renewed: spec.renew_time.map(|time| time.0),
    }
}
