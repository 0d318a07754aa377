//! Which status is written when. Pure: time and chance are the caller's.
//!
//! An object is written at most once per [`SPACING`], however often what is to be said of it
//! changes meanwhile; what is said then is the latest. After a failure an object waits longer each
//! time, and while nobody answers everything waits, so that an outage costs one request now and
//! then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::ObjectRef;
use serde_json::Value;

/// Between two writes of one object.
const SPACING: Duration = Duration::from_secs(5);
/// Waits after failures, doubled each time, between half of it and all of it.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A status to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    /// The object's identity: another one of its name is not written.
    pub(super) uid: Arc<str>,
    /// The status.
    pub(super) status: Value,
    /// The `Ready` condition that is kept now, if there is one.
    pub(super) before: Option<Value>,
}

/// What differs from what is kept.
pub(super) type Jobs = BTreeMap<ObjectRef, Job>;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is kept.
    Done,
    /// There is no such object any more.
    Gone,
    /// It was refused; another one may not be.
    Refused,
    /// Nobody answered, or not now.
    Unavailable,
}

/// All writes there are to do.
#[derive(Debug, Default)]
pub(super) struct Pace {
    jobs: Jobs,
    /// Objects that were written or refused, and when they may be again.
    resting: BTreeMap<ObjectRef, Rest>,
    /// Failures of everything, in a row.
    failures: u32,
    paused: Duration,
}

#[derive(Debug)]
struct Rest {
    until: Duration,
    failures: u32,
}

impl Pace {
    /// From now on exactly this differs.
    pub(super) fn want(&mut self, jobs: Jobs) {
        self.jobs = jobs;
    }

    /// Takes at most `most` writes that may be made now.
    pub(super) fn take(&mut self, most: usize, now: Duration) -> Vec<(ObjectRef, Job)> {
        if now < self.paused {
            return Vec::new();
        }
        let rests = |object: &ObjectRef| self.resting.get(object).is_some_and(|r| now < r.until);
        let due = self.jobs.keys().filter(|object| !rests(object));
        let due: Vec<ObjectRef> = due.take(most).cloned().collect();
        due.into_iter()
            .filter_map(|object| self.jobs.remove_entry(&object))
            .collect()
    }

    /// A write that was taken has ended.
    pub(super) fn ended(
        &mut self,
        object: ObjectRef,
        job: Job,
        outcome: Outcome,
        now: Duration,
        chance: f64,
    ) {
        match outcome {
            Outcome::Done => {
                self.failures = 0;
                let until = now + SPACING;
                self.resting.insert(object, Rest { until, failures: 0 });
            }
            Outcome::Gone => drop(self.resting.remove(&object)),
            Outcome::Refused => {
                let rest = self.resting.entry(object.clone());
                let rest = rest.or_insert(Rest {
                    until: now,
                    failures: 0,
                });
                rest.until = now + SPACING.max(backoff(rest.failures, chance));
                rest.failures += 1;
                self.jobs.entry(object).or_insert(job);
            }
            Outcome::Unavailable => {
                if self.paused <= now {
                    self.paused = now + backoff(self.failures, chance);
                    self.failures += 1;
                }
                self.jobs.entry(object).or_insert(job);
            }
        }
    }

    /// When the next write may be made; `None`: there is none to make.
    pub(super) fn next(&mut self, now: Duration) -> Option<Duration> {
        // Who has rested and has nothing to say is forgotten.
        let jobs = &self.jobs;
        self.resting
            .retain(|object, rest| now < rest.until || jobs.contains_key(object));
        let ready = |object: &ObjectRef| self.resting.get(object).map_or(now, |rest| rest.until);
        let first = self.jobs.keys().map(ready).min()?;
        Some(first.max(self.paused))
    }
}

fn backoff(failures: u32, chance: f64) -> Duration {
    let doubled = BACKOFF.0.saturating_mul(1 << failures.min(10));
    doubled
        .min(BACKOFF.1)
        .mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const S: Duration = Duration::from_secs(1);

    fn object(name: &str) -> ObjectRef {
        ObjectRef::api_model("bodhi", name)
    }

    fn jobs(names: &[&str], text: &str) -> Jobs {
        let job = || Job {
            uid: "u".into(),
            status: json!(text),
            before: None,
        };
        names.iter().map(|name| (object(name), job())).collect()
    }

    fn write(pace: &mut Pace, outcome: Outcome, now: Duration) -> Vec<Value> {
        let taken = pace.take(10, now);
        let written = taken.iter().map(|(_, job)| job.status.clone()).collect();
        for (object, job) in taken {
            pace.ended(object, job, outcome, now, 1.0);
        }
        written
    }

    #[test]
    fn an_object_is_written_once_in_five_seconds_and_says_the_latest() {
        let mut pace = Pace::default();
        pace.want(jobs(&["a"], "1"));
        assert_eq!(write(&mut pace, Outcome::Done, S), [json!("1")]);
        for n in 2..6 {
            pace.want(jobs(&["a"], &n.to_string()));
            assert!(write(&mut pace, Outcome::Done, n * S).is_empty());
        }
        assert_eq!(pace.next(5 * S), Some(6 * S));
        assert_eq!(write(&mut pace, Outcome::Done, 6 * S), [json!("5")]);
        assert_eq!(pace.next(6 * S), None);
    }

    #[test]
    fn f13_nothing_is_to_be_done_once_everything_is_kept() {
        let mut pace = Pace::default();
        pace.want(jobs(&["a", "b"], "1"));
        write(&mut pace, Outcome::Done, S);
        pace.want(Jobs::new());
        assert_eq!(pace.next(60 * S), None);
        assert!(pace.resting.is_empty());
    }

    #[test]
    fn while_nobody_answers_one_attempt_is_made_ever_more_rarely() {
        let mut pace = Pace::default();
        let names: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        pace.want(jobs(&names, "1"));
        let mut waits = Vec::new();
        let mut now = Duration::ZERO;
        for _ in 0..8 {
            assert_eq!(write(&mut pace, Outcome::Unavailable, now).len(), 10);
            let next = pace.next(now).unwrap();
            waits.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        write(&mut pace, Outcome::Done, now);
        assert_eq!(pace.next(now), Some(now), "the rest goes on at once");
    }

    #[test]
    fn a_refused_write_holds_up_no_other() {
        let mut pace = Pace::default();
        pace.want(jobs(&["a"], "1"));
        write(&mut pace, Outcome::Refused, S);
        pace.want(jobs(&["a", "b"], "1"));
        let taken = pace.take(10, 2 * S);
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].0, object("b"));
        assert_eq!(pace.next(2 * S), Some(6 * S));
    }

    #[test]
    fn an_object_that_is_gone_is_not_tried_again() {
        let mut pace = Pace::default();
        pace.want(jobs(&["a"], "1"));
        write(&mut pace, Outcome::Gone, S);
        assert_eq!(pace.next(S), None);
    }
}
