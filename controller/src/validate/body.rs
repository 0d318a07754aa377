//! Rules of `extraBody` and `defaults`, which no structural schema can say.

use serde_json::{Map, Value};

use super::{Fault, FieldPath};
use crate::api::{EXTRA_BODY_MAX, FORBIDDEN_BODY_KEYS};

/// Faults of a body that is merged into requests: keys that belong to the request (compared
/// without regard to case, as some providers' decoders do), and its size. Cluster mode calls
/// this too: no CRD can hold the rule.
pub fn body_faults(path: &FieldPath, body: &Map<String, Value>) -> Vec<Fault> {
    let mut faults: Vec<Fault> = body
        .keys()
        .filter(|key| {
            let mut words = FORBIDDEN_BODY_KEYS.iter();
            words.any(|word| key.eq_ignore_ascii_case(word))
        })
        .map(|key| Fault {
            path: path.field(key.as_str()),
            message: "belongs to the request and cannot be set here".into(),
        })
        .collect();
    let size = serde_json::to_vec(body).map_or(usize::MAX, |text| text.len());
    if size > EXTRA_BODY_MAX {
        faults.push(Fault {
            path: path.clone(),
            message: format!("is {size} bytes of JSON; the limit is {EXTRA_BODY_MAX}"),
        });
    }
    faults
}
