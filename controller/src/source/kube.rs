//! An API server as a source: ApiModels, Aliases and the Secrets that are labelled for us, by
//! watches that survive whatever happens to it.
//!
//! One task per kind and namespace lists and watches ([`watch`]); another one puts what they
//! report into one stream ([`merge`]). Nothing is forgotten in between: an outage changes no
//! object, and a list after it is compared with what is known ([`known`]), so that what was
//! deleted meanwhile goes and what is as it was costs nothing.
//!
//! The revision is the API server's resourceVersion: the smallest one that any of the watches has
//! reached, by events and by bookmarks. kube's own `watcher` keeps that number to itself, which is
//! why the loop is ours; connections, decoding and types are kube's.
//!
//! An object that does not read as its type is told as [`Malformed`] and blocks nothing.

mod known;
mod merge;
mod object;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch as channel};

use self::merge::Merge;
use self::watch::Watch;
use super::{Malformed, ObjectSource, ResourceEvent, ResourceKind};
use crate::validate::Validator;

/// What to watch.
pub struct KubeConfig {
    /// Where.
    pub client: Client,
    /// The namespaces that are served; `None`: all of the cluster.
    pub namespaces: Option<BTreeSet<Arc<str>>>,
}

/// To ask the source from elsewhere. Cheap to clone.
#[derive(Clone)]
pub struct KubeHandle {
    /// Grows with each call for a new list.
    asked: channel::Sender<u64>,
    troubles: channel::Receiver<Troubles>,
}

/// What is wrong now.
#[derive(Debug, Clone, Default, PartialEq)]
struct Troubles {
    /// Watches that do not work, each with the reason.
    watches: Vec<(String, String)>,
    /// Objects that cannot be read.
    objects: Vec<Malformed>,
}

impl ObjectSource for KubeHandle {
    fn reread(&self) {
        self.asked.send_modify(|n| *n += 1);
    }

    fn problems(&self) -> Value {
        let troubles = self.troubles.borrow();
        let watches = troubles
            .watches
            .iter()
            .map(|(watch, message)| json!({"watch": watch, "message": message}));
        let objects = troubles
            .objects
            .iter()
            .map(|m| json!({"object": m.object.to_string(), "message": m.message}));
        watches.chain(objects).collect()
    }
}

impl KubeHandle {
    /// Whether every watch works.
    pub fn is_watching(&self) -> bool {
        self.troubles.borrow().watches.is_empty()
    }
}

/// Starts the source: tasks that list, watch and send until the receiver is dropped.
pub fn watch_cluster(config: KubeConfig) -> (mpsc::Receiver<ResourceEvent>, KubeHandle) {
    let (events, receiver) = mpsc::channel(64);
    let (asked, _) = channel::channel(0);
    let (tell, troubles) = channel::channel(Troubles::default());
    let (report, reports) = mpsc::channel(64);
    let scopes: Vec<Option<Arc<str>>> = match config.namespaces {
        None => vec![None],
        Some(namespaces) => namespaces.into_iter().map(Some).collect(),
    };
    let validator = Arc::new(Validator::new());
    let mut kinds = Vec::new();
    for kind in ResourceKind::ALL {
        for namespace in &scopes {
            let watch = Watch {
                id: kinds.len(),
                kind,
                namespace: namespace.clone(),
                client: config.client.clone(),
                validator: Arc::clone(&validator),
                report: report.clone(),
                asked: asked.subscribe(),
            };
            kinds.push((kind, watch.to_string()));
            tokio::spawn(watch.run());
        }
    }
    tokio::spawn(Merge::new(kinds, events, tell).run(reports));
    (receiver, KubeHandle { asked, troubles })
}
