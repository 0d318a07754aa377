//! Which servers stand behind `hf://` and `s3://`, and the URL of a file on them.

use std::path::PathBuf;
use std::time::Duration;

use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::EgressScope;
use rusty_s3::{Bucket, Credentials, S3Action as _, UrlStyle};
use url::Url;

use super::download::Patience;
use super::source::{PlainHttp, Source, shown};

/// The operator's side of a download.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The model hub, or a mirror of it.
    pub hub: Url,
    /// For hub sources without a token of their own; it goes to the hub's origin only.
    pub hub_token: Option<Secret>,
    /// The object store.
    pub s3: S3,
    /// Where the controller mounts volumes: `CLAIMS/claim/path`.
    pub claims: PathBuf,
    /// Which addresses may be dialled.
    pub egress: EgressScope,
    /// Which machines may be spoken to in cleartext.
    pub plain_http: PlainHttp,
    /// How often and how long to try.
    pub patience: Patience,
}

/// An S3 endpoint.
#[derive(Debug, Clone)]
pub struct S3 {
    /// `None`: Amazon's, with the bucket in the host name. Else the bucket is the path's first segment.
    pub endpoint: Option<Url>,
    /// As signatures name it.
    pub region: String,
    /// `None`: the bucket is public.
    pub keys: Option<S3Keys>,
}

/// What requests are signed with.
#[derive(Debug, Clone)]
pub struct S3Keys {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not an absolute http(s) URL.
    #[error("{name} is not an absolute http:// or https:// URL")]
    Url {
        /// The variable.
        name: &'static str,
    },
    /// http:// to another machine.
    #[error("{name} is http:// to another machine: use https://, or allow plain http explicitly")]
    PlainHttp {
        /// The variable.
        name: &'static str,
    },
    /// One half of a pair.
    #[error("{present} is set without {missing}")]
    HalfKey {
        /// The variable that is set.
        present: &'static str,
        /// The one that is not.
        missing: &'static str,
    },
}

/// Signed URLs are made for each try, so they need to live no longer than one takes to be answered.
const SIGNED_FOR: Duration = Duration::from_secs(900);

impl Settings {
    /// From the usual variables: `HF_ENDPOINT`, `HF_TOKEN`, `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`,
    /// `AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`. Empty ones count as absent.
    ///
    /// # Errors
    /// [`SettingsError`], the first fault.
    pub fn from_variables(
        read: impl Fn(&str) -> Option<String>,
        claims: PathBuf,
        egress: EgressScope,
        plain_http: PlainHttp,
    ) -> Result<Self, SettingsError> {
        let read = |name: &str| read(name).filter(|value| !value.is_empty());
        let url = |name: &'static str| {
            read(name)
                .map(|text| endpoint(name, &text, plain_http))
                .transpose()
        };
        let amazon = match url("AWS_ENDPOINT_URL_S3")? {
            Some(url) => Some(url),
            None => url("AWS_ENDPOINT_URL")?,
        };
        const ID: &str = "AWS_ACCESS_KEY_ID";
        const SECRET: &str = "AWS_SECRET_ACCESS_KEY";
        let half = |present, missing| Err(SettingsError::HalfKey { present, missing });
        let keys = match (read(ID), read(SECRET)) {
            (Some(id), Some(secret)) => Some(S3Keys {
                id,
                secret: Secret::new(secret),
                session_token: read("AWS_SESSION_TOKEN").map(Secret::new),
            }),
            (None, None) => None,
            (Some(_), None) => return half(ID, SECRET),
            (None, Some(_)) => return half(SECRET, ID),
        };
        let region = read("AWS_REGION").or_else(|| read("AWS_DEFAULT_REGION"));
        Ok(Self {
            hub: match url("HF_ENDPOINT")? {
                Some(url) => url,
                None => endpoint("HF_ENDPOINT", "https://huggingface.co", plain_http)?,
            },
            hub_token: read("HF_TOKEN").map(Secret::new),
            s3: S3 {
                endpoint: amazon,
                region: region.unwrap_or_else(|| "us-east-1".to_owned()),
                keys,
            },
            claims,
            egress,
            plain_http,
            patience: Patience::default(),
        })
    }
}

fn endpoint(name: &'static str, text: &str, plain: PlainHttp) -> Result<Url, SettingsError> {
    let url = Url::parse(text).map_err(|_| SettingsError::Url { name })?;
    match url.scheme() {
        "http" | "https" if url.query().is_none() && url.has_host() => {}
        _ => return Err(SettingsError::Url { name }),
    }
    match plain.allows(&url) {
        true => Ok(url),
        false => Err(SettingsError::PlainHttp { name }),
    }
}

/// A file's place.
pub(super) enum Place {
    /// On this machine.
    Here(PathBuf),
    /// Behind a URL.
    There,
}

pub(super) fn place(source: &Source, settings: &Settings) -> Place {
    match source {
        Source::File(path) => Place::Here(path.clone()),
        Source::Claim { claim, path } => Place::Here(settings.claims.join(claim).join(path)),
        Source::Web(_) | Source::Hub { .. } | Source::S3 { .. } => Place::There,
    }
}

/// The URL to get `source` from now, signed if it is an object store's. `Err` says what is impossible.
pub(super) fn url(
    source: &Source,
    revision: Option<&str>,
    settings: &Settings,
) -> Result<Url, String> {
    match source {
        Source::Web(url) => Ok(url.clone()),
        Source::Hub { repository, path } => hub_url(&settings.hub, repository, revision, path)
            .ok_or_else(|| format!("{} cannot have a path", shown(&settings.hub))),
        Source::S3 { bucket, key } => s3_url(&settings.s3, bucket, key),
        Source::File(_) | Source::Claim { .. } => Err("a local file has no URL".to_owned()),
    }
}

/// `ENDPOINT/OWNER/REPO/resolve/REVISION/PATH`; a revision's slashes are one segment's.
fn hub_url(hub: &Url, repository: &str, revision: Option<&str>, path: &str) -> Option<Url> {
    let mut url = hub.clone();
    url.path_segments_mut()
        .ok()?
        .pop_if_empty()
        .extend(repository.split('/'))
        .push("resolve")
        .push(revision.unwrap_or("main"))
        .extend(path.split('/'));
    Some(url)
}

fn s3_url(s3: &S3, bucket: &str, key: &str) -> Result<Url, String> {
    let (endpoint, style) = match &s3.endpoint {
        Some(endpoint) => (endpoint.clone(), UrlStyle::Path),
        None => {
            let text = format!("https://s3.{}.amazonaws.com", s3.region);
            let url = Url::parse(&text).map_err(|_| format!("'{}' is no region", s3.region))?;
            // A dot would make a second label, which the certificate does not cover.
            let style = if bucket.contains('.') {
                UrlStyle::Path
            } else {
                UrlStyle::VirtualHost
            };
            (url, style)
        }
    };
    let bucket = Bucket::new(endpoint, style, bucket.to_owned(), s3.region.clone())
        .map_err(|error| format!("bucket '{bucket}': {error}"))?;
    let credentials = s3.keys.as_ref().map(|keys| match &keys.session_token {
        Some(token) => Credentials::new_with_token(&keys.id, keys.secret.expose(), token.expose()),
        None => Credentials::new(&keys.id, keys.secret.expose()),
    });
    Ok(bucket
        .get_object(credentials.as_ref(), key)
        .sign(SIGNED_FOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let read = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let egress = EgressScope::Standalone;
        Settings::from_variables(read, "/claims".into(), egress, PlainHttp::Loopback)
    }

    fn address(source: &str, revision: Option<&str>, variables: &[(&str, &str)]) -> String {
        let source = Source::parse(source, PlainHttp::Loopback).unwrap();
        url(&source, revision, &settings(variables).unwrap())
            .unwrap()
            .to_string()
    }

    #[test]
    fn a_hub_file_is_resolved_at_its_revision() {
        for (source, revision, endpoint, expected) in [
            (
                "hf://o/r/a.gguf",
                None,
                "",
                "https://huggingface.co/o/r/resolve/main/a.gguf",
            ),
            (
                "hf://o/r/q 4/a#1.gguf",
                Some("refs/pr/1"),
                "",
                "https://huggingface.co/o/r/resolve/refs%2Fpr%2F1/q%204/a%231.gguf",
            ),
            (
                "hf://o/r/a.gguf",
                Some("v1"),
                "https://mirror.example/hub/",
                "https://mirror.example/hub/o/r/resolve/v1/a.gguf",
            ),
        ] {
            assert_eq!(
                address(source, revision, &[("HF_ENDPOINT", endpoint)]),
                expected
            );
        }
    }

    #[test]
    fn a_public_bucket_is_asked_without_a_signature() {
        for (source, variables, expected) in [
            (
                "s3://bucket/f/a b",
                &[][..],
                "https://bucket.s3.us-east-1.amazonaws.com/f/a%20b",
            ),
            (
                "s3://bucket/a",
                &[("AWS_DEFAULT_REGION", "eu-west-1")],
                "https://bucket.s3.eu-west-1.amazonaws.com/a",
            ),
            (
                "s3://my.bucket/a",
                &[],
                "https://s3.us-east-1.amazonaws.com/my.bucket/a",
            ),
            (
                "s3://bucket/a",
                &[("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")],
                "http://127.0.0.1:9000/bucket/a",
            ),
        ] {
            assert_eq!(address(source, None, variables), expected);
        }
    }

    #[test]
    fn keys_sign_and_are_not_shown() {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "canary-secret"),
            ("AWS_SESSION_TOKEN", "canary-session"),
            ("AWS_REGION", "eu-central-1"),
        ];
        let signed = address("s3://bucket/a", None, &variables);
        for part in [
            "https://bucket.s3.eu-central-1.amazonaws.com/a?",
            "X-Amz-Algorithm=AWS4-HMAC-SHA256",
            "X-Amz-Credential=AKIDEXAMPLE%2F",
            "%2Feu-central-1%2Fs3%2Faws4_request",
            "X-Amz-Security-Token=canary-session",
            "X-Amz-Signature=",
        ] {
            assert!(signed.contains(part), "{part}");
        }
        assert!(!signed.contains("canary-secret"));
        let shown = format!("{:?}", settings(&variables).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn settings_that_cannot_be_used_are_named() {
        for (variables, expected) in [
            ([("HF_ENDPOINT", "mirror"), ("", "")], "HF_ENDPOINT is not"),
            (
                [("HF_ENDPOINT", "http://mirror.example"), ("", "")],
                "HF_ENDPOINT is http://",
            ),
            (
                [("AWS_ACCESS_KEY_ID", "a"), ("", "")],
                "without AWS_SECRET_ACCESS_KEY",
            ),
            (
                [("AWS_SECRET_ACCESS_KEY", "a"), ("", "")],
                "without AWS_ACCESS_KEY_ID",
            ),
        ] {
            let error = settings(&variables).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
