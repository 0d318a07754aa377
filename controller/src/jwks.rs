//! What the cluster's ServiceAccount tokens are verified with: asked of the API server, kept, and
//! handed on to data planes in their policy.
//!
//! The API server publishes its issuer and its public keys to whoever has the ClusterRole
//! `system:service-account-issuer-discovery`. They change once in years, and then a new key
//! is published before it signs. What was read last is used for as long as nothing newer can be
//! read; it is looked at every few minutes, and sooner when a token names a key that is not
//! among them.

use std::sync::Arc;
use std::time::Duration;

use bodhi_net::service_account::{self, JwksError};
use bodhi_proto::snapshot::{MappedAccount, Policy, ServiceAccounts, VerifyingKey};
use kube::Client;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// OpenID Connect Discovery 1.0, 4.
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Where API servers serve their keys, whatever `jwks_uri` says to those outside.
const KEYS: &str = "/openid/v1/jwks";
/// Between two looks, ± a fifth.
const PERIOD: Duration = Duration::from_secs(300);
/// Shortest time between two looks, however many unknown keys are met.
const SOONEST: Duration = Duration::from_secs(20);
/// Shortest and longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// One state of what the API server publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterKeys {
    /// The `iss` of tokens.
    pub issuer: Arc<str>,
    /// The keys that sign them.
    pub keys: Arc<[VerifyingKey]>,
}

/// What is known. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Jwks {
    known: watch::Receiver<Known>,
    look: Arc<Notify>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// The API server has not answered yet.
    Nothing,
    /// It has, and there is nothing to be had.
    Denied,
    Keys(Arc<ClusterKeys>),
}

/// Why nothing was learned.
#[derive(Debug, thiserror::Error)]
enum LookError {
    /// The API server does not let us, or has nothing.
    #[error(
        "{path}: {why}. Bind the ClusterRole system:service-account-issuer-discovery to this \
         controller's ServiceAccount; an API server whose --service-account-issuer is no https URL \
         publishes nothing"
    )]
    Denied { path: &'static str, why: String },
    #[error("{path}: {source}")]
    Api {
        path: &'static str,
        source: Box<kube::Error>,
    },
    #[error("{path}: {source}")]
    Document {
        path: &'static str,
        source: JwksError,
    },
}

impl Jwks {
    /// Begins to ask, on this runtime, until the last clone is gone.
    pub fn start(client: Client) -> Self {
        let (tell, known) = watch::channel(Known::Nothing);
        let look = Arc::new(Notify::new());
        let asked = Arc::clone(&look);
        tokio::spawn(async move {
            tokio::select! {
                () = run(&client, &tell, &asked) => {}
                () = tell.closed() => {}
            }
        });
        Self { known, look }
    }

    /// Keys that never change.
    pub fn of(keys: ClusterKeys) -> Self {
        Self {
            known: watch::channel(Known::Keys(Arc::new(keys))).1,
            look: Arc::default(),
        }
    }

    /// The latest; `None` until there are any.
    pub fn keys(&self) -> Option<Arc<ClusterKeys>> {
        match &*self.known.borrow() {
            Known::Keys(keys) => Some(Arc::clone(keys)),
            Known::Nothing | Known::Denied => None,
        }
    }

    /// A token named a key that is not among them.
    pub fn look_again(&self) {
        self.look.notify_one();
    }

    /// `policy` with the ServiceAccounts that may call and the latest keys, for data planes.
    /// Waits for the API server's first answer, so that a controller that starts takes no keys
    /// away from data planes that have them. Without keys their tokens are answered 503.
    pub async fn policy(
        mut self,
        policy: Policy,
        callers: Vec<MappedAccount>,
    ) -> watch::Receiver<Arc<Policy>> {
        if callers.is_empty() {
            return watch::channel(Arc::new(policy)).1;
        }
        // The sender lives for as long as there are clones; without it nothing changes any more.
        let _ = self.known.wait_for(|known| *known != Known::Nothing).await;
        let with = move |keys: Option<Arc<ClusterKeys>>| {
            let (issuer, keys) = match keys {
                Some(keys) => (Arc::clone(&keys.issuer), Arc::clone(&keys.keys)),
                None => Default::default(),
            };
            Arc::new(Policy {
                service_accounts: Some(ServiceAccounts {
                    issuer,
                    keys,
                    callers: callers.clone(),
                }),
                ..policy.clone()
            })
        };
        self.known.mark_unchanged();
        let (tell, policies) = watch::channel(with(self.keys()));
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = self.known.changed() => match changed {
                        Ok(()) => drop(tell.send_replace(with(self.keys()))),
                        Err(_) => return,
                    },
                    () = tell.closed() => return,
                }
            }
        });
        policies
    }
}

async fn run(client: &Client, tell: &watch::Sender<Known>, asked: &Notify) {
    let (mut pause, mut said) = (PAUSE.0, None);
    loop {
        let began = Instant::now();
        let wait = match look(client).await {
            Ok(keys) => {
                (pause, said) = (PAUSE.0, None);
                let keys = Known::Keys(Arc::new(keys));
                tell.send_if_modified(|known| {
                    let differs = *known != keys;
                    if differs {
                        *known = keys;
                    }
                    differs
                });
                PERIOD
            }
            Err(error) => {
                let text = error.to_string();
                if said.as_ref() != Some(&text) {
                    tracing::warn!(
                        error = text,
                        "ServiceAccount tokens are verified with the keys of before, if any"
                    );
                }
                said = Some(text);
                if matches!(error, LookError::Denied { .. }) {
                    tell.send_if_modified(|known| {
                        let is_first = *known == Known::Nothing;
                        if is_first {
                            *known = Known::Denied;
                        }
                        is_first
                    });
                }
                let wait = pause;
                pause = (pause * 2).min(PAUSE.1);
                wait
            }
        };
        tokio::select! {
            () = sleep(wait.mul_f64(0.8 + 0.4 * rand::random::<f64>())) => {}
            () = async {
                asked.notified().await;
                sleep_until(began + SOONEST).await;
            } => {}
        }
    }
}

async fn look(client: &Client) -> Result<ClusterKeys, LookError> {
    let discovery = get(client, DISCOVERY).await?;
    let keys = get(client, KEYS).await?;
    let document = |path| move |source| LookError::Document { path, source };
    let issuer = service_account::issuer(discovery.as_bytes()).map_err(document(DISCOVERY))?;
    let keys = service_account::jwks(keys.as_bytes()).map_err(document(KEYS))?;
    Ok(ClusterKeys {
        issuer: issuer.into(),
        keys: keys.into(),
    })
}

async fn get(client: &Client, path: &'static str) -> Result<String, LookError> {
    let request = http::Request::get(path)
        .body(Vec::new())
        .expect("a path and nothing else");
    match client.request_text(request).await {
        Ok(text) => Ok(text),
        Err(kube::Error::Api(answer)) if matches!(answer.code, 401 | 403 | 404) => {
            Err(LookError::Denied {
                path,
                why: answer.to_string(),
            })
        }
        Err(error) => Err(LookError::Api {
            path,
            source: Box::new(error),
        }),
    }
}
