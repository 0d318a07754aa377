//! What is counted, and its Prometheus text form
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4). Only this
//! file names a metric.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bodhi_proto::chat::{Load, Phase, Usage};

/// A method of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `Generate`
    Generate,
    /// `Embed`
    Embed,
    /// `Rerank`
    Rerank,
    /// `Count`
    Count,
}

const METHODS: [(Method, &str); 4] = [
    (Method::Generate, "generate"),
    (Method::Embed, "embed"),
    (Method::Rerank, "rerank"),
    (Method::Count, "count"),
];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered whole.
    Complete,
    /// Refused: the request or the moment was wrong.
    Refused,
    /// The worker failed.
    Failed,
    /// The caller went away first.
    CallerGone,
}

const OUTCOMES: [(Outcome, &str); 4] = [
    (Outcome::Complete, "complete"),
    (Outcome::Refused, "refused"),
    (Outcome::Failed, "failed"),
    (Outcome::CallerGone, "caller_gone"),
];

/// Everything that only grows.
#[derive(Debug, Default)]
pub struct Counters {
    requests: [[AtomicU64; OUTCOMES.len()]; METHODS.len()],
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

/// What is looked up when somebody asks.
#[derive(Debug)]
pub struct Scrape {
    /// How far the worker is.
    pub phase: Phase,
    /// How busy; once the model is ready.
    pub load: Option<Load>,
}

impl Counters {
    /// A request ended.
    pub fn ended(&self, method: Method, outcome: Outcome) {
        self.requests[method as usize][outcome as usize].fetch_add(1, Relaxed);
    }

    /// Tokens of a request that ended.
    pub fn used(&self, usage: &Usage) {
        let add = |counter: &AtomicU64, n: u32| counter.fetch_add(n.into(), Relaxed);
        add(&self.prompt_tokens, usage.prompt);
        add(&self.cached_tokens, usage.cached);
        add(&self.completion_tokens, usage.completion);
    }

    /// Everything as text.
    pub fn render(&self, scrape: &Scrape) -> String {
        let mut out = String::with_capacity(4096);
        render_phase(&mut out, &scrape.phase);
        self.requests(&mut out);
        self.tokens(&mut out);
        if let Some(load) = &scrape.load {
            render_load(&mut out, load);
        }
        out
    }

    fn requests(&self, out: &mut String) {
        let name = "bodhi_worker_requests_total";
        head(out, name, "counter", "requests by how they ended");
        for (method, m) in METHODS {
            for (outcome, o) in OUTCOMES {
                let count = self.requests[method as usize][outcome as usize].load(Relaxed);
                line(
                    out,
                    name,
                    &format!("{{method=\"{m}\",outcome=\"{o}\"}}"),
                    count,
                );
            }
        }
    }

    fn tokens(&self, out: &mut String) {
        let name = "bodhi_worker_tokens_total";
        head(
            out,
            name,
            "counter",
            "tokens of requests that ended; cached ones are among the prompt's",
        );
        for (kind, counter) in [
            ("prompt", &self.prompt_tokens),
            ("cached", &self.cached_tokens),
            ("completion", &self.completion_tokens),
        ] {
            line(
                out,
                name,
                &format!("{{kind=\"{kind}\"}}"),
                counter.load(Relaxed),
            );
        }
    }
}

fn render_phase(out: &mut String, phase: &Phase) {
    let name = "bodhi_worker_phase";
    head(out, name, "gauge", "1 for the phase that holds");
    for (label, holds) in [
        ("downloading", matches!(phase, Phase::Downloading(_))),
        ("loading", matches!(phase, Phase::Loading(_))),
        ("warming_up", *phase == Phase::WarmingUp),
        ("ready", *phase == Phase::Ready),
        ("draining", *phase == Phase::Draining),
        ("failed", matches!(phase, Phase::Failed(_))),
    ] {
        line(
            out,
            name,
            &format!("{{phase=\"{label}\"}}"),
            u8::from(holds),
        );
    }
    let mut gauge = |name: &str, help: &str, value: u64| {
        head(out, name, "gauge", help);
        line(out, name, "", value);
    };
    match phase {
        Phase::Downloading(progress) => {
            let help = "bytes of the model that are here";
            gauge("bodhi_worker_download_bytes", help, progress.done);
            if let Some(all) = progress.total {
                let help = "bytes of the model";
                gauge("bodhi_worker_download_size_bytes", help, all.get());
            }
        }
        Phase::Loading(progress) => {
            let help = "thousandths of the model that are in memory";
            gauge("bodhi_worker_load_thousandths", help, progress.done);
        }
        _ => {}
    }
}

fn render_load(out: &mut String, load: &Load) {
    for (name, help, value) in [
        (
            "bodhi_worker_slots",
            "requests served at once, at most",
            load.slots,
        ),
        ("bodhi_worker_slots_busy", "slots in use", load.busy),
        (
            "bodhi_worker_queued_requests",
            "requests that wait",
            load.queued,
        ),
        (
            "bodhi_worker_cache_tokens",
            "tokens of the cache in use",
            load.kv_used,
        ),
        (
            "bodhi_worker_cache_size_tokens",
            "tokens the cache holds",
            load.kv_capacity,
        ),
    ] {
        head(out, name, "gauge", help);
        line(out, name, "", value);
    }
    let name = "bodhi_worker_tokens_per_second";
    head(out, name, "gauge", "tokens per second, of late");
    line(out, name, "", load.tokens_per_second);
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "{name}{labels} {value}");
}

#[cfg(test)]
mod tests {
    use bodhi_proto::chat::Progress;

    use super::*;

    #[test]
    fn what_was_counted_is_rendered_once_per_label() {
        let counters = Counters::default();
        counters.ended(Method::Generate, Outcome::Complete);
        counters.ended(Method::Generate, Outcome::Complete);
        counters.ended(Method::Embed, Outcome::Refused);
        counters.used(&Usage {
            prompt: 7,
            cached: 3,
            completion: 5,
            reasoning: 0,
        });
        let text = counters.render(&Scrape {
            phase: Phase::Ready,
            load: Some(Load {
                slots: 4,
                busy: 1,
                tokens_per_second: 12.5,
                ..Load::default()
            }),
        });
        for expected in [
            "bodhi_worker_phase{phase=\"ready\"} 1",
            "bodhi_worker_phase{phase=\"loading\"} 0",
            "bodhi_worker_requests_total{method=\"generate\",outcome=\"complete\"} 2",
            "bodhi_worker_requests_total{method=\"embed\",outcome=\"refused\"} 1",
            "bodhi_worker_tokens_total{kind=\"cached\"} 3",
            "bodhi_worker_slots 4",
            "bodhi_worker_tokens_per_second 12.5",
        ] {
            assert_eq!(
                text.lines().filter(|l| *l == expected).count(),
                1,
                "{expected}\n{text}"
            );
        }
    }

    #[test]
    fn the_download_is_told_in_bytes() {
        let text = Counters::default().render(&Scrape {
            phase: Phase::Downloading(Progress::new(10, 40)),
            load: None,
        });
        assert!(
            text.contains("\nbodhi_worker_download_bytes 10\n"),
            "{text}"
        );
        assert!(
            text.contains("\nbodhi_worker_download_size_bytes 40\n"),
            "{text}"
        );
        assert!(!text.contains("bodhi_worker_slots"), "{text}");
    }
}
