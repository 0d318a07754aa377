//! client-go's leader election as decisions over values: what is seen, and what follows from it.
//! Times are spans on this process's monotonic clock, except those that the Lease shows to people.

use std::time::Duration;

use jiff::Timestamp;

use super::{Candidate, Leader, Timing};

/// What a Lease says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// The resourceVersion; another one means that somebody wrote.
    pub(super) version: String,
    /// Who has it; nobody after a release.
    pub(super) holder: Option<Candidate>,
    /// How long it is held without a change.
    pub(super) duration: Duration,
    /// How often the holder has changed.
    pub(super) epoch: u64,
    /// For people.
    pub(super) acquired: Option<Timestamp>,
    /// For people.
    pub(super) renewed: Option<Timestamp>,
}

/// A write to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attempt {
    /// What the Lease is to say; the version is the API server's.
    pub(super) held: Held,
    /// The resourceVersion that it replaces; `None`: there is no Lease yet.
    pub(super) follows: Option<String>,
}

/// One candidate's view.
#[derive(Debug)]
pub(super) struct Election {
    me: Candidate,
    timing: Timing,
    /// The Lease as it was read or written last; `None`: there is none.
    seen: Option<Held>,
    /// When it was first seen so.
    since: Duration,
    /// The highest epoch ever seen: a Lease that was deleted does not begin at 0 again.
    highest: Option<u64>,
    /// When the renewal began that prolonged our term last.
    renewed: Option<Duration>,
}

impl Election {
    pub(super) fn new(me: Candidate, timing: Timing) -> Self {
        Self {
            me,
            timing,
            seen: None,
            since: Duration::ZERO,
            highest: None,
            renewed: None,
        }
    }

    /// The API server says this now.
    pub(super) fn read(&mut self, held: Option<Held>, now: Duration) {
        if held != self.seen {
            self.since = now;
        }
        if !held.as_ref().is_some_and(|held| self.is_mine(held)) {
            // Whoever took it: our term is over, whatever the clock says.
            self.renewed = None;
        }
        self.remember(held);
    }

    /// Our write, begun at `began`, was accepted and reads so.
    pub(super) fn written(&mut self, held: Held, began: Duration) {
        self.renewed = self.is_mine(&held).then_some(began);
        self.since = began;
        self.remember(Some(held));
    }

    fn remember(&mut self, held: Option<Held>) {
        self.highest = self.highest.max(held.as_ref().map(|held| held.epoch));
        self.seen = held;
    }

    fn is_mine(&self, held: &Held) -> bool {
        let holder = held.holder.as_ref();
        holder.is_some_and(|holder| holder.identity == self.me.identity)
    }

    /// The epoch we lead in and until when, if we do.
    pub(super) fn term(&self, now: Duration) -> Option<(u64, Duration)> {
        let until = self.renewed? + self.timing.deadline;
        let epoch = self.seen.as_ref()?.epoch;
        (now < until).then_some((epoch, until))
    }

    /// Who leads, as far as can be seen from here.
    pub(super) fn leader(&self, now: Duration) -> Option<Leader> {
        let held = self.seen.as_ref().filter(|held| self.binds(held, now))?;
        Some(Leader {
            candidate: held.holder.clone()?,
            epoch: held.epoch,
        })
    }

    /// Whether the holder may still be there: nothing but the time that we have seen pass says
    /// that it is not.
    fn binds(&self, held: &Held, now: Duration) -> bool {
        match self.is_mine(held) {
            true => self.term(now).is_some(),
            false => held.holder.is_some() && now < self.since + held.duration,
        }
    }

    /// The write that prolongs our term without another look.
    pub(super) fn renewal(&self, now: Duration, wall: Timestamp) -> Option<Attempt> {
        self.term(now)?;
        self.attempt(now, wall)
    }

    /// The write that takes or prolongs the Lease; `None` while somebody else has it.
    pub(super) fn attempt(&self, now: Duration, wall: Timestamp) -> Option<Attempt> {
        let mine = |epoch, acquired| Held {
            version: String::new(),
            holder: Some(self.me.clone()),
            duration: self.timing.lease,
            epoch,
            acquired: Some(acquired),
            renewed: Some(wall),
        };
        let next = self.highest.map_or(0, |epoch| epoch + 1);
        let Some(seen) = &self.seen else {
            return Some(Attempt {
                held: mine(next, wall),
                follows: None,
            });
        };
        let held = match (self.is_mine(seen), self.term(now)) {
            (true, Some((epoch, _))) => mine(epoch, seen.acquired.unwrap_or(wall)),
            // Our name, but not our term: it ended in between, so a new one begins.
            (true, None) => mine(next, wall),
            (false, _) if self.binds(seen, now) => return None,
            (false, _) => mine(next, wall),
        };
        Some(Attempt {
            held,
            follows: Some(seen.version.clone()),
        })
    }

    /// The write that lets the Lease go, if it is ours.
    pub(super) fn release(&mut self, wall: Timestamp) -> Option<Attempt> {
        self.renewed.take()?;
        let seen = self.seen.as_ref()?;
        Some(Attempt {
            held: Held {
                version: String::new(),
                holder: None,
                duration: Duration::from_secs(1),
                epoch: seen.epoch,
                acquired: Some(wall),
                renewed: Some(wall),
            },
            follows: Some(seen.version.clone()),
        })
    }

    /// How long an attempt may take.
    pub(super) fn patience(&self, now: Duration) -> Duration {
        match self.term(now) {
            Some((_, until)) => until - now,
            None => self.timing.deadline,
        }
    }

    /// Until the next attempt. Candidates spread theirs; `jitter` is in 0..1.
    pub(super) fn pause(&self, jitter: f64, now: Duration) -> Duration {
        match self.term(now) {
            Some((_, until)) => self.timing.retry.min(until - now),
            None => self.timing.retry.mul_f64(1.0 + 1.2 * jitter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn candidate(name: &str) -> Candidate {
        Candidate {
            identity: name.into(),
            address: format!("https://{name}:1138").as_str().into(),
        }
    }

    fn election(name: &str) -> Election {
        Election::new(candidate(name), Timing::default())
    }

    /// The API server: takes a write that follows what it has.
    #[derive(Default)]
    struct Server {
        held: Option<Held>,
        writes: u32,
    }

    impl Server {
        fn write(&mut self, attempt: &Attempt) -> Option<Held> {
            let current = self.held.as_ref().map(|held| held.version.clone());
            (current == attempt.follows).then(|| {
                self.writes += 1;
                let version = self.writes.to_string();
                let held = Held {
                    version,
                    ..attempt.held.clone()
                };
                self.held = Some(held.clone());
                held
            })
        }

        /// One turn of a candidate; whether it leads afterwards.
        fn turn(&mut self, election: &mut Election, now: Duration) -> bool {
            election.read(self.held.clone(), now);
            if let Some(attempt) = election.attempt(now, Timestamp::UNIX_EPOCH)
                && let Some(held) = self.write(&attempt)
            {
                election.written(held, now);
            }
            election.term(now).is_some()
        }
    }

    #[test]
    fn a_lease_expires_by_the_time_seen_without_a_change_and_not_by_what_it_says() {
        let (mut server, mut one, mut two) = (Server::default(), election("one"), election("two"));
        assert!(server.turn(&mut one, S));
        // The timestamps in it are of 1970; that means nothing.
        assert!(!server.turn(&mut two, 100 * S));
        assert!(!server.turn(&mut two, 114 * S));
        assert!(server.turn(&mut two, 115 * S));
        assert_eq!(two.leader(115 * S).unwrap().epoch, 1);
    }

    #[test]
    fn each_renewal_begins_the_wait_anew() {
        let (mut server, mut one, mut two) = (Server::default(), election("one"), election("two"));
        for second in 0..60 {
            assert!(server.turn(&mut one, second * S));
            assert!(!server.turn(&mut two, second * S));
        }
        assert_eq!(one.leader(60 * S), two.leader(60 * S));
        assert_eq!(server.held.unwrap().epoch, 0);
    }

    #[test]
    fn of_two_candidates_one_is_refused() {
        let (mut server, mut one, mut two) = (Server::default(), election("one"), election("two"));
        let now = Duration::ZERO;
        one.read(None, now);
        two.read(None, now);
        let first = one.attempt(now, Timestamp::UNIX_EPOCH).unwrap();
        let second = two.attempt(now, Timestamp::UNIX_EPOCH).unwrap();
        assert!(server.write(&first).is_some());
        assert!(server.write(&second).is_none());
    }

    #[test]
    fn a_leader_stops_before_another_can_begin() {
        let (mut server, mut one, mut two) = (Server::default(), election("one"), election("two"));
        server.turn(&mut one, S);
        server.turn(&mut two, S);
        // The leader cannot renew from here on.
        let stops = (1..).map(|n| n * S).find(|now| one.term(*now).is_none());
        let begins = (1..).map(|n| n * S).find(|now| server.turn(&mut two, *now));
        assert_eq!((stops, begins), (Some(11 * S), Some(16 * S)));
    }

    #[test]
    fn a_term_that_lapsed_is_another_term_when_it_is_taken_again() {
        let (mut server, mut one) = (Server::default(), election("one"));
        server.turn(&mut one, S);
        assert_eq!(one.term(S).unwrap().0, 0);
        assert!(one.renewal(12 * S, Timestamp::UNIX_EPOCH).is_none());
        server.turn(&mut one, 12 * S);
        assert_eq!(one.term(12 * S).unwrap().0, 1);
    }

    #[test]
    fn a_released_lease_is_free_at_once() {
        let (mut server, mut one, mut two) = (Server::default(), election("one"), election("two"));
        server.turn(&mut one, S);
        server.turn(&mut two, S);
        let release = one.release(Timestamp::UNIX_EPOCH).unwrap();
        server.write(&release).unwrap();
        assert!(one.term(S).is_none());
        assert!(server.turn(&mut two, 2 * S));
        assert_eq!(two.term(2 * S).unwrap().0, 1);
    }

    #[test]
    fn a_lease_that_was_deleted_goes_on_counting() {
        let (mut server, mut one) = (Server::default(), election("one"));
        server.turn(&mut one, S);
        server.held = None;
        server.turn(&mut one, 2 * S);
        assert_eq!(one.term(2 * S).unwrap().0, 1);
    }

    #[test]
    fn whoever_reads_another_name_stops_at_once() {
        let (mut server, mut one) = (Server::default(), election("one"));
        server.turn(&mut one, S);
        let other = Held {
            holder: Some(candidate("two")),
            version: "x".into(),
            ..server.held.clone().unwrap()
        };
        one.read(Some(other), 2 * S);
        assert!(one.term(2 * S).is_none());
        assert_eq!(one.leader(2 * S).unwrap().candidate, candidate("two"));
    }
}
