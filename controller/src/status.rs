//! What an object's owner is told: compiled problems, workers and data planes' acknowledgements
//! as conditions (kstatus). What they are is a plain function; who keeps them is a
//! [`StatusWriter`]: the store, or the API server.

mod apply;
mod events;
mod pace;
mod writer;

use std::collections::BTreeMap;

use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::snapshot::{Kind, WorkerId};
use bodhi_proto::sync::Revision;
use jiff::Timestamp;
use serde_json::Value;

use crate::api::{AliasStatus, ApiModelStatus, Condition, ConditionStatus, ConditionType, Reason};
use crate::compile::{Compiled, CompiledCondition, ObjectStatus};
use crate::pools::{Observation, Workers, observe};
use crate::sync::Acks;

pub use apply::AppliedStatuses;
pub use writer::{StatusWriter, StoreStatuses};

/// Each object's status: a JSON object with `conditions`.
pub type Statuses = BTreeMap<ObjectRef, Value>;

/// The status of every object that was compiled; what was compiled last was published as
/// `edition`, from objects up to a revision. A condition that keeps its status keeps the
/// time of its last transition, which is taken from `previous`.
pub fn statuses(
    compiled: &Compiled,
    acks: &Acks,
    (edition, objects): (u64, Revision),
    workers: &Workers,
    previous: &Statuses,
    now: Timestamp,
) -> Statuses {
    let rejections = rejections(compiled, acks);
    let one = |status: &ObjectStatus| {
        let programmed = programmed(acks, (edition, objects), rejections.get(&status.object));
        let local = compiled.local(&status.object);
        let observation = local.map(|_| observe(workers, &status.object));
        let mut observed = observation
            .iter()
            .flat_map(|o| o.conditions.clone())
            .collect::<Vec<_>>();
        observed.push(programmed);
        let conditions = status.with(observed);
        let before = previous.get(&status.object);
        let value = render(status, &conditions, observation, before, now);
        (status.object.clone(), value)
    };
    compiled.statuses.iter().map(one).collect()
}

/// Per object, what a data plane says against it: its name and its words.
fn rejections<'a>(
    compiled: &'a Compiled,
    acks: &'a Acks,
) -> BTreeMap<ObjectRef, (&'a str, &'a str)> {
    let mut found = BTreeMap::new();
    for (plane, rejection) in acks.rejections() {
        let object = match rejection.kind {
            Kind::Upstream | Kind::Credential | Kind::Pool => {
                ObjectRef::parse(&rejection.name).ok()
            }
            Kind::Endpoint => WorkerId::parse(&rejection.name).ok().map(|id| id.pool),
            Kind::ServedName => compiled
                .served
                .iter()
                .find(|served| served.key.to_string() == rejection.name)
                .map(|served| served.owner.clone()),
            Kind::Token | Kind::Policy => None,
        };
        if let Some(object) = object {
            found.entry(object).or_insert((plane, &*rejection.text));
        }
    }
    found
}

fn programmed(
    acks: &Acks,
    (edition, objects): (u64, Revision),
    rejection: Option<&(&str, &str)>,
) -> CompiledCondition {
    let holding = acks.holding(edition, objects);
    let (status, reason, message) = match rejection {
        Some((plane, text)) => (
            ConditionStatus::False,
            Reason::RejectedByDataPlane,
            format!("data plane '{plane}': {text}"),
        ),
        None if acks.planes.is_empty() => (
            ConditionStatus::False,
            Reason::NoDataPlane,
            "no data plane is connected".to_owned(),
        ),
        None if holding == 0 => (
            ConditionStatus::Unknown,
            Reason::Pending,
            "no data plane has acknowledged this generation yet".to_owned(),
        ),
        None => (ConditionStatus::True, Reason::Programmed, String::new()),
    };
    CompiledCondition {
        type_: ConditionType::Programmed,
        status,
        reason,
        message: message.chars().take(1024).collect(),
    }
}

fn render(
    status: &ObjectStatus,
    conditions: &[CompiledCondition],
    observation: Option<Observation>,
    previous: Option<&Value>,
    now: Timestamp,
) -> Value {
    let since = |condition: &CompiledCondition| {
        let same = |old: &&Value| {
            old["type"] == condition.type_.as_str()
                && old["status"] == serde_json::json!(condition.status)
        };
        let old = previous
            .and_then(|p| p["conditions"].as_array())
            .and_then(|all| all.iter().find(same))
            .and_then(|old| old["lastTransitionTime"].as_str());
        old.map_or_else(|| format!("{now:.0}"), str::to_owned)
    };
    let conditions = conditions
        .iter()
        .map(|condition| Condition {
            type_: condition.type_.as_str().into(),
            status: condition.status,
            reason: condition.reason.as_str().into(),
            message: condition.message.clone(),
            observed_generation: Some(status.generation),
            last_transition_time: since(condition),
        })
        .collect();
    let observed_generation = Some(status.generation);
    let value = match status.object.kind {
        ObjectKind::Alias => serde_json::to_value(AliasStatus {
            observed_generation,
            conditions,
            model: status.served_name.as_deref().map(str::to_owned),
            replicas: observation
                .as_ref()
                .and_then(|observation| i32::try_from(observation.replicas).ok()),
            selector: observation
                .as_ref()
                .and_then(|observation| observation.selector.as_deref().map(str::to_owned)),
            artifact: observation.and_then(|observation| observation.artifact),
        }),
        ObjectKind::ApiModel => serde_json::to_value(ApiModelStatus {
            observed_generation,
            conditions,
            models: u32::try_from(status.models).ok(),
        }),
    };
    value.expect("plain structs of strings and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Plane;
    use bodhi_proto::digest::Version;
    use bodhi_proto::sync::{Mark, Rejection, Source};

    fn compiled() -> Compiled {
        let condition = |type_| CompiledCondition {
            type_,
            status: ConditionStatus::True,
            reason: Reason::Accepted,
            message: String::new(),
        };
        Compiled {
            statuses: vec![ObjectStatus {
                object: ObjectRef::api_model("bodhi", "openai"),
                uid: "u".into(),
                generation: 3,
                models: 2,
                served_name: None,
                conditions: vec![
                    condition(ConditionType::Accepted),
                    condition(ConditionType::ResolvedRefs),
                ],
            }],
            ..Compiled::default()
        }
    }

    fn plane(edition: u64, rejections: Vec<Rejection>) -> Acks {
        Acks {
            planes: vec![Plane {
                node: "one".into(),
                mark: Mark::default(),
                edition: Some(edition),
                rejections,
                divergences: 0,
            }],
        }
    }

    fn judge(acks: &Acks, previous: &BTreeMap<ObjectRef, Value>, now: i64) -> Value {
        let now = Timestamp::from_second(now).unwrap();
        let all = statuses(
            &compiled(),
            acks,
            (7, Revision::number(7)),
            &Workers::default(),
            previous,
            now,
        );
        all.into_values().next().unwrap()
    }

    fn condition<'a>(status: &'a Value, type_: &str) -> &'a Value {
        let all = status["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == type_).unwrap()
    }

    #[test]
    fn programmed_follows_the_acknowledgements() {
        let none = BTreeMap::new();
        let of = |acks: &Acks| {
            let status = judge(acks, &none, 0);
            let programmed = condition(&status, "Programmed").clone();
            let ready = condition(&status, "Ready")["status"].clone();
            (programmed["reason"].clone(), ready)
        };
        assert_eq!(of(&Acks::default()), ("NoDataPlane".into(), "False".into()));
        assert_eq!(of(&plane(6, vec![])), ("Pending".into(), "Unknown".into()));
        assert_eq!(of(&plane(7, vec![])), ("Programmed".into(), "True".into()));
        let rejection = Rejection {
            kind: Kind::Upstream,
            name: "ApiModel/bodhi/openai".into(),
            version: Version(1),
            text: "a header".into(),
        };
        assert_eq!(
            of(&plane(7, vec![rejection])),
            ("RejectedByDataPlane".into(), "False".into())
        );
    }

    #[test]
    fn a_data_plane_of_another_controller_is_known_by_its_mark() {
        let mut acks = plane(7, vec![]);
        acks.planes[0].edition = None;
        let reason = |acks: &Acks| {
            let status = judge(acks, &BTreeMap::new(), 0);
            condition(&status, "Programmed")["reason"].clone()
        };
        assert_eq!(reason(&acks), "Pending");
        let mark = &mut acks.planes[0].mark;
        mark.raise(Source::Objects, Revision::number(7));
        assert_eq!(reason(&acks), "Programmed");
    }

    #[test]
    fn a_condition_that_stays_keeps_its_time() {
        let first = judge(&plane(7, vec![]), &BTreeMap::new(), 100);
        let previous = BTreeMap::from([(ObjectRef::api_model("bodhi", "openai"), first.clone())]);
        assert_eq!(judge(&plane(7, vec![]), &previous, 200), first);
        let lost = judge(&Acks::default(), &previous, 200);
        assert_eq!(
            condition(&lost, "Accepted")["lastTransitionTime"],
            "1970-01-01T00:01:40Z"
        );
        assert_eq!(
            condition(&lost, "Programmed")["lastTransitionTime"],
            "1970-01-01T00:03:20Z"
        );
    }
}
