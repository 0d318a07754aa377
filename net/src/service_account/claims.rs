//! What a token says: the registered claims (RFC 7519, 4.1) and Kubernetes' own.

use std::borrow::Cow;

use bodhi_proto::names::ServiceAccountName;
use serde::Deserialize;

use super::{Claims, Object, SKEW, TokenError, shown};

#[derive(Deserialize)]
pub(super) struct Payload<'a> {
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    aud: Option<Audiences>,
    exp: Option<i64>,
    nbf: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Several(Vec<String>),
}

/// <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#bound-service-account-tokens>
#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
    node: Option<Node>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    uid: String,
}

/// Old API servers leave the uid out, and so does a node that was gone by then.
#[derive(Deserialize)]
struct Node {
    name: String,
}

impl Payload<'_> {
    pub(super) fn check_issuer(&self, expected: &str) -> Result<(), TokenError> {
        match self.iss == expected {
            true => Ok(()),
            false => Err(TokenError::Issuer {
                found: shown(&self.iss),
                expected: expected.to_owned(),
            }),
        }
    }

    /// A token without any audience is one of the old kind, which never expires.
    pub(super) fn check_audience(&self, expected: &str) -> Result<(), TokenError> {
        let audiences: &[String] = match &self.aud {
            None => &[],
            Some(Audiences::One(one)) => std::slice::from_ref(one),
            Some(Audiences::Several(several)) => several,
        };
        if audiences.iter().any(|audience| audience == expected) {
            return Ok(());
        }
        let found = match audiences {
            [] => "of nobody".to_owned(),
            some => format!("'{}'", shown(&some.join(", "))),
        };
        Err(TokenError::Audience {
            found,
            expected: expected.to_owned(),
        })
    }

    pub(super) fn check_time(&self, now: i64) -> Result<(), TokenError> {
        let Some(expires) = self.exp else {
            return Err(TokenError::Claims("it never expires ('exp')".into()));
        };
        if expires.saturating_add(SKEW) <= now {
            return Err(TokenError::Expired(now.saturating_sub(expires)));
        }
        match self.nbf {
            Some(from) if from.saturating_sub(SKEW) > now => {
                Err(TokenError::TooEarly(from.saturating_sub(now)))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn claims(self) -> Result<Claims, TokenError> {
        let wrong = |what: &str| TokenError::Claims(what.to_owned());
        let own = self
            .kubernetes
            .ok_or_else(|| wrong("'kubernetes.io' is missing"))?;
        let account = ServiceAccountName::new(&own.namespace, &own.serviceaccount.name)
            .map_err(|error| wrong(&format!("the ServiceAccount's name {error}")))?;
        if self.sub != account.user() {
            return Err(wrong("'sub' is not the ServiceAccount of 'kubernetes.io'"));
        }
        let object = |named: Named| Object {
            name: named.name.into(),
            uid: named.uid.into(),
        };
        Ok(Claims {
            account,
            account_uid: own.serviceaccount.uid.into(),
            pod: own.pod.map(object),
            node: own.node.map(|node| node.name.into()),
            expires: self.exp.unwrap_or(0),
        })
    }
}
