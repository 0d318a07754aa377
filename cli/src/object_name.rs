//! An object as people name it: `NAME`, or `NAMESPACE/NAME`.

use std::fmt;
use std::str::FromStr;

/// Where objects live that name no namespace: the release namespace.
pub(crate) const DEFAULT_NAMESPACE: &str = "bodhi";

/// A name that may come with its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ObjectName {
    /// Absent: [`DEFAULT_NAMESPACE`].
    namespace: Option<String>,
    /// `metadata.name`.
    pub(crate) name: String,
}

/// Why a text names no object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write NAME or NAMESPACE/NAME, in lower-case letters, digits, '-' and '.'")]
pub(crate) struct ObjectNameError;

impl ObjectName {
    /// The namespace, named or not.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

impl FromStr for ObjectName {
    type Err = ObjectNameError;

    fn from_str(text: &str) -> Result<Self, ObjectNameError> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        let valid = namespace.is_none_or(is_subdomain) && is_subdomain(name);
        valid
            .then(|| Self {
                namespace: namespace.map(str::to_owned),
                name: name.to_owned(),
            })
            .ok_or(ObjectNameError)
    }
}

/// RFC 1123, as Kubernetes asks of names.
fn is_subdomain(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let outer = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    text.len() <= 253
        && text.bytes().all(inner)
        && outer(text.bytes().next())
        && outer(text.bytes().last())
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_with_or_without_a_namespace() {
        let parsed: ObjectName = "team-a/openai".parse().unwrap();
        assert_eq!(parsed.namespace(), "team-a");
        assert_eq!(parsed.name, "openai");
        assert_eq!(parsed.to_string(), "team-a/openai");
        assert_eq!("openai".parse::<ObjectName>().unwrap().namespace(), "bodhi");
    }

    #[test]
    fn what_could_lead_a_path_astray_is_no_name() {
        for text in [
            "", "/", "a/", "/a", "a/b/c", "..", "a/..", "A", "a?b", "a%2fb",
        ] {
            assert_eq!(text.parse::<ObjectName>(), Err(ObjectNameError), "{text:?}");
        }
    }
}
