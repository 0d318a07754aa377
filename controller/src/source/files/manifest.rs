//! One file's text: which objects it defines and what is wrong with it.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bodhi_proto::names::{ObjectKind, ObjectRef};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{FileProblem, Origin};
use crate::api::{API_VERSION, Alias, ApiModel};
use crate::source::yaml::{self, Content, Node};
use crate::validate::{Fault, FieldPath, Validator};

/// The kinds that a source takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    ApiModel,
    Alias,
    Secret,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::ApiModel => "ApiModel",
            Self::Alias => "Alias",
            Self::Secret => "Secret",
        }
    }
}

/// What an object is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// Of the kinds whose identity the store keeps.
    pub(super) fn object_ref(&self) -> Option<ObjectRef> {
        match self.kind {
            Kind::ApiModel => Some(ObjectRef::api_model(&self.namespace, &self.name)),
            Kind::Alias => Some(ObjectRef::alias(&self.namespace, &self.name)),
            Kind::Secret => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// An object as a file defines it. No `Debug`: a Secret's would print its keys.
#[derive(Clone, PartialEq)]
pub(super) struct Found {
    pub(super) object: Object,
    /// As judged: the `oldSelf` of its next version.
    pub(super) judged: Value,
    /// SHA-256 of the spec: another one is another generation.
    pub(super) spec_digest: [u8; 32],
    pub(super) line: usize,
}

#[derive(Clone, PartialEq)]
pub(super) enum Object {
    ApiModel(Box<ApiModel>),
    Alias(Box<Alias>),
    Secret(Box<Secret>),
}

/// What one file holds.
#[derive(Default)]
pub(super) struct Parsed {
    pub(super) objects: BTreeMap<Key, Found>,
    pub(super) problems: Vec<FileProblem>,
    /// Kinds that are none of ours, as `kind name`.
    pub(super) ignored: Vec<String>,
}

/// What all files are read with.
pub(super) struct Reader<'a> {
    pub(super) validator: &'a Validator,
    /// Where objects without a namespace belong.
    pub(super) namespace: &'a str,
}

impl Reader<'_> {
    /// Reads a file. `old` answers with an object's last accepted form.
    pub(super) fn parse<'o>(
        &self,
        origin: &Origin,
        text: &str,
        old: &dyn Fn(&Key) -> Option<&'o Value>,
    ) -> Parsed {
        let mut parsed = Parsed::default();
        match yaml::documents(text) {
            Err(error) => parsed.problems.push(FileProblem {
                file: origin.to_string(),
                line: Some(error.position.line),
                column: Some(error.position.column),
                object: None,
                path: None,
                message: error.message,
            }),
            Ok(documents) => {
                for document in &documents {
                    self.document(origin, document, old, &mut parsed);
                }
            }
        }
        parsed
    }

    fn document<'o>(
        &self,
        origin: &Origin,
        node: &Node,
        old: &dyn Fn(&Key) -> Option<&'o Value>,
        parsed: &mut Parsed,
    ) {
        let kind = node.text("kind").unwrap_or_default();
        let items = node.get("items").map(|items| &items.content);
        if let (true, Some(Content::List(items))) = (kind.ends_with("List"), items) {
            for item in items {
                self.document(origin, item, old, parsed);
            }
            return;
        }
        let (key, found) = match self.object(node, old) {
            Ok(object) => object,
            Err(Refusal::OtherKind(what)) => return parsed.ignored.push(what),
            Err(Refusal::Faults(key, faults)) => {
                let object = key.map(|key| key.to_string());
                let problem = |fault: Fault| problem(origin, node, object.clone(), fault);
                return parsed.problems.extend(faults.into_iter().map(problem));
            }
        };
        if let Some(first) = parsed.objects.get(&key) {
            let fault = Fault {
                path: FieldPath::root().field("metadata").field("name"),
                message: format!("is already defined in line {} of this file", first.line),
            };
            let name = Some(key.to_string());
            return parsed.problems.push(problem(origin, node, name, fault));
        }
        parsed.objects.insert(key, found);
    }

    fn object<'o>(
        &self,
        node: &Node,
        old: &dyn Fn(&Key) -> Option<&'o Value>,
    ) -> Result<(Key, Found), Refusal> {
        let root = FieldPath::root();
        let api_version = node.text("apiVersion").unwrap_or_default();
        let kind = match (node.text("kind"), api_version.split('/').next()) {
            (Some("ApiModel"), Some("bodhi.dev")) => Kind::ApiModel,
            (Some("Alias"), Some("bodhi.dev")) => Kind::Alias,
            (Some("Secret"), Some("v1")) => Kind::Secret,
            (Some("ApiModel" | "Alias"), _) => {
                let message = format!("must be {API_VERSION}");
                return Err(Refusal::one(None, root.field("apiVersion"), message));
            }
            (Some("Secret"), _) => {
                return Err(Refusal::one(None, root.field("apiVersion"), "must be v1"));
            }
            (Some(other), _) if !other.is_empty() => {
                let name = node.get("metadata").and_then(|m| m.text("name"));
                return Err(Refusal::OtherKind(format!(
                    "{other} {}",
                    name.unwrap_or("?")
                )));
            }
            _ => return Err(Refusal::one(None, root.field("kind"), "Required value")),
        };
        let mut value = node.to_value();
        let Some(name) = value.pointer("/metadata/name").and_then(Value::as_str) else {
            let path = root.field("metadata").field("name");
            return Err(Refusal::one(None, path, "Required value"));
        };
        let name = name.to_owned();
        let metadata = &mut value["metadata"];
        if metadata.get("namespace").is_none_or(Value::is_null) {
            metadata["namespace"] = self.namespace.into();
        }
        let Some(namespace) = metadata["namespace"].as_str().map(str::to_owned) else {
            let path = root.field("metadata").field("namespace");
            return Err(Refusal::one(None, path, "must be of type string"));
        };
        let key = Key {
            kind,
            namespace,
            name,
        };
        let judged = self.judge(&key, value, old(&key));
        let line = node.position.line;
        match judged {
            Ok((object, judged)) => {
                let spec_digest = Sha256::digest(judged["spec"].to_string()).into();
                let found = Found {
                    object,
                    judged,
                    spec_digest,
                    line,
                };
                Ok((key, found))
            }
            Err(faults) => Err(Refusal::Faults(Some(key), faults)),
        }
    }

    fn judge(
        &self,
        key: &Key,
        value: Value,
        old: Option<&Value>,
    ) -> Result<(Object, Value), Vec<Fault>> {
        let typed = |error: serde_json::Error| {
            // The schema and the types are one source, so this is a defect of ours; say so
            // rather than fall over.
            vec![Fault {
                path: FieldPath::root().field("spec"),
                message: format!("cannot be read: {error}"),
            }]
        };
        match key.kind {
            Kind::ApiModel => {
                let judged = self.validator.judge(ObjectKind::ApiModel, value, old)?;
                let object = serde_json::from_value(judged.clone()).map_err(typed)?;
                Ok((Object::ApiModel(Box::new(object)), judged))
            }
            Kind::Alias => {
                let judged = self.validator.judge(ObjectKind::Alias, value, old)?;
                let object = serde_json::from_value(judged.clone()).map_err(typed)?;
                Ok((Object::Alias(Box::new(object)), judged))
            }
            Kind::Secret => Ok((Object::Secret(Box::new(secret(key, &value)?)), Value::Null)),
        }
    }
}

enum Refusal {
    OtherKind(String),
    Faults(Option<Key>, Vec<Fault>),
}

impl Refusal {
    fn one(key: Option<Key>, path: FieldPath, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Faults(key, vec![Fault { path, message }])
    }
}

/// A Secret as the API server would store it: `stringData` written into `data`.
fn secret(key: &Key, value: &Value) -> Result<Secret, Vec<Fault>> {
    const KNOWN: [&str; 7] = [
        "apiVersion",
        "kind",
        "metadata",
        "data",
        "stringData",
        "type",
        "immutable",
    ];
    let root = FieldPath::root();
    let mut faults = Vec::new();
    let fields = value.as_object().cloned().unwrap_or_default();
    for name in fields.keys().filter(|name| !KNOWN.contains(&name.as_str())) {
        faults.push(Fault {
            path: root.field(name.as_str()),
            message: "unknown field".into(),
        });
    }
    let mut data = BTreeMap::new();
    texts(&fields, "data", &mut faults, |path, name, text| {
        let compact: String = text.split_ascii_whitespace().collect();
        let bytes = STANDARD.decode(compact).map_err(|_| Fault {
            path,
            message: "must be base64: use stringData for plain text".into(),
        })?;
        data.insert(name.to_owned(), ByteString(bytes));
        Ok(())
    });
    texts(&fields, "stringData", &mut faults, |_, name, text| {
        data.insert(name.to_owned(), ByteString(text.into()));
        Ok(())
    });
    let [mut labels, mut annotations] = [BTreeMap::new(), BTreeMap::new()];
    let metadata = value["metadata"].as_object().cloned().unwrap_or_default();
    for (field, map) in [("labels", &mut labels), ("annotations", &mut annotations)] {
        texts(&metadata, field, &mut faults, |_, name, text| {
            map.insert(name.to_owned(), text.to_owned());
            Ok(())
        });
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            labels: Some(labels),
            annotations: Some(annotations),
            ..Default::default()
        },
        data: Some(data),
        ..Default::default()
    })
}

/// Walks a map of texts; null is as good as absent.
fn texts(
    object: &Map<String, Value>,
    field: &str,
    faults: &mut Vec<Fault>,
    mut each: impl FnMut(FieldPath, &str, &str) -> Result<(), Fault>,
) {
    let path = match field {
        "labels" | "annotations" => FieldPath::root().field("metadata").field(field),
        _ => FieldPath::root().field(field),
    };
    let mismatch = |path: &FieldPath, expected: &str| Fault {
        path: path.clone(),
        message: format!("must be of type {expected}"),
    };
    match object.get(field) {
        None | Some(Value::Null) => {}
        Some(Value::Object(map)) => {
            for (name, value) in map {
                let path = path.field(name.as_str());
                let outcome = match value.as_str() {
                    Some(text) => each(path, name, text),
                    None => Err(mismatch(&path, "string")),
                };
                faults.extend(outcome.err());
            }
        }
        Some(_) => faults.push(mismatch(&path, "object")),
    }
}

fn problem(origin: &Origin, node: &Node, object: Option<String>, fault: Fault) -> FileProblem {
    let position = node.locate(&fault.path);
    FileProblem {
        file: origin.to_string(),
        line: Some(position.line),
        column: Some(position.column),
        object,
        path: Some(fault.path.to_string()),
        message: fault.message,
    }
}
