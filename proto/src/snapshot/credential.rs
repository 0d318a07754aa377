//! A provider's key and where it may be sent.

use std::fmt;

use super::{BaseUrl, Origin, Scheme};
use crate::names::ObjectRef;
use crate::secret::Secret;

/// Why an entry of `bodhi.dev/allowed-origins` is not an origin pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: write scheme://host or scheme://host:port, where host may begin with '*.'"
)]
pub struct OriginPatternError(String);

/// `https://openrouter.ai` or `https://*.openai.azure.com`: scheme, host and port must match.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OriginPattern {
    origin: Origin,
    /// The host was written `*.host`: one or more labels must come before it.
    subdomains: bool,
}

impl OriginPattern {
    /// Parses one entry; a path, query or userinfo is refused.
    pub fn parse(text: &str) -> Result<Self, OriginPatternError> {
        let refuse = || OriginPatternError(text.to_owned());
        let text = text.trim();
        let (plain, subdomains) = match text.split_once("://*.") {
            Some((scheme, rest)) => (format!("{scheme}://{rest}"), true),
            None => (text.to_owned(), false),
        };
        let url = BaseUrl::parse(&plain).map_err(|_| refuse())?;
        if !url.path.is_empty() || url.origin.host.contains('*') {
            return Err(refuse());
        }
        Ok(Self {
            origin: url.origin,
            subdomains,
        })
    }

    /// Exactly this origin.
    pub fn exact(origin: Origin) -> Self {
        Self {
            origin,
            subdomains: false,
        }
    }

    fn matches(&self, origin: &Origin) -> bool {
        let own = &self.origin;
        own.scheme == origin.scheme
            && own.port == origin.port
            && match self.subdomains {
                false => own.host == origin.host,
                true => origin
                    .host
                    .strip_suffix(&*own.host)
                    .and_then(|labels| labels.strip_suffix('.'))
                    .is_some_and(|labels| !labels.is_empty()),
            }
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.origin.scheme.as_str();
        let star = if self.subdomains { "*." } else { "" };
        write!(f, "{scheme}://{star}{}", self.origin.authority())
    }
}

/// Where a key may go. Enforced on every attempt, not only where it was configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Standalone, where the person who wrote the file is the operator.
    Any,
    /// One of these.
    Listed(Vec<OriginPattern>),
}

impl AllowedOrigins {
    /// Whether the key may be sent to `origin`.
    pub fn permit(&self, origin: &Origin) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(patterns) => patterns.iter().any(|p| p.matches(origin)),
        }
    }

    /// The canonical https origins of the formats: what a Secret without the annotation allows.
    pub fn canonical() -> Self {
        let origin = |host: &str| {
            OriginPattern::exact(Origin {
                scheme: Scheme::Https,
                host: host.into(),
                port: 443,
            })
        };
        Self::Listed(
            [
                "api.openai.com",
                "api.anthropic.com",
                "generativelanguage.googleapis.com",
                "huggingface.co",
            ]
            .map(origin)
            .to_vec(),
        )
    }
}

/// The key of one ApiModel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// The ApiModel that uses it.
    pub object: ObjectRef,
    /// The key.
    pub secret: Secret,
    /// Where it may be sent.
    pub allowed_origins: AllowedOrigins,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(pattern: &str, url: &str) -> bool {
        AllowedOrigins::Listed(vec![OriginPattern::parse(pattern).unwrap()])
            .permit(&BaseUrl::parse(url).unwrap().origin)
    }

    #[test]
    fn scheme_host_and_port_must_match() {
        assert!(permits(
            "https://openrouter.ai",
            "https://openrouter.ai/api/v1"
        ));
        assert!(permits(
            "https://openrouter.ai:443",
            "https://OpenRouter.ai"
        ));
        assert!(!permits("https://openrouter.ai", "http://openrouter.ai"));
        assert!(!permits(
            "https://openrouter.ai",
            "https://openrouter.ai:8443"
        ));
        assert!(!permits(
            "https://openrouter.ai",
            "https://openrouter.ai.evil.example"
        ));
    }

    #[test]
    fn a_star_stands_for_whole_labels() {
        let star = "https://*.openai.azure.com";
        assert!(permits(star, "https://eu.openai.azure.com/v1"));
        assert!(permits(star, "https://a.b.openai.azure.com"));
        assert!(!permits(star, "https://openai.azure.com"));
        assert!(!permits(star, "https://evilopenai.azure.com"));
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for bad in [
            "*",
            "openrouter.ai",
            "https://*",
            "https://a.*.b",
            "https://a/v1",
            "https://u@a",
        ] {
            assert!(OriginPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn canonical_origins_are_the_formats_own() {
        for format in crate::provider::Format::ALL {
            let url = BaseUrl::parse(format.canonical_base_url()).unwrap();
            assert!(AllowedOrigins::canonical().permit(&url.origin), "{format}");
        }
    }
}
