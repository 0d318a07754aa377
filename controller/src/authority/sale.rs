//! Who gets a certificate for a ServiceAccount token, and which.
//!
//! The token's claims decide, which the API server signed: a pod of the data planes'
//! ServiceAccount becomes `dataplane`; a pod that this gateway runs for an Alias becomes that
//! worker. What a signing request says of names is not looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bodhi_net::service_account::{self, Claims, Expected, Object, TokenError};
use bodhi_proto::names::{ObjectRef, ServiceAccountName};
use bodhi_proto::snapshot::WorkerId;
use moka::sync::Cache;

use super::request::{self, RequestError};
use super::{Authority, Certified, SignError, Subject};
use crate::jwks::Jwks;

/// What a token has to be made for.
const AUDIENCE: &str = "bodhi-controller";
/// A pod may buy so many within [`SPAN`]: one when it starts, however often it has to.
const SALES_MAX: u32 = 20;
/// See [`SALES_MAX`].
const SPAN: Duration = Duration::from_secs(600);
/// Pods that are counted; a cluster has no more that are ours.
const PODS: u64 = 10_000;

/// Which pods are this gateway's own.
pub trait Pods: Send + Sync + 'static {
    /// The Alias for which this very pod runs, if it was made for one and still lives.
    fn alias_of(&self, namespace: &str, pod: &Object) -> Option<ObjectRef>;
}

impl<F> Pods for F
where
    F: Fn(&str, &Object) -> Option<ObjectRef> + Send + Sync + 'static,
{
    fn alias_of(&self, namespace: &str, pod: &Object) -> Option<ObjectRef> {
        self(namespace, pod)
    }
}

/// What a seller knows of its surroundings.
pub struct SellerConfig {
    /// Signs.
    pub authority: Authority,
    /// Verifies.
    pub jwks: Jwks,
    /// The ServiceAccount of the release's data planes.
    pub data_plane: ServiceAccountName,
    /// The pods of workers.
    pub workers: Arc<dyn Pods>,
}

/// Sells certificates.
pub struct Seller {
    config: SellerConfig,
    /// How many each pod has bought lately, by uid.
    sales: Cache<Box<str>, Arc<AtomicU32>>,
}

/// A certificate, and whose.
#[derive(Debug)]
pub struct Sold {
    /// The certificate and the authorities to believe.
    pub certified: Certified,
    /// Whom it names.
    pub subject: Subject,
}

/// Why nothing is sold. Texts are for whoever reads the log of the program that asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The token proves nothing.
    #[error("the ServiceAccount token is refused: {0}")]
    Token(#[from] TokenError),
    /// It proves who it is, and that is nobody.
    #[error("{0}")]
    Stranger(String),
    /// The request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Something goes round in circles.
    #[error("pod '{0}' has bought {SALES_MAX} certificates within 10 minutes; try again later")]
    TooMany(Box<str>),
    /// This controller does not know the cluster's keys yet.
    #[error("this controller has not read the keys of the cluster's ServiceAccount tokens yet")]
    NoKeys,
    /// The authority.
    #[error(transparent)]
    Sign(#[from] SignError),
}

impl Seller {
    /// A seller.
    pub fn new(config: SellerConfig) -> Self {
        let sales = Cache::builder().max_capacity(PODS).time_to_live(SPAN);
        Self {
            config,
            sales: sales.build(),
        }
    }

    /// Judges a token and, if it is good for one, certifies the key of a signing request (DER).
    /// `now` is Unix seconds.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn sell(&self, token: &str, request: &[u8], now: i64) -> Result<Sold, Refused> {
        let keys = self.config.jwks.keys().ok_or(Refused::NoKeys)?;
        let expected = Expected {
            issuer: &keys.issuer,
            audience: AUDIENCE,
        };
        let claims = service_account::verify(token.as_bytes(), &keys.keys, expected, now)
            .inspect_err(|error| {
                if let TokenError::UnknownKey(_) = error {
                    self.config.jwks.look_again();
                }
            })?;
        let subject = self.subject(&claims)?;
        let key = request::read(request)?;
        let certified = self.config.authority.sign(&subject, &key, now)?;
        Ok(Sold { certified, subject })
    }

    fn subject(&self, claims: &Claims) -> Result<Subject, Refused> {
        let account = &claims.account;
        let pod = claims.pod.as_ref().ok_or_else(|| {
            Refused::Stranger(format!(
                "the token of ServiceAccount '{account}' is bound to no pod; only a projected one \
                 is (volume source 'serviceAccountToken')"
            ))
        })?;
        let subject = match *account == self.config.data_plane {
            true => Subject::DataPlane,
            false => {
                let alias = self.config.workers.alias_of(account.namespace(), pod);
                let alias = alias.ok_or_else(|| {
                    let (data_plane, namespace) = (&self.config.data_plane, account.namespace());
                    Refused::Stranger(format!(
                        "pod '{namespace}/{}' of ServiceAccount '{account}' is neither a data plane \
                         (those run as '{data_plane}') nor a worker that this gateway started",
                        pod.name
                    ))
                })?;
                Subject::Worker(WorkerId {
                    pool: alias,
                    worker: pod.uid.as_ref().into(),
                })
            }
        };
        let count = self.sales.get_with(pod.uid.clone(), Arc::default);
        match count.fetch_add(1, Ordering::Relaxed) < SALES_MAX {
            true => Ok(subject),
            false => Err(Refused::TooMany(pod.name.clone())),
        }
    }
}

#[cfg(test)]
mod tests;
