//! What is worth an Event: that an object has become ready, or is so no more, or for another
//! reason. Pure, with a bound for each object, so that one that flaps does not flood the cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use bodhi_proto::names::ObjectRef;
use serde_json::Value;

/// An object's Events at once …
const BURST: u32 = 10;
/// … and one more for each time that passes (client-go's spam filter: 300 s).
const REFILL: Duration = Duration::from_secs(300);

/// A change of `Ready`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transition {
    /// Whether the object is ready now.
    pub(super) ready: bool,
    /// The condition's reason.
    pub(super) reason: String,
    /// The condition's message.
    pub(super) message: String,
}

/// The `Ready` condition of a status.
pub(super) fn ready(status: &Value) -> Option<&Value> {
    let conditions = status["conditions"].as_array()?;
    conditions.iter().find(|c| c["type"] == "Ready")
}

/// What a new status says of `Ready` that the old one did not. While it is unknown nothing has
/// happened yet.
pub(super) fn transition(before: Option<&Value>, status: &Value) -> Option<Transition> {
    let now = ready(status)?;
    let same =
        |before: &Value| before["status"] == now["status"] && before["reason"] == now["reason"];
    if now["status"] == "Unknown" || before.is_some_and(same) {
        return None;
    }
    let text = |field: &str| now[field].as_str().unwrap_or_default().to_owned();
    Some(Transition {
        ready: now["status"] == "True",
        reason: text("reason"),
        message: text("message"),
    })
}

/// Bounds each object's Events.
#[derive(Debug, Default)]
pub(super) struct Valve {
    /// How many were let through, less those forgiven, and when the last was forgiven.
    objects: BTreeMap<ObjectRef, (u32, Duration)>,
}

impl Valve {
    /// Whether one more may pass.
    pub(super) fn admit(&mut self, object: &ObjectRef, now: Duration) -> bool {
        self.objects.retain(|_, (count, since)| {
            let forgiven = (now.saturating_sub(*since).as_secs() / REFILL.as_secs()) as u32;
            *count = count.saturating_sub(forgiven);
            *since += REFILL * forgiven;
            *count > 0
        });
        let (count, _) = self.objects.entry(object.clone()).or_insert((0, now));
        let admitted = *count < BURST;
        *count += u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(status: &str, reason: &str) -> Value {
        json!({"conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""},
            {"type": "Ready", "status": status, "reason": reason, "message": "why"},
        ]})
    }

    #[test]
    fn only_a_change_of_ready_is_worth_an_event() {
        let of = |before: Option<&Value>, now: &Value| transition(before.and_then(ready), now);
        let (good, bad) = (status("True", "Ready"), status("False", "SecretNotFound"));
        let worse = status("False", "NoDataPlane");
        assert_eq!(of(Some(&good), &good), None);
        assert_eq!(of(Some(&good), &status("Unknown", "Pending")), None);
        assert!(of(None, &good).unwrap().ready);
        let lost = of(Some(&good), &bad).unwrap();
        assert_eq!(
            (lost.ready, &*lost.reason, &*lost.message),
            (false, "SecretNotFound", "why")
        );
        assert_eq!(of(Some(&bad), &worse).unwrap().reason, "NoDataPlane");
    }

    #[test]
    fn f15_an_object_that_flaps_is_heard_ten_times_and_then_every_five_minutes() {
        let mut valve = Valve::default();
        let (one, two) = (ObjectRef::alias("a", "x"), ObjectRef::alias("a", "y"));
        let second = Duration::from_secs(1);
        let hour = (0..3600).filter(|s| valve.admit(&one, *s * second)).count();
        assert_eq!(hour, 10 + 11);
        assert!(valve.admit(&two, 3600 * second));
        valve.admit(&two, 24 * 3600 * second);
        assert_eq!(valve.objects.len(), 1, "who is quiet is forgotten");
    }
}
