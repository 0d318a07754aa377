//! A provider as a data plane calls it.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::names::ObjectRef;
use crate::provider::{Format, anthropic};

/// How an origin is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// Cleartext, allowed by `insecureHttp: true`.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// 80 or 443.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Scheme, host and port (RFC 6454): what a key is bound to and a connection is made to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Lower case; IPv6 literals without brackets.
    pub host: Arc<str>,
    /// Always explicit here.
    pub port: u16,
}

impl Origin {
    /// `host` or `host:port` as a `Host` header wants it: the default port left out, IPv6 in brackets.
    pub fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.to_string(),
        };
        match self.port == self.scheme.default_port() {
            true => host,
            false => format!("{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Why a `baseUrl` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BaseUrlError {
    /// Not `http://` or `https://`.
    #[error("must be an absolute http:// or https:// URL")]
    NotHttp,
    /// Not parseable as a URL (RFC 3986).
    #[error("is not a valid URL: {0}")]
    Invalid(String),
    /// Userinfo, query or fragment.
    #[error("must not hold a {0}")]
    Holds(&'static str),
}

/// An upstream's base address: origin plus a path such as `/v1`, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BaseUrl {
    /// Where to connect.
    pub origin: Origin,
    /// Empty or starting with `/`.
    pub path: Arc<str>,
}

impl BaseUrl {
    /// Parses an absolute http(s) URL with a host and no userinfo, query or fragment.
    /// Trailing slashes are trimmed.
    pub fn parse(text: &str) -> Result<Self, BaseUrlError> {
        if text.contains('#') {
            return Err(BaseUrlError::Holds("fragment"));
        }
        let uri: http::Uri = text
            .parse()
            .map_err(|e: http::uri::InvalidUri| BaseUrlError::Invalid(e.to_string()))?;
        let scheme = match uri.scheme_str() {
            Some(s) if s.eq_ignore_ascii_case("https") => Scheme::Https,
            Some(s) if s.eq_ignore_ascii_case("http") => Scheme::Http,
            _ => return Err(BaseUrlError::NotHttp),
        };
        let authority = uri.authority().ok_or(BaseUrlError::NotHttp)?;
        if authority.as_str().contains('@') {
            return Err(BaseUrlError::Holds("user or password"));
        }
        if uri.query().is_some() {
            return Err(BaseUrlError::Holds("query"));
        }
        if authority.port_u16().is_none() && authority.as_str().len() > authority.host().len() {
            let why = "its port is not a number up to 65535";
            return Err(BaseUrlError::Invalid(why.into()));
        }
        let host = authority
            .host()
            .trim_matches(['[', ']'])
            .to_ascii_lowercase();
        if host.is_empty() {
            return Err(BaseUrlError::Invalid("it names no host".into()));
        }
        Ok(Self {
            origin: Origin {
                scheme,
                port: authority.port_u16().unwrap_or(scheme.default_port()),
                host: host.into(),
            },
            path: uri.path().trim_end_matches('/').into(),
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.path)
    }
}

/// Whether a request needs a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Never sent without its [`Credential`](super::Credential).
    Credential,
    /// `auth: None`: no credential header is sent.
    None,
}

/// An inference endpoint of the `openai` format that an object may leave out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/chat/completions`
    Chat,
    /// `/completions`
    Completions,
    /// `/embeddings`
    Embeddings,
}

/// The endpoints that an `openai` upstream offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Offers `/chat/completions`.
    pub chat: bool,
    /// Offers `/completions`.
    pub completions: bool,
    /// Offers `/embeddings`.
    pub embeddings: bool,
}

impl Features {
    /// The default: everything.
    pub const ALL: Self = Self {
        chat: true,
        completions: true,
        embeddings: true,
    };

    /// Whether `endpoint` is offered.
    pub fn offers(self, endpoint: Endpoint) -> bool {
        match endpoint {
            Endpoint::Chat => self.chat,
            Endpoint::Completions => self.completions,
            Endpoint::Embeddings => self.embeddings,
        }
    }
}

/// Where a cap is written when an `openai` request named no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputLimitField {
    /// `max_tokens`
    MaxTokens,
    /// `max_completion_tokens`; reasoning models refuse the other.
    MaxCompletionTokens,
}

/// How long each stage of a call may take. There is no total: streams may be long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// DNS and TCP; TLS has as much again.
    pub connect: Duration,
    /// From the last byte of the request to the response head.
    pub first_byte: Duration,
    /// Between two pieces of the response body.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(300),
            idle: Duration::from_secs(120),
        }
    }
}

/// The certificates that an upstream's must chain to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Roots {
    /// The system's.
    System,
    /// These alone, PEM (`caBundleRef`).
    Bundle(Arc<str>),
}

/// Where the operator lets an object lead (design: the operator's word, not its author's).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EgressScope {
    /// Standalone: public, private and loopback addresses.
    Standalone,
    /// The release's own namespace in a cluster: public and private addresses.
    Release,
    /// Any other namespace: public addresses, and these ranges (`--egress-allow NS=CIDR`).
    Tenant(Arc<[IpNet]>),
}

/// An ApiModel, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// The ApiModel it was compiled from.
    pub object: ObjectRef,
    /// The dialect it speaks.
    pub format: Format,
    /// Where it is.
    pub base_url: BaseUrl,
    /// Whether a key is needed.
    pub auth: Auth,
    /// What an `openai` upstream offers; everything for the others.
    pub features: Features,
    /// Where a cap goes when an `openai` request named none.
    pub output_limit_field: OutputLimitField,
    /// Sent besides the client's; the client's value of the same name wins.
    pub extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// A JSON object merged into bodies; the client's scalars and arrays win.
    pub extra_body: Option<Arc<str>>,
    /// How long each stage may take.
    pub timeouts: Timeouts,
    /// Attempts in all; further ones only of what was never written.
    pub attempts: NonZeroU32,
    /// Most requests in flight per data plane.
    pub max_in_flight: NonZeroU32,
    /// Which certificates it may show.
    pub roots: Roots,
    /// Which addresses may be dialled.
    pub egress: EgressScope,
}

impl Upstream {
    /// The headers sent besides the client's: the object's own, and what its format needs.
    ///
    /// `anthropic_oauth` always carries the OAuth beta; where the object sets no headers at all,
    /// the format's defaults join it.
    pub fn effective_headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = self.extra_headers.clone();
        if self.format != Format::AnthropicOauth {
            return headers;
        }
        let beta = HeaderName::from_static("anthropic-beta");
        if headers.is_empty() {
            let version = HeaderName::from_static("anthropic-version");
            headers.push((version, HeaderValue::from_static(anthropic::VERSION)));
            headers.push((
                beta.clone(),
                HeaderValue::from_static(anthropic::OAUTH_DEFAULT_BETA),
            ));
        }
        headers.push((beta, HeaderValue::from_static(anthropic::OAUTH_BETA)));
        headers
    }

    /// The JSON object merged into bodies: the object's own, else what its format needs.
    pub fn effective_body(&self) -> Option<Cow<'_, str>> {
        match (&self.extra_body, self.format) {
            (Some(body), _) => Some(Cow::Borrowed(body)),
            (None, Format::AnthropicOauth) => Some(Cow::Owned(format!(
                r#"{{"max_tokens":{}}}"#,
                anthropic::OAUTH_DEFAULT_MAX_TOKENS
            ))),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_urls_are_parsed_into_origin_and_path() {
        let url = BaseUrl::parse("https://API.openai.com/v1//").unwrap();
        assert_eq!(url.to_string(), "https://api.openai.com/v1");
        assert_eq!(url.origin.port, 443);
        let url = BaseUrl::parse("http://[::1]:8080").unwrap();
        assert_eq!((&*url.origin.host, &*url.path), ("::1", ""));
        assert_eq!(url.origin.authority(), "[::1]:8080");
    }

    #[test]
    fn base_urls_that_could_mislead_are_refused() {
        for bad in [
            "",
            "api.openai.com",
            "/v1",
            "ftp://a/",
            "https://",
            "https://u:p@a/v1",
            "https://a/v1?x=1",
            "https://a/v1#f",
            "https://a b/",
            "https://@a/",
            "https://a:b/v1",
            "https://a:99999/v1",
            "https://a:/v1",
        ] {
            assert!(BaseUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
