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

    /// The text as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
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
