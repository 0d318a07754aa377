//! Is this manifest one that the API server would take?
//!
//! In a cluster the API server judges objects by the CRDs' schemas and CEL rules. Files on
//! a laptop are judged here by the very same schemas: first a walk for unknown fields, then
//! nulls and defaults as a structural schema treats them, then types and bounds, list keys,
//! CEL (with the last accepted object as `oldSelf`) and at last the few rules that no
//! schema can say. Every fault is reported at once, each with the path of its field.
//!
//! Faults never repeat a value: somebody may have put a key into the wrong field.

mod body;
mod envelope;
mod path;
mod schema;
mod structure;

use bodhi_proto::names::ObjectKind;
use bodhi_proto::snapshot::BaseUrl;
use kube::core::cel;
use serde_json::Value;

pub use body::body_faults;
pub use path::{FieldPath, Segment};

/// At most so many faults are reported of one object.
const FAULTS_MAX: usize = 50;

/// One thing that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The field, as an API server names it: `spec.extraHeaders[0].name`.
    pub path: FieldPath,
    /// What is wrong and what to do; a sentence without a full stop.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Judges manifests by the CRDs' schemas. Made once; shared between threads.
pub struct Validator {
    api_model: KindRules,
    alias: KindRules,
}

struct KindRules {
    /// The CRD's schema with apiVersion, kind and metadata put in.
    schema: Value,
    structure: jsonschema::Validator,
    rules: cel::CompiledSchema,
}

impl Default for Validator {
    fn default() -> Self {
        Self::new()
    }
}

impl Validator {
    /// Compiles both schemas: some milliseconds.
    pub fn new() -> Self {
        let [api_model, alias] = crate::api::schemas();
        Self {
            api_model: KindRules::new(ObjectKind::ApiModel, api_model),
            alias: KindRules::new(ObjectKind::Alias, alias),
        }
    }

    /// Judges one object, as a create (`old` absent) or an update of `old`.
    ///
    /// The object comes back as an API server would store it: defaults filled in, nulls of
    /// non-nullable fields gone, `status` dropped. It then deserialises into
    /// [`ApiModel`](crate::api::ApiModel) or [`Alias`](crate::api::Alias).
    ///
    /// # Errors
    /// All faults in order of their paths, at most 50; never empty.
    pub fn judge(
        &self,
        kind: ObjectKind,
        mut object: Value,
        old: Option<&Value>,
    ) -> Result<Value, Vec<Fault>> {
        let rules = match kind {
            ObjectKind::ApiModel => &self.api_model,
            ObjectKind::Alias => &self.alias,
        };
        if let Some(map) = object.as_object_mut() {
            map.remove("status");
        }
        let mut faults = structure::unknown_fields(&rules.schema, &object);
        schema::settle(&rules.schema, &mut object);
        let structural = structure::faults(&rules.structure, &rules.schema, &object);
        // Rules may compare lists item by item: they run on what is within its bounds only.
        if !structural.out_of_bounds {
            rules.cel_faults(&object, old, structural.faults.is_empty(), &mut faults);
        }
        faults.extend(structural.faults);
        faults.extend(envelope::label_faults(&object));
        faults.extend(beyond_schema(&object));
        faults.sort_by(|a, b| a.path.cmp(&b.path));
        faults.dedup();
        faults.truncate(FAULTS_MAX);
        match faults.is_empty() {
            true => Ok(object),
            false => Err(faults),
        }
    }
}

impl KindRules {
    fn new(kind: ObjectKind, crd_schema: Value) -> Self {
        let schema = envelope::with_metadata(kind, crd_schema);
        let structure = jsonschema::validator_for(&schema::json_schema(&schema))
            .expect("our own schema is a valid JSON schema");
        let rules = cel::compile_schema(&schema);
        Self {
            schema,
            structure,
            rules,
        }
    }

    fn cel_faults(
        &self,
        object: &Value,
        old: Option<&Value>,
        well_formed: bool,
        faults: &mut Vec<Fault>,
    ) {
        let Err(errors) = cel::Validator::new().validate_compiled(&self.rules, object, old) else {
            return;
        };
        let failed = |e: &cel::ValidationError| e.kind == cel::ErrorKind::ValidationFailure;
        // What a rule could not evaluate in a malformed object is said by the structural fault.
        let errors = errors.into_iter().filter(|e| well_formed || failed(e));
        faults.extend(errors.map(|e| Fault {
            path: FieldPath::parse(&e.field_path),
            message: e.message,
        }));
    }
}

/// What neither schema nor CEL can say.
fn beyond_schema(object: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    let spec = FieldPath::root().field("spec");
    for field in ["extraBody", "defaults"] {
        if let Some(Value::Object(body)) = object.pointer(&format!("/spec/{field}")) {
            faults.extend(body_faults(&spec.field(field), body));
        }
    }
    if let Some(Value::String(url)) = object.pointer("/spec/baseUrl")
        && let Err(error) = BaseUrl::parse(url)
    {
        faults.push(Fault {
            path: spec.field("baseUrl"),
            message: error.to_string(),
        });
    }
    faults
}

#[cfg(test)]
mod tests;
