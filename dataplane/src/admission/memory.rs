//! Memory: a budget for bodies in flight, and how close the process is to its limit.
//!
//! Bodies are the one thing whose size clients choose, so they are paid for from a process-wide
//! [`Budget`] before they are read: past it a request is refused while refusing is still
//! cheap. [`Pressure`] looks at the whole process instead, once a second, and is the last resort
//! before the kernel's own: at its worst, what the largest request was granted is taken back.

mod largest;

pub use largest::Revocation;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use crate::api::error::Failure;
use largest::Largest;

/// How often the readings are taken.
const PERIOD: Duration = Duration::from_secs(1);
/// Taking back less would help nobody.
const LARGE: usize = 256 << 10;

/// Bytes that bodies in flight may hold together, over all threads.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    held: AtomicUsize,
    largest: Largest,
}

/// Bytes granted to one body; dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    granted: usize,
    used: usize,
    /// Of a body that may be taken for the largest.
    revocation: Option<Revocation>,
}

impl Budget {
    /// At most `limit` bytes at a time.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
            largest: Largest::default(),
        })
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Room for a body announced to be `announced` bytes long (0: not announced).
    ///
    /// # Errors
    /// [`Failure::MemoryPressure`] when there is no room.
    pub fn reserve(self: &Arc<Self>, announced: usize) -> Result<Reservation, Failure> {
        self.take(announced)?;
        Ok(Reservation {
            budget: Arc::clone(self),
            granted: announced,
            used: 0,
            revocation: None,
        })
    }

    /// Takes back what the largest request was granted, as far as one is large and can be revoked.
    /// Answers how many bytes that were.
    pub fn revoke_largest(&self) -> Option<usize> {
        self.largest.revoke()
    }

    fn take(&self, bytes: usize) -> Result<(), Failure> {
        let room = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= self.limit);
        self.held
            .try_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .map(drop)
            .map_err(|_| Failure::MemoryPressure)
    }
}

impl Reservation {
    /// Counts bytes that arrived; beyond what was announced more is asked for.
    ///
    /// # Errors
    /// [`Failure::MemoryPressure`] when there is no room for more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Failure> {
        let used = self.used.saturating_add(bytes);
        if let Some(missing) = used.checked_sub(self.granted).filter(|n| *n > 0) {
            self.budget.take(missing)?;
            self.granted = used;
            if let Some(revocation) = &self.revocation {
                revocation.grown(used);
            }
        }
        self.used = used;
        Ok(())
    }

    /// From now on it may be taken back; what this returns tells when. `None`: it is too small for
    /// that. `grows`: it may become larger than it is.
    pub fn revocable(&mut self, grows: Grows) -> Option<Revocation> {
        if self.granted < LARGE && grows == Grows::No {
            return None;
        }
        let revocation = self.budget.largest.enter(self.granted);
        self.revocation = Some(revocation.clone());
        Some(revocation)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(revocation) = &self.revocation {
            self.budget.largest.leave(revocation);
        }
        self.budget.held.fetch_sub(self.granted, Ordering::Relaxed);
    }
}

/// Whether a body may turn out longer than was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grows {
    /// Its length was announced.
    No,
    /// It is sent in chunks.
    Perhaps,
}

/// How close the process is to its memory limit. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Pressure {
    /// Below 85 %.
    #[default]
    None,
    /// From 85 %: connections close after the request they are on.
    StopKeepAlive,
    /// From 92 %: new requests are refused with 503 `memory_pressure`.
    Shed,
    /// From 96 %: the largest requests in flight are reset.
    Reset,
}

/// What the machine says about memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// In use, without the page cache that can be dropped.
    pub used: u64,
    /// The cgroup's limit, else the machine's memory.
    pub limit: u64,
}

impl Reading {
    /// The pressure that it means.
    pub fn pressure(self) -> Pressure {
        // In 128 bits: a limit may be near 2^64.
        let percent = u128::from(self.used) * 100 / u128::from(self.limit.max(1));
        match percent {
            0..85 => Pressure::None,
            85..92 => Pressure::StopKeepAlive,
            92..96 => Pressure::Shed,
            _ => Pressure::Reset,
        }
    }
}

/// The latest pressure, for all threads to see.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU8);

impl Gauge {
    /// The pressure at the last reading.
    pub fn pressure(&self) -> Pressure {
        match self.0.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::StopKeepAlive,
            2 => Pressure::Shed,
            _ => Pressure::Reset,
        }
    }

    /// Sets it.
    pub fn set(&self, pressure: Pressure) {
        self.0.store(pressure as u8, Ordering::Relaxed);
    }
}

/// Half of what this process may use, for bodies in flight; 512 MiB where nothing says how much that is.
pub fn default_budget() -> usize {
    let limit = Source::find()
        .read()
        .map_or(1 << 30, |reading| reading.limit);
    usize::try_from(limit / 2).unwrap_or(usize::MAX)
}

/// Keeps `gauge` up to date, and takes back from `budget` what it must, for ever. For the control
/// runtime: reading the files blocks for microseconds.
pub async fn watch(gauge: Arc<Gauge>, budget: Arc<Budget>, source: Source) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Without a reading nothing is known to be wrong; the budget still bounds bodies.
        let pressure = source.read().map(Reading::pressure).unwrap_or_default();
        if pressure != gauge.pressure() {
            tracing::warn!(?pressure, "memory pressure changed");
        }
        gauge.set(pressure);
        // One at a time: the next reading tells whether it was enough.
        if pressure == Pressure::Reset
            && let Some(bytes) = budget.revoke_largest()
        {
            tracing::warn!(
                bytes,
                "memory is nearly exhausted: the largest request is reset"
            );
        }
    }
}

/// Where readings come from, found once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The unified hierarchy: `memory.max`, `memory.current`, `memory.stat` in this folder.
    CgroupV2(PathBuf),
    /// The memory controller of the old one: `memory.limit_in_bytes` and so on in this folder.
    CgroupV1(PathBuf),
    /// No limit but the machine's: this process's resident set against all memory.
    Machine,
}

impl Source {
    /// The innermost cgroup that sets a limit, else the machine.
    pub fn find() -> Self {
        Self::find_in(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))
    }

    fn find_in(own: &Path, mount: &Path) -> Self {
        let own = fs::read_to_string(own).unwrap_or_default();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let v1 = controllers.split(',').any(|name| name == "memory");
            if !v1 && !controllers.is_empty() {
                continue;
            }
            let root = match v1 {
                true => mount.join("memory"),
                false => mount.to_owned(),
            };
            // Inside a container the path may be the host's, while the mount shows only our part of
            // it: what is missing is looked for further up.
            for folder in Path::new(path.trim_start_matches('/')).ancestors() {
                let folder = root.join(folder);
                let source = match v1 {
                    true => Self::CgroupV1(folder),
                    false => Self::CgroupV2(folder),
                };
                if source.limit().is_ok_and(|limit| limit.is_some()) {
                    return source;
                }
            }
        }
        Self::Machine
    }

    /// Its limit; `None` when it sets none that the machine's memory does not set already.
    fn limit(&self) -> io::Result<Option<u64>> {
        let machine = machine_memory()?;
        let limit = match self {
            Self::CgroupV2(folder) => match fs::read_to_string(folder.join("memory.max"))?.trim() {
                "max" => None,
                number => Some(parse(number)?),
            },
            Self::CgroupV1(folder) => Some(read_number(&folder.join("memory.limit_in_bytes"))?),
            Self::Machine => Some(machine),
        };
        Ok(limit.filter(|limit| *limit <= machine))
    }

    /// Reads it now.
    ///
    /// # Errors
    /// A file that cannot be read or is not in the kernel's format.
    pub fn read(&self) -> io::Result<Reading> {
        let used = match self {
            Self::CgroupV2(folder) => {
                let cache = stat_field(&folder.join("memory.stat"), "inactive_file ")?;
                read_number(&folder.join("memory.current"))?.saturating_sub(cache)
            }
            Self::CgroupV1(folder) => {
                let cache = stat_field(&folder.join("memory.stat"), "total_inactive_file ")?;
                read_number(&folder.join("memory.usage_in_bytes"))?.saturating_sub(cache)
            }
            Self::Machine => kibibytes(Path::new("/proc/self/status"), "VmRSS:")?,
        };
        let limit = match self.limit()? {
            Some(limit) => limit,
            None => machine_memory()?,
        };
        Ok(Reading { used, limit })
    }
}

fn machine_memory() -> io::Result<u64> {
    kibibytes(Path::new("/proc/meminfo"), "MemTotal:")
}

fn kibibytes(file: &Path, field: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    let number = value.unwrap_or_default().trim().trim_end_matches(" kB");
    Ok(parse(number)?.saturating_mul(1024))
}

fn stat_field(file: &Path, field: &str) -> io::Result<u64> {
    let text = fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    value.map_or(Ok(0), parse)
}

fn read_number(file: &Path) -> io::Result<u64> {
    parse(fs::read_to_string(file)?.trim())
}

fn parse(number: &str) -> io::Result<u64> {
    number
        .parse()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_comes_back_whole() {
        let budget = Budget::new(100);
        let mut one = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).err(), Some(Failure::MemoryPressure));
        one.grow(60).unwrap();
        one.grow(40).unwrap();
        assert_eq!(one.grow(1), Err(Failure::MemoryPressure));
        assert_eq!(one.grow(usize::MAX), Err(Failure::MemoryPressure));
        assert_eq!(budget.held(), 100);
        drop(one);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn the_largest_is_taken_back_first_and_each_once() {
        let budget = Budget::new(100 * LARGE);
        assert_eq!(budget.revoke_largest(), None);
        let mut small = budget.reserve(LARGE - 1).unwrap();
        assert!(small.revocable(Grows::No).is_none());
        let mut large = budget.reserve(2 * LARGE).unwrap();
        let large_is = large.revocable(Grows::No).unwrap();
        let mut grown = budget.reserve(0).unwrap();
        let grown_is = grown.revocable(Grows::Perhaps).unwrap();
        assert_eq!(
            (large_is.is_revoked(), grown_is.is_revoked()),
            (false, false)
        );
        grown.grow(3 * LARGE).unwrap();
        assert_eq!(budget.revoke_largest(), Some(3 * LARGE));
        assert_eq!(
            (large_is.is_revoked(), grown_is.is_revoked()),
            (false, true)
        );
        assert_eq!(budget.revoke_largest(), Some(2 * LARGE));
        // Whoever holds the rest gives it back by itself.
        assert_eq!(budget.revoke_largest(), None);
        drop((small, large, grown));
        assert_eq!(budget.held(), 0);

        let mut gone = budget.reserve(LARGE).unwrap();
        let gone_is = gone.revocable(Grows::No).unwrap();
        drop(gone);
        assert_eq!(budget.revoke_largest(), None);
        assert!(!gone_is.is_revoked());
        let mut begins = budget.reserve(0).unwrap();
        let _begins_is = begins.revocable(Grows::Perhaps).unwrap();
        assert_eq!(budget.revoke_largest(), None, "it is not large yet");
    }

    #[test]
    fn thresholds_are_those_of_the_design() {
        let at = |used, limit| Reading { used, limit }.pressure();
        assert_eq!(at(84, 100), Pressure::None);
        assert_eq!(at(85, 100), Pressure::StopKeepAlive);
        assert_eq!(at(92, 100), Pressure::Shed);
        assert_eq!(at(96, 100), Pressure::Reset);
        assert_eq!(at(u64::MAX, u64::MAX), Pressure::Reset);
        assert_eq!(at(1, 0), Pressure::Reset);
        let gauge = Gauge::default();
        for pressure in [
            Pressure::None,
            Pressure::StopKeepAlive,
            Pressure::Shed,
            Pressure::Reset,
        ] {
            gauge.set(pressure);
            assert_eq!(gauge.pressure(), pressure);
        }
    }

    fn write(file: PathBuf, text: &str) {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn both_cgroup_hierarchies_are_read_without_the_droppable_cache() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let own = root.join("own");
        write(own.clone(), "0::/pod/app\n");
        // The app's own group sets no limit; the pod's does.
        write(root.join("pod/app/memory.max"), "max\n");
        write(root.join("pod/memory.max"), "1000000\n");
        write(root.join("pod/memory.current"), "500000\n");
        write(
            root.join("pod/memory.stat"),
            "anon 1\ninactive_file 100000\n",
        );
        let source = Source::find_in(&own, root);
        assert_eq!(source, Source::CgroupV2(root.join("pod")));
        let reading = source.read().unwrap();
        assert_eq!((reading.used, reading.limit), (400_000, 1_000_000));

        write(own.clone(), "5:cpu:/x\n4:memory:/host/only\n0::/\n");
        write(root.join("memory/memory.limit_in_bytes"), "2000000\n");
        write(root.join("memory/memory.usage_in_bytes"), "300000\n");
        write(
            root.join("memory/memory.stat"),
            "total_inactive_file 50000\n",
        );
        let reading = Source::find_in(&own, root).read().unwrap();
        assert_eq!((reading.used, reading.limit), (250_000, 2_000_000));
    }

    #[test]
    fn without_a_cgroup_limit_the_machine_counts() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("own");
        write(own.clone(), "4:memory:/\n");
        write(
            root.path().join("memory/memory.limit_in_bytes"),
            "9223372036854771712\n",
        );
        let source = Source::find_in(&own, root.path());
        assert_eq!(source, Source::Machine);
        let reading = source.read().unwrap();
        assert!(reading.used > 0 && reading.used < reading.limit);
    }
}
