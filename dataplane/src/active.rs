//! What this process serves from: the snapshot, and its parts prepared for the request path.
//!
//! Made on the control runtime when configuration changes; what did not change is taken
//! over from the one before. Serving threads only ever follow pointers in it.

use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::Notify;

use bodhi_proto::names::{ObjectKind, ObjectRef};
use bodhi_proto::snapshot::{Map, Pattern, ServedKey, ServedName, Serving, Snapshot};

use crate::api::error::Failure;
use crate::auth::{Accounts, Callers};
use crate::provider::{self, Provider};
use crate::proxy::body::{Dialect, ExtraBody};
use crate::workers::Pool;

/// A snapshot, prepared.
#[derive(Debug)]
pub struct Active {
    /// The configuration itself.
    pub snapshot: Arc<Snapshot>,
    /// Its mark, as responses carry it.
    pub mark: HeaderValue,
    providers: Map<ObjectRef, Arc<Provider>>,
    pools: Map<ObjectRef, Arc<Pool>>,
    /// Callers by their ServiceAccounts.
    accounts: Option<Arc<Accounts>>,
    /// The defaults of the names that have some.
    defaults: Map<ServedKey, Arc<ExtraBody>>,
}

impl Active {
    /// Prepares `snapshot`; providers whose parts are the same, and all pools, are taken over from
    /// `previous`. `demand` is told when a pool gets its first request.
    pub fn new(snapshot: Arc<Snapshot>, previous: Option<&Self>, demand: &Arc<Notify>) -> Self {
        let providers = snapshot
            .upstreams
            .iter()
            .map(|(object, upstream)| {
                let credential = snapshot.credentials.get(object);
                let before = previous.and_then(|p| p.providers.get(object));
                let provider = match before {
                    Some(same) if same.is_from(upstream, credential) => Arc::clone(same),
                    other => Arc::new(Provider::new(
                        Arc::clone(upstream),
                        credential.cloned(),
                        other.map(Arc::as_ref),
                    )),
                };
                (object.clone(), provider)
            })
            .collect();
        let pools = snapshot
            .pools
            .iter()
            .map(|(object, pool)| {
                let workers = snapshot.workers.get(object);
                let before = previous.and_then(|p| p.pools.get(object));
                let made = || Pool::new(Arc::clone(pool), workers, Arc::clone(demand));
                let pool = before.map_or_else(|| Arc::new(made()), Arc::clone);
                (object.clone(), pool)
            })
            .collect();
        let accounts = match previous {
            Some(before) if before.snapshot.policy == snapshot.policy => before.accounts.clone(),
            before => snapshot.policy.service_accounts.as_ref().map(|given| {
                let before = before.and_then(|before| before.accounts.as_deref());
                Arc::new(Accounts::new(given, before))
            }),
        };
        let defaults = snapshot
            .table
            .names()
            .filter_map(|served| {
                let text = served.defaults.as_deref()?;
                let surface = dialect_of(served, &snapshot)?;
                match ExtraBody::parse(surface, text.as_bytes()) {
                    Ok(defaults) => Some((served.key.clone(), Arc::new(defaults))),
                    Err(error) => {
                        tracing::error!(name = %served.key, %error, "defaults are not usable");
                        None
                    }
                }
            })
            .collect();
        Self {
            // Source names, digits and punctuation.
            mark: HeaderValue::from_str(&snapshot.mark).unwrap_or(HeaderValue::from_static("")),
            snapshot,
            providers,
            pools,
            accounts,
            defaults,
        }
    }

    /// Lets the pools go on with what this snapshot says of them. To be called once it is served
    /// from: a request that is woken from waiting looks where its name leads.
    pub fn settle(&self) {
        for (object, configured) in self.snapshot.pools.iter() {
            if let Some(pool) = self.pools.get(object) {
                pool.update(Arc::clone(configured), self.snapshot.workers.get(object));
            }
        }
    }

    /// Whom it knows.
    pub fn callers(&self) -> Callers<'_> {
        Callers {
            tokens: self.snapshot.tokens.as_ref(),
            accounts: self.accounts.as_deref(),
        }
    }

    /// The provider of a route.
    pub fn provider(&self, object: &ObjectRef) -> Result<&Arc<Provider>, Failure> {
        self.providers.get(object).ok_or_else(|| {
            Failure::NotReady(format!(
                "{object} was not accepted by this data plane; 'bodhi get' shows why."
            ))
        })
    }

    /// The pool of a route.
    pub fn pool(&self, object: &ObjectRef) -> Result<&Arc<Pool>, Failure> {
        self.pools.get(object).ok_or_else(|| {
            Failure::NotReady(format!(
                "{object} has not reached this data plane yet; 'bodhi get' shows why."
            ))
        })
    }

    /// All pools, in no order.
    pub fn pools(&self) -> impl Iterator<Item = (&ObjectRef, &Arc<Pool>)> {
        self.pools.iter()
    }

    /// All providers, in no order.
    pub fn providers(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.providers.values()
    }

    /// The request defaults of a name.
    pub fn defaults(&self, served: &ServedName) -> Option<&Arc<ExtraBody>> {
        // Most names have none, and their key need not be hashed.
        served.defaults.as_ref()?;
        self.defaults.get(&served.key)
    }
}

/// What the defaults of a name are written in. Those of local models are OpenAI's.
fn dialect_of(served: &ServedName, snapshot: &Snapshot) -> Option<Dialect> {
    match &served.serving {
        Serving::Routes(routes) => {
            let object = &routes.first()?.upstream;
            match object.kind {
                ObjectKind::Alias => Some(Dialect::OpenAi),
                ObjectKind::ApiModel => {
                    let upstream = snapshot.upstreams.get(object)?;
                    Some(provider::dialect(upstream.format))
                }
            }
        }
        Serving::Refused(_) => None,
    }
}

/// The text of an exact name; a prefix has none.
pub fn exact_name(served: &ServedName) -> Option<&str> {
    match &served.key.pattern {
        Pattern::Exact(name) => Some(name.as_str()),
        Pattern::Prefix(_) => None,
    }
}
