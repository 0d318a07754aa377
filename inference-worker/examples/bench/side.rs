//! Who is measured, and when its tokens came.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use bodhi_proto::chat::Sampling;
use bodhi_worker::engine::{Job, Runner, Update};

use crate::server;

pub(crate) enum Side {
    Engine(Runner),
    Server(SocketAddr),
}

/// An answer on its way, on a thread of its own.
pub(crate) struct Stream {
    times: Receiver<Instant>,
    seen: std::cell::RefCell<Vec<Instant>>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Side {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Engine(_) => "bodhi",
            Self::Server(_) => "llama-server",
        }
    }

    /// Lets a prompt be continued by so many tokens, greedily, whatever they are.
    pub(crate) fn start(&self, prompt: &[u32], tokens: u32) -> Stream {
        let (sender, times) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let prompt = prompt.to_vec();
        let thread = match self {
            Self::Engine(runner) => {
                let runner = runner.clone();
                std::thread::spawn(move || engine(&runner, prompt, tokens, &sender, &stopped))
            }
            Self::Server(address) => {
                let address = *address;
                std::thread::spawn(move || {
                    server::complete(address, &prompt, tokens, |now| {
                        let _ = sender.send(now);
                        !stopped.load(Ordering::Relaxed)
                    })
                })
            }
        };
        Stream {
            times,
            seen: Vec::new().into(),
            stop,
            thread,
        }
    }
}

impl Stream {
    /// Waits for so many tokens.
    pub(crate) fn wait_for(&self, tokens: usize) {
        let mut seen = self.seen.borrow_mut();
        while seen.len() < tokens
            && let Ok(now) = self.times.recv()
        {
            seen.push(now);
        }
    }

    /// When each token came.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<Instant>> {
        let mut seen = self.seen.into_inner();
        seen.extend(self.times.iter());
        self.thread
            .join()
            .map_err(|_| anyhow!("a stream panicked"))??;
        if seen.is_empty() {
            return Err(anyhow!("a stream had no token"));
        }
        Ok(seen)
    }

    /// Breaks it off after a while.
    pub(crate) fn stop(self, after: Duration) -> Vec<Instant> {
        std::thread::sleep(after);
        self.stop.store(true, Ordering::Relaxed);
        self.finish().unwrap_or_default()
    }
}

fn engine(
    runner: &Runner,
    prompt: Vec<u32>,
    tokens: u32,
    times: &Sender<Instant>,
    stopped: &AtomicBool,
) -> anyhow::Result<()> {
    let mut stream = runner.submit(Job {
        sampling: Sampling {
            temperature: Some(0.0),
            ignore_eos: true,
            ..Sampling::default()
        },
        max_output_tokens: Some(tokens),
        ..Job::new(prompt)
    })?;
    tokio::runtime::Builder::new_current_thread()
        .build()?
        .block_on(async {
            while let Some(update) = stream.next().await {
                if let Update::Pieces(pieces) = update? {
                    let now = Instant::now();
                    for _ in pieces.iter().flat_map(|piece| &piece.tokens) {
                        let _ = times.send(now);
                    }
                }
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
            }
            Ok(())
        })
}
