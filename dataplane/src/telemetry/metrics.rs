//! Counters of the request path and their Prometheus text form
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4).
//!
//! Each thread adds to its own [`ThreadCounters`], so no cache line is shared; a scrape
//! sums them. Only this file names a metric.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bodhi_proto::names::ObjectRef;

use crate::api::Label;

/// Statuses that are counted by themselves; every other one counts as `other`.
const STATUSES: [u16; 20] = [
    200, 201, 204, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 499, 500, 501, 502, 503, 504,
    529,
];

/// Upper bounds of the latency histograms, in seconds: model calls span five decades.
const BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0,
];

const LABELS: usize = Label::ALL.len();

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn observe(&self, value: Duration) {
        let seconds = value.as_secs_f64();
        let bucket = BOUNDS
            .iter()
            .position(|b| seconds <= *b)
            .unwrap_or(BOUNDS.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.micros.fetch_add(value.as_micros() as u64, Relaxed);
    }
}

/// What one serving thread counts.
#[derive(Debug, Default)]
pub struct ThreadCounters {
    requests: [[AtomicU64; STATUSES.len() + 1]; LABELS],
    durations: [Histogram; LABELS],
    first_bytes: [Histogram; LABELS],
    started: AtomicU64,
    ended: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    aborted: AtomicU64,
    client_gone: AtomicU64,
}

impl ThreadCounters {
    /// A request's head has arrived.
    pub fn started(&self) {
        self.started.fetch_add(1, Relaxed);
    }

    /// A request has ended, as its log record says.
    pub fn ended(&self, record: &super::Record) {
        use super::access_log::End;
        let label = record.endpoint as usize;
        let status = STATUSES
            .iter()
            .position(|s| *s == record.status)
            .unwrap_or(STATUSES.len());
        self.requests[label][status].fetch_add(1, Relaxed);
        self.durations[label].observe(record.duration);
        if let Some(first) = record.first_byte {
            self.first_bytes[label].observe(first);
        }
        self.bytes_in.fetch_add(record.bytes_in, Relaxed);
        self.bytes_out.fetch_add(record.bytes_out, Relaxed);
        match record.end {
            End::Complete => {}
            End::ClientGone => drop(self.client_gone.fetch_add(1, Relaxed)),
            End::Aborted => drop(self.aborted.fetch_add(1, Relaxed)),
        }
        self.ended.fetch_add(1, Relaxed);
    }
}

/// How calls to a provider ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 1xx to 3xx.
    Ok,
    /// 4xx but 429.
    ClientError,
    /// 429.
    RateLimited,
    /// 5xx.
    ServerError,
    /// No response head came.
    Failed,
}

/// What is counted per provider; carried from one configuration to the next.
#[derive(Debug, Default)]
pub struct ProviderCounters {
    outcomes: [AtomicU64; 5],
}

impl ProviderCounters {
    /// Counts one call.
    pub fn count(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Relaxed);
    }
}

/// All counters of this process.
#[derive(Debug, Default)]
pub struct Metrics {
    threads: Mutex<Vec<Arc<ThreadCounters>>>,
}

/// A local model as it is now.
#[derive(Debug)]
pub struct PoolScrape {
    /// Its Alias.
    pub object: ObjectRef,
    /// Workers that are ready.
    pub workers: usize,
    /// Requests at workers.
    pub in_flight: u32,
    /// Requests that wait for a worker.
    pub held: u32,
}

/// What a scrape needs of other rooms.
#[derive(Debug, Default)]
pub struct Scrape {
    /// Providers and what was counted for each.
    pub providers: Vec<(ObjectRef, Arc<ProviderCounters>)>,
    /// Local models.
    pub pools: Vec<PoolScrape>,
    /// Claimed names in the routing table.
    pub names: usize,
    /// Tokens held; `None`: no table was received yet.
    pub tokens: Option<usize>,
    /// Whether a controller is connected.
    pub connected: bool,
    /// Streams to a controller begun since the start.
    pub streams: u64,
    /// How often, since the start, something else was held than had been sent.
    pub divergences: u64,
    /// Log lines dropped since the start.
    pub log_dropped: u64,
    /// Bytes of request bodies held now.
    pub body_bytes: u64,
}

impl Metrics {
    /// Counters for one more thread.
    pub fn thread(&self) -> Arc<ThreadCounters> {
        let counters = Arc::<ThreadCounters>::default();
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.push(Arc::clone(&counters));
        counters
    }

    /// The exposition text.
    pub fn render(&self, scrape: &Scrape) -> String {
        let threads = self
            .threads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let sum = |read: &dyn Fn(&ThreadCounters) -> &AtomicU64| -> u64 {
            threads.iter().map(|t| read(t).load(Relaxed)).sum()
        };
        let mut out = Text::default();
        out.family(
            "bodhi_requests_total",
            "counter",
            "Requests by endpoint and status sent.",
        );
        for label in Label::ALL {
            for index in 0..=STATUSES.len() {
                let count = sum(&|t| &t.requests[*label as usize][index]);
                if count > 0 {
                    let status = STATUSES.get(index).map_or("other".into(), u16::to_string);
                    let labels = format!("endpoint=\"{}\",status=\"{status}\"", label.as_str());
                    out.sample("bodhi_requests_total", &labels, count);
                }
            }
        }
        type Read = fn(&ThreadCounters) -> &[Histogram; LABELS];
        let histograms: [(&str, &str, Read); 2] = [
            (
                "bodhi_request_duration_seconds",
                "From a request's head to the response's last byte.",
                |t| &t.durations,
            ),
            (
                "bodhi_time_to_first_byte_seconds",
                "From a request's head to the response's first body byte.",
                |t| &t.first_bytes,
            ),
        ];
        for (name, help, read) in histograms {
            out.family(name, "histogram", help);
            for label in Label::ALL {
                let at = *label as usize;
                let counts: Vec<u64> = (0..=BOUNDS.len())
                    .map(|b| {
                        threads
                            .iter()
                            .map(|t| read(t)[at].buckets[b].load(Relaxed))
                            .sum()
                    })
                    .collect();
                let micros: u64 = threads
                    .iter()
                    .map(|t| read(t)[at].micros.load(Relaxed))
                    .sum();
                out.histogram(name, label.as_str(), &counts, micros);
            }
        }
        out.family(
            "bodhi_upstream_requests_total",
            "counter",
            "Calls to providers by outcome.",
        );
        const OUTCOMES: [&str; 5] = [
            "ok",
            "client_error",
            "rate_limited",
            "server_error",
            "failed",
        ];
        for (object, counters) in &scrape.providers {
            for (word, counter) in OUTCOMES.iter().zip(&counters.outcomes) {
                let count = counter.load(Relaxed);
                if count > 0 {
                    let labels = format!("upstream=\"{}\",outcome=\"{word}\"", object.short());
                    out.sample("bodhi_upstream_requests_total", &labels, count);
                }
            }
        }
        pools(&mut out, &scrape.pools);
        let ended = sum(&|t| &t.ended);
        out.gauge(
            "bodhi_requests_in_flight",
            "Requests being served now.",
            sum(&|t| &t.started).saturating_sub(ended),
        );
        for (name, help, value) in [
            (
                "bodhi_request_bytes_total",
                "Bytes of request bodies.",
                sum(&|t| &t.bytes_in),
            ),
            (
                "bodhi_response_bytes_total",
                "Bytes of response bodies.",
                sum(&|t| &t.bytes_out),
            ),
            (
                "bodhi_responses_aborted_total",
                "Responses that ended before their end because the upstream failed.",
                sum(&|t| &t.aborted),
            ),
            (
                "bodhi_clients_gone_total",
                "Exchanges that the client left.",
                sum(&|t| &t.client_gone),
            ),
            (
                "bodhi_control_streams_total",
                "Streams to a controller that were begun.",
                scrape.streams,
            ),
            (
                "bodhi_config_divergence_total",
                "Times that the configuration held was not what had been sent.",
                scrape.divergences,
            ),
            (
                "bodhi_access_log_dropped_total",
                "Access log lines dropped because the writer could not keep up.",
                scrape.log_dropped,
            ),
        ] {
            out.family(name, "counter", help);
            out.sample(name, "", value);
        }
        for (name, help, value) in [
            (
                "bodhi_served_names",
                "Names in the routing table.",
                scrape.names as u64,
            ),
            (
                "bodhi_tokens",
                "Tokens held.",
                scrape.tokens.unwrap_or(0) as u64,
            ),
            (
                "bodhi_controller_connected",
                "Whether a controller is connected (0 or 1).",
                u64::from(scrape.connected),
            ),
            (
                "bodhi_request_body_bytes_held",
                "Bytes of request bodies in memory now.",
                scrape.body_bytes,
            ),
        ] {
            out.gauge(name, help, value);
        }
        out.process();
        out.0
    }
}

fn pools(out: &mut Text, pools: &[PoolScrape]) {
    out.family("bodhi_pool_workers", "gauge", "Workers that are ready.");
    for pool in pools {
        let labels = format!("alias=\"{}\"", pool.object.short());
        out.sample("bodhi_pool_workers", &labels, pool.workers);
    }
    out.family(
        "bodhi_pool_requests",
        "gauge",
        "Requests to local models: at workers (running), or waiting for one (held).",
    );
    for pool in pools {
        for (state, count) in [("running", pool.in_flight), ("held", pool.held)] {
            let labels = format!("alias=\"{}\",state=\"{state}\"", pool.object.short());
            out.sample("bodhi_pool_requests", &labels, count);
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail; the same holds below.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, "", value);
    }

    fn histogram(&mut self, name: &str, endpoint: &str, counts: &[u64], micros: u64) {
        let total: u64 = counts.iter().sum();
        if total == 0 {
            return;
        }
        let mut below = 0;
        for (bound, count) in BOUNDS.iter().zip(counts) {
            below += count;
            let labels = format!("endpoint=\"{endpoint}\",le=\"{bound}\"");
            self.sample(&format!("{name}_bucket"), &labels, below);
        }
        let labels = format!("endpoint=\"{endpoint}\",le=\"+Inf\"");
        self.sample(&format!("{name}_bucket"), &labels, total);
        let labels = format!("endpoint=\"{endpoint}\"");
        self.sample(&format!("{name}_sum"), &labels, micros as f64 / 1e6);
        self.sample(&format!("{name}_count"), &labels, total);
    }

    /// The standard process metrics, where `/proc` has them.
    fn process(&mut self) {
        let resident = std::fs::read_to_string("/proc/self/statm")
            .ok()
            .and_then(|s| s.split_whitespace().nth(1)?.parse::<u64>().ok());
        if let Some(pages) = resident {
            self.gauge(
                "process_resident_memory_bytes",
                "Resident memory.",
                pages * 4096,
            );
        }
        // The fields after the command's closing parenthesis; utime and stime are in ticks of 10 ms.
        let ticks = std::fs::read_to_string("/proc/self/stat")
            .ok()
            .and_then(|s| {
                let fields: Vec<u64> = s
                    .rsplit_once(')')?
                    .1
                    .split_whitespace()
                    .skip(11)
                    .take(2)
                    .filter_map(|f| f.parse().ok())
                    .collect();
                Some(fields.iter().sum::<u64>())
            });
        if let Some(ticks) = ticks {
            self.family(
                "process_cpu_seconds_total",
                "counter",
                "User and system CPU time.",
            );
            self.sample("process_cpu_seconds_total", "", ticks as f64 / 100.0);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            self.gauge(
                "process_open_fds",
                "Open file descriptors.",
                entries.count() as u64,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::access_log::{End, Record, RequestId};
    use super::*;

    #[test]
    fn threads_are_summed_and_buckets_are_cumulative() {
        let metrics = Metrics::default();
        let record = |status, millis| Record {
            id: RequestId {
                thread: 0,
                number: 0,
            },
            at: std::time::SystemTime::UNIX_EPOCH,
            endpoint: Label::Chat,
            method: "POST",
            status,
            end: End::Complete,
            error: None,
            model: None,
            upstream: None,
            attempts: 1,
            token: None,
            bytes_in: 1,
            bytes_out: 2,
            first_byte: None,
            duration: Duration::from_millis(millis),
        };
        for (status, millis) in [(200, 3), (200, 30), (418, 3)] {
            let thread = metrics.thread();
            thread.started();
            thread.ended(&record(status, millis));
        }
        metrics.thread().started();
        let text = metrics.render(&Scrape {
            pools: vec![PoolScrape {
                object: ObjectRef::alias("bodhi", "demo"),
                workers: 1,
                in_flight: 3,
                held: 2,
            }],
            ..Scrape::default()
        });
        for line in [
            "bodhi_requests_total{endpoint=\"chat_completions\",status=\"200\"} 2",
            "bodhi_requests_total{endpoint=\"chat_completions\",status=\"other\"} 1",
            "bodhi_request_duration_seconds_bucket{endpoint=\"chat_completions\",le=\"0.005\"} 2",
            "bodhi_request_duration_seconds_bucket{endpoint=\"chat_completions\",le=\"+Inf\"} 3",
            "bodhi_request_duration_seconds_count{endpoint=\"chat_completions\"} 3",
            "bodhi_requests_in_flight 1",
            "bodhi_request_bytes_total 3",
            "bodhi_pool_workers{alias=\"bodhi/demo\"} 1",
            "bodhi_pool_requests{alias=\"bodhi/demo\",state=\"running\"} 3",
            "bodhi_pool_requests{alias=\"bodhi/demo\",state=\"held\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }
}
