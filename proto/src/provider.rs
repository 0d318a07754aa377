//! Provider formats: what a data plane and a controller must agree on about each
//! (canonical address, credential header, path of a listing).

use std::fmt;

/// The API dialect that an upstream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Chat completions, completions and embeddings, as OpenAI and its many kin serve them.
    OpenAi,
    /// OpenAI's Responses API.
    OpenAiResponses,
    /// Anthropic's Messages API with an API key.
    Anthropic,
    /// Anthropic's Messages API with an OAuth access token.
    AnthropicOauth,
    /// Google's Gemini API.
    Gemini,
}

/// How a credential is presented to an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialHeader {
    /// `Authorization: Bearer <key>`.
    Bearer,
    /// A header that holds the bare key.
    Bare(&'static str),
}

/// Names live in two spaces; a name may be claimed once in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Looked up by `/v1/responses…` only.
    Responses,
    /// Looked up by every other endpoint.
    General,
}

impl Format {
    /// All formats, in the order documentation lists them.
    pub const ALL: [Self; 5] = [
        Self::OpenAi,
        Self::OpenAiResponses,
        Self::Anthropic,
        Self::AnthropicOauth,
        Self::Gemini,
    ];

    /// The word in a manifest's `spec.format`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::OpenAiResponses => "openai_responses",
            Self::Anthropic => "anthropic",
            Self::AnthropicOauth => "anthropic_oauth",
            Self::Gemini => "gemini",
        }
    }

    /// The inverse of [`Format::as_str`].
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.as_str() == word)
    }

    /// Where the format lives when an object names no `baseUrl`. Holds the version segment.
    pub fn canonical_base_url(self) -> &'static str {
        match self {
            Self::OpenAi | Self::OpenAiResponses => "https://api.openai.com/v1",
            Self::Anthropic | Self::AnthropicOauth => "https://api.anthropic.com/v1",
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta",
        }
    }

    /// How the key is sent.
    pub fn credential_header(self) -> CredentialHeader {
        match self {
            Self::OpenAi | Self::OpenAiResponses | Self::AnthropicOauth => CredentialHeader::Bearer,
            Self::Anthropic => CredentialHeader::Bare("x-api-key"),
            Self::Gemini => CredentialHeader::Bare("x-goog-api-key"),
        }
    }

    /// The name space in which objects of this format claim names.
    pub fn family(self) -> Family {
        match self {
            Self::OpenAiResponses => Family::Responses,
            _ => Family::General,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Family {
    /// The word on the wire and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::General => "general",
        }
    }
}

/// Values that Anthropic's API asks for; each with its source.
pub mod anthropic {
    /// `anthropic-version` sent when the client names none
    /// (<https://docs.anthropic.com/en/api/versioning>).
    pub const VERSION: &str = "2023-06-01";
    /// The beta that makes the API accept an OAuth access token; sent always.
    pub const OAUTH_BETA: &str = "oauth-2025-04-20";
    /// Sent besides [`OAUTH_BETA`] unless the object sets `anthropic-beta` itself.
    pub const OAUTH_DEFAULT_BETA: &str = "claude-code-20250219";
    /// `max_tokens` (the API requires one) unless the object's `extraBody` sets it.
    pub const OAUTH_DEFAULT_MAX_TOKENS: u32 = 4096;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for format in Format::ALL {
            assert_eq!(Format::parse(format.as_str()), Some(format));
        }
        assert_eq!(Format::parse("OpenAI"), None);
    }
}
