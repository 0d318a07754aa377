//! Writes what is missing or differs, and deletes what nobody wants. The only part of the runtime
//! that writes.
//!
//! Everything is applied whole, server-side: where nothing differs the API server writes nothing.
//! What was applied is remembered, so that a controller that goes on leading asks for nothing
//! either until something changes: the wish, or the Deployment by another's hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::chat::Failure;
use bodhi_proto::names::ObjectRef;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, NamespaceResourceScope};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::desired::{Desired, authorities_of, desired};
use super::names::{MANAGER, object_name};
use super::state::{Shared, State};
use super::{MayWrite, Settings};
use crate::api::{Alias, Reason};

/// Whether we may write is asked so often while nothing else happens.
const TICK: Duration = Duration::from_secs(1);
/// The API server answers within this.
const ANSWER: Duration = Duration::from_secs(10);
/// Waits after failures, doubled from one to the other.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// An Alias that cannot be served now may be tomorrow: its pods stay, and it is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Keeper {
    client: Client,
    settings: Settings,
    authorities: watch::Receiver<Option<Arc<str>>>,
    may_write: MayWrite,
    shared: Arc<Shared>,
    memory: Memory,
}

/// What this controller has written since it may.
#[derive(Default)]
struct Memory {
    applied: BTreeMap<ObjectRef, Applied>,
    /// By namespace.
    authorities: BTreeMap<Arc<str>, Arc<str>>,
    /// Aliases, and namespaces by an Alias without a name, that are left alone for a while.
    waiting: BTreeMap<ObjectRef, Waiting>,
}

struct Applied {
    desired: Desired,
    /// The Deployment's, when it had been applied.
    generation: i64,
}

struct Waiting {
    until: Instant,
    failures: u32,
}

/// Something to write.
enum Step {
    Authorities {
        namespace: Arc<str>,
        certificates: Arc<str>,
    },
    Apply {
        alias: ObjectRef,
        desired: Desired,
        /// Over whoever has changed it. What is there already and not ours is left alone.
        force: bool,
    },
    Sweep {
        alias: ObjectRef,
        uid: String,
    },
}

/// Why a step was not taken.
enum Failed {
    /// The API server says no, to this object.
    Refused(String),
    /// It does not answer, or not sensibly.
    Outage(String),
}

impl From<kube::Error> for Failed {
    fn from(error: kube::Error) -> Self {
        match &error {
            // What is no patch of a Deployment at all is 500 to some releases.
            kube::Error::Api(status) if matches!(status.code, 400..=428 | 430..=500) => {
                Self::Refused(status.message.clone())
            }
            other => Self::Outage(other.to_string()),
        }
    }
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        settings: Settings,
        authorities: watch::Receiver<Option<Arc<str>>>,
        may_write: MayWrite,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            client,
            settings,
            authorities,
            may_write,
            shared,
            memory: Memory::default(),
        }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        let mut changes = self.shared.changes();
        let mut leads = false;
        let mut outages: u32 = 0;
        let mut open = true;
        loop {
            let may_write = (self.may_write)();
            if may_write && !leads {
                // Somebody else may have written meanwhile.
                self.memory = Memory::default();
            }
            leads = may_write;
            if leads {
                match self.pass().await {
                    Ok(()) => outages = 0,
                    Err(error) => {
                        let wait = backoff(outages);
                        outages += 1;
                        tracing::warn!(error, ?wait, "workers cannot be written; trying again");
                        sleep(wait).await;
                        continue;
                    }
                }
            }
            // Changes that came while we wrote are seen at once.
            loop {
                tokio::select! {
                    Ok(()) = changes.changed() => break,
                    changed = self.authorities.changed(), if open => {
                        open = changed.is_ok();
                        break;
                    }
                    () = sleep(TICK) => if (self.may_write)() != leads || self.memory.is_due() { break },
                }
            }
        }
    }

    /// Takes every step that is due. The error is an outage's.
    async fn pass(&mut self) -> Result<(), String> {
        let certificates = self.authorities.borrow_and_update().clone();
        let steps = {
            let state = self.shared.lock();
            self.memory.plan(
                &state,
                &self.settings,
                certificates.as_ref(),
                Instant::now(),
            )
        };
        for step in steps {
            if !(self.may_write)() {
                return Ok(());
            }
            let alias = step.alias();
            match self.take(step).await {
                Ok(()) => self.shared.set_refused(&alias, None),
                Err(Failed::Refused(message)) => {
                    let wait = self.memory.blame(&alias, Instant::now());
                    tracing::warn!(%alias, error = message, ?wait, "workers were refused");
                    let failure = Failure {
                        reason: Reason::PodRefused.as_str().into(),
                        message,
                    };
                    self.shared.set_refused(&alias, Some(failure));
                }
                Err(Failed::Outage(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn take(&mut self, step: Step) -> Result<(), Failed> {
        match step {
            Step::Authorities {
                namespace,
                certificates,
            } => {
                let object = authorities_of(&namespace, &self.settings, &certificates);
                self.apply::<ConfigMap>(&object, true).await?;
                self.memory
                    .waiting
                    .remove(&ObjectRef::alias(&namespace, ""));
                self.memory.authorities.insert(namespace, certificates);
            }
            Step::Apply {
                alias,
                desired,
                force,
            } => {
                let written: Deployment = self.apply(&desired.deployment, force).await?;
                self.apply::<Service>(&desired.service, force).await?;
                let generation = written.metadata.generation.unwrap_or(0);
                let applied = Applied {
                    desired,
                    generation,
                };
                tracing::info!(%alias, "workers were applied");
                self.memory.waiting.remove(&alias);
                self.memory.applied.insert(alias, applied);
            }
            Step::Sweep { alias, uid } => match self.is_gone(&alias).await? {
                true => self.delete(&alias, &uid).await?,
                false => {
                    let waiting = Waiting {
                        until: Instant::now() + LOOK_AGAIN,
                        failures: 0,
                    };
                    self.memory.waiting.insert(alias, waiting);
                }
            },
        }
        Ok(())
    }

    async fn apply<K>(&self, object: &Value, force: bool) -> Result<K, Failed>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), text("namespace"));
        let params = PatchParams {
            force,
            ..PatchParams::apply(MANAGER)
        };
        let patch = Patch::Apply(object);
        answered(api.patch(text("name"), &params, &patch)).await
    }

    /// Whether an Alias that the compiler has no workers for wants none. One that only cannot be
    /// served now, for a Secret that is missing, keeps its pods.
    async fn is_gone(&self, alias: &ObjectRef) -> Result<bool, Failed> {
        let resource = ApiResource::erase::<Alias>(&());
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &alias.namespace, &resource);
        let found = answered(api.get_opt(&alias.name)).await?;
        Ok(found.is_none_or(|alias| wants_none(&alias.data)))
    }

    async fn delete(&self, alias: &ObjectRef, uid: &str) -> Result<(), Failed> {
        let name = object_name(&alias.name);
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &alias.namespace);
        let params = DeleteParams::background().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let is_not_found =
            |failed: &kube::Error| matches!(failed, kube::Error::Api(status) if status.code == 404);
        let services: Api<Service> = Api::namespaced(self.client.clone(), &alias.namespace);
        let gone = async {
            match services.delete(&name, &DeleteParams::default()).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {}
            }
            match deployments.delete(&name, &params).await {
                Err(error) if !is_not_found(&error) => Err(error),
                _ => Ok(()),
            }
        };
        answered(gone).await?;
        tracing::info!(%alias, "workers that nobody wants were deleted");
        Ok(())
    }
}

impl Step {
    /// Whose it is; what belongs to a namespace is an Alias's without a name.
    fn alias(&self) -> ObjectRef {
        match self {
            Self::Authorities { namespace, .. } => ObjectRef::alias(namespace, ""),
            Self::Apply { alias, .. } | Self::Sweep { alias, .. } => alias.clone(),
        }
    }
}

impl Memory {
    /// What to write now.
    fn plan(
        &mut self,
        state: &State,
        settings: &Settings,
        certificates: Option<&Arc<str>>,
        now: Instant,
    ) -> Vec<Step> {
        // Before all is known, nothing is known to be missing.
        let (Some(wanted), Some(_)) = (&state.wanted, state.world.revision()) else {
            return Vec::new();
        };
        self.applied.retain(|alias, _| wanted.contains_key(alias));
        let deployments = state.world.deployments();
        let waits = |alias: &ObjectRef| self.waiting.get(alias).is_some_and(|w| w.until > now);
        let mut steps = Vec::new();
        let namespaces: BTreeSet<&Arc<str>> = wanted.keys().map(|a| &a.namespace).collect();
        for namespace in namespaces {
            let Some(certificates) = certificates else {
                break;
            };
            let step = Step::Authorities {
                namespace: Arc::clone(namespace),
                certificates: Arc::clone(certificates),
            };
            let is_known = self.authorities.get(namespace) == Some(certificates);
            if !is_known && !waits(&step.alias()) {
                steps.push(step);
            }
        }
        for (alias, wanted) in wanted {
            let live = deployments.get(alias).copied();
            if waits(alias) || live.is_some_and(|live| live.metadata.deletion_timestamp.is_some()) {
                continue;
            }
            let desired = desired(wanted, settings, live);
            if self
                .applied
                .get(alias)
                .is_some_and(|a| a.holds(&desired, live))
            {
                continue;
            }
            steps.push(Step::Apply {
                alias: alias.clone(),
                desired,
                force: live.is_some(),
            });
        }
        for (alias, since) in &state.unwanted {
            let uid = deployments.get(alias).and_then(|live| live.uid());
            if let Some(uid) = uid.filter(|_| state.acknowledged > *since && !waits(alias)) {
                let alias = alias.clone();
                steps.push(Step::Sweep { alias, uid });
            }
        }
        steps
    }

    /// Whether something that waited need not wait any more.
    fn is_due(&self) -> bool {
        let now = Instant::now();
        self.waiting.values().any(|waiting| waiting.until <= now)
    }

    fn blame(&mut self, alias: &ObjectRef, now: Instant) -> Duration {
        let waiting = self.waiting.entry(alias.clone()).or_insert(Waiting {
            until: now,
            failures: 0,
        });
        let wait = backoff(waiting.failures);
        waiting.failures += 1;
        waiting.until = now + wait;
        wait
    }
}

impl Applied {
    /// Whether this is still what is wanted and what is there.
    fn holds(&self, desired: &Desired, live: Option<&Deployment>) -> bool {
        // A watch may be behind our own write, and not ahead of another's.
        let is_touched = |live: &Deployment| {
            live.metadata
                .generation
                .is_some_and(|now| now > self.generation)
        };
        self.desired == *desired && live.is_some_and(|live| !is_touched(live))
    }
}

/// Of an Alias as it is written: it leads to providers, or is suspended.
fn wants_none(alias: &Value) -> bool {
    let spec = &alias["spec"];
    spec["target"]["type"] != "Local" || spec["suspend"] == true
}

async fn answered<T>(asked: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Failed> {
    match timeout(ANSWER, asked).await {
        Ok(answer) => Ok(answer?),
        Err(_) => {
            let seconds = ANSWER.as_secs();
            Err(Failed::Outage(format!("no answer within {seconds} s")))
        }
    }
}

fn backoff(failures: u32) -> Duration {
    let most = RETRY.0.saturating_mul(1 << failures.min(10)).min(RETRY.1);
    most.mul_f64(0.5 + rand::random::<f64>() / 2.0)
}
