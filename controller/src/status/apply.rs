//! Statuses on the objects themselves, by server-side apply on their status subresource: by the
//! leader, through its fence, at a pace that [`pace`](super::pace) sets.

use std::collections::BTreeMap;
use std::sync::Arc;

use bodhi_proto::names::{ObjectKind, ObjectRef};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Error};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::events::{self, Transition, Valve};
use super::pace::{Job, Jobs, Outcome, Pace};
use super::{StatusWriter, Statuses};
use crate::api::{API_VERSION, Alias, ApiModel};
use crate::index::{Index, Name};
use crate::leader::{Fence, Fenced, Leadership};
use crate::reconcile::World;

/// Whose the fields of a status are.
const MANAGER: &str = "bodhi-controller";
/// Writes that are under way at once.
const AT_ONCE: usize = 8;

/// Statuses that the API server keeps.
pub struct AppliedStatuses {
    leadership: watch::Receiver<Leadership>,
    /// What was last worked out in this term, by whom the object was then.
    ours: BTreeMap<ObjectRef, (Arc<str>, Value)>,
    term: Option<u64>,
    jobs: watch::Sender<Arc<Jobs>>,
}

impl AppliedStatuses {
    /// Starts to write what will be kept. `instance` is this controller's name in Events.
    pub fn start(client: Client, instance: &str, leadership: watch::Receiver<Leadership>) -> Self {
        let (jobs, wanted) = watch::channel(Arc::default());
        let reporter = Reporter {
            controller: MANAGER.into(),
            instance: Some(instance.into()),
        };
        let writer = Writer {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            began: Instant::now(),
            pace: Pace::default(),
            valve: Valve::default(),
        };
        tokio::spawn(writer.run(wanted, leadership.clone()));
        Self {
            leadership,
            ours: BTreeMap::new(),
            term: None,
            jobs,
        }
    }

    /// What the API server keeps, with what is on its way there.
    fn expected(&self, world: &World) -> Statuses {
        let observed = |object: &ObjectRef, uid: &str| {
            let ours = self.ours.get(object).filter(|(of, _)| **of == *uid);
            ours.map(|(_, status)| status.clone())
                .or_else(|| observed(&world.index, object))
        };
        let objects = world.compiled.statuses.iter();
        objects
            .filter_map(|status| {
                let kept = observed(&status.object, &status.uid)?;
                Some((status.object.clone(), kept))
            })
            .collect()
    }
}

impl StatusWriter for AppliedStatuses {
    fn kept(&mut self, world: &World) -> Option<Arc<Statuses>> {
        let term = self.leadership.borrow().fence.as_ref().map(Fence::epoch);
        if term != self.term {
            self.term = term;
            self.ours.clear();
            self.jobs.send_replace(Arc::default());
        }
        term.map(|_| Arc::new(self.expected(world)))
    }

    fn keep<'a>(&'a mut self, world: &'a World, statuses: Arc<Statuses>) -> BoxFuture<'a, ()> {
        let mut jobs = Jobs::new();
        let mut ours = BTreeMap::new();
        for compiled in &world.compiled.statuses {
            let Some(status) = statuses.get(&compiled.object) else {
                continue;
            };
            let uid = Arc::clone(&compiled.uid);
            let kept = observed(&world.index, &compiled.object);
            if !kept.as_ref().is_some_and(|kept| is_same(kept, status)) {
                let job = Job {
                    uid: Arc::clone(&uid),
                    status: status.clone(),
                    before: kept.as_ref().and_then(events::ready).cloned(),
                };
                jobs.insert(compiled.object.clone(), job);
            }
            ours.insert(compiled.object.clone(), (uid, status.clone()));
        }
        self.ours = ours;
        self.jobs.send_if_modified(|before| {
            let differs = **before != jobs;
            if differs {
                *before = Arc::new(jobs);
            }
            differs
        });
        Box::pin(std::future::ready(()))
    }

    fn turned(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            if self.leadership.changed().await.is_err() {
                // Nobody will lead any more: the program ends.
                std::future::pending::<()>().await;
            }
        })
    }
}

/// The status that an object brings along.
fn observed(index: &Index, object: &ObjectRef) -> Option<Value> {
    if let Some(malformed) = index.malformed_object(object) {
        return malformed.status.clone();
    }
    let name = Name::new(&object.namespace, &object.name);
    let status = match object.kind {
        ObjectKind::ApiModel => serde_json::to_value(index.api_model(&name)?.status.as_ref()?),
        ObjectKind::Alias => serde_json::to_value(index.alias(&name)?.status.as_ref()?),
    };
    // Plain structs, which came from JSON.
    status.ok()
}

/// Conditions are a set by their types; the API server may order them as it likes.
fn is_same(one: &Value, other: &Value) -> bool {
    let sorted = |status: &Value| {
        let mut status = status.clone();
        if let Some(Value::Array(conditions)) = status.get_mut("conditions") {
            conditions.sort_by(|a, b| a["type"].as_str().cmp(&b["type"].as_str()));
        }
        status
    };
    one == other || sorted(one) == sorted(other)
}

struct Writer {
    client: Client,
    recorder: Recorder,
    began: Instant,
    pace: Pace,
    valve: Valve,
}

impl Writer {
    /// Runs until nobody wants statuses kept.
    async fn run(
        mut self,
        mut jobs: watch::Receiver<Arc<Jobs>>,
        leadership: watch::Receiver<Leadership>,
    ) {
        loop {
            let next = self.pace.next(self.began.elapsed());
            let due = next.map(|at| self.began + at);
            tokio::select! {
                changed = jobs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let wanted = Arc::clone(&jobs.borrow_and_update());
                    self.pace.want(Jobs::clone(&wanted));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let fence = leadership.borrow().fence.clone();
                    match fence {
                        Some(fence) => self.write_some(&fence).await,
                        // Whoever leads now has its own opinion.
                        None => self.pace.want(Jobs::new()),
                    }
                }
            }
        }
    }

    async fn write_some(&mut self, fence: &Fence) {
        let taken = self.pace.take(AT_ONCE, self.began.elapsed());
        let writes = taken.into_iter().map(|(object, job)| {
            let client = self.client.clone();
            async move {
                let outcome = match fence.write(apply(client, &object, &job)).await {
                    Ok(outcome) => outcome,
                    Err(Fenced::Closed | Fenced::Late) => Outcome::Unavailable,
                };
                (object, job, outcome)
            }
        });
        let ended: Vec<_> = stream::iter(writes)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (object, job, outcome) in ended {
            let now = self.began.elapsed();
            if outcome == Outcome::Done
                && let Some(transition) = events::transition(job.before.as_ref(), &job.status)
                && self.valve.admit(&object, now)
            {
                self.record(fence, &object, &job, transition).await;
            }
            self.pace.ended(object, job, outcome, now, rand::random());
        }
    }

    /// Events are for people: one that is lost is not sent again.
    async fn record(&self, fence: &Fence, object: &ObjectRef, job: &Job, transition: Transition) {
        let event = Event {
            type_: match transition.ready {
                true => EventType::Normal,
                false => EventType::Warning,
            },
            reason: transition.reason,
            note: (!transition.message.is_empty()).then_some(transition.message),
            action: "Judge".into(),
            secondary: None,
        };
        let about = ObjectReference {
            api_version: Some(API_VERSION.into()),
            kind: Some(object.kind.as_str().into()),
            namespace: Some(object.namespace.to_string()),
            name: Some(object.name.to_string()),
            uid: Some(job.uid.to_string()),
            ..ObjectReference::default()
        };
        match fence.write(self.recorder.publish(&event, &about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%object, %error, "an Event was not recorded"),
            Err(error) => tracing::debug!(%object, %error, "an Event was not recorded"),
        }
    }
}

async fn apply(client: Client, object: &ObjectRef, job: &Job) -> Outcome {
    let resource = match object.kind {
        ObjectKind::ApiModel => ApiResource::erase::<ApiModel>(&()),
        ObjectKind::Alias => ApiResource::erase::<Alias>(&()),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(client, &object.namespace, &resource);
    // The uid is a precondition: an object that took the name meanwhile is another one.
    let patch = json!({
        "apiVersion": API_VERSION,
        "kind": object.kind.as_str(),
        "metadata": {"name": &*object.name, "namespace": &*object.namespace, "uid": &*job.uid},
        "status": job.status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api
        .patch_status(&object.name, &params, &Patch::Apply(patch))
        .await
    {
        Ok(_) => Outcome::Done,
        // 409: the uid is another one's.
        Err(Error::Api(status)) if matches!(status.code, 404 | 409) => Outcome::Gone,
        Err(Error::Api(status)) if matches!(status.code, 400 | 403 | 422) => {
            let message = &status.message;
            tracing::warn!(%object, message, "the API server refuses a status");
            Outcome::Refused
        }
        Err(error) => {
            tracing::debug!(%object, %error, "a status was not written; trying again");
            Outcome::Unavailable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_conditions_means_nothing() {
        let status = |types: [&str; 2]| {
            let conditions = types.map(|t| json!({"type": t, "status": "True"}));
            json!({"observedGeneration": 1, "conditions": conditions})
        };
        assert!(is_same(
            &status(["Accepted", "Ready"]),
            &status(["Ready", "Accepted"])
        ));
        assert!(!is_same(
            &status(["Accepted", "Ready"]),
            &status(["Accepted", "Other"])
        ));
    }
}
