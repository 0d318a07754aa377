//! Threads for calls that may never come back.
//!
//! A chat template is a program, and llama.cpp gives no way to stop one. So such calls run on
//! threads of their own under a deadline. A thread that overruns is retired: its caller gets an
//! error, another thread takes its place, and when too many are retired, the process has to end
//! ([`Pool::exhausted`]), since each may burn a core for ever.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

/// So many retired threads are too many.
const MAX_RETIRED: u32 = 3;

/// llama.cpp's template engine and parsers recurse along the nesting of their input. Pages that
/// are not touched cost nothing.
const STACK: usize = 64 << 20;

/// Threads that share one queue. Clones are the same pool.
#[derive(Clone)]
pub struct Pool {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

/// The call did not come back in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a call into llama.cpp did not come back in time")]
pub struct Overrun;

/// Gets the thread's mark of retirement before it runs.
type Job = Box<dyn FnOnce(&Arc<AtomicBool>) + Send>;

struct Shared {
    queue: Mutex<mpsc::Receiver<Job>>,
    retired: watch::Sender<u32>,
}

impl Pool {
    /// A pool of so many threads.
    pub fn new(threads: usize) -> Self {
        let (jobs, queue) = mpsc::channel();
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            retired: watch::Sender::new(0),
        });
        for _ in 0..threads {
            spawn(Arc::clone(&shared));
        }
        Self { jobs, shared }
    }

    /// Does `work` on a thread of the pool. The limit counts from when the work begins; to wait
    /// for a free thread takes at most as long as the work before it may.
    ///
    /// # Errors
    /// [`Overrun`], also when the work panicked. Must be called within a tokio runtime.
    pub async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Overrun> {
        let (begin, begun) = oneshot::channel();
        let (finish, finished) = oneshot::channel();
        let job: Job = Box::new(move |retired| {
            // A receiver that is gone is a caller who no longer wants the answer.
            let _ = begin.send(Arc::clone(retired));
            let _ = finish.send(work());
        });
        self.jobs.send(job).map_err(|_| Overrun)?;
        let shared = Arc::clone(&self.shared);
        // A task of its own watches, so that a caller who goes away does not leave a stuck
        // thread unnoticed.
        let watched = tokio::spawn(async move {
            let retired = begun.await.map_err(|_| Overrun)?;
            match tokio::time::timeout(limit, finished).await {
                Ok(answer) => answer.map_err(|_| Overrun),
                Err(_) => {
                    shared.retire(&retired);
                    Err(Overrun)
                }
            }
        });
        watched.await.map_err(|_| Overrun)?
    }

    /// Returns when so many threads are retired that the process has to end.
    pub async fn exhausted(&self) {
        let mut retired = self.shared.retired.subscribe();
        // The sender lives as long as `self`.
        let _ = retired.wait_for(|count| *count >= MAX_RETIRED).await;
    }
}

impl Shared {
    fn retire(self: &Arc<Self>, thread: &AtomicBool) {
        thread.store(true, Ordering::Relaxed);
        self.retired.send_modify(|count| *count += 1);
        let retired = *self.retired.borrow();
        tracing::error!(
            retired,
            "a thread is stuck in a chat template and was retired"
        );
        if retired < MAX_RETIRED {
            spawn(Arc::clone(self));
        }
    }
}

fn spawn(shared: Arc<Shared>) {
    let retired = Arc::new(AtomicBool::new(false));
    let work = move || {
        while !retired.load(Ordering::Relaxed) {
            let next = shared
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .recv();
            let Ok(job) = next else {
                return;
            };
            // A panic drops the job's sender, which its caller notices.
            let _ = catch_unwind(AssertUnwindSafe(|| job(&retired)));
        }
    };
    thread::Builder::new()
        .name("template".into())
        .stack_size(STACK)
        .spawn(work)
        .expect("the system gives a thread");
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    /// Work that ends when the test lets it.
    fn stuck() -> (impl FnOnce() + Send + 'static, mpsc::Sender<()>) {
        let (release, wait) = mpsc::channel::<()>();
        let work = move || {
            let _ = wait.recv();
        };
        (work, release)
    }

    #[tokio::test]
    async fn answers_what_the_work_returns() {
        assert_eq!(Pool::new(1).run(LONG, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn goes_on_after_a_panic() {
        let pool = Pool::new(1);
        assert_eq!(
            pool.run(LONG, || panic!("on purpose")).await,
            Err::<(), _>(Overrun)
        );
        assert_eq!(pool.run(LONG, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn replaces_a_thread_that_overran() {
        let pool = Pool::new(1);
        let (work, _release) = stuck();
        assert_eq!(pool.run(SHORT, work).await, Err(Overrun));
        assert_eq!(pool.run(LONG, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn is_exhausted_by_three_overruns() {
        let pool = Pool::new(1);
        let mut releases = Vec::new();
        for _ in 0..MAX_RETIRED {
            let (work, release) = stuck();
            releases.push(release);
            assert_eq!(pool.run(SHORT, work).await, Err(Overrun));
        }
        pool.exhausted().await;
    }

    #[tokio::test]
    async fn notices_an_overrun_though_the_caller_went_away() {
        let pool = Pool::new(1);
        let (work, _release) = stuck();
        let call = pool.run(SHORT, work);
        assert!(tokio::time::timeout(SHORT / 4, call).await.is_err());
        assert_eq!(pool.run(LONG, || 7).await, Ok(7));
    }
}
