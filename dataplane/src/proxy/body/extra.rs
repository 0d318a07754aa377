//! JSON from the configuration that is merged into request bodies.
//!
//! It is read once, when the configuration arrives, into a tree whose leaves
//! are the author's own bytes: numbers and escapes reach the upstream as they
//! were written.

use std::borrow::Cow;
use std::collections::BTreeSet;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{Dialect, OutputField, fields, text};

/// Keys that a request decides and a configuration may not.
const RESERVED: [&str; 5] = ["model", "stream", "messages", "input", "contents"];

/// Why an extra body is refused.
#[derive(Debug, Error)]
pub enum ExtraBodyError {
    /// Not JSON, not an object, or an object that has a key twice.
    #[error("not a JSON object: {0}")]
    Malformed(#[from] serde_json::Error),
    /// A key that the request decides.
    #[error("the key '{0}' belongs to the request and cannot be set")]
    Reserved(String),
    /// A value that the gateway itself must understand is of another type.
    #[error("'{key}' must be {expected}")]
    Type {
        /// Path of the key.
        key: &'static str,
        /// What it must be.
        expected: &'static str,
    },
}

/// An object that is merged into request bodies: the client's scalars and
/// arrays win, objects merge recursively, absent keys are added.
#[derive(Debug, Clone)]
pub struct ExtraBody {
    pub(super) dialect: Dialect,
    pub(super) members: Vec<Member>,
    /// Anthropic only: the configured system blocks, without the brackets of
    /// their array. They are put in front of the client's, not merged.
    pub(super) system: Option<Bytes>,
    /// Members in the whole tree.
    pub(super) count: usize,
}

/// A key and what it holds.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// Number of the member in the tree, in depth-first order.
    pub(super) id: usize,
    /// As it was written.
    key: String,
    /// As keys are compared, see [`name`].
    pub(super) name: String,
    pub(super) node: Node,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Anything but an object, as it was written.
    Leaf(Bytes),
    Object(Vec<Member>),
}

impl ExtraBody {
    /// Reads a JSON object.
    ///
    /// # Errors
    /// See [`ExtraBodyError`].
    pub fn parse(dialect: Dialect, json: &[u8]) -> Result<Self, ExtraBodyError> {
        let Object(pairs) = serde_json::from_slice(json)?;
        let reserved = |key: &str| RESERVED.iter().any(|name| key.eq_ignore_ascii_case(name));
        if let Some((key, _)) = pairs.iter().find(|(key, _)| reserved(key)) {
            return Err(ExtraBodyError::Reserved(key.clone()));
        }
        let mut extra = Self {
            dialect,
            members: members(dialect, pairs)?,
            system: None,
            count: 0,
        };
        if dialect == Dialect::Anthropic {
            extra.take_system()?;
        }
        extra.check_limits()?;
        extra.renumber();
        Ok(extra)
    }

    /// Only the part that applies to counting tokens: Anthropic's `system`.
    /// None where there is no such part.
    #[must_use]
    pub fn system_only(&self) -> Option<Self> {
        self.system.as_ref().map(|system| Self {
            dialect: self.dialect,
            members: Vec::new(),
            system: Some(system.clone()),
            count: 0,
        })
    }

    /// `self` merged over `under`: where both have a value, this one's wins;
    /// system blocks of both are kept, those of `under` first.
    pub(super) fn over(&self, under: &Self) -> Self {
        let mut merged = self.clone();
        add_absent(&mut merged.members, &under.members);
        merged.system = match (&under.system, &self.system) {
            (Some(first), Some(then)) => Some([first, &b","[..], then].concat().into()),
            (first, then) => first.clone().or_else(|| then.clone()),
        };
        merged.renumber();
        merged
    }

    /// Whether there is something at `path`.
    pub(super) fn has(&self, path: &[&str]) -> bool {
        find(&self.members, path).is_some()
    }

    /// The output limit at `path`, where one is set.
    pub(super) fn limit(&self, path: &[&str]) -> Option<u64> {
        match find(&self.members, path)? {
            Node::Leaf(raw) => fields::count(raw),
            Node::Object(_) => None,
        }
    }

    /// Puts `json` at `path`, with objects on the way where there are none.
    pub(super) fn set(&mut self, path: &[&str], json: Bytes) {
        let mut members = &mut self.members;
        let Some((last, objects)) = path.split_last() else {
            return;
        };
        for key in objects {
            let node = entry(members, key);
            if !matches!(node, Node::Object(_)) {
                *node = Node::Object(Vec::new());
            }
            let Node::Object(inner) = node else { return };
            members = inner;
        }
        *entry(members, last) = Node::Leaf(json);
        self.renumber();
    }

    fn renumber(&mut self) {
        fn number(members: &mut [Member], next: &mut usize) {
            for member in members {
                member.id = *next;
                *next += 1;
                if let Node::Object(members) = &mut member.node {
                    number(members, next);
                }
            }
        }
        self.count = 0;
        number(&mut self.members, &mut self.count);
    }

    fn take_system(&mut self) -> Result<(), ExtraBodyError> {
        let Some(index) = self.members.iter().position(|m| m.name == "system") else {
            return Ok(());
        };
        let Node::Leaf(raw) = self.members.remove(index).node else {
            return Err(not_system());
        };
        let blocks = match raw.first() {
            // A text block may not be empty.
            Some(b'"') if &raw[..] == b"\"\"" => Vec::new(),
            Some(b'"') => [b"{\"type\":\"text\",\"text\":", &raw[..], b"}"].concat(),
            Some(b'[') => raw[1..raw.len() - 1].trim_ascii().to_vec(),
            Some(b'n') => Vec::new(),
            _ => return Err(not_system()),
        };
        self.system = (!blocks.is_empty()).then(|| blocks.into());
        Ok(())
    }

    /// Caps are applied to these values, so they must be understood, and
    /// spelled so that every decoder reads the same.
    fn check_limits(&self) -> Result<(), ExtraBodyError> {
        for field in OutputField::of(self.dialect) {
            let wrong = |expected| ExtraBodyError::Type {
                key: field.param(),
                expected,
            };
            if in_other_case(&self.members, field.path()) {
                return Err(wrong("spelled in this case"));
            }
            let good = match find(&self.members, field.path()) {
                None => true,
                Some(Node::Leaf(raw)) => &raw[..] == b"null" || fields::count(raw).is_some(),
                Some(Node::Object(_)) => false,
            };
            if !good {
                return Err(wrong("a non-negative integer"));
            }
        }
        Ok(())
    }
}

fn not_system() -> ExtraBodyError {
    ExtraBodyError::Type {
        key: "system",
        expected: "a string or an array of blocks",
    }
}

/// What a key is compared as. Protobuf JSON (Gemini) has two spellings of each:
/// of `max_output_tokens` and `maxOutputTokens` the latter stands for both.
pub(super) fn name(dialect: Dialect, key: &str) -> Cow<'_, str> {
    if dialect != Dialect::Gemini || !key.contains('_') {
        return Cow::Borrowed(key);
    }
    let mut camel = String::with_capacity(key.len());
    let mut after_underscore = false;
    for c in key.chars() {
        match std::mem::replace(&mut after_underscore, c == '_') {
            _ if c == '_' => {}
            true if !camel.is_empty() => camel.push(c.to_ascii_uppercase()),
            _ => camel.push(c),
        }
    }
    Cow::Owned(camel)
}

/// Writes `"key":value`.
pub(super) fn write_member(member: &Member, out: &mut String) {
    text::quote(&member.key, out);
    out.push(':');
    match &member.node {
        Node::Leaf(raw) => out.push_str(&String::from_utf8_lossy(raw)),
        Node::Object(members) => {
            out.push('{');
            for (index, member) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_member(member, out);
            }
            out.push('}');
        }
    }
}

fn find<'t>(members: &'t [Member], path: &[&str]) -> Option<&'t Node> {
    let (first, rest) = path.split_first()?;
    let node = &members.iter().find(|member| member.name == *first)?.node;
    match node {
        _ if rest.is_empty() => Some(node),
        Node::Object(members) => find(members, rest),
        Node::Leaf(_) => None,
    }
}

/// Whether a key on the way to `path` is there in another case.
fn in_other_case(members: &[Member], path: &[&str]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    members.iter().any(|member| match &member.node {
        _ if member.name != *first => member.name.eq_ignore_ascii_case(first),
        Node::Object(members) => in_other_case(members, rest),
        Node::Leaf(_) => false,
    })
}

fn entry<'t>(members: &'t mut Vec<Member>, name: &str) -> &'t mut Node {
    let place = members.iter().position(|member| member.name == name);
    let index = place.unwrap_or_else(|| {
        members.push(Member {
            id: 0,
            key: name.to_owned(),
            name: name.to_owned(),
            node: Node::Leaf(Bytes::from_static(b"null")),
        });
        members.len() - 1
    });
    &mut members[index].node
}

fn add_absent(into: &mut Vec<Member>, from: &[Member]) {
    for member in from {
        match into.iter_mut().find(|other| other.name == member.name) {
            None => into.push(member.clone()),
            Some(present) => {
                if let (Node::Object(into), Node::Object(from)) = (&mut present.node, &member.node)
                {
                    add_absent(into, from);
                }
            }
        }
    }
}

fn members(
    dialect: Dialect,
    pairs: Vec<(String, &RawValue)>,
) -> Result<Vec<Member>, serde_json::Error> {
    let mut names = BTreeSet::new();
    let mut tree = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let name = name(dialect, &key).into_owned();
        if !names.insert(name.clone()) {
            let twice = format!("the key '{key}' occurs twice");
            return Err(serde_json::Error::custom(twice));
        }
        let raw = value.get();
        let node = match raw.starts_with('{') {
            true => {
                let Object(pairs) = serde_json::from_str(raw)?;
                Node::Object(members(dialect, pairs)?)
            }
            false => Node::Leaf(Bytes::copy_from_slice(raw.as_bytes())),
        };
        tree.push(Member {
            id: 0,
            key,
            name,
            node,
        });
    }
    Ok(tree)
}

/// The members of one object, in order.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs: Self::Value = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(pairs)
            }
        }

        deserializer.deserialize_map(Pairs).map(Object)
    }
}
