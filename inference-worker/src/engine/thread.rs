//! The thread that owns an engine, and the handle through which everybody else gives it work.

mod driver;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bodhi_proto::chat::{FinishReason, Load, Timings, Usage};
use tokio::sync::{oneshot, watch};

use super::job::check_prompt;
use super::stream::{self, Sender};
use super::{
    DecodeError, End, Engine, Job, JobStream, Model, Purpose, Sampler, SamplerRequest, Shape,
    SubmitError, Token,
};
use driver::Driver;

/// How work is taken.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Requests that may wait for a slot.
    pub queue: u32,
    /// How long answers in progress may be held up by the prompts of others, about.
    pub gap: Duration,
    /// Bytes of host memory for what no longer has a slot.
    pub cache: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: 256,
            gap: Duration::from_millis(100),
            cache: 1 << 30,
        }
    }
}

/// Why an engine does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no thread for it.
    #[error("the engine has no thread: {0}")]
    Thread(#[from] io::Error),
    /// It cannot compute a token.
    #[error(transparent)]
    WarmUp(#[from] DecodeError),
}

/// A running engine. Clones are the same engine; it ends when the last one is gone and the last job is
/// done.
#[derive(Debug, Clone)]
pub struct Runner {
    model: Arc<dyn Model>,
    shape: Shape,
    queue: u32,
    commands: mpsc::Sender<Command>,
    gauges: Arc<Gauges>,
    /// How the thread ended.
    end: watch::Receiver<Option<String>>,
}

/// What the thread tells without being asked.
#[derive(Debug)]
struct Gauges {
    start: Instant,
    /// Requests that were taken and have no slot yet.
    waiting: AtomicU32,
    draining: AtomicBool,
    /// When the thread last computed something, or began to have something to do, in milliseconds
    /// since `start`, and one; 0: it has nothing to do.
    progress: AtomicU64,
    load: Mutex<Load>,
}

enum Command {
    Generate(Box<Generate>),
    Embed(Embed),
    /// Answered when there is nothing more to do.
    Drain(oneshot::Sender<()>),
}

struct Generate {
    prompt: Arc<[Token]>,
    samplers: Vec<Box<dyn Sampler>>,
    most: Option<u32>,
    logprobs: Option<u32>,
    preserved: Vec<Token>,
    submitted: Instant,
    sender: Sender,
}

struct Embed {
    inputs: Vec<Vec<Token>>,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, String>>,
}

impl Gauges {
    fn load(&self) -> std::sync::MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something to do, which from now on must get on.
    fn begin(&self) {
        if self.progress.load(Ordering::Relaxed) == 0 {
            self.touch();
        }
    }

    /// Something has got on.
    fn touch(&self) {
        let millis = self.start.elapsed().as_millis() as u64;
        self.progress.store(millis + 1, Ordering::Relaxed);
    }

    fn rest(&self) {
        self.progress.store(0, Ordering::Relaxed);
    }
}

impl Runner {
    /// Gives an engine its thread and lets it warm up there, which takes as long as a token does.
    pub fn start<E: Engine>(mut engine: E, options: Options) -> Result<Self, StartError> {
        let (commands, inbox) = mpsc::channel();
        let now = Instant::now();
        let shape = engine.shape();
        let gauges = Arc::new(Gauges {
            start: now,
            waiting: AtomicU32::new(0),
            draining: AtomicBool::new(false),
            progress: AtomicU64::new(0),
            load: Mutex::new(Load {
                slots: shape.slots,
                kv_capacity: shape.slots * shape.context as u32,
                ..Load::default()
            }),
        });
        let (end, ended) = watch::channel(None);
        let runner = Self {
            model: engine.model(),
            shape,
            queue: options.queue,
            commands,
            gauges: Arc::clone(&gauges),
            end: ended,
        };
        let (report, warm) = mpsc::channel();
        let work = move || {
            let result = engine.warm_up();
            let is_warm = result.is_ok();
            if report.send(result).is_ok() && is_warm {
                Driver::new(engine, options, inbox, gauges).run();
            }
        };
        std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || {
                // Nothing of it is used any more: its readers were told when it was dropped.
                let ended = catch_unwind(AssertUnwindSafe(work));
                end.send_replace(ended.err().map(|panic| words_of(&*panic)));
            })?;
        match warm.recv() {
            Ok(result) => result?,
            Err(_) => return Err(StartError::Thread(io::ErrorKind::BrokenPipe.into())),
        }
        Ok(runner)
    }

    /// Vocabulary and the like.
    pub fn model(&self) -> &Arc<dyn Model> {
        &self.model
    }

    /// What the engine can hold.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Lets a prompt be continued. Compiling a grammar may take milliseconds; nothing else does.
    pub fn submit(&self, job: Job) -> Result<JobStream, SubmitError> {
        if self.shape.purpose != Purpose::Generate {
            return Err(SubmitError::Unsupported);
        }
        job.check(&*self.model, self.shape.context)?;
        let (sender, stream) = stream::channel();
        if job.max_output_tokens == Some(0) {
            finish_empty(&job, &sender);
            return Ok(stream);
        }
        let ticket = self.wait()?;
        let samplers = (0..job.choices)
            .map(|choice| {
                self.model.sampler(SamplerRequest {
                    sampling: &job.sampling,
                    grammar: job.grammar.as_ref(),
                    prompt: &job.prompt,
                    choice,
                    context: self.shape.context,
                })
            })
            .collect::<Result<_, _>>()?;
        ticket.redeem(Command::Generate(Box::new(Generate {
            prompt: job.prompt.into(),
            samplers,
            most: job.max_output_tokens,
            logprobs: job.logprobs,
            preserved: job.preserved,
            submitted: Instant::now(),
            sender,
        })))?;
        Ok(stream)
    }

    /// A vector for each input, as the model makes them, or scaled to length one.
    pub async fn embed(
        &self,
        inputs: Vec<Vec<Token>>,
        normalized: bool,
    ) -> Result<Vec<Vec<f32>>, SubmitError> {
        if !matches!(self.shape.purpose, Purpose::Embed(_)) {
            return Err(SubmitError::Unsupported);
        }
        let mut vectors = self.vectors(inputs).await?;
        if normalized {
            vectors.iter_mut().for_each(|vector| normalize(vector));
        }
        Ok(vectors)
    }

    /// How well each [pair](Model::pair) fits together; higher is better.
    pub async fn rank(&self, pairs: Vec<Vec<Token>>) -> Result<Vec<f32>, SubmitError> {
        if self.shape.purpose != Purpose::Rank {
            return Err(SubmitError::Unsupported);
        }
        let vectors = self.vectors(pairs).await?;
        Ok(vectors
            .into_iter()
            .map(|scores| scores.first().copied().unwrap_or(f32::NEG_INFINITY))
            .collect())
    }

    async fn vectors(&self, inputs: Vec<Vec<Token>>) -> Result<Vec<Vec<f32>>, SubmitError> {
        // Inputs are computed whole.
        let most = self.shape.context.min(self.shape.batch);
        for input in &inputs {
            check_prompt(input, &*self.model)?;
            if input.len() > most {
                return Err(SubmitError::ContextLength {
                    prompt: input.len(),
                    context: most,
                });
            }
        }
        let (reply, vectors) = oneshot::channel();
        self.wait()?
            .redeem(Command::Embed(Embed { inputs, reply }))?;
        match vectors.await {
            Ok(result) => result.map_err(SubmitError::Engine),
            Err(_) => Err(SubmitError::Stopped),
        }
    }

    /// How busy it is.
    pub fn load(&self) -> Load {
        let mut load = *self.gauges.load();
        load.queued = self.gauges.waiting.load(Ordering::Relaxed);
        load
    }

    /// How long nothing has been computed although something waits; `None`: nothing waits. A step
    /// takes seconds at most, so that minutes mean that the engine hangs.
    pub fn busy_for(&self) -> Option<Duration> {
        let since = self
            .gauges
            .progress
            .load(Ordering::Relaxed)
            .checked_sub(1)?;
        Some(
            self.gauges
                .start
                .elapsed()
                .saturating_sub(Duration::from_millis(since)),
        )
    }

    /// Returns when the engine's thread has ended although it is wanted, with the last words of it.
    pub async fn ended(&self) -> String {
        let mut end = self.end.clone();
        // Its sender is the thread's, and gone with it at the latest.
        let words = match end.wait_for(Option::is_some).await {
            Ok(words) => words.clone(),
            Err(_) => None,
        };
        words.unwrap_or_else(|| "it said nothing".to_owned())
    }

    /// Takes nothing more, and waits until all that was taken is done.
    pub async fn drain(&self) {
        self.gauges.draining.store(true, Ordering::Relaxed);
        let (done, drained) = oneshot::channel();
        if self.commands.send(Command::Drain(done)).is_ok() {
            // An engine that has ended has nothing to do.
            let _ = drained.await;
        }
    }

    /// A place among those that wait.
    fn wait(&self) -> Result<Ticket<'_>, SubmitError> {
        if self.gauges.draining.load(Ordering::Relaxed) {
            return Err(SubmitError::Draining);
        }
        let waiting = &self.gauges.waiting;
        let may_wait = |count: u32| (count < self.queue).then_some(count + 1);
        match waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, may_wait) {
            Ok(_) => Ok(Ticket {
                runner: self,
                redeemed: false,
            }),
            Err(count) => Err(SubmitError::QueueFull(count)),
        }
    }
}

/// A place in the queue, given back unless it is redeemed.
struct Ticket<'a> {
    runner: &'a Runner,
    redeemed: bool,
}

impl Ticket<'_> {
    fn redeem(mut self, command: Command) -> Result<(), SubmitError> {
        self.runner
            .commands
            .send(command)
            .map_err(|_| SubmitError::Stopped)?;
        self.redeemed = true;
        Ok(())
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.redeemed {
            self.runner.gauges.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn finish_empty(job: &Job, sender: &Sender) {
    for choice in 0..job.choices {
        sender.send(choice, |piece| piece.finish = Some(FinishReason::Length));
    }
    sender.end(Ok(End {
        usage: Usage {
            prompt: job.prompt.len() as u32,
            ..Usage::default()
        },
        timings: Timings::default(),
    }));
}

/// What a panic said.
fn words_of(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => (*words).to_owned(),
        (None, Some(words)) => words.clone(),
        (None, None) => "it panicked".to_owned(),
    }
}

fn normalize(vector: &mut [f32]) {
    let length = vector
        .iter()
        .map(|value| f64::from(*value) * f64::from(*value))
        .sum::<f64>()
        .sqrt();
    if length > 0.0 {
        for value in vector {
            *value = (f64::from(*value) / length) as f32;
        }
    }
}

#[cfg(test)]
mod tests;
