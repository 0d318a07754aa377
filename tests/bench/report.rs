//! The figures, as tables in Markdown.

use std::collections::BTreeMap;

use crate::machine::Machine;
use crate::measure::{Memory, median};
use crate::restart::Restarts;
use crate::scenario::Scenario;

/// One variant in one round.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Round {
    pub(crate) calls: u64,
    pub(crate) per_second: f64,
    /// Of the proxy's processes, microseconds per call; 0 for direct calls.
    pub(crate) cpu_micros: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) first_byte_p50_micros: f64,
    pub(crate) first_byte_p99_micros: f64,
}

/// One scenario's rounds by variant; the rounds of all variants belong together by index.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Measured {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    /// What CPU time is divided by, per call.
    pub(crate) units: usize,
    pub(crate) rounds: BTreeMap<String, Vec<Round>>,
}

/// Resident memory of one variant.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Footprint {
    pub(crate) variant: String,
    pub(crate) idle: Memory,
    pub(crate) holding: Memory,
    pub(crate) after_load: Option<Memory>,
}

/// Everything.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) threads: usize,
    pub(crate) held_streams: usize,
    pub(crate) scenarios: Vec<Measured>,
    pub(crate) footprints: Vec<Footprint>,
    pub(crate) restarts: Option<Restarts>,
}

impl Measured {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        Self {
            key: scenario.key,
            title: scenario.title,
            units: scenario.chunks.unwrap_or(1),
            rounds: BTreeMap::new(),
        }
    }

    /// The scenario's table. Ratios and differences are medians over rounds of one round's
    /// figures, since only those were taken under like conditions.
    pub(crate) fn table(&self, variants: &[String]) -> String {
        let (what, scale) = match self.units {
            1 => ("request", 1.0),
            units => ("chunk", units as f64),
        };
        let mut text = format!(
            "\n### {}\n\n| variant | CPU µs per {what} | × nginx | × nginx, log | requests/s \
             | p50 µs | p50 added | p99 added | first byte p50 added |\n\
             |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            self.title
        );
        for variant in variants {
            let Some(rounds) = self.rounds.get(variant) else {
                continue;
            };
            let middle = |read: fn(&Round) -> f64| median(rounds.iter().map(read));
            let against = |other: &str, judge: fn(&Round, &Round) -> f64| {
                let others = self.rounds.get(other)?;
                Some(median(rounds.iter().zip(others).map(|(a, b)| judge(a, b))))
            };
            let ratio = |other: &str| match variant == "direct" {
                true => "".into(),
                false => against(other, |a, b| a.cpu_micros / b.cpu_micros)
                    .map_or(String::new(), |ratio| format!("{ratio:.2}")),
            };
            let added = |judge: fn(&Round, &Round) -> f64| match variant == "direct" {
                true => "".into(),
                false => against("direct", judge).map_or(String::new(), |d| format!("{d:.0}")),
            };
            let cpu = match variant == "direct" {
                true => "".into(),
                false => format!("{:.2}", middle(|r| r.cpu_micros) / scale),
            };
            text += &format!(
                "| {variant} | {cpu} | {} | {} | {:.0} | {:.0} | {} | {} | {} |\n",
                ratio("nginx"),
                ratio("nginx, log"),
                middle(|r| r.per_second),
                middle(|r| r.p50_micros),
                added(|a, b| a.p50_micros - b.p50_micros),
                added(|a, b| a.p99_micros - b.p99_micros),
                added(|a, b| a.first_byte_p50_micros - b.first_byte_p50_micros),
            );
        }
        text
    }
}

impl Report {
    pub(crate) fn footprints(&self) -> String {
        let mut text = format!(
            "\n### Resident memory, MiB (in brackets: without mapped files)\n\n\
             | variant | idle | {} held streams | after all load |\n|---|--:|--:|--:|\n",
            self.held_streams
        );
        for Footprint {
            variant,
            idle,
            holding,
            after_load,
        } in &self.footprints
        {
            let after = after_load.as_ref().map(mebibytes).unwrap_or_default();
            text += &format!(
                "| {variant} | {} | {} | {after} |\n",
                mebibytes(idle),
                mebibytes(holding)
            );
        }
        text
    }

    pub(crate) fn machine(&self) -> String {
        let Machine {
            cpu,
            cores,
            memory_mib,
            kernel,
            nginx,
            rustc,
            profile,
            commit,
            date,
        } = &self.machine;
        format!(
            "{date}, commit {commit}, {profile} build by {rustc}, {nginx}; {cpu}, {cores} cores, \
             {memory_mib} MiB, Linux {kernel}; {} threads each\n",
            self.threads
        )
    }
}

fn mebibytes(memory: &Memory) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    format!("{:.1} ({:.1})", mib(memory.resident), mib(memory.anonymous))
}
