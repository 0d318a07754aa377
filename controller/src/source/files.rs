//! A folder of manifests as a source: the same YAML as `kubectl apply` takes, watched for
//! change.
//!
//! Each object is judged as the API server would. What is faulty keeps its last accepted
//! form and is told as a [`FileProblem`] with file and line; while a file has any problem,
//! nothing that it defined before is deleted. Of two definitions of one object the first
//! by path wins. What an API server would put into metadata (uid, creationTimestamp,
//! generation) is the store's memory, so a restart changes none of it.

mod folder;
mod manifest;
mod set;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::ObjectRef;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use kube::runtime::watcher::Event;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};

use self::manifest::{Found, Key, Kind, Object, Reader};
use self::set::{FileSet, Outcome, fresh};
use super::{ObjectSource, ResourceEvent};
use crate::store::{ObjectRecord, SeenObject, Store, StoreError};
use crate::validate::Validator;

/// Quiet after which a change of files is read, and the most it waits for quiet.
const QUIET: Duration = Duration::from_millis(50);
const QUIET_MAX: Duration = Duration::from_millis(500);
/// Some file systems (network mounts, overlays) tell nothing: look now and then.
const RESCAN: Duration = Duration::from_secs(20);
/// How soon the store is asked again when it does not answer.
const STORE_RETRY: Duration = Duration::from_secs(2);

/// What to read.
pub struct FilesConfig {
    /// The folder; none: built-in documents only.
    pub folder: Option<PathBuf>,
    /// Documents that belong to the program's start and not to the folder.
    pub built_in: Vec<BuiltIn>,
    /// Where objects without a namespace belong.
    pub namespace: String,
}

/// A document that the program brings itself (`bodhi up` with a key in its environment).
/// A file that defines the same object wins.
pub struct BuiltIn {
    /// Stands for the file name in messages.
    pub label: String,
    /// YAML.
    pub text: String,
}

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct FileProblem {
    /// The file's path, or a built-in document's label in brackets.
    pub file: String,
    /// Line, from 1, where it is known.
    pub line: Option<usize>,
    /// Column, from 1, where it is known.
    pub column: Option<usize>,
    /// `Kind/namespace/name`, where it is known.
    pub object: Option<String>,
    /// The field, such as `spec.baseUrl`, if it is about one.
    pub path: Option<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        for number in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{number}")?;
        }
        f.write_str(": ")?;
        if let Some(object) = &self.object {
            write!(f, "{object} ")?;
        }
        if let Some(path) = &self.path {
            write!(f, "{path}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Why a folder cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// It cannot be listed.
    #[error("cannot read the manifests in {path}: {source}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Where a definition comes from. Files come before built-in documents.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    File(PathBuf),
    BuiltIn(String),
}

impl Origin {
    fn is_built_in(&self) -> bool {
        matches!(self, Self::BuiltIn(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::BuiltIn(label) => write!(f, "[{label}]"),
        }
    }
}

/// To ask the source from elsewhere. Cheap to clone.
#[derive(Clone)]
pub struct FilesHandle {
    problems: watch::Receiver<Arc<[FileProblem]>>,
    rescan: mpsc::Sender<Request>,
}

/// A call to look at the folder now.
enum Request {
    /// Who has just written a file waits for its change to be sent.
    Changes(oneshot::Sender<()>),
    /// Who doubts what was sent wants to hear it again.
    Everything,
}

impl FilesHandle {
    /// What is wrong in the files now; at most 200.
    pub fn problems(&self) -> Arc<[FileProblem]> {
        self.problems.borrow().clone()
    }

    /// Reads the folder now; returns when the changes have been sent. For who has just
    /// written a file.
    pub async fn rescan(&self) {
        let (done, wait) = oneshot::channel();
        if self.rescan.send(Request::Changes(done)).await.is_ok() {
            // An error means that the source has ended: there is nothing to wait for.
            let _ = wait.await;
        }
    }
}

impl ObjectSource for FilesHandle {
    fn reread(&self) {
        // A full queue is of requests that are answered by reading, too; only the first needs
        // to say so, and whoever doubts asks again.
        let _ = self.rescan.try_send(Request::Everything);
    }

    fn problems(&self) -> Value {
        json!(*self.problems())
    }
}

/// What a one-time look at files found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// The accepted objects, as `Kind/namespace/name`, in that order.
    pub objects: Vec<String>,
    /// All that is wrong.
    pub problems: Vec<FileProblem>,
}

/// Judges a file or folder without watching it (`bodhi validate -f PATH`).
///
/// # Errors
/// The path cannot be read at all.
pub fn inspect(
    path: &Path,
    namespace: &str,
    validator: &Validator,
) -> Result<Inspection, FilesError> {
    let listing = list(path)?;
    let mut set = FileSet::default();
    let outcome = set.update(
        listing,
        &Reader {
            validator,
            namespace,
        },
    );
    Ok(Inspection {
        objects: set.effective().map(|(key, _)| key.to_string()).collect(),
        problems: outcome.problems,
    })
}

/// Starts the source: a task that reads, watches and sends until the receiver is dropped.
///
/// # Errors
/// The folder cannot be listed at the start. Later that is a [`FileProblem`].
pub fn watch_files(
    config: FilesConfig,
    validator: Arc<Validator>,
    store: Arc<dyn Store>,
) -> Result<(mpsc::Receiver<ResourceEvent>, FilesHandle), FilesError> {
    if let Some(folder) = &config.folder {
        list(folder)?;
    }
    let (events, receiver) = mpsc::channel(64);
    let (publish, problems) = watch::channel(Arc::from([]));
    let (rescan, requests) = mpsc::channel(8);
    let source = Source {
        config,
        validator,
        store,
        events,
        publish,
        set: FileSet::default(),
        created: BTreeMap::new(),
    };
    tokio::spawn(source.run(requests));
    Ok((receiver, FilesHandle { problems, rescan }))
}

struct Source {
    config: FilesConfig,
    validator: Arc<Validator>,
    store: Arc<dyn Store>,
    events: mpsc::Sender<ResourceEvent>,
    publish: watch::Sender<Arc<[FileProblem]>>,
    set: FileSet,
    /// Metadata of what was sent, for deletions.
    created: BTreeMap<ObjectRef, ObjectRecord>,
}

/// The receiver is gone: nobody wants events any more.
struct Closed;

impl Source {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let (changed, mut changes) = mpsc::channel(1);
        // Watching begins before the first reading, so that no change falls between them.
        let watcher = self.config.folder.as_deref();
        let _watcher = watcher.and_then(|folder| watcher_of(folder, changed.clone()));
        if self.first_list().await.is_err() {
            return;
        }
        loop {
            let mut asked = Vec::new();
            tokio::select! {
                () = self.events.closed() => return,
                _ = changes.recv() => quiet(&mut changes).await,
                request = requests.recv() => asked.extend(request),
                () = tokio::time::sleep(RESCAN) => {}
            }
            while let Ok(request) = requests.try_recv() {
                asked.push(request);
            }
            let everything = asked.iter().any(|r| matches!(r, Request::Everything));
            let read = match everything {
                false => self.changes().await,
                true => self.everything().await,
            };
            if read.is_err() {
                return;
            }
            for request in asked {
                if let Request::Changes(done) = request {
                    // Who asked may have gone away.
                    let _ = done.send(());
                }
            }
        }
    }

    async fn first_list(&mut self) -> Result<(), Closed> {
        let outcome = self.read();
        let known = self.until_done(|store| store.objects()).await?;
        if outcome.whole {
            // What was deleted while nobody watched is another object when it comes back.
            let defined: BTreeSet<ObjectRef> = self
                .set
                .effective()
                .filter_map(|(key, _)| key.object_ref())
                .collect();
            let gone = known.into_iter().map(|record| record.object);
            let gone: Vec<ObjectRef> = gone.filter(|object| !defined.contains(object)).collect();
            self.forget(gone).await?;
        }
        self.see(&outcome.applied).await?;
        self.send(ResourceEvent::ApiModel(Event::Init)).await?;
        self.send(ResourceEvent::Alias(Event::Init)).await?;
        self.send(ResourceEvent::Secret(Event::Init)).await?;
        for (key, found) in &outcome.applied {
            let event = match self.dressed(key, found) {
                Object::ApiModel(o) => ResourceEvent::ApiModel(Event::InitApply(*o)),
                Object::Alias(o) => ResourceEvent::Alias(Event::InitApply(*o)),
                Object::Secret(o) => ResourceEvent::Secret(Event::InitApply(*o)),
            };
            self.send(event).await?;
        }
        self.send(ResourceEvent::ApiModel(Event::InitDone)).await?;
        self.send(ResourceEvent::Alias(Event::InitDone)).await?;
        self.send(ResourceEvent::Secret(Event::InitDone)).await?;
        self.settled(false).await
    }

    async fn changes(&mut self) -> Result<(), Closed> {
        match self.send_changes().await? {
            true => self.settled(false).await,
            false => Ok(()),
        }
    }

    async fn everything(&mut self) -> Result<(), Closed> {
        self.send_changes().await?;
        self.settled(true).await
    }

    /// Reads the files and sends what differs, if anything does.
    async fn send_changes(&mut self) -> Result<bool, Closed> {
        let outcome = self.read();
        if outcome.applied.is_empty() && outcome.deleted.is_empty() {
            return Ok(false);
        }
        self.see(&outcome.applied).await?;
        for (key, found) in &outcome.deleted {
            let event = match self.dressed(key, found) {
                Object::ApiModel(o) => ResourceEvent::ApiModel(Event::Delete(*o)),
                Object::Alias(o) => ResourceEvent::Alias(Event::Delete(*o)),
                Object::Secret(o) => ResourceEvent::Secret(Event::Delete(*o)),
            };
            self.send(event).await?;
        }
        for (key, found) in &outcome.applied {
            let event = match self.dressed(key, found) {
                Object::ApiModel(o) => ResourceEvent::ApiModel(Event::Apply(*o)),
                Object::Alias(o) => ResourceEvent::Alias(Event::Apply(*o)),
                Object::Secret(o) => ResourceEvent::Secret(Event::Apply(*o)),
            };
            self.send(event).await?;
        }
        let gone = outcome
            .deleted
            .iter()
            .filter_map(|(key, _)| key.object_ref());
        self.forget(gone.collect()).await?;
        Ok(true)
    }

    /// Reads the files and tells what is wrong. A folder that cannot be listed (any more)
    /// changes nothing.
    fn read(&mut self) -> Outcome {
        let built_in = self.config.built_in.iter().map(|document| {
            let origin = Origin::BuiltIn(document.label.clone());
            (origin, Ok(document.text.clone()))
        });
        let mut listing: BTreeMap<Origin, set::Contents> = built_in.collect();
        if let Some(folder) = &self.config.folder {
            match list(folder) {
                Ok(files) => listing.extend(files),
                Err(error) => {
                    let problem = FileProblem {
                        file: folder.display().to_string(),
                        line: None,
                        column: None,
                        object: None,
                        path: None,
                        message: error.to_string(),
                    };
                    self.tell(vec![problem]);
                    return Outcome::default();
                }
            }
        }
        let reader = Reader {
            validator: &self.validator,
            namespace: &self.config.namespace,
        };
        let mut outcome = self.set.update(listing, &reader);
        for what in &outcome.ignored {
            info!(manifest = %what, "left out: only ApiModel, Alias and Secret are read");
        }
        self.tell(std::mem::take(&mut outcome.problems));
        outcome
    }

    /// Publishes the problems and logs each one once.
    fn tell(&self, problems: Vec<FileProblem>) {
        let before = self.publish.borrow().clone();
        for problem in fresh(&before, &problems) {
            warn!(%problem, "manifest refused; its last accepted form stays");
        }
        if !before.is_empty() && problems.is_empty() {
            info!("all manifests are in order again");
        }
        if *before != *problems {
            self.publish.send_replace(problems.into());
        }
    }

    /// Lets the store recognise objects, or record new ones.
    async fn see(&mut self, objects: &[(Key, Found)]) -> Result<(), Closed> {
        let seen: Vec<SeenObject> = objects
            .iter()
            .filter_map(|(key, found)| {
                let digest = found.spec_digest;
                key.object_ref().map(|object| SeenObject { object, digest })
            })
            .collect();
        if seen.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now().as_second();
        let records = self
            .until_done(|store| store.see_objects(seen.clone(), now))
            .await?;
        let records = records
            .into_iter()
            .map(|record| (record.object.clone(), record));
        self.created.extend(records);
        Ok(())
    }

    async fn forget(&mut self, gone: Vec<ObjectRef>) -> Result<(), Closed> {
        if gone.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now().as_second();
        self.until_done(|store| store.forget_objects(gone.clone(), now))
            .await?;
        for object in &gone {
            self.created.remove(object);
        }
        Ok(())
    }

    async fn settled(&mut self, reread: bool) -> Result<(), Closed> {
        let revision = self
            .until_done(|store| store.next_manifests_revision())
            .await?;
        self.send(ResourceEvent::Settled { revision, reread }).await
    }

    /// The object with the metadata that an API server would give it.
    fn dressed(&self, key: &Key, found: &Found) -> Object {
        let record = key
            .object_ref()
            .and_then(|object| self.created.get(&object));
        let dress = |metadata: &mut ObjectMeta| {
            if let Some(record) = record {
                metadata.uid = Some(record.uid.to_string());
                metadata.generation = Some(record.generation);
                metadata.creation_timestamp = Timestamp::from_second(record.created).ok().map(Time);
            }
        };
        let mut object = found.object.clone();
        match &mut object {
            Object::ApiModel(o) => dress(&mut o.metadata),
            Object::Alias(o) => dress(&mut o.metadata),
            Object::Secret(_) => debug_assert_eq!(key.kind, Kind::Secret),
        }
        object
    }

    async fn send(&self, event: ResourceEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// Asks the store until it answers: without identities nothing can be sent.
    async fn until_done<'s, T, F>(&'s self, ask: impl Fn(&'s dyn Store) -> F) -> Result<T, Closed>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match ask(&*self.store).await {
                Ok(answer) => return Ok(answer),
                Err(error) => warn!(%error, "the store does not answer; manifests wait for it"),
            }
            tokio::select! {
                () = self.events.closed() => return Err(Closed),
                () = tokio::time::sleep(STORE_RETRY) => {}
            }
        }
    }
}

fn list(path: &Path) -> Result<BTreeMap<Origin, set::Contents>, FilesError> {
    folder::read(path).map_err(|source| FilesError::Folder {
        path: path.to_owned(),
        source,
    })
}

/// Tells of changes in the folder. Without it the slow look finds them.
fn watcher_of(folder: &Path, changed: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
    let tell = move |event: notify::Result<notify::Event>| {
        let read_only = event.is_ok_and(|event| event.kind.is_access());
        if !read_only {
            // A full channel already holds the news.
            let _ = changed.try_send(());
        }
    };
    let watcher = notify::recommended_watcher(tell).and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watcher
        .inspect_err(|error| {
            warn!(folder = %folder.display(), %error, "cannot watch the manifests; looking every 20 s");
        })
        .ok()
}

/// Waits until changes have stopped for a moment: an editor writes in several steps.
async fn quiet(changes: &mut mpsc::Receiver<()>) {
    let calm =
        async { while let Ok(Some(())) = tokio::time::timeout(QUIET, changes.recv()).await {} };
    // Whoever writes without a pause is read in between.
    let _ = tokio::time::timeout(QUIET_MAX, calm).await;
}
