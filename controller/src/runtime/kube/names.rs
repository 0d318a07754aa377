//! What our objects in the cluster are called, and how they are found again.

use bodhi_proto::names::ObjectRef;
use kube::ResourceExt;
use sha2::{Digest as _, Sha256};

/// The field manager of everything that is applied.
pub const MANAGER: &str = "bodhi-controller";
/// On a worker's Deployment and its pods: the Alias's name, which a label need not hold.
pub const ALIAS_ANNOTATION: &str = "bodhi.dev/alias";
/// On them: the namespace of the release that runs them. Two releases in one cluster leave each
/// other's workers alone.
pub const RELEASE_LABEL: &str = "bodhi.dev/release";

/// Recommended labels
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/>).
pub(super) const NAME_LABEL: &str = "app.kubernetes.io/name";
pub(super) const INSTANCE_LABEL: &str = "app.kubernetes.io/instance";
pub(super) const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Network policies know workers by it.
pub(super) const WORKER: &str = "bodhi-worker";

const PREFIX: &str = "bodhi-worker-";
/// Shorter than the 63 characters of a DNS label: to a pod's name a ReplicaSet adds 11 and its
/// template's hash, and a host name is to hold all of it.
const NAME_MAX: usize = 45;
/// Of a hash, in hex digits, where a name alone does not tell two Aliases apart.
const HASH: usize = 8;

/// The name of an Alias's Deployment and Service: a DNS label, other than that of any other
/// Alias in its namespace.
pub(super) fn object_name(alias: &str) -> String {
    let plain: String = alias.replace('.', "-");
    let whole = format!("{PREFIX}{plain}");
    // An Alias may be called what another's shortened name would be.
    let looks_hashed = || {
        let end = plain.rsplit('-').next().unwrap_or_default();
        end.len() == HASH && end.bytes().all(|b| b.is_ascii_hexdigit())
    };
    if plain == alias && whole.len() <= NAME_MAX && !looks_hashed() {
        return whole;
    }
    let digest = hex(&Sha256::digest(alias.as_bytes()), HASH);
    let room = NAME_MAX - HASH - 1;
    let kept = whole[..whole.len().min(room)].trim_end_matches('-');
    format!("{kept}-{digest}")
}

/// The first so many hex digits.
pub(super) fn hex(bytes: &[u8], digits: usize) -> String {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}

/// Finds what this release made.
pub(super) fn selector(release: &str) -> String {
    format!("{MANAGED_BY_LABEL}={MANAGER},{NAME_LABEL}={WORKER},{RELEASE_LABEL}={release}")
}

/// The Alias of an object of ours.
pub(super) fn alias_of(object: &impl ResourceExt) -> Option<ObjectRef> {
    let namespace = object.namespace()?;
    let name = object.annotations().get(ALIAS_ANNOTATION)?;
    Some(ObjectRef::alias(&namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels_and_no_two_aliases_share_one() {
        for (alias, name) in [
            ("qwen-small", "bodhi-worker-qwen-small"),
            ("qwen3.4b", "bodhi-worker-qwen3-4b-4031db82"),
            ("qwen3-4b", "bodhi-worker-qwen3-4b"),
            ("a-0123abcd", "bodhi-worker-a-0123abcd-1dbd4352"),
        ] {
            assert_eq!(object_name(alias), name, "{alias}");
        }
        let long = object_name(&"a".repeat(253));
        assert_eq!(long.len(), NAME_MAX);
        assert_ne!(long, object_name(&"a".repeat(252)));
        let cut = object_name(&format!("{}.{}", "a".repeat(22), "b".repeat(99)));
        assert!(!cut.contains("--"), "{cut}");
    }
}
