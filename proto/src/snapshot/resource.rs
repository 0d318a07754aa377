//! One thing that a snapshot is made of, as it travels: a kind, a name, a version.

use std::fmt;
use std::sync::Arc;

use super::{Credential, Policy, Pool, ServedName, Token, Upstream, WorkerEndpoint};

/// What a resource is. Numbers are those of the wire; 8 is kept for the gateway's own settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// An ApiModel, compiled.
    Upstream = 1,
    /// The key of an ApiModel.
    Credential = 2,
    /// A claimed name and its routes.
    ServedName = 3,
    /// A token, by its hash.
    Token = 4,
    /// Gateway-wide rules; there is one.
    Policy = 5,
    /// A local model, compiled.
    Pool = 6,
    /// A worker that is ready.
    Endpoint = 7,
}

impl Kind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Upstream,
        Self::Credential,
        Self::ServedName,
        Self::Token,
        Self::Policy,
        Self::Pool,
        Self::Endpoint,
    ];

    /// Its place in [`Kind::ALL`].
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// The word in messages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Credential => "credential",
            Self::ServedName => "served_name",
            Self::Token => "token",
            Self::Policy => "policy",
            Self::Pool => "pool",
            Self::Endpoint => "endpoint",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of kinds, as a bit for each (`1 << number`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindSet(u32);

impl KindSet {
    /// No kind.
    pub const NONE: Self = Self(0);

    /// The bits of the wire; those of unknown kinds are dropped.
    pub fn from_bits(bits: u32) -> Self {
        Kind::ALL
            .into_iter()
            .filter(|k| bits & (1 << *k as u32) != 0)
            .collect()
    }

    /// The bits of the wire.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Whether `kind` is in it.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    /// Puts `kind` in.
    pub fn insert(&mut self, kind: Kind) {
        self.0 |= 1 << kind as u32;
    }

    /// Takes `kind` out.
    pub fn remove(&mut self, kind: Kind) {
        self.0 &= !(1 << kind as u32);
    }

    /// What is in either.
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its kinds in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |k| self.contains(*k))
    }
}

impl FromIterator<Kind> for KindSet {
    fn from_iter<I: IntoIterator<Item = Kind>>(kinds: I) -> Self {
        let mut set = Self::NONE;
        for kind in kinds {
            set.insert(kind);
        }
        set
    }
}

/// The name of the one [`Policy`].
pub const POLICY_NAME: &str = "gateway";

/// A value of some kind. Cloning shares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Named by its object.
    Upstream(Arc<Upstream>),
    /// Named by the object that uses it.
    Credential(Arc<Credential>),
    /// Named by its key's text.
    ServedName(Arc<ServedName>),
    /// Named by its id.
    Token(Arc<Token>),
    /// Named [`POLICY_NAME`].
    Policy(Arc<Policy>),
    /// Named by its object.
    Pool(Arc<Pool>),
    /// Named by its worker's id.
    Endpoint(Arc<WorkerEndpoint>),
}

impl Resource {
    /// What it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Upstream(_) => Kind::Upstream,
            Self::Credential(_) => Kind::Credential,
            Self::ServedName(_) => Kind::ServedName,
            Self::Token(_) => Kind::Token,
            Self::Policy(_) => Kind::Policy,
            Self::Pool(_) => Kind::Pool,
            Self::Endpoint(_) => Kind::Endpoint,
        }
    }

    /// Its name, unique within its kind.
    pub fn name(&self) -> String {
        match self {
            Self::Upstream(u) => u.object.to_string(),
            Self::Credential(c) => c.object.to_string(),
            Self::ServedName(s) => s.key.to_string(),
            Self::Token(t) => t.id.to_string(),
            Self::Policy(_) => POLICY_NAME.to_owned(),
            Self::Pool(p) => p.object.to_string(),
            Self::Endpoint(e) => e.id.to_string(),
        }
    }

    /// Kind and name.
    pub fn key(&self) -> (Kind, String) {
        (self.kind(), self.name())
    }
}
