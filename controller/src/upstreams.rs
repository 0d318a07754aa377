//! Asks a provider something on a person's behalf: does this model answer
//! ([`probe`]), and which models are there ([`catalogue`]).
//!
//! Both take the values of an ApiModel, saved or still in a form, and send what the
//! data plane would send. A provider is a stranger: every answer is bounded in time,
//! bytes and pages, redirects are not followed (they would carry the key elsewhere),
//! proxies from the environment are ignored, and the address that the egress policy
//! judged is the one that is dialled.

mod call;
pub mod catalogue;
pub mod probe;

use bodhi_proto::provider::{CredentialHeader, Format, anthropic};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{BaseUrl, BaseUrlError, EgressScope, Roots};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::api::{ApiModelSpec, AuthType, Feature, OutputLimitField};

/// A provider as an ApiModel describes it, with the key it is to be asked with.
#[derive(Debug, Clone)]
pub struct Target {
    format: Format,
    base_url: BaseUrl,
    headers: HeaderMap,
    extra_body: serde_json::Map<String, serde_json::Value>,
    features: Option<Vec<Feature>>,
    output_limit_field: OutputLimitField,
    first_model: Option<String>,
    roots: Roots,
    egress: EgressScope,
    key: Option<Secret>,
}

/// Why values of an ApiModel cannot be tried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// `spec.baseUrl`.
    #[error("baseUrl {0}")]
    BaseUrl(#[from] BaseUrlError),
    /// An entry of `spec.extraHeaders`.
    #[error("extraHeaders: '{0}' is not a header that can be sent")]
    Header(String),
    /// The key cannot be a header's value.
    #[error("the key holds characters that no header can carry")]
    Key,
    /// `spec.auth` asks for a key and there is none.
    #[error("there is no key for this origin: enter one")]
    KeyMissing,
}

impl Target {
    /// Reads what matters from a spec that passed validation (or a form, which may not have).
    /// `key` is left out of the request when the spec says `auth: None`.
    pub fn new(
        spec: &ApiModelSpec,
        key: Option<Secret>,
        roots: Roots,
        egress: EgressScope,
    ) -> Result<Self, TargetError> {
        let base_url = base_url(spec)?;
        let key = match (spec.auth.type_, key) {
            (AuthType::None, _) => None,
            (_, Some(key)) => Some(key),
            (_, None) => return Err(TargetError::KeyMissing),
        };
        // OpenAI's reasoning models refuse the older field; other servers may not know the newer.
        let openai = &*base_url.origin.host == "api.openai.com";
        Ok(Self {
            headers: headers(spec, key.as_ref())?,
            extra_body: spec.extra_body.clone().unwrap_or_default(),
            features: spec.features.clone(),
            output_limit_field: spec.output_limit_field.unwrap_or(match openai {
                true => OutputLimitField::MaxCompletionTokens,
                false => OutputLimitField::MaxTokens,
            }),
            first_model: spec.models.first().cloned(),
            format: spec.format,
            base_url,
            roots,
            egress,
            key,
        })
    }
}

/// The address in a spec, or its format's own.
pub fn base_url(spec: &ApiModelSpec) -> Result<BaseUrl, BaseUrlError> {
    let text = spec.base_url.as_deref();
    BaseUrl::parse(text.unwrap_or(spec.format.canonical_base_url()))
}

fn headers(spec: &ApiModelSpec, key: Option<&Secret>) -> Result<HeaderMap, TargetError> {
    let mut headers = HeaderMap::new();
    for header in &spec.extra_headers {
        let refuse = || TargetError::Header(header.name.clone());
        let name: HeaderName = header.name.parse().map_err(|_| refuse())?;
        let value = HeaderValue::from_str(&header.value).map_err(|_| refuse())?;
        headers.insert(name, value);
    }
    if matches!(spec.format, Format::Anthropic | Format::AnthropicOauth) {
        headers
            .entry("anthropic-version")
            .or_insert(HeaderValue::from_static(anthropic::VERSION));
    }
    if spec.format == Format::AnthropicOauth {
        let own = headers.get("anthropic-beta").map(HeaderValue::to_str);
        let rest = match own {
            Some(Ok(own)) => own,
            Some(Err(_)) => return Err(TargetError::Header("anthropic-beta".into())),
            None => anthropic::OAUTH_DEFAULT_BETA,
        };
        let all = union(anthropic::OAUTH_BETA, rest);
        let all = HeaderValue::from_str(&all).expect("a union of header values is one");
        headers.insert("anthropic-beta", all);
    }
    if let Some(key) = key {
        let (name, value) = match spec.format.credential_header() {
            CredentialHeader::Bearer => ("authorization", format!("Bearer {}", key.expose())),
            CredentialHeader::Bare(name) => (name, key.expose().to_owned()),
        };
        let value = zeroize::Zeroizing::new(value);
        let mut value = HeaderValue::from_str(&value).map_err(|_| TargetError::Key)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    headers.insert("accept-encoding", HeaderValue::from_static("identity"));
    headers.insert("accept", HeaderValue::from_static("application/json"));
    Ok(headers)
}

/// Comma-separated words of both, each once.
fn union(first: &str, second: &str) -> String {
    let mut words: Vec<&str> = Vec::new();
    for word in first.split(',').chain(second.split(',')).map(str::trim) {
        if !word.is_empty() && !words.contains(&word) {
            words.push(word);
        }
    }
    words.join(",")
}

/// What kept a provider from answering as hoped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In one word.
    pub reason: Reason,
    /// In a sentence, with what to do where that is known. Holds no key.
    pub message: String,
    /// What the provider said, if it said anything.
    pub upstream: Option<Answer>,
}

/// The kinds of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The provider does not take the key.
    InvalidApiKey,
    /// The connection broke, or the answer did not come in time.
    NetworkError,
    /// There was no connection: name, address, egress policy, port or TLS.
    ConnectionFailed,
    /// The provider asks to slow down.
    RateLimited,
    /// The provider answered with another error, or not in its format's shape.
    UpstreamError,
}

impl Reason {
    /// The word in the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidApiKey => "InvalidApiKey",
            Self::NetworkError => "NetworkError",
            Self::ConnectionFailed => "ConnectionFailed",
            Self::RateLimited => "RateLimited",
            Self::UpstreamError => "UpstreamError",
        }
    }
}

/// A provider's answer, cut to what helps a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The first 4 KiB of the body; the key, where the provider repeats it, blanked out.
    pub body: String,
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::testing::spec;
    use super::*;
    use serde_json::json;

    fn headers_of(spec: &ApiModelSpec) -> HeaderMap {
        let key = Some(Secret::new("sk-canary"));
        let target = Target::new(spec, key, Roots::System, EgressScope::Standalone).unwrap();
        target.headers
    }

    #[test]
    fn each_format_gets_its_own_credential_header() {
        for (format, name, value) in [
            ("openai", "authorization", "Bearer sk-canary"),
            ("openai_responses", "authorization", "Bearer sk-canary"),
            ("anthropic", "x-api-key", "sk-canary"),
            ("anthropic_oauth", "authorization", "Bearer sk-canary"),
            ("gemini", "x-goog-api-key", "sk-canary"),
        ] {
            let headers = headers_of(&spec(json!({"format": format})));
            assert_eq!(headers[name], value, "{format}");
            let carrying = headers
                .values()
                .filter(|v| v.to_str().unwrap().contains("canary"));
            assert_eq!(carrying.count(), 1, "{format}");
        }
    }

    #[test]
    fn oauth_adds_its_betas_and_keeps_the_objects_own() {
        let plain = headers_of(&spec(json!({"format": "anthropic_oauth"})));
        assert_eq!(
            plain["anthropic-beta"],
            "oauth-2025-04-20,claude-code-20250219"
        );
        assert_eq!(plain["anthropic-version"], "2023-06-01");
        let own = headers_of(&spec(json!({"format": "anthropic_oauth", "extraHeaders": [
            {"name": "Anthropic-Beta", "value": "x, oauth-2025-04-20"},
            {"name": "anthropic-version", "value": "2030-01-01"},
        ]})));
        assert_eq!(own["anthropic-beta"], "oauth-2025-04-20,x");
        assert_eq!(own["anthropic-version"], "2030-01-01");
    }

    #[test]
    fn a_key_is_needed_unless_the_spec_says_none() {
        let build = |auth: &str, key: Option<&str>| {
            let spec = spec(json!({"format": "openai", "auth": {"type": auth}}));
            let key = key.map(Secret::new);
            Target::new(&spec, key, Roots::System, EgressScope::Standalone).map(|t| t.headers)
        };
        assert_eq!(build("Stored", None).unwrap_err(), TargetError::KeyMissing);
        assert_eq!(build("Stored", Some("a\nb")).unwrap_err(), TargetError::Key);
        assert!(
            !build("None", Some("sk"))
                .unwrap()
                .contains_key("authorization")
        );
    }

    #[test]
    fn nothing_shows_the_key() {
        let spec = spec(json!({"format": "openai"}));
        let key = Some(Secret::new("sk-canary"));
        let target = Target::new(&spec, key, Roots::System, EgressScope::Standalone).unwrap();
        assert!(!format!("{target:?}").contains("canary"));
    }
}
