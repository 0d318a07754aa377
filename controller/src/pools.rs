//! Local models between what is wanted and what there is: how many workers each should have,
//! what data planes may expect of it, and which names must wait for it.
//!
//! [`run`] is a task beside the reconciler: it turns models and demand into workers and shows
//! both. What follows from them is plain functions, which the reconciler asks.

mod conditions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::snapshot::{
    Pool, PoolState, Refusal, Route, ServedKey, ServedName, Serving, WorkerEndpoint,
};
use bodhi_proto::sync::Source;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::api::Reason;
use crate::compile::LocalModel;
use crate::runtime::{ModelState, Observed, Runtime, Trouble, Wanted};
use crate::scaling::Scaler;
use crate::sync::{Demand, Server};

pub use conditions::{Observation, observe};

/// Workers that end without saying why are believed to come up again so often.
const CRASHES_FORGIVEN: u32 = 2;

/// What is wanted and what there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workers {
    /// As they are.
    pub observed: Arc<Observed>,
    /// How many each model should have.
    pub wanted: BTreeMap<ObjectRef, u32>,
}

impl Workers {
    /// The workers of a model.
    pub fn of(&self, object: &ObjectRef) -> Option<&ModelState> {
        self.observed.models.get(object)
    }

    /// Every worker that takes requests, in order.
    pub fn endpoints(&self) -> Vec<Arc<WorkerEndpoint>> {
        let models = self.observed.models.values();
        let ready = models.flat_map(|model| &model.ready);
        ready.cloned().map(Arc::new).collect()
    }

    /// What to expect of a model.
    pub fn state(&self, object: &ObjectRef) -> PoolState {
        let model = self.of(object);
        if model.is_some_and(|model| !model.ready.is_empty()) {
            return PoolState::Ready;
        }
        if self.wanted.get(object) == Some(&0) {
            return PoolState::Asleep;
        }
        match model.and_then(|model| model.failure.as_ref()) {
            Some(trouble) if is_lasting(trouble) => {
                let failure = &trouble.failure;
                PoolState::Failed(Refusal {
                    reason: failure.reason.as_str().into(),
                    message: format!("{object}: {}", failure.message).into(),
                    unsupported: false,
                })
            }
            _ => PoolState::Starting,
        }
    }

    /// A model as data planes are to know it.
    pub fn pool(&self, model: &LocalModel) -> Pool {
        Pool {
            state: self.state(model.object()),
            ..model.pool.clone()
        }
    }
}

/// A worker that says why it ends will say so again; one that only ends may have been unlucky, and
/// one that no node takes waits for the node that an autoscaler adds.
fn is_lasting(trouble: &Trouble) -> bool {
    let silent = [
        Reason::WorkerCrashed,
        Reason::WorkerHung,
        Reason::OutOfMemoryKilled,
        Reason::Unschedulable,
    ];
    let is_silent = silent
        .iter()
        .any(|reason| *reason.as_str() == trouble.failure.reason);
    !is_silent || trouble.times > CRASHES_FORGIVEN
}

/// The names to offer. An Alias that has just moved from providers to a local model keeps its
/// routes until the model has a worker, or has none on purpose: clients keep being served.
/// `before` is what is offered now.
pub fn hold_back(
    served: &[ServedName],
    before: &BTreeMap<ServedKey, Arc<ServedName>>,
    workers: &Workers,
    is_upstream: impl Fn(&ObjectRef) -> bool,
) -> Vec<Arc<ServedName>> {
    let waits = |route: &Route| {
        is_pool(route)
            && !matches!(
                workers.state(&route.upstream),
                PoolState::Ready | PoolState::Asleep
            )
    };
    let offer = |name: &ServedName| {
        let old = before.get(&name.key).filter(|old| old.owner == name.owner);
        let (Serving::Routes(routes), Some(Serving::Routes(old))) =
            (&name.serving, old.map(|old| &old.serving))
        else {
            return Arc::new(name.clone());
        };
        let mut kept = old.clone();
        kept.retain(|route| !is_pool(route) && is_upstream(&route.upstream));
        match routes.iter().any(waits) && !kept.is_empty() {
            true => Arc::new(ServedName {
                serving: Serving::Routes(kept),
                ..name.clone()
            }),
            false => Arc::new(name.clone()),
        }
    };
    served.iter().map(offer).collect()
}

fn is_pool(route: &Route) -> bool {
    route.upstream.kind == ObjectKind::Alias
}

/// Sizes every model by its demand, and tells the runtime and whoever watches. Runs until the
/// models end. Nothing is wanted before both models and workers are known: what runs may have been
/// started by a predecessor.
pub async fn run(
    runtime: Arc<dyn Runtime>,
    sync: Server,
    mut models: watch::Receiver<Option<Arc<Vec<LocalModel>>>>,
    show: watch::Sender<Arc<Workers>>,
) {
    let began = Instant::now();
    let mut observed = runtime.observed();
    let mut demands = sync.demands();
    let mut acks = sync.acks_changed();
    let mut sizes = Sizes::default();
    let mut before: Option<Vec<Wanted>> = None;
    loop {
        let now = began.elapsed();
        let current = models.borrow_and_update().clone();
        let there = Arc::clone(&observed.borrow_and_update());
        let Some(current) = current.filter(|_| there.version > 0) else {
            tokio::select! {
                changed = models.changed() => if changed.is_err() { return },
                changed = observed.changed() => if changed.is_err() { return },
            }
            continue;
        };
        let asked = Arc::clone(&demands.borrow_and_update());
        acks.mark_unchanged();
        runtime.acknowledge(acknowledged(&sync, there.version));
        let (wanted, again) = sizes.decide(&current, &there, &asked, now);
        let workers = Workers {
            observed: there,
            wanted: wanted
                .iter()
                .map(|w| (w.object.clone(), w.replicas))
                .collect(),
        };
        if before.as_ref() != Some(&wanted) {
            runtime.want(wanted.clone());
            before = Some(wanted);
        }
        show.send_if_modified(|shown| {
            let differs = **shown != workers;
            if differs {
                *shown = Arc::new(workers);
            }
            differs
        });
        let due = again.map(|at| began + at);
        tokio::select! {
            changed = models.changed() => if changed.is_err() { return },
            Ok(()) = observed.changed() => {}
            Ok(()) = demands.changed() => {}
            Ok(()) = acks.changed() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// How many workers each model has, over time.
#[derive(Default)]
struct Sizes(BTreeMap<ObjectRef, Scaler>);

impl Sizes {
    /// The workers of all models, and when to ask again although nothing changes. While another
    /// controller sizes, its sizes are taken over: to be gone on with when this one begins to, and
    /// because data planes are to be told the same of a model that sleeps.
    fn decide(
        &mut self,
        models: &[LocalModel],
        there: &Observed,
        asked: &BTreeMap<ObjectRef, Demand>,
        now: Duration,
    ) -> (Vec<Wanted>, Option<Duration>) {
        let Self(scalers) = self;
        scalers.retain(|object, _| models.iter().any(|model| model.object() == object));
        let mut again: Option<Duration> = None;
        let mut one = |model: &LocalModel| {
            let object = model.object();
            let state = there.models.get(object);
            let begin = || Scaler::new(model.sizing, state.and_then(|state| state.sized), now);
            if there.follows {
                scalers.insert(object.clone(), begin());
            }
            let scaler = scalers.entry(object.clone()).or_insert_with(begin);
            let ready = state.and_then(|state| state.ready.first());
            let slots = ready
                .map(|worker| worker.slots)
                .or(model.worker.engine.parallel_slots);
            let demand = asked.get(object).copied().unwrap_or_default();
            let replicas = match there.follows {
                true => scaler.replicas(),
                false => {
                    let decision = scaler.decide(model.sizing, slots, demand, now);
                    again = [again, decision.again].into_iter().flatten().min();
                    decision.replicas
                }
            };
            Wanted {
                object: object.clone(),
                uid: Arc::clone(&model.uid),
                worker: model.worker.clone(),
                pod: model.pod.clone(),
                replicas,
                ceiling: model.sizing.ceiling(),
                rollout: model.rollout,
            }
        };
        (models.iter().map(&mut one).collect(), again)
    }
}

/// The version of the workers that every connected data plane has taken in.
fn acknowledged(sync: &Server, there: u64) -> u64 {
    let planes = sync.acks().planes;
    let of = |mark: &bodhi_proto::sync::Mark| mark.at(Source::Workers).map_or(0, |at| at.number);
    planes
        .iter()
        .map(|plane| of(&plane.mark))
        .min()
        .unwrap_or(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    use bodhi_proto::chat::Failure;
    use bodhi_proto::names::ModelName;
    use bodhi_proto::provider::Family;
    use bodhi_proto::snapshot::{
        Balancing, EgressScope, LocalFeatures, Pattern, RouteModel, Visibility, WorkerAddress,
        WorkerId,
    };

    use crate::api::Engine;
    use crate::compile::{Rollout, WorkerPod, WorkerSpec};
    use crate::scaling::Sizing;

    fn alias() -> ObjectRef {
        ObjectRef::alias("bodhi", "q")
    }

    fn workers(wanted: u32, ready: usize, trouble: Option<(&str, u32)>) -> Workers {
        let endpoint = |n: usize| WorkerEndpoint {
            id: WorkerId {
                pool: alias(),
                worker: n.to_string().into(),
            },
            address: WorkerAddress::parse("unix:/w.sock").unwrap(),
            slots: 1,
        };
        let state = ModelState {
            ready: (0..ready).map(endpoint).collect(),
            failure: trouble.map(|(reason, times)| Trouble {
                failure: Failure {
                    reason: reason.into(),
                    message: "m".into(),
                },
                times,
            }),
            ..ModelState::default()
        };
        Workers {
            observed: Arc::new(Observed {
                version: 1,
                models: [(alias(), state)].into(),
                ..Observed::default()
            }),
            wanted: [(alias(), wanted)].into(),
        }
    }

    fn name(upstreams: &[ObjectRef]) -> ServedName {
        let route = |upstream: &ObjectRef| Route {
            upstream: upstream.clone(),
            model: RouteModel::AsAsked,
            exposed: None,
            weight: NonZeroU32::MIN,
            priority: 0,
        };
        ServedName {
            key: ServedKey {
                family: Family::General,
                pattern: Pattern::Exact(ModelName::parse("q").unwrap()),
            },
            owner: alias(),
            created: 0,
            visibility: Visibility::Public,
            serving: Serving::Routes(upstreams.iter().map(route).collect()),
            max_output_tokens: None,
            defaults: None,
        }
    }

    #[test]
    fn a_pool_is_what_its_workers_make_of_it() {
        assert_eq!(Workers::default().state(&alias()), PoolState::Starting);
        assert_eq!(workers(1, 1, None).state(&alias()), PoolState::Ready);
        assert_eq!(workers(0, 1, None).state(&alias()), PoolState::Ready);
        assert_eq!(workers(0, 0, None).state(&alias()), PoolState::Asleep);
        assert_eq!(workers(1, 0, None).state(&alias()), PoolState::Starting);
        let crashed = |times| workers(1, 0, Some(("WorkerCrashed", times))).state(&alias());
        assert_eq!(crashed(2), PoolState::Starting);
        assert!(matches!(crashed(3), PoolState::Failed(_)));
        let told = workers(1, 0, Some(("NotGguf", 1))).state(&alias());
        assert!(matches!(told, PoolState::Failed(refusal) if &*refusal.reason == "NotGguf"));
    }

    #[test]
    fn routes_to_providers_stay_until_a_worker_is_ready() {
        let provider = ObjectRef::api_model("bodhi", "openai");
        let gone = ObjectRef::api_model("bodhi", "gone");
        let local = name(&[alias()]);
        let offered = |before: &ServedName, now: &ServedName, workers: &Workers| {
            let before = [(before.key.clone(), Arc::new(before.clone()))].into();
            let names = hold_back(std::slice::from_ref(now), &before, workers, |u| {
                *u == provider
            });
            names[0].serving.clone()
        };
        let api = name(&[gone.clone(), provider.clone()]);
        let kept = name(std::slice::from_ref(&provider));
        for (workers, serving) in [
            (workers(1, 0, None), &kept.serving),
            (workers(1, 0, Some(("NotGguf", 9))), &kept.serving),
            (workers(1, 1, None), &local.serving),
            (workers(0, 0, None), &local.serving),
        ] {
            assert_eq!(offered(&api, &local, &workers), *serving);
        }
        let starting = workers(1, 0, None);
        // Its providers are gone; it was local before; it leaves for a provider.
        assert_eq!(offered(&name(&[gone]), &local, &starting), local.serving);
        assert_eq!(offered(&local, &local, &starting), local.serving);
        assert_eq!(offered(&local, &kept, &starting), kept.serving);
    }

    fn model() -> LocalModel {
        LocalModel {
            uid: "u".into(),
            pod: WorkerPod::default(),
            pool: Pool {
                object: alias(),
                features: LocalFeatures::default(),
                balancing: Balancing::LeastLoad,
                hold_timeout: Duration::from_secs(60),
                max_held: 1,
                system_prompt: None,
                state: PoolState::Starting,
            },
            worker: WorkerSpec {
                source: "https://a.example/m.gguf".into(),
                revision: None,
                sha256: None,
                allow_floating: false,
                credentials: None,
                egress: EgressScope::Standalone,
                engine: Engine {
                    parallel_slots: Some(1),
                    ..Engine::default()
                },
                features: LocalFeatures::default(),
            },
            sizing: Sizing::Managed {
                start: 1,
                min: 0,
                max: 8,
                target_percent: 100,
                idle_after: Some(Duration::from_secs(60)),
            },
            rollout: Rollout::Surge,
        }
    }

    fn there(sized: Option<u32>, follows: bool) -> Observed {
        let state = ModelState {
            sized,
            ..ModelState::default()
        };
        Observed {
            version: 1,
            follows,
            models: [(alias(), state)].into(),
        }
    }

    #[test]
    fn f25_a_controller_that_takes_over_leaves_sizes_as_they_are() {
        let now = Duration::from_secs;
        let none = BTreeMap::new();
        let busy = BTreeMap::from([(
            alias(),
            Demand {
                in_flight: 6,
                ..Demand::default()
            },
        )]);
        let mut sizes = Sizes::default();
        let mut size = |there: &Observed, asked, at| {
            let (wanted, again) = sizes.decide(&[model()], there, asked, now(at));
            (wanted[0].replicas, again.is_some())
        };
        // What this controller hears of demand is not what the one that sizes hears.
        assert_eq!(size(&there(Some(5), true), &busy, 0), (5, false));
        assert_eq!(size(&there(Some(0), true), &none, 900), (0, false));
        assert_eq!(size(&there(Some(4), true), &none, 1000), (4, false));
        // It takes over, and has all the time that a new need takes to be forgotten.
        assert_eq!(size(&there(Some(4), false), &none, 1001), (4, true));
        assert_eq!(size(&there(Some(4), false), &busy, 1002), (6, true));
        assert_eq!(size(&there(Some(6), false), &none, 1100), (0, false));
    }

    #[test]
    fn f25_a_first_controller_begins_as_the_alias_says() {
        let mut sizes = Sizes::default();
        let mut size = |sized| {
            let (wanted, _) = sizes.decide(
                &[model()],
                &there(sized, false),
                &BTreeMap::new(),
                Duration::ZERO,
            );
            wanted[0].replicas
        };
        assert_eq!(size(None), 1);
        // From then on it is the one who says so.
        assert_eq!(size(Some(7)), 1);
    }
}
