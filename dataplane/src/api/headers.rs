//! Which headers travel, and in which direction.

use http::header::{
    self, ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, SET_COOKIE,
};

use bodhi_proto::provider::{Format, anthropic};

/// `anthropic-version`
pub const ANTHROPIC_VERSION: HeaderName = HeaderName::from_static("anthropic-version");
/// `anthropic-beta`
pub const ANTHROPIC_BETA: HeaderName = HeaderName::from_static("anthropic-beta");
/// How much of each source the configuration contains that served a request.
pub const MARK: HeaderName = HeaderName::from_static("x-bodhi-mark");
/// Names the model of a call on a response by id; never travels upstream.
pub const BODHI_MODEL: HeaderName = HeaderName::from_static("x-bodhi-model");

/// Whether a client's header travels to an upstream of this format.
fn travels(name: &HeaderName, format: Format) -> bool {
    if name == ACCEPT || name == CONTENT_TYPE {
        return true;
    }
    let name = name.as_str();
    match name {
        "openai-beta" | "idempotency-key" => true,
        // Credential and billing names of Google's stay here: ours pays.
        "x-goog-api-key"
        | "x-goog-user-project"
        | "x-goog-iam-authorization-token"
        | "x-goog-iam-authority-selector" => false,
        _ => match format {
            Format::Anthropic | Format::AnthropicOauth => name.starts_with("anthropic-"),
            Format::Gemini => name.starts_with("x-goog-"),
            Format::OpenAi | Format::OpenAiResponses => false,
        },
    }
}

/// The head of a request to an upstream: what travels of the client's, then the object's
/// own where the client named none, then what we must add. `host` is the connection's to set.
pub fn upstream_request(
    client: &HeaderMap,
    format: Format,
    extra: &[(HeaderName, HeaderValue)],
    credential: Option<&(HeaderName, HeaderValue)>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(6 + extra.len());
    for (name, value) in client {
        if travels(name, format) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in extra {
        if *name == ANTHROPIC_BETA {
            join_betas(&mut headers, value);
        } else if !headers.contains_key(name) {
            headers.insert(name, value.clone());
        }
    }
    if matches!(format, Format::Anthropic | Format::AnthropicOauth) {
        headers
            .entry(ANTHROPIC_VERSION)
            .or_insert(HeaderValue::from_static(anthropic::VERSION));
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some((name, value)) = credential {
        headers.insert(name, value.clone());
    }
    headers
}

/// The union of two comma lists, without repeats, the client's first.
fn join_betas(headers: &mut HeaderMap, ours: &HeaderValue) {
    let mut union: Vec<&[u8]> = Vec::new();
    for value in headers.get_all(ANTHROPIC_BETA).iter().chain([ours]) {
        for beta in value.as_bytes().split(|b| *b == b',') {
            let beta = beta.trim_ascii();
            if !beta.is_empty() && !union.contains(&beta) {
                union.push(beta);
            }
        }
    }
    let joined = union.join(&b","[..]);
    let value = HeaderValue::from_bytes(&joined).expect("pieces of header values and commas");
    headers.insert(ANTHROPIC_BETA, value);
}

/// Removes from an upstream's response what is the connection's own or a browser's:
/// hop-by-hop headers (RFC 9110, 7.6.1), cookies and its own CORS answers.
pub fn filter_response(headers: &mut HeaderMap) {
    if let Some(connection) = headers.remove(CONNECTION) {
        let named: Vec<HeaderName> = connection
            .to_str()
            .unwrap_or("")
            .split(',')
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    // Most responses hold none of these: look before removing.
    let drop = |name: &HeaderName| {
        matches!(
            *name,
            header::TRANSFER_ENCODING
                | header::TE
                | header::TRAILER
                | header::UPGRADE
                | header::PROXY_AUTHENTICATE
                | header::PROXY_AUTHORIZATION
                | SET_COOKIE
        ) || matches!(
            name.as_str(),
            "keep-alive" | "proxy-connection" | "set-cookie2"
        ) || name.as_str().starts_with("access-control-")
            || name.as_str().starts_with("x-bodhi-")
    };
    if headers.keys().any(drop) {
        let named: Vec<HeaderName> = headers.keys().filter(|n| drop(n)).cloned().collect();
        for name in named {
            headers.remove(name);
        }
    }
}

/// Whether a response is `text/event-stream`.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"text/event-stream";
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.len() >= TYPE.len() && value[..TYPE.len()].eq_ignore_ascii_case(TYPE)
    })
}

/// The credential header an upstream of this format expects. The value is marked sensitive.
pub fn credential(format: Format, key: &str) -> Option<(HeaderName, HeaderValue)> {
    use bodhi_proto::provider::CredentialHeader;
    let (name, text) = match format.credential_header() {
        CredentialHeader::Bearer => (AUTHORIZATION, format!("Bearer {key}")),
        CredentialHeader::Bare(name) => (HeaderName::from_static(name), key.to_owned()),
    };
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v)))
            .collect()
    }

    fn request(
        client: &HeaderMap,
        format: Format,
        extra: &[(&'static str, &'static str)],
    ) -> HeaderMap {
        let extra: Vec<_> = map(extra)
            .into_iter()
            .map(|(n, v)| (n.expect("one each"), v))
            .collect();
        upstream_request(client, format, &extra, credential(format, "sk-up").as_ref())
    }

    #[test]
    fn only_named_headers_travel() {
        let client = map(&[
            ("authorization", "Bearer bodhi_x"),
            ("x-api-key", "bodhi_x"),
            ("cookie", "a=b"),
            ("x-goog-api-key", "bodhi_x"),
            ("x-goog-user-project", "p"),
            ("x-goog-api-client", "gl"),
            ("anthropic-dangerous", "1"),
            ("openai-organization", "o"),
            ("openai-beta", "b"),
            ("idempotency-key", "i"),
            ("content-type", "application/json"),
            ("x-bodhi-model", "m"),
            ("transfer-encoding", "chunked"),
            ("user-agent", "sdk"),
            ("x-forwarded-for", "1.2.3.4"),
        ]);
        let names = |format| {
            let mut names: Vec<_> = request(&client, format, &[])
                .keys()
                .map(|k| k.to_string())
                .collect();
            names.sort();
            names
        };
        let common = [
            "accept-encoding",
            "content-type",
            "idempotency-key",
            "openai-beta",
        ];
        let with = |own: &[&str]| {
            let mut all: Vec<_> = common.iter().chain(own).map(|s| s.to_string()).collect();
            all.sort();
            all
        };
        assert_eq!(names(Format::OpenAi), with(&["authorization"]));
        assert_eq!(
            names(Format::Gemini),
            with(&["x-goog-api-client", "x-goog-api-key"])
        );
        assert_eq!(
            names(Format::Anthropic),
            with(&["anthropic-dangerous", "anthropic-version", "x-api-key"])
        );
    }

    #[test]
    fn the_clients_value_wins_over_the_objects_and_ours_over_both() {
        let client = map(&[
            ("anthropic-version", "2024-01-01"),
            ("x-api-key", "client's"),
        ]);
        let sent = request(
            &client,
            Format::Anthropic,
            &[("anthropic-version", "2020"), ("x-team", "a")],
        );
        assert_eq!(sent["anthropic-version"], "2024-01-01");
        assert_eq!(sent["x-team"], "a");
        assert_eq!(sent["x-api-key"], "sk-up");
        assert!(sent["x-api-key"].is_sensitive());
    }

    #[test]
    fn betas_are_united_without_repeats() {
        let client = map(&[("anthropic-beta", "b, a")]);
        let sent = request(
            &client,
            Format::AnthropicOauth,
            &[("anthropic-beta", "a,oauth-2025-04-20")],
        );
        assert_eq!(sent["anthropic-beta"], "b,a,oauth-2025-04-20");
    }

    #[test]
    fn responses_lose_what_belongs_to_the_connection() {
        let mut headers = map(&[
            ("connection", "x-hop, close"),
            ("x-hop", "1"),
            ("keep-alive", "t"),
            ("set-cookie", "a=b"),
            ("access-control-allow-origin", "https://x"),
            ("retry-after", "7"),
            ("x-request-id", "r"),
            ("x-ratelimit-remaining-requests", "9"),
            ("transfer-encoding", "chunked"),
            ("x-bodhi-error-source", "gateway"),
        ]);
        filter_response(&mut headers);
        let mut left: Vec<_> = headers.keys().map(|k| k.to_string()).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "retry-after",
                "x-ratelimit-remaining-requests",
                "x-request-id"
            ]
        );
    }
}
