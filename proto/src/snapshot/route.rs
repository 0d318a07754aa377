//! Served names and where they lead.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::names::{ModelName, NameError, ObjectRef, Prefix};
use crate::provider::Family;

/// What a client's model name is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pattern {
    /// This name alone.
    Exact(ModelName),
    /// Every name that begins so and goes on (`forwardAll`).
    Prefix(Prefix),
}

/// The one claim on a name in its family. Its text is `family/exact/NAME` or `family/prefix/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServedKey {
    /// The name space.
    pub family: Family,
    /// What is claimed.
    pub pattern: Pattern,
}

impl ServedKey {
    /// The inverse of `Display`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let mut parts = text.splitn(3, '/');
        let family = match parts.next() {
            Some("responses") => Family::Responses,
            Some("general") => Family::General,
            _ => return Err(NameError::Empty),
        };
        let pattern = match (parts.next(), parts.next()) {
            (Some("exact"), Some(name)) => Pattern::Exact(ModelName::parse(name)?),
            (Some("prefix"), Some(prefix)) => Pattern::Prefix(Prefix::parse(prefix)?),
            _ => return Err(NameError::Empty),
        };
        Ok(Self { family, pattern })
    }
}

impl fmt::Display for ServedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = self.family.as_str();
        match &self.pattern {
            Pattern::Exact(name) => write!(f, "{family}/exact/{name}"),
            Pattern::Prefix(prefix) => write!(f, "{family}/prefix/{prefix}"),
        }
    }
}

/// Whether `/v1/models` shows a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Listed.
    Public,
    /// Callable, not listed.
    Internal,
}

/// The model id that an upstream is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteModel {
    /// This id.
    Named(Arc<str>),
    /// What follows the prefix.
    Remainder,
    /// The name as asked (`stripPrefix: false`).
    AsAsked,
}

/// One way to serve a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The ApiModel to call, or the Alias whose [`Pool`](super::Pool) is called.
    pub upstream: ObjectRef,
    /// The id it is asked for.
    pub model: RouteModel,
    /// The ApiModel's own exposed id of that model (prefix + id), which allow-lists may name;
    /// `None`: the name as asked.
    pub exposed: Option<Arc<str>>,
    /// Share among routes of equal priority.
    pub weight: NonZeroU32,
    /// Lower is tried first.
    pub priority: u32,
}

/// Why a name that exists is not served: the object's condition, reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The condition's reason, such as `SecretNotFound`.
    pub reason: Arc<str>,
    /// The condition's message.
    pub message: Arc<str>,
    /// Whether another release or configuration would have to support it (501) or it may
    /// become ready as it is (503).
    pub unsupported: bool,
}

/// What becomes of a request for a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Serving {
    /// Routes in order of priority, never empty.
    Routes(Vec<Route>),
    /// The name is claimed by an object that cannot serve: it answers with its own error and
    /// never falls through to a prefix.
    Refused(Refusal),
}

/// A claimed name, compiled from an Alias or an ApiModel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedName {
    /// The claim.
    pub key: ServedKey,
    /// The object that claims it.
    pub owner: ObjectRef,
    /// When that object was created, Unix seconds.
    pub created: i64,
    /// Whether it is listed. Prefixes never are.
    pub visibility: Visibility,
    /// Where it leads.
    pub serving: Serving,
    /// The object's own cap on output tokens.
    pub max_output_tokens: Option<NonZeroU32>,
    /// A JSON object of request defaults; the request wins, key by key.
    pub defaults: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_whatever_the_name_holds() {
        for text in [
            "general/exact/a/b/c",
            "responses/exact/ x",
            "general/prefix/openrouter/",
        ] {
            assert_eq!(ServedKey::parse(text).unwrap().to_string(), text);
        }
        assert!(ServedKey::parse("general/exact/").is_err());
        assert!(ServedKey::parse("other/exact/a").is_err());
    }
}
