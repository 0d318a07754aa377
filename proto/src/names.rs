//! Parsed newtypes for everything that is named.

use std::fmt;
use std::sync::Arc;

/// Longest served name or exposed id, in bytes (the CRD's `maxLength`, plus a prefix).
pub const MODEL_NAME_MAX: usize = 512;
/// Longest `ApiModel.spec.prefix`, in bytes.
pub const PREFIX_MAX: usize = 128;

/// Why a text is not the name it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More bytes than the limit named.
    #[error("is {0} bytes long; the limit is {1}")]
    TooLong(usize, usize),
    /// A character outside the allowed set.
    #[error("holds {0:?}, which is not allowed here")]
    Character(char),
}

fn bounded(text: &str, max: usize) -> Result<(), NameError> {
    match text.len() {
        0 => Err(NameError::Empty),
        n if n > max => Err(NameError::TooLong(n, max)),
        _ => Ok(()),
    }
}

/// A model as a client asks for it. Case-sensitive, never trimmed; no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(Arc<str>);

impl ModelName {
    /// Parses 1 to [`MODEL_NAME_MAX`] bytes without control characters.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        bounded(text, MODEL_NAME_MAX)?;
        match text.chars().find(|c| c.is_control()) {
            Some(c) => Err(NameError::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an ApiModel puts before its provider's ids, such as `openrouter/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Parses `^[A-Za-z0-9._:@/+~-]{1,128}$`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        bounded(text, PREFIX_MAX)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._:@/+~-".contains(c);
        match text.chars().find(|c| !allowed(*c)) {
            Some(c) => Err(NameError::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which custom resource a user's object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// An upstream provider.
    ApiModel,
    /// A served name.
    Alias,
}

impl ObjectKind {
    /// The `kind` of the manifest.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiModel => "ApiModel",
            Self::Alias => "Alias",
        }
    }
}

/// One user's object: kind, namespace and name. Its text is `Kind/namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Which resource it is.
    pub kind: ObjectKind,
    /// The namespace, a DNS label.
    pub namespace: Arc<str>,
    /// `metadata.name`, a DNS subdomain.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// A reference to an ApiModel.
    pub fn api_model(namespace: &str, name: &str) -> Self {
        Self {
            kind: ObjectKind::ApiModel,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// A reference to an Alias.
    pub fn alias(namespace: &str, name: &str) -> Self {
        Self {
            kind: ObjectKind::Alias,
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Parses `Kind/namespace/name`; each part non-empty, printable and without `/`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = text.splitn(3, '/');
        let mut part = || match parts.next() {
            None | Some("") => Err(NameError::Empty),
            Some(p) => match p.chars().find(|c| c.is_control() || *c == '/') {
                Some(c) => Err(NameError::Character(c)),
                None => Ok(p),
            },
        };
        let (kind, namespace, name) = (part()?, part()?, part()?);
        bounded(namespace, 253)?;
        bounded(name, 253)?;
        match kind {
            "ApiModel" => Ok(Self::api_model(namespace, name)),
            "Alias" => Ok(Self::alias(namespace, name)),
            other => Err(NameError::Character(other.chars().next().unwrap_or('?'))),
        }
    }

    /// `namespace/name`, as `owned_by` and messages show it.
    pub fn short(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// A token's public identity: what lists, logs and revocation name. Never the token itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(Arc<str>);

impl TokenId {
    /// Parses 1 to 64 characters of `[A-Za-z0-9_-]`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        bounded(text, 64)?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        match text.chars().find(|c| !allowed(*c)) {
            Some(c) => Err(NameError::Character(c)),
            None => Ok(Self(text.into())),
        }
    }

    /// What logs call a ServiceAccount that is a caller itself: its user name. No minted token's
    /// id holds a colon.
    pub fn of_service_account(account: &ServiceAccountName) -> Self {
        Self(account.user().into())
    }

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A Kubernetes ServiceAccount: namespace and name. Its text is `NAMESPACE/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAccountName {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl ServiceAccountName {
    /// A DNS label (RFC 1123) of at most 63 bytes, and a DNS subdomain of at most 253.
    pub fn new(namespace: &str, name: &str) -> Result<Self, NameError> {
        let is_dns = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        bounded(namespace, 63)?;
        bounded(name, 253)?;
        let wrong = |c: &char| !is_dns(*c);
        let dots = |c: &char| *c != '.';
        let mut letters = namespace.chars().chain(name.chars().filter(dots));
        match letters.find(wrong) {
            Some(c) => Err(NameError::Character(c)),
            None => Ok(Self {
                namespace: namespace.into(),
                name: name.into(),
            }),
        }
    }

    /// Parses `NAMESPACE/NAME`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or(NameError::Empty)?;
        Self::new(namespace, name)
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its user name in Kubernetes, and here the owner of what it makes:
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServiceAccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

macro_rules! display_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
display_as_text!(ModelName, Prefix, TokenId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_keep_case_and_blanks_and_refuse_controls() {
        assert_eq!(ModelName::parse(" GPT-4o ").unwrap().as_str(), " GPT-4o ");
        assert_eq!(ModelName::parse("a\nb"), Err(NameError::Character('\n')));
        assert_eq!(ModelName::parse(""), Err(NameError::Empty));
        assert!(ModelName::parse(&"x".repeat(513)).is_err());
    }

    #[test]
    fn prefixes_allow_what_the_resource_allows() {
        assert!(Prefix::parse("openrouter/").is_ok());
        assert_eq!(Prefix::parse("a b"), Err(NameError::Character(' ')));
    }

    #[test]
    fn service_accounts_are_dns_names() {
        let account = ServiceAccountName::parse("team-a/web.1").unwrap();
        assert_eq!(account.to_string(), "team-a/web.1");
        assert_eq!(account.user(), "system:serviceaccount:team-a:web.1");
        for bad in [
            "", "a", "/a", "a/", "a/b/c", "A/b", "a.b/c", "a/b:c", "a/b\n",
        ] {
            assert!(ServiceAccountName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(ServiceAccountName::new(&"n".repeat(64), "a").is_err());
        assert!(ServiceAccountName::new("n", &"a".repeat(254)).is_err());
    }

    #[test]
    fn object_refs_round_trip() {
        let object = ObjectRef::api_model("bodhi", "openrouter");
        assert_eq!(ObjectRef::parse(&object.to_string()).unwrap(), object);
        assert_eq!(object.short(), "bodhi/openrouter");
        for bad in [
            "",
            "ApiModel",
            "ApiModel/a",
            "Pod/a/b",
            "ApiModel//b",
            "Alias/a/b/c",
        ] {
            assert!(ObjectRef::parse(bad).is_err(), "{bad}");
        }
    }
}
