//! A request's place at a worker, and the wait for it.
//!
//! Where there are workers a request goes to one at once: the worker has a queue of its own.
//! Where there is none yet it is held, and when the first comes, held requests are let go as it
//! has slots for them, each letting go of the next: a burst that waited does not become a burst
//! at one worker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::{Instant, timeout_at};

use bodhi_proto::snapshot::{PoolState, Refusal, WorkerId};

use super::{Pool, View, Worker, others};
use crate::balance::{self, Candidate, Head};

/// Why a request does not go to a worker at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAtOnce {
    /// There is none yet; [`Pool::wait`] waits for one.
    #[error("it has no worker yet")]
    NoWorker,
    /// All were tried.
    #[error("all of its workers were tried")]
    AllTried,
}

/// Why a request that waited has no worker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoSeat {
    /// As many requests wait as may.
    #[error("{0} requests wait for it already")]
    Full(u32),
    /// None came in time.
    #[error("no worker became ready within {0:?}")]
    NotInTime(Duration),
    /// None can start.
    #[error("{}: {}", .0.reason, .0.message)]
    Failed(Refusal),
}

/// A request's place at a worker; dropping it makes room for another.
#[derive(Debug)]
pub struct Seat {
    pool: Arc<Pool>,
    worker: Arc<Worker>,
}

impl Seat {
    fn take(pool: &Arc<Pool>, worker: &Arc<Worker>) -> Self {
        worker.own.fetch_add(1, Ordering::Relaxed);
        Self::taken(pool, worker)
    }

    /// Only where a slot is free. Threads ask at the same time: who counts first has it.
    fn take_free(pool: &Arc<Pool>, worker: &Arc<Worker>, now: Instant) -> Option<Self> {
        let others = worker.others.at(now);
        let counted = worker
            .own
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |own| {
                (own.saturating_add(others) < worker.endpoint.slots).then_some(own + 1)
            });
        counted.ok().map(|_| Self::taken(pool, worker))
    }

    fn taken(pool: &Arc<Pool>, worker: &Arc<Worker>) -> Self {
        pool.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            pool: Arc::clone(pool),
            worker: Arc::clone(worker),
        }
    }

    /// The worker.
    pub fn worker(&self) -> &Worker {
        &self.worker
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.worker.own.fetch_sub(1, Ordering::Relaxed);
        self.pool.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.room.notify_one();
    }
}

/// A request that waits.
struct Held<'a>(&'a Pool);

impl<'a> Held<'a> {
    fn enter(pool: &'a Pool, most: u32) -> Result<Self, NoSeat> {
        let taken = pool
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                (n < most).then_some(n + 1)
            });
        match taken {
            Ok(before) => {
                if before == 0 {
                    pool.demand.notify_one();
                }
                Ok(Self(pool))
            }
            Err(_) => Err(NoSeat::Full(most)),
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        // Whatever became of this one, the next looks for itself.
        self.0.room.notify_one();
    }
}

impl Pool {
    /// A place at the worker that suits a prompt with this head, none of `tried`, if there are
    /// workers: they have queues of their own.
    ///
    /// # Errors
    /// [`NotAtOnce`].
    pub fn seat(self: &Arc<Self>, head: Head, tried: &[WorkerId]) -> Result<Seat, NotAtOnce> {
        let view = self.view.load();
        if view.workers.is_empty() {
            return Err(NotAtOnce::NoWorker);
        }
        let worker = view.choose(head, tried, Instant::now());
        let seat = Seat::take(self, worker.ok_or(NotAtOnce::AllTried)?);
        if self.in_flight.load(Ordering::Relaxed) == 1 {
            self.demand.notify_one();
        }
        Ok(seat)
    }

    /// Waits for a place at a worker, where there is none yet, as long as the pool says.
    ///
    /// # Errors
    /// [`NoSeat`].
    pub async fn wait(self: &Arc<Self>, head: Head) -> Result<Seat, NoSeat> {
        let view = self.view.load_full();
        view.failed()?;
        let hold = view.pool.hold_timeout;
        let _held = Held::enter(self, view.pool.max_held)?;
        let deadline = Instant::now() + hold;
        loop {
            let told = self.room.notified();
            let (view, now) = (self.view.load_full(), Instant::now());
            if let Some(worker) = view.choose_free(head, now) {
                match Seat::take_free(self, worker, now) {
                    Some(seat) => return Ok(seat),
                    // Another thread was quicker; another worker may be free.
                    None => continue,
                }
            }
            if view.workers.is_empty() {
                view.failed()?;
            }
            // What others have asked for ends without a word to us.
            let look_again = match view.workers.is_empty() {
                true => deadline,
                false => deadline.min(now + others::AGE),
            };
            if timeout_at(look_again, told).await.is_err() && look_again == deadline {
                return Err(NoSeat::NotInTime(hold));
            }
        }
    }
}

impl View {
    fn failed(&self) -> Result<(), NoSeat> {
        match &self.pool.state {
            PoolState::Failed(refusal) => Err(NoSeat::Failed(refusal.clone())),
            PoolState::Ready | PoolState::Starting | PoolState::Asleep => Ok(()),
        }
    }

    fn choose(&self, head: Head, tried: &[WorkerId], now: Instant) -> Option<&Arc<Worker>> {
        self.choose_among(head, now, |worker| !tried.contains(&worker.endpoint.id))
    }

    /// Only among those with a slot that nobody of ours has.
    fn choose_free(&self, head: Head, now: Instant) -> Option<&Arc<Worker>> {
        self.choose_among(head, now, |worker| worker.load(now) < worker.endpoint.slots)
    }

    fn choose_among(
        &self,
        head: Head,
        now: Instant,
        may: impl Fn(&Worker) -> bool,
    ) -> Option<&Arc<Worker>> {
        let workers: SmallVec<[&Arc<Worker>; 16]> =
            self.workers.iter().filter(|worker| may(worker)).collect();
        let candidates: SmallVec<[Candidate<'_>; 16]> = workers
            .iter()
            .map(|worker| Candidate {
                id: &worker.endpoint.id.worker,
                load: worker.load(now),
                slots: worker.endpoint.slots,
            })
            .collect();
        balance::choose(self.pool.balancing, head, &candidates).map(|n| workers[n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodhi_proto::chat::{Load, Prompt, RawPrompt, Text};
    use bodhi_proto::names::ObjectRef;
    use bodhi_proto::snapshot::{self, Balancing, LocalFeatures, WorkerAddress, WorkerEndpoint};
    use tokio::sync::Notify;

    fn configured(state: PoolState) -> Arc<snapshot::Pool> {
        Arc::new(snapshot::Pool {
            object: ObjectRef::alias("bodhi", "local"),
            features: LocalFeatures::default(),
            balancing: Balancing::LeastLoad,
            hold_timeout: Duration::from_secs(300),
            max_held: 3,
            system_prompt: None,
            state,
        })
    }

    fn endpoints(names: &[&str]) -> Arc<[Arc<WorkerEndpoint>]> {
        let endpoint = |name: &&str| {
            Arc::new(WorkerEndpoint {
                id: WorkerId {
                    pool: ObjectRef::alias("bodhi", "local"),
                    worker: (*name).into(),
                },
                address: WorkerAddress::parse("unix:/w").unwrap(),
                slots: 2,
            })
        };
        names.iter().map(endpoint).collect()
    }

    fn pool(state: PoolState, names: &[&str]) -> Arc<Pool> {
        let workers = endpoints(names);
        Arc::new(Pool::new(configured(state), Some(&workers), Arc::default()))
    }

    fn head() -> Head {
        balance::head_of(&Prompt::Raw(RawPrompt {
            prompt: Text::Plain("Hello".into()),
            suffix: None,
            echo: false,
        }))
    }

    fn id(seat: &Seat) -> &str {
        &seat.worker().endpoint.id.worker
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        while !condition() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn requests_spread_and_seats_are_given_back() {
        let pool = pool(PoolState::Ready, &["a", "b"]);
        let first = pool.seat(head(), &[]).unwrap();
        let second = pool.seat(head(), &[]).unwrap();
        assert_ne!(id(&first), id(&second));
        assert_eq!(pool.demand(), (2, 0));
        drop((first, second));
        assert_eq!(pool.demand(), (0, 0));
    }

    #[tokio::test]
    async fn a_worker_that_was_tried_is_not_tried_again() {
        let pool = pool(PoolState::Ready, &["a", "b"]);
        let first = pool.seat(head(), &[]).unwrap();
        let tried = vec![first.worker().endpoint.id.clone()];
        drop(first);
        let second = pool.seat(head(), &tried).unwrap();
        assert_ne!(second.worker().endpoint.id, tried[0]);
        let both = vec![tried[0].clone(), second.worker().endpoint.id.clone()];
        let none = pool.seat(head(), &both).unwrap_err();
        assert_eq!(none, NotAtOnce::AllTried);
    }

    fn busy() -> Load {
        Load {
            busy: 2,
            queued: 5,
            ..Load::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_send_counts_for_a_while() {
        let pool = pool(PoolState::Ready, &["a", "b"]);
        let first = pool.seat(head(), &[]).unwrap();
        first.worker().reported(&busy(), Instant::now());
        let busy = id(&first).to_owned();
        drop(first);
        for _ in 0..5 {
            let seat = pool.seat(head(), &[]).unwrap();
            assert_ne!(id(&seat), busy);
        }
        tokio::time::advance(others::AGE).await;
        let both = [pool.seat(head(), &[]), pool.seat(head(), &[])];
        assert!(both.iter().any(|seat| id(seat.as_ref().unwrap()) == busy));
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_request_outlasts_what_others_send() {
        let pool = pool(PoolState::Starting, &[]);
        let wait = || {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.wait(head()).await })
        };
        let waiting = [wait(), wait(), wait()];
        until(|| pool.demand() == (0, 3)).await;
        pool.update(configured(PoolState::Ready), Some(&endpoints(&["a"])));
        until(|| pool.demand() == (2, 1)).await;
        let [first, second, third] = waiting;
        let seats = [
            first.await.unwrap().unwrap(),
            second.await.unwrap().unwrap(),
        ];
        // The worker is full of others' requests when ours end, and nobody says when theirs do.
        seats[0].worker().reported(&busy(), Instant::now());
        let begun = Instant::now();
        drop(seats);
        let third = third.await.unwrap().unwrap();
        assert_eq!(id(&third), "a");
        assert!(begun.elapsed() <= others::AGE * 2, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn held_requests_are_let_go_as_there_are_slots() {
        let pool = pool(PoolState::Starting, &[]);
        let wait = || {
            let pool = Arc::clone(&pool);
            tokio::spawn(async move { pool.wait(head()).await })
        };
        let waiting = [wait(), wait(), wait()];
        until(|| pool.demand() == (0, 3)).await;
        assert_eq!(pool.wait(head()).await.unwrap_err(), NoSeat::Full(3));
        pool.update(configured(PoolState::Ready), Some(&endpoints(&["a"])));
        until(|| pool.demand() == (2, 1)).await;
        let [first, second, third] = waiting;
        let first = first.await.unwrap().unwrap();
        assert!(!third.is_finished());
        drop(first);
        let third = third.await.unwrap().unwrap();
        assert_eq!(id(&third), "a");
        drop((second.await.unwrap().unwrap(), third));
        assert_eq!(pool.demand(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_in_time_or_with_the_reason() {
        let pool = pool(PoolState::Asleep, &[]);
        let late = pool.wait(head()).await.unwrap_err();
        assert_eq!(late, NoSeat::NotInTime(Duration::from_secs(300)));
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.wait(head()).await }
        });
        let second = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.wait(head()).await }
        });
        until(|| pool.demand() == (0, 2)).await;
        let refusal = Refusal {
            reason: "InsufficientMemory".into(),
            message: "needs 11.2 GiB, 8.0 GiB free".into(),
            unsupported: false,
        };
        pool.update(configured(PoolState::Failed(refusal.clone())), None);
        for waiting in [waiting, second] {
            let failed = waiting.await.unwrap().unwrap_err();
            assert_eq!(failed, NoSeat::Failed(refusal.clone()));
        }
        assert_eq!(pool.demand(), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_waits_is_heard() {
        let demand = Arc::new(Notify::new());
        let none = None;
        let asleep = configured(PoolState::Asleep);
        let pool = Arc::new(Pool::new(asleep, none, Arc::clone(&demand)));
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.wait(head()).await }
        });
        demand.notified().await;
        assert_eq!(pool.demand(), (0, 1));
        // A client that leaves is demand no more.
        waiting.abort();
        until(|| pool.demand() == (0, 0)).await;
    }
}
