//! How far a download is, for people: a bar on a terminal, a status message in steps of ten percent.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A count of bytes in the unit that fits: `11.2 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            // 1023.95 would be shown as 1024.0.
            if value < 1023.95 {
                break;
            }
            value /= 1024.0;
            unit = larger;
        }
        match unit {
            "B" => write!(f, "{} B", self.0),
            _ => write!(f, "{value:.1} {unit}"),
        }
    }
}

/// What is being done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Another worker downloads into the same cache.
    Waiting,
    /// Bytes arrive.
    Downloading,
    /// Nothing arrives; it is tried again after `wait`.
    Retrying {
        /// From now.
        wait: Duration,
        /// What happened, without URLs' queries.
        why: String,
    },
    /// Bytes that lie here are hashed.
    Verifying,
    /// All parts are here.
    Done,
}

/// One report. Parts of a split model are counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub phase: Phase,
    /// Which part.
    pub part: u32,
    /// Of how many.
    pub parts: u32,
    /// Bytes of this part that are here.
    pub done: u64,
    /// This part's size, once known.
    pub total: Option<u64>,
}

impl Progress {
    /// Of the whole model, 0 to 100: parts are taken to be of one size.
    pub fn percent(&self) -> u8 {
        if self.phase == Phase::Done {
            return 100;
        }
        let total = self.total.unwrap_or(0).max(1);
        let of_part = self.done.min(total) as f64 / total as f64;
        let share = (f64::from(self.part.max(1) - 1) + of_part) / f64::from(self.parts.max(1));
        // Between 0 and 100 by construction.
        (share * 100.0) as u8
    }
}

/// Takes the reports; called on the thread that downloads, so it must not block.
pub trait Observer: Send + Sync {
    /// One report, up to some thousand a second.
    fn observe(&self, progress: &Progress);
}

impl<F: Fn(&Progress) + Send + Sync> Observer for F {
    fn observe(&self, progress: &Progress) {
        self(progress);
    }
}

/// Lets through a report when a further tenth is reached or the phase changes: few enough for a status.
#[derive(Debug, Default)]
pub struct Tenths {
    last: Option<(u8, std::mem::Discriminant<Phase>)>,
}

impl Tenths {
    /// The percentage to tell, a multiple of ten, if there is news. A restart is news too.
    pub fn push(&mut self, progress: &Progress) -> Option<u8> {
        let now = (
            progress.percent() / 10 * 10,
            std::mem::discriminant(&progress.phase),
        );
        let news = self.last != Some(now);
        self.last = Some(now);
        news.then_some(now.0)
    }
}

/// A bar, as text: `[#####     ] 50 %  1.0 GiB of 2.0 GiB  12.0 MiB/s  1m23s left`.
#[derive(Debug)]
pub struct Bar {
    drawn: Option<Instant>,
    since: Option<(Instant, u32, u64)>,
}

impl Default for Bar {
    fn default() -> Self {
        Self::new()
    }
}

impl Bar {
    const WIDTH: usize = 24;
    const PERIOD: Duration = Duration::from_millis(100);

    /// Nothing drawn yet.
    pub const fn new() -> Self {
        Self {
            drawn: None,
            since: None,
        }
    }

    /// The line to draw, at most ten a second and one for each change of phase.
    pub fn line(&mut self, progress: &Progress, now: Instant) -> Option<String> {
        let recent = self.drawn.is_some_and(|drawn| now - drawn < Self::PERIOD);
        if progress.phase == Phase::Downloading && recent {
            return None;
        }
        self.drawn = Some(now);
        let filled = usize::from(progress.percent()) * Self::WIDTH / 100;
        let mut line = format!(
            "[{:<width$}] {:>3} %",
            "#".repeat(filled),
            progress.percent(),
            width = Self::WIDTH
        );
        if progress.parts > 1 {
            line += &format!("  part {} of {}", progress.part, progress.parts);
        }
        if progress.phase != Phase::Downloading {
            self.since = None;
        }
        match &progress.phase {
            Phase::Waiting => line += "  another worker is downloading",
            Phase::Retrying { wait, why } => {
                line += &format!("  again in {} s: {why}", wait.as_secs_f64().ceil());
            }
            Phase::Verifying => line += "  verifying",
            Phase::Done => line += "  done",
            Phase::Downloading => line += &self.pace(progress, now),
        }
        Some(line)
    }

    fn pace(&mut self, progress: &Progress, now: Instant) -> String {
        let mut text = format!("  {}", Bytes(progress.done));
        if let Some(total) = progress.total {
            text += &format!(" of {}", Bytes(total));
        }
        let (since, part, from) = *self
            .since
            .get_or_insert((now, progress.part, progress.done));
        if part != progress.part || progress.done < from {
            self.since = None;
            return text;
        }
        let seconds = (now - since).as_secs_f64();
        let rate = (progress.done - from) as f64 / seconds;
        if seconds >= 1.0 && rate >= 1.0 {
            text += &format!("  {}/s", Bytes(rate as u64));
            if let Some(total) = progress.total {
                let left = (total.saturating_sub(progress.done) as f64 / rate).ceil() as u64;
                text += &format!("  {}m{:02}s left", left / 60, left % 60);
            }
        }
        text
    }
}

/// Draws a [`Bar`] on standard error if that is a terminal, else nothing.
#[derive(Debug)]
pub struct Terminal {
    bar: Option<Mutex<Bar>>,
}

impl Terminal {
    /// Looks at standard error once.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| Mutex::new(Bar::new()));
        Self { bar }
    }
}

impl Default for Terminal {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Terminal {
    fn observe(&self, progress: &Progress) {
        let Some(bar) = &self.bar else { return };
        let Ok(mut bar) = bar.lock() else { return };
        if let Some(line) = bar.line(progress, Instant::now()) {
            let end = if progress.phase == Phase::Done {
                "\n"
            } else {
                ""
            };
            // \x1b[K clears what is left of a longer line. A terminal that went away is no fault.
            let _ = write!(io::stderr().lock(), "\r{line}\x1b[K{end}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(phase: Phase, part: u32, parts: u32, done: u64) -> Progress {
        let total = Some(1000);
        Progress {
            phase,
            part,
            parts,
            done,
            total,
        }
    }

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (12_025_908_429, "11.2 GiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn ten_percent_steps_come_once_each() {
        let mut tenths = Tenths::default();
        let told: Vec<u8> = (0..=1000)
            .filter_map(|done| tenths.push(&at(Phase::Downloading, 1, 1, done)))
            .collect();
        assert_eq!(told, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(tenths.push(&at(Phase::Verifying, 1, 1, 1000)), Some(100));
        assert_eq!(tenths.push(&at(Phase::Downloading, 1, 1, 0)), Some(0));
    }

    #[test]
    fn parts_share_the_whole() {
        assert_eq!(at(Phase::Downloading, 2, 4, 500).percent(), 37);
        assert_eq!(at(Phase::Done, 4, 4, 0).percent(), 100);
        let unknown = Progress {
            total: None,
            ..at(Phase::Downloading, 1, 1, 5)
        };
        assert!(unknown.percent() <= 100);
    }

    #[test]
    fn the_bar_tells_pace_and_time_left() {
        let mut bar = Bar::new();
        let start = Instant::now();
        let line = bar.line(&at(Phase::Downloading, 1, 1, 0), start).unwrap();
        assert_eq!(line, "[                        ]   0 %  0 B of 1000 B");
        let soon = start + Duration::from_millis(50);
        assert_eq!(bar.line(&at(Phase::Downloading, 1, 1, 10), soon), None);
        let line = bar.line(
            &at(Phase::Downloading, 1, 1, 500),
            start + Duration::from_secs(2),
        );
        let expected = "[############            ]  50 %  500 B of 1000 B  250 B/s  0m02s left";
        assert_eq!(line.as_deref(), Some(expected));
        let done = bar.line(&at(Phase::Done, 1, 1, 1000), start + Duration::from_secs(2));
        assert_eq!(
            done.as_deref(),
            Some("[########################] 100 %  done")
        );
    }
}
