//! What the engine's thread does: take in, admit, read, choose, send.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bodhi_proto::chat::{FinishReason, Timings, TokenLogprob, TopLogprob, Usage};
use tokio::sync::oneshot;
use tracing::{debug, error};

use super::{Command, Embed, Gauges, Generate, Options};
use crate::engine::meter::Meter;
use crate::engine::stream::Sender;
use crate::engine::{DecodeError, End, Engine, JobError, Model, Purpose, Sampler, Token};
use crate::sampling;
use crate::scheduler::{Admission, Limits, Output, Scheduler, Task, TaskId};
use crate::slots::Source;

/// How often it is tried again when something waits and nothing can be computed. That would be a
/// defect of ours: whoever watches for hangs ends the process, which until then must not burn a core.
const STANDSTILL: Duration = Duration::from_millis(10);

pub(super) struct Driver<E: Engine> {
    engine: E,
    model: Arc<dyn Model>,
    scheduler: Scheduler<E::Saved>,
    inbox: mpsc::Receiver<Command>,
    gauges: Arc<Gauges>,
    requests: HashMap<u64, Request>,
    embeddings: VecDeque<Embedding>,
    drains: Vec<oneshot::Sender<()>>,
    meter: Meter,
    last_request: u64,
    /// Of the step that is being worked off; kept for its memory.
    outputs: Vec<Output>,
}

struct Request {
    sender: Sender,
    answers: Vec<Answer>,
    logprobs: Option<u32>,
    preserved: Vec<Token>,
    usage: Usage,
    clock: Clock,
}

enum Answer {
    Open(Box<dyn Sampler>),
    Complete,
}

/// When things happened.
struct Clock {
    submitted: Instant,
    admitted: Option<Instant>,
    first: Option<Instant>,
    last: Instant,
}

struct Embedding {
    work: Embed,
    vectors: Vec<Vec<f32>>,
}

impl<E: Engine> Driver<E> {
    pub(super) fn new(
        engine: E,
        options: Options,
        inbox: mpsc::Receiver<Command>,
        gauges: Arc<Gauges>,
    ) -> Self {
        let shape = engine.shape();
        Self {
            model: engine.model(),
            engine,
            scheduler: Scheduler::new(Limits {
                slots: shape.slots,
                context: shape.context,
                batch: shape.batch,
                gap: options.gap,
                cache: options.cache,
            }),
            inbox,
            gauges,
            requests: HashMap::new(),
            embeddings: VecDeque::new(),
            drains: Vec::new(),
            meter: Meter::new(Instant::now()),
            last_request: 0,
            outputs: Vec::new(),
        }
    }

    pub(super) fn run(mut self) {
        while self.take_in() {
            self.drop_stopped();
            self.admit();
            let computed = [self.step(), self.embed()];
            if computed.contains(&true) {
                self.gauges.touch();
            } else if !self.is_idle() {
                std::thread::sleep(STANDSTILL);
            }
            self.report();
        }
        debug!("the engine's thread ends");
    }

    /// Takes what has come, and waits if there is nothing else to do. `false`: nothing will ever come.
    fn take_in(&mut self) -> bool {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.take(command),
                Err(_) if !self.is_idle() => return true,
                Err(_) => {
                    self.gauges.rest();
                    for drain in self.drains.drain(..) {
                        // Whoever asked may have gone away.
                        let _ = drain.send(());
                    }
                    match self.inbox.recv() {
                        Ok(command) => self.take(command),
                        Err(_) => return false,
                    }
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.embeddings.is_empty()
    }

    fn take(&mut self, command: Command) {
        self.gauges.begin();
        match command {
            Command::Generate(generate) => self.enqueue(*generate),
            Command::Embed(work) => self.embeddings.push_back(Embedding {
                vectors: Vec::with_capacity(work.inputs.len()),
                work,
            }),
            Command::Drain(drain) => self.drains.push(drain),
        }
    }

    fn enqueue(&mut self, generate: Generate) {
        self.last_request += 1;
        let request = self.last_request;
        for choice in 0..generate.samplers.len() as u32 {
            self.scheduler.submit(Task {
                id: task(request, choice),
                prompt: Arc::clone(&generate.prompt),
                most: generate.most.map_or(usize::MAX, |most| most as usize),
                // The others find what the first one has read.
                after: (choice > 0).then(|| task(request, 0)),
            });
        }
        self.requests.insert(
            request,
            Request {
                sender: generate.sender,
                answers: generate.samplers.into_iter().map(Answer::Open).collect(),
                logprobs: generate.logprobs,
                preserved: generate.preserved,
                usage: Usage {
                    prompt: generate.prompt.len() as u32,
                    ..Usage::default()
                },
                clock: Clock {
                    submitted: generate.submitted,
                    admitted: None,
                    first: None,
                    last: generate.submitted,
                },
            },
        );
    }

    /// Ends the answers that nobody wants any more.
    fn drop_stopped(&mut self) {
        let scheduler = &mut self.scheduler;
        let gauges = &self.gauges;
        self.requests.retain(|id, request| {
            for choice in 0..request.answers.len() as u32 {
                if request.sender.is_stopped(choice) && request.is_open(choice) {
                    scheduler.cancel(task(*id, choice));
                    request.complete(choice, FinishReason::Stop);
                }
            }
            let over = request.is_over();
            if over && request.clock.admitted.is_none() {
                gauges.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            !over
        });
    }

    fn admit(&mut self) {
        while let Some(admission) = self.scheduler.admit() {
            let kept = self.prepare(&admission);
            self.scheduler.settle(admission.placement.slot, kept);
            let (id, choice) = request(admission.task);
            if let Some(request) = self.requests.get_mut(&id)
                && request.clock.admitted.is_none()
            {
                request.clock.admitted = Some(Instant::now());
                self.gauges.waiting.fetch_sub(1, Ordering::Relaxed);
                if choice == 0 {
                    request.usage.cached = kept as u32;
                }
            }
        }
    }

    /// Makes a slot begin like the prompt that was given to it. Answers how much of it is there.
    fn prepare(&mut self, admission: &Admission) -> usize {
        let placement = admission.placement;
        let most = self.scheduler.cache().capacity();
        let aside = admission
            .aside
            .as_ref()
            .and_then(|_| self.engine.save(placement.slot, most));
        let kept = match placement.source {
            Source::Own => self.engine.keep(placement.slot, placement.keep),
            Source::Slot(from) => self.engine.copy(from, placement.slot, placement.keep),
            Source::Saved(entry) => match self.scheduler.cache().take_up(entry) {
                Some((saved, _)) if self.engine.restore(placement.slot, saved) => {
                    self.engine.keep(placement.slot, placement.keep)
                }
                _ => self.engine.keep(placement.slot, 0),
            },
        };
        if let (Some(tokens), Some((state, bytes))) = (&admission.aside, aside) {
            self.scheduler.cache().put(tokens.clone(), state, bytes);
        }
        kept
    }

    /// Computes the next step. `false`: there is nothing to compute.
    fn step(&mut self) -> bool {
        let plan = self.scheduler.step();
        if plan.rows.is_empty() {
            return false;
        }
        self.outputs.clone_from(&plan.outputs);
        let start = Instant::now();
        match self.engine.decode(&plan.rows) {
            Ok(()) => {
                self.scheduler.read(start.elapsed());
                self.choose();
            }
            Err(error) => self.fail(&error),
        }
        true
    }

    /// Chooses a token at every output of the step.
    fn choose(&mut self) {
        let now = Instant::now();
        self.meter.add(self.outputs.len(), now);
        let outputs = std::mem::take(&mut self.outputs);
        for output in &outputs {
            let (id, choice) = request(output.task);
            let Some(request) = self.requests.get_mut(&id) else {
                continue;
            };
            let Some(Answer::Open(sampler)) = request.answers.get_mut(choice as usize) else {
                continue;
            };
            let logits = self.engine.logits(output.row);
            match sampler.choose(logits) {
                Ok(token) => {
                    let is_end = self.model.is_end(token);
                    let finish = self.scheduler.chosen(output.slot, token, is_end);
                    request.clock.first.get_or_insert(now);
                    request.clock.last = now;
                    request.usage.completion += 1;
                    request.send(&*self.model, choice, token, logits, is_end, finish);
                }
                Err(error) => {
                    for choice in 0..request.answers.len() as u32 {
                        self.scheduler.cancel(task(id, choice));
                    }
                    request
                        .sender
                        .end(Err(JobError::Sampler(error.to_string())));
                    request.answers.clear();
                }
            }
            if request.is_over() {
                self.requests.remove(&id);
            }
        }
        self.outputs = outputs;
    }

    /// Gives up what the step that failed was made of.
    fn fail(&mut self, error: &DecodeError) {
        error!(%error, "a step failed");
        for (slot, failed) in self.scheduler.fail() {
            self.engine.keep(slot, 0);
            let (id, _) = request(failed);
            if let Some(request) = self.requests.remove(&id) {
                for choice in 0..request.answers.len() as u32 {
                    self.scheduler.cancel(task(id, choice));
                }
                request.sender.end(Err(JobError::Engine(error.to_string())));
            }
        }
    }

    /// Computes the vectors of as many inputs as fit into a step, whosever they are. `false`: there
    /// is nothing to compute.
    fn embed(&mut self) -> bool {
        let gauges = &self.gauges;
        self.embeddings.retain(|embedding| {
            let wanted = !embedding.work.reply.is_closed();
            if !wanted {
                gauges.waiting.fetch_sub(1, Ordering::Relaxed);
            }
            wanted
        });
        let shape = self.engine.shape();
        let mut room = shape.batch;
        let inputs: Vec<&[Token]> = self
            .embeddings
            .iter()
            .flat_map(|it| &it.work.inputs[it.vectors.len()..])
            .map(Vec::as_slice)
            .take(shape.slots as usize)
            .take_while(|input| {
                let fits = input.len() <= room;
                room = room.saturating_sub(input.len());
                fits
            })
            .collect();
        let computes = !inputs.is_empty();
        if computes {
            let tokens: usize = inputs.iter().map(|input| input.len()).sum();
            match self.engine.embed(&inputs) {
                Ok(vectors) => {
                    self.meter.add(tokens, Instant::now());
                    let mut vectors = vectors.into_iter();
                    for embedding in &mut self.embeddings {
                        let missing = embedding.work.inputs.len() - embedding.vectors.len();
                        embedding.vectors.extend(vectors.by_ref().take(missing));
                    }
                }
                Err(error) => {
                    error!(%error, "embedding failed");
                    for embedding in self.embeddings.drain(..) {
                        self.gauges.waiting.fetch_sub(1, Ordering::Relaxed);
                        // Whoever has gone away does not need to know.
                        let _ = embedding.work.reply.send(Err(error.to_string()));
                    }
                }
            }
        }
        while let Some(embedding) = self
            .embeddings
            .pop_front_if(|it| it.vectors.len() == it.work.inputs.len())
        {
            self.gauges.waiting.fetch_sub(1, Ordering::Relaxed);
            let _ = embedding.work.reply.send(Ok(embedding.vectors));
        }
        computes
    }

    fn report(&self) {
        let pool = self.scheduler.pool();
        let mut load = self.gauges.load();
        load.busy = match self.engine.shape().purpose {
            Purpose::Generate => pool.busy() as u32,
            _ => u32::from(!self.embeddings.is_empty()),
        };
        load.kv_used = pool.used() as u32;
        load.tokens_per_second = self.meter.rate(Instant::now()) as f32;
    }
}

impl Request {
    fn is_open(&self, choice: u32) -> bool {
        matches!(self.answers.get(choice as usize), Some(Answer::Open(_)))
    }

    fn is_over(&self) -> bool {
        !self.answers.iter().any(|it| matches!(it, Answer::Open(_)))
    }

    /// Sends a token, and the end if it was the last of all answers.
    fn send(
        &mut self,
        model: &dyn Model,
        choice: u32,
        token: Token,
        logits: &[f32],
        is_end: bool,
        finish: Option<FinishReason>,
    ) {
        let hidden = is_end || (model.is_control(token) && !self.preserved.contains(&token));
        // They are told of content, which what is hidden is not.
        let wanted = self.logprobs.filter(|_| !hidden);
        let logprob = wanted.map(|k| logprob(model, token, logits, k));
        self.sender.send(choice, |piece| {
            piece.tokens.push(token);
            if !hidden {
                piece.bytes.extend_from_slice(model.piece(token));
            }
            piece.logprobs.extend(logprob);
            piece.finish = finish;
        });
        if finish.is_some() {
            self.close(choice);
        }
    }

    fn complete(&mut self, choice: u32, finish: FinishReason) {
        self.sender
            .send(choice, |piece| piece.finish = Some(finish));
        self.close(choice);
    }

    fn close(&mut self, choice: u32) {
        self.answers[choice as usize] = Answer::Complete;
        if self.is_over() {
            self.sender.end(Ok(End {
                usage: self.usage,
                timings: self.clock.timings(),
            }));
        }
    }
}

impl Clock {
    fn timings(&self) -> Timings {
        let admitted = self.admitted.unwrap_or(self.last);
        let first = self.first.unwrap_or(admitted);
        Timings {
            queued_ms: millis(admitted - self.submitted),
            prompt_ms: millis(first.saturating_duration_since(admitted)),
            predicted_ms: millis(self.last.saturating_duration_since(first)),
        }
    }
}

fn logprob(model: &dyn Model, token: Token, logits: &[f32], k: u32) -> TokenLogprob {
    let entry = |id: Token, logprob: f32| TopLogprob {
        bytes: model.piece(id).to_vec(),
        id,
        logprob,
    };
    let (chosen, top) = sampling::logprobs(logits, token, k as usize);
    TokenLogprob {
        token: entry(token, chosen),
        top: top
            .into_iter()
            .map(|(id, logprob)| entry(id, logprob))
            .collect(),
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Six bits are enough for [`crate::engine::MAX_CHOICES`].
fn task(request: u64, choice: u32) -> TaskId {
    TaskId(request << 6 | u64::from(choice))
}

fn request(task: TaskId) -> (u64, u32) {
    (task.0 >> 6, (task.0 & 63) as u32)
}
