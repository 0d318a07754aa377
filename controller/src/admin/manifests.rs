//! Writing resources for the admin API: as files here, by server-side apply in a
//! cluster.
//!
//! Each object that the admin API creates has a file of its own,
//! `admin-<kind>.<namespace>.<name>.yaml` (kind and namespace hold no dot, so no two
//! objects share one). A person's own files are never touched: an object that one of
//! them defines is changed there.

mod apply;
mod emit;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bodhi_proto::names::ObjectRef;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use crate::api::API_VERSION;
use crate::source::{Node, documents};
use crate::validate::{Fault, Validator};

pub use apply::ApplyWriter;

/// Why a resource was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The manifest is not valid.
    #[error("the manifest has {} faults", .0.len())]
    Faults(Vec<Fault>),
    /// It was to be created and is there.
    #[error("{0} exists already: update it instead")]
    Exists(ObjectRef),
    /// It was to be deleted and is not there.
    #[error("there is no {0}")]
    NotFound(ObjectRef),
    /// A person's file defines it.
    #[error("{object} is defined in {file}: change it there")]
    Elsewhere {
        /// Which object.
        object: ObjectRef,
        /// The file's name within the folder.
        file: String,
    },
    /// The object is none of a file, or there is no folder to write to.
    #[error(
        "this gateway cannot write that resource: start it with a manifests folder, and define the resource there"
    )]
    ReadOnly,
    /// Other programs have set fields that this would change.
    #[error("{object} is managed elsewhere: {message}; change it there")]
    Managed {
        /// Which object.
        object: ObjectRef,
        /// The API server's words: which fields, and by whom.
        message: String,
    },
    /// The API server does not let this controller do so.
    #[error("the API server refuses: {0}")]
    Forbidden(String),
    /// The API server does not answer.
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
    /// The folder or a file in it does not do as it should.
    #[error("cannot write {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What every operation answers, once the change is in the index.
pub type Written<'a> = BoxFuture<'a, Result<(), WriteError>>;

/// Creates, replaces and deletes resources. `old` is the object as it is now.
pub trait ResourceWriter: Send + Sync + 'static {
    /// Creates it, or replaces `old`.
    fn put(&self, object: ObjectRef, manifest: Value, old: Option<Value>) -> Written<'_>;
    /// Deletes it.
    fn delete(&self, object: ObjectRef, old: Option<Value>) -> Written<'_>;
}

/// Called after a file was written; done when its change is in the index.
pub type Rescan = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// Resources in a folder of manifests.
#[derive(Clone)]
pub struct FileWriter {
    folder: Option<PathBuf>,
    namespace: Arc<str>,
    validator: Arc<Validator>,
    rescan: Rescan,
    /// One change at a time: look for other definitions, then write.
    turn: Arc<Mutex<()>>,
}

impl FileWriter {
    /// `namespace` is where documents without one belong; without a folder nothing is written.
    pub fn new(
        folder: Option<PathBuf>,
        namespace: &str,
        validator: Arc<Validator>,
        rescan: Rescan,
    ) -> Self {
        Self {
            folder,
            namespace: namespace.into(),
            validator,
            rescan,
            turn: Arc::default(),
        }
    }

    fn change(
        &self,
        change: impl FnOnce(&Self, &Path) -> Result<(), WriteError> + Send + 'static,
    ) -> Written<'_> {
        let own = self.clone();
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || {
                let folder = own.folder.as_deref().ok_or(WriteError::ReadOnly)?;
                let _turn = own.turn.lock().unwrap_or_else(PoisonError::into_inner);
                change(&own, folder)
            });
            done.await.map_err(|e| WriteError::File {
                path: self.folder.clone().unwrap_or_default(),
                source: io::Error::other(e),
            })??;
            (self.rescan)().await;
            Ok(())
        })
    }

    /// The file besides its own that defines the object, if there is one.
    fn elsewhere(&self, folder: &Path, object: &ObjectRef) -> Result<(), WriteError> {
        let fault = |path: &Path, source| WriteError::File {
            path: path.to_owned(),
            source,
        };
        for entry in fs::read_dir(folder).map_err(|e| fault(folder, e))? {
            let path = entry.map_err(|e| fault(folder, e))?.path();
            let file = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            let extension = path
                .extension()
                .and_then(|e| e.to_str())
                .unwrap_or_default();
            if file == file_name(object) || !["yaml", "yml", "json"].contains(&extension) {
                continue;
            }
            // What cannot be read defines nothing now; its source tells of it.
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            let defined = documents(&text).unwrap_or_default();
            if defined.iter().any(|node| self.defines(node, object)) {
                let object = object.clone();
                return Err(WriteError::Elsewhere { object, file });
            }
        }
        Ok(())
    }

    fn defines(&self, document: &Node, object: &ObjectRef) -> bool {
        let metadata = document.get("metadata");
        let text = |name| metadata.and_then(|m| m.text(name));
        document.text("kind") == Some(object.kind.as_str())
            && text("name") == Some(&object.name)
            && text("namespace").unwrap_or(&self.namespace) == &*object.namespace
    }
}

impl ResourceWriter for FileWriter {
    fn put(&self, object: ObjectRef, manifest: Value, old: Option<Value>) -> Written<'_> {
        self.change(move |own, folder| {
            let manifest = own_part(&object, manifest);
            own.validator
                .judge(object.kind, manifest.clone(), old.as_ref())
                .map_err(WriteError::Faults)?;
            own.elsewhere(folder, &object)?;
            write(&folder.join(file_name(&object)), &emit::document(&manifest))
        })
    }

    fn delete(&self, object: ObjectRef, old: Option<Value>) -> Written<'_> {
        self.change(move |own, folder| {
            own.elsewhere(folder, &object)?;
            let path = folder.join(file_name(&object));
            match fs::remove_file(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => match old {
                    Some(_) => Err(WriteError::ReadOnly),
                    None => Err(WriteError::NotFound(object)),
                },
                done => done
                    .and_then(|()| File::open(folder)?.sync_all())
                    .map_err(|source| WriteError::File { path, source }),
            }
        })
    }
}

fn file_name(object: &ObjectRef) -> String {
    let kind = object.kind.as_str().to_ascii_lowercase();
    format!("admin-{kind}.{}.{}.yaml", object.namespace, object.name)
}

/// What a person says about an object: neither status nor what the server adds to metadata.
fn own_part(object: &ObjectRef, manifest: Value) -> Value {
    let Value::Object(mut manifest) = manifest else {
        return manifest;
    };
    manifest.remove("status");
    let mut metadata = json!({"name": &*object.name, "namespace": &*object.namespace});
    for key in ["labels", "annotations"] {
        if let Some(value) = manifest.get("metadata").and_then(|m| m.get(key)) {
            metadata[key] = value.clone();
        }
    }
    manifest.insert("metadata".into(), metadata);
    manifest.entry("apiVersion").or_insert(API_VERSION.into());
    manifest
        .entry("kind")
        .or_insert(object.kind.as_str().into());
    Value::Object(manifest)
}

/// Beside and into place, so that nobody reads half a file and a crash leaves the old or the new.
fn write(path: &Path, text: &str) -> Result<(), WriteError> {
    let beside = path.with_extension("yaml.tmp");
    let attempt = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(|source| WriteError::File {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(folder: &Path) -> FileWriter {
        let rescan: Rescan = Arc::new(|| Box::pin(async {}));
        FileWriter::new(
            Some(folder.to_owned()),
            "bodhi",
            Arc::new(Validator::new()),
            rescan,
        )
    }

    fn manifest(url: &str) -> Value {
        json!({
            "apiVersion": "bodhi.dev/v1alpha1", "kind": "ApiModel",
            "metadata": {"name": "a", "namespace": "bodhi", "uid": "x", "labels": {"team": "no"}},
            "spec": {"format": "openai", "baseUrl": url, "auth": {"type": "None"}, "models": ["m"]},
            "status": {"conditions": []},
        })
    }

    fn files(folder: &Path) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = names
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn an_object_gets_a_file_of_its_own_that_reads_as_it_was_sent() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, object) = (writer(dir.path()), ObjectRef::api_model("bodhi", "a"));
        let sent = manifest("https://a.example/v1");
        writer
            .put(object.clone(), sent.clone(), None)
            .await
            .unwrap();
        assert_eq!(files(dir.path()), ["admin-apimodel.bodhi.a.yaml"]);
        let text = fs::read_to_string(dir.path().join("admin-apimodel.bodhi.a.yaml")).unwrap();
        let read = documents(&text).unwrap()[0].to_value();
        assert_eq!(read["spec"], sent["spec"]);
        assert_eq!(
            read["metadata"],
            json!({"name": "a", "namespace": "bodhi", "labels": {"team": "no"}})
        );
        assert_eq!(read.get("status"), None);

        let newer = manifest("https://b.example/v1");
        writer.put(object.clone(), newer, Some(read)).await.unwrap();
        writer.delete(object.clone(), None).await.unwrap();
        assert!(files(dir.path()).is_empty());
        let gone = writer.delete(object.clone(), None).await;
        assert!(matches!(gone, Err(WriteError::NotFound(o)) if o == object));
    }

    #[tokio::test]
    async fn every_fault_is_told_and_nothing_written() {
        let dir = tempfile::tempdir().unwrap();
        let object = ObjectRef::api_model("bodhi", "a");
        let mut bad = manifest("ftp://x");
        bad["spec"]["format"] = "none".into();
        match writer(dir.path()).put(object, bad, None).await {
            Err(WriteError::Faults(faults)) => assert!(faults.len() >= 2, "{faults:?}"),
            other => panic!("{other:?}"),
        }
        assert!(files(dir.path()).is_empty());
    }

    #[tokio::test]
    async fn what_a_persons_file_defines_is_left_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = "kind: Alias\nmetadata: {name: b}\n---\nkind: ApiModel\nmetadata: {name: a}\n";
        fs::write(dir.path().join("mine.yml"), theirs).unwrap();
        let (writer, object) = (writer(dir.path()), ObjectRef::api_model("bodhi", "a"));
        let put = writer
            .put(object.clone(), manifest("https://a.example"), None)
            .await;
        assert_eq!(
            put.unwrap_err().to_string(),
            "ApiModel/bodhi/a is defined in mine.yml: change it there"
        );
        let delete = writer.delete(object, None).await;
        assert!(matches!(delete, Err(WriteError::Elsewhere { .. })));
        assert_eq!(files(dir.path()), ["mine.yml"]);
        let other = ObjectRef::api_model("team", "a");
        writer
            .put(other, manifest("https://a.example"), None)
            .await
            .unwrap();
    }
}
