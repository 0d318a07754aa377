//! References from an object to Secrets of its namespace.

use bodhi_proto::snapshot::{AllowedOrigins, Origin, OriginPattern};
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::ResourceExt as _;

use super::problem::Problem;
use super::{Deployment, Settings};
use crate::api::{ALLOWED_ORIGINS_ANNOTATION, CREDENTIAL_LABEL, KeyRef, Reason};
use crate::index::{Index, Name};

/// References from one namespace.
pub(super) struct Lookup<'a> {
    pub(super) index: &'a Index,
    pub(super) namespace: &'a str,
}

impl Lookup<'_> {
    /// A key's text, blanks around it trimmed (a newline at the end is a common slip).
    pub(super) fn secret_text(&self, reference: &KeyRef) -> Result<(&KubeSecret, &str), Problem> {
        let KeyRef { name, key } = reference;
        let secret = self.index.secret(&Name::new(self.namespace, name)).ok_or_else(|| {
            Problem::new(
                Reason::SecretNotFound,
                format!(
                    "no Secret {name} with the label {CREDENTIAL_LABEL}: \"true\" in namespace {}",
                    self.namespace
                ),
            )
        })?;
        if secret.labels().get(CREDENTIAL_LABEL).map(String::as_str) != Some("true") {
            let message = format!("label Secret {name} with {CREDENTIAL_LABEL}: \"true\"");
            return Err(Problem::new(Reason::SecretNotOptedIn, message));
        }
        let missing = |what: &str| {
            Problem::new(
                Reason::SecretKeyMissing,
                format!("Secret {name} {what} {key}"),
            )
        };
        let bytes = secret.data.as_ref().and_then(|data| data.get(key));
        let bytes = bytes.ok_or_else(|| missing("has no key"))?;
        let text = std::str::from_utf8(&bytes.0).map_err(|_| missing("holds no text in key"))?;
        match text.trim() {
            "" => Err(missing("has nothing in key")),
            text => Ok((secret, text)),
        }
    }
}

/// Where a Secret's keys may go, which must include `origin`.
pub(super) fn allowed_origins(
    secret: &KubeSecret,
    name: &str,
    origin: &Origin,
    settings: &Settings,
) -> Result<AllowedOrigins, Problem> {
    let refuse = |message| Problem::new(Reason::SecretOriginNotAllowed, message);
    let allowed = match secret.annotations().get(ALLOWED_ORIGINS_ANNOTATION) {
        None if settings.deployment == Deployment::Standalone => AllowedOrigins::Any,
        None => AllowedOrigins::canonical(),
        Some(list) => {
            let entries = list
                .split(',')
                .map(str::trim)
                .filter(|entry| !entry.is_empty());
            let patterns: Result<Vec<_>, _> = entries.map(OriginPattern::parse).collect();
            let broken = |error| {
                refuse(format!(
                    "annotation {ALLOWED_ORIGINS_ANNOTATION} of Secret {name}: {error}"
                ))
            };
            AllowedOrigins::Listed(patterns.map_err(broken)?)
        }
    };
    match allowed.permit(origin) {
        true => Ok(allowed),
        false => Err(refuse(format!(
            "annotate Secret {name} with {ALLOWED_ORIGINS_ANNOTATION}: {origin} (comma-separated, \
             if it goes elsewhere too)"
        ))),
    }
}
