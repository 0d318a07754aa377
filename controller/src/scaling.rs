//! Demand into a number of workers. Pure: the caller brings the time, as what has passed since
//! some moment, and asks again when told to.
//!
//! More workers come at once, fewer when no moment of the last five minutes needed more. Zero is
//! for pools that allow it, after a time without a single request; one request, held or not,
//! wakes such a pool at once.

use std::collections::VecDeque;
use std::time::Duration;

use crate::api::{Scaling, ScalingMode};
use crate::sync::Demand;

/// How long a higher need is remembered before workers go.
const STABILIZATION: Duration = Duration::from_secs(300);
/// Slots of a worker that has not said how many it has.
const SLOTS: u32 = 4;

/// An Alias's `scaling`, judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sizing {
    /// `mode: External`: so many.
    Fixed(u32),
    /// `mode: Managed`.
    Managed {
        /// To begin with.
        start: u32,
        /// Never fewer.
        min: u32,
        /// Never more; at least 1 and `min`.
        max: u32,
        /// Busy slots aimed at, 1 to 100.
        target_percent: u32,
        /// With `min` 0: zero after this long without a request.
        idle_after: Option<Duration>,
    },
}

impl Sizing {
    /// Of an object's spec.
    pub fn of(scaling: &Scaling) -> Self {
        match scaling.mode {
            ScalingMode::External => Self::Fixed(scaling.replicas),
            ScalingMode::Managed => {
                let min = scaling.min_replicas;
                let max = scaling.max_replicas.unwrap_or(scaling.replicas);
                let max = max.max(min).max(1);
                Self::Managed {
                    start: scaling.replicas.clamp(min, max),
                    min,
                    max,
                    target_percent: scaling.target_utilization.clamp(1, 100),
                    idle_after: scaling.activation.idle_after.map(|after| after.get()),
                }
            }
        }
    }

    /// The most workers that there may be at once.
    pub fn ceiling(self) -> u32 {
        match self {
            Self::Fixed(replicas) => replicas,
            Self::Managed { max, .. } => max,
        }
    }
}

/// The answer to "how many?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// So many workers.
    pub replicas: u32,
    /// When to ask again although demand stays as it is.
    pub again: Option<Duration>,
}

/// One pool's memory.
#[derive(Debug)]
pub struct Scaler {
    replicas: u32,
    /// When there was a request last, or the pool began.
    busy: Duration,
    /// What was needed when, in falling order of need: the first is the highest of the window.
    needs: VecDeque<(Duration, u32)>,
}

impl Scaler {
    /// A pool that begins now. `sized`: what it was told to be by whoever sized it before.
    pub fn new(sizing: Sizing, sized: Option<u32>, now: Duration) -> Self {
        let replicas = match sizing {
            Sizing::Fixed(replicas) => replicas,
            Sizing::Managed {
                start, min, max, ..
            } => sized.map_or(start, |sized| sized.clamp(min, max)),
        };
        Self {
            replicas,
            busy: now,
            needs: VecDeque::from([(now, replicas)]),
        }
    }

    /// How many there were to be at last.
    pub fn replicas(&self) -> u32 {
        self.replicas
    }

    /// How many workers there should be. `slots`: of one worker, once it has said so.
    pub fn decide(
        &mut self,
        sizing: Sizing,
        slots: Option<u32>,
        demand: Demand,
        now: Duration,
    ) -> Decision {
        let Sizing::Managed {
            min,
            max,
            target_percent,
            idle_after,
            ..
        } = sizing
        else {
            self.replicas = sizing.ceiling();
            return Decision {
                replicas: self.replicas,
                again: None,
            };
        };
        if demand.requests() > 0 {
            self.busy = now;
        }
        let idle_at = idle_after
            .filter(|_| min == 0)
            .map(|after| self.busy + after);
        if idle_at.is_some_and(|at| at <= now) {
            self.needs.clear();
            self.replicas = 0;
            return Decision {
                replicas: 0,
                again: None,
            };
        }
        // A pool that sleeps is woken by requests, not by the wish to be awake.
        let floor = match self.replicas == 0 && demand.requests() == 0 {
            true => min,
            false => min.max(1),
        };
        let per_worker = u64::from(slots.unwrap_or(SLOTS).max(1)) * u64::from(target_percent);
        let needed = (u64::from(demand.requests()) * 100).div_ceil(per_worker);
        let need = u32::try_from(needed).unwrap_or(u32::MAX).clamp(floor, max);
        self.remember(need, now);
        let highest = self.needs.front().map_or(need, |(_, need)| *need);
        self.replicas = highest.clamp(floor, max);
        let lower = match self.needs.len() {
            0 | 1 => None,
            _ => self.needs.front().map(|(at, _)| *at + STABILIZATION),
        };
        Decision {
            replicas: self.replicas,
            again: [lower, idle_at.filter(|_| self.replicas > 0)]
                .into_iter()
                .flatten()
                .min(),
        }
    }

    /// Keeps what can still be the highest need of the window, each at its latest moment.
    fn remember(&mut self, need: u32, now: Duration) {
        while self.needs.back().is_some_and(|(_, older)| *older <= need) {
            self.needs.pop_back();
        }
        self.needs.push_back((now, need));
        while let Some((at, _)) = self.needs.front()
            && self.needs.len() > 1
            && *at + STABILIZATION <= now
        {
            self.needs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANAGED: Sizing = Sizing::Managed {
        start: 1,
        min: 1,
        max: 4,
        target_percent: 75,
        idle_after: None,
    };
    const SLEEPY: Sizing = Sizing::Managed {
        start: 1,
        min: 0,
        max: 4,
        target_percent: 75,
        idle_after: Some(secs(60)),
    };

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn in_flight(in_flight: u32) -> Demand {
        Demand { in_flight, held: 0 }
    }

    fn replicas(scaler: &mut Scaler, sizing: Sizing, requests: u32, at: u64) -> u32 {
        let decision = scaler.decide(sizing, Some(8), in_flight(requests), secs(at));
        decision.replicas
    }

    #[test]
    fn more_come_at_once_up_to_the_most() {
        let mut scaler = Scaler::new(MANAGED, None, secs(0));
        // 75 % of 8 slots are 6 requests.
        for (requests, workers) in [(0, 1), (6, 1), (7, 2), (12, 2), (13, 3), (1000, 4)] {
            assert_eq!(
                replicas(&mut scaler, MANAGED, requests, 1),
                workers,
                "{requests}"
            );
        }
        assert_eq!(replicas(&mut scaler, MANAGED, u32::MAX, 1), 4);
    }

    #[test]
    fn fewer_come_when_the_window_needed_no_more() {
        let mut scaler = Scaler::new(MANAGED, None, secs(0));
        assert_eq!(replicas(&mut scaler, MANAGED, 20, 10), 4);
        assert_eq!(replicas(&mut scaler, MANAGED, 10, 200), 4);
        let quiet = scaler.decide(MANAGED, Some(8), in_flight(0), secs(250));
        assert_eq!((quiet.replicas, quiet.again), (4, Some(secs(310))));
        let next = scaler.decide(MANAGED, Some(8), in_flight(0), secs(310));
        assert_eq!((next.replicas, next.again), (2, Some(secs(500))));
        let last = scaler.decide(MANAGED, Some(8), in_flight(0), secs(500));
        assert_eq!((last.replicas, last.again), (1, None));
    }

    #[test]
    fn an_idle_pool_sleeps_in_time_and_a_held_request_wakes_it() {
        let mut scaler = Scaler::new(SLEEPY, None, secs(0));
        let idle = scaler.decide(SLEEPY, Some(8), in_flight(0), secs(5));
        assert_eq!((idle.replicas, idle.again), (1, Some(secs(60))));
        assert_eq!(replicas(&mut scaler, SLEEPY, 1, 59), 1);
        assert_eq!(replicas(&mut scaler, SLEEPY, 0, 118), 1);
        let asleep = scaler.decide(SLEEPY, Some(8), in_flight(0), secs(119));
        assert_eq!((asleep.replicas, asleep.again), (0, None));
        assert_eq!(replicas(&mut scaler, SLEEPY, 0, 400), 0);
        let held = Demand {
            in_flight: 0,
            held: 1,
        };
        let woken = scaler.decide(SLEEPY, Some(8), held, secs(500));
        assert_eq!((woken.replicas, woken.again), (1, Some(secs(560))));
        // Woken, it stays awake although the request is answered soon.
        assert_eq!(replicas(&mut scaler, SLEEPY, 0, 501), 1);
    }

    #[test]
    fn new_bounds_hold_at_once() {
        let mut scaler = Scaler::new(MANAGED, None, secs(0));
        assert_eq!(replicas(&mut scaler, MANAGED, 100, 1), 4);
        let smaller = Sizing::Managed {
            start: 1,
            min: 0,
            max: 2,
            target_percent: 75,
            idle_after: None,
        };
        assert_eq!(replicas(&mut scaler, smaller, 100, 2), 2);
        let larger = Sizing::Managed {
            start: 3,
            min: 3,
            max: 3,
            target_percent: 75,
            idle_after: None,
        };
        assert_eq!(replicas(&mut scaler, larger, 0, 400), 3);
        assert_eq!(replicas(&mut scaler, Sizing::Fixed(0), 9, 401), 0);
    }

    #[test]
    fn a_spec_becomes_bounds_that_hold_together() {
        let scaling = |value| Sizing::of(&serde_json::from_value(value).unwrap());
        let plain = scaling(serde_json::json!({ "replicas": 3 }));
        assert!(matches!(
            plain,
            Sizing::Managed {
                start: 3,
                min: 1,
                max: 3,
                ..
            }
        ));
        let external = serde_json::json!({ "replicas": 0, "mode": "External" });
        assert_eq!(scaling(external), Sizing::Fixed(0));
        let zero = serde_json::json!({
            "replicas": 0, "minReplicas": 0, "activation": { "idleAfter": "90s" },
        });
        assert!(matches!(
            scaling(zero),
            Sizing::Managed { start: 0, max: 1, idle_after: Some(after), .. } if after == secs(90)
        ));
    }

    #[test]
    fn f25_a_pool_goes_on_with_the_size_that_a_predecessor_gave_it() {
        let first = |sizing, sized| {
            let mut scaler = Scaler::new(sizing, sized, secs(0));
            let decision = scaler.decide(sizing, None, Demand::default(), secs(1));
            decision.replicas
        };
        assert_eq!(first(MANAGED, Some(3)), 3);
        assert_eq!(first(MANAGED, Some(99)), MANAGED.ceiling());
        assert_eq!(first(SLEEPY, Some(0)), 0, "nobody asked for it");
        assert_eq!(first(Sizing::Fixed(2), Some(5)), 2, "somebody else decides");
    }
}
