//! Workers as pods: a Deployment and a headless Service for each local Alias.
//!
//! Watches tell of Deployments and pods ([`watch`]); what they told is the [`world`], and what
//! data planes are to know of it follows ([`observe`]). One task, the [`keeper`], writes what is
//! missing or differs ([`desired`]), and only while this controller may. Every controller
//! watches; none needs another one, or the API server, for what it knows already.
//!
//! Nothing here ends a pod that may still be chosen: a pod that is deleted goes on serving until
//! data planes have heard of it, and Deployments that nobody wants any more are deleted once
//! those have taken in what replaces them.

mod desired;
mod keeper;
mod names;
mod observe;
mod state;
mod template;
mod trouble;
mod watch;
mod world;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bodhi_proto::names::ObjectRef;
use futures_util::future::BoxFuture;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use names::{ALIAS_ANNOTATION, MANAGER, RELEASE_LABEL};

use self::keeper::Keeper;
use self::state::Shared;
use super::{Observed, Runtime, Wanted};

/// Whether this controller may write now.
pub type MayWrite = Arc<dyn Fn() -> bool + Send + Sync>;

/// What is run, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// The namespaces that are served; `None`: all of the cluster.
    pub namespaces: Option<BTreeSet<Arc<str>>>,
    /// What the operator says of workers.
    pub settings: Settings,
    /// The certificates (PEM) of the authorities that workers are to believe. While there are
    /// none, pods wait for them.
    pub authorities: channel::Receiver<Option<Arc<str>>>,
}

/// What the operator says of workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The namespace of this release.
    pub release_namespace: Arc<str>,
    /// For pods that are made from now on.
    pub release: Release,
}

/// What pods have of the release that made them, and keep when it is upgraded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The worker's image.
    pub image: String,
    /// Kubernetes' `imagePullPolicy`.
    pub image_pull_policy: String,
    /// Where workers listen: `0.0.0.0`, or `::` in clusters that have IPv6.
    pub listen: IpAddr,
    /// Where they buy their certificates, such as `https://bodhi-controller.bodhi.svc:1138`.
    pub controllers: String,
    /// How long requests may run on when their worker is to go.
    pub drain_seconds: u32,
}

/// Runs workers as pods.
pub struct KubeRuntime {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl KubeRuntime {
    /// Starts watching, and writing while `may_write` says so. To be called within a tokio
    /// runtime. An API server that does not answer yet is waited for; until every watch has
    /// listed, [`Observed::version`] is 0.
    pub fn new(client: Client, config: Config, may_write: MayWrite) -> Self {
        let scopes: Vec<Option<Arc<str>>> = match config.namespaces {
            None => vec![None],
            Some(namespaces) => namespaces.into_iter().map(Some).collect(),
        };
        let labels = names::selector(&config.settings.release_namespace);
        let (tell, reports) = mpsc::channel(256);
        let mut tasks = Vec::new();
        let mut watches = 0;
        for scope in &scopes {
            let deployments: Api<Deployment> = api(&client, scope.as_deref());
            let pods: Api<Pod> = api(&client, scope.as_deref());
            let deployments = watch::watch(watches, deployments, labels.clone(), tell.clone());
            let pods = watch::watch(watches + 1, pods, labels.clone(), tell.clone());
            tasks.extend([tokio::spawn(deployments), tokio::spawn(pods)]);
            watches += 2;
        }
        let shared = Arc::new(Shared::new(watches, Arc::clone(&may_write)));
        let taking = take_in(Arc::clone(&shared), Arc::clone(&may_write), reports);
        tasks.push(tokio::spawn(taking));
        let keeper = Keeper::new(
            client,
            config.settings,
            config.authorities,
            may_write,
            Arc::clone(&shared),
        );
        tasks.push(tokio::spawn(keeper.run()));
        Self {
            shared,
            tasks: Mutex::new(tasks),
        }
    }

    /// The Alias for which this very pod runs, if it was made for one and still lives.
    pub fn alias_of_pod(&self, namespace: &str, name: &str, uid: &str) -> Option<ObjectRef> {
        self.shared.alias_of_pod(namespace, name, uid)
    }

    fn end(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Runtime for KubeRuntime {
    fn want(&self, models: Vec<Wanted>) {
        self.shared.want(models);
    }

    fn observed(&self) -> channel::Receiver<Arc<Observed>> {
        self.shared.observed()
    }

    fn acknowledge(&self, version: u64) {
        self.shared.acknowledge(version);
    }

    /// Stops watching and writing. Pods run on: another controller finds them.
    fn stop(&self) -> BoxFuture<'_, ()> {
        self.end();
        Box::pin(std::future::ready(()))
    }
}

impl Drop for KubeRuntime {
    fn drop(&mut self) {
        self.end();
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// How soon it is seen that this controller leads, or does not any more.
const LEADERSHIP: Duration = Duration::from_secs(1);

/// Takes in what watches tell, and shows what follows from all that has come by then.
async fn take_in(
    shared: Arc<Shared>,
    may_write: MayWrite,
    mut reports: mpsc::Receiver<watch::Report>,
) {
    let (mut some, mut leads) = (Vec::new(), may_write());
    loop {
        match timeout(LEADERSHIP, reports.recv_many(&mut some, 256)).await {
            Ok(0) => return,
            Ok(_) => shared.take_in(some.drain(..)),
            Err(_) if may_write() != leads => shared.refresh(),
            Err(_) => continue,
        }
        leads = may_write();
    }
}
