//! Who is calling: the credential of a request, looked up in the snapshot.
//!
//! A token of ours is found by its hash. What is not found and looks like a JWT may be a
//! ServiceAccount's.

mod service_account;

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Uri};

use bodhi_net::service_account::looks_like_jwt;
use bodhi_proto::snapshot::{Token, TokenHash, TokenTable};
use bodhi_proto::token;

use crate::api::Surface;
use crate::api::error::Failure;

pub use service_account::Accounts;

/// Whom this data plane knows.
#[derive(Debug, Clone, Copy)]
pub struct Callers<'a> {
    /// Those with tokens; `None`: no table was ever received.
    pub tokens: Option<&'a TokenTable>,
    /// Those with ServiceAccounts of the cluster; `None`: nobody.
    pub accounts: Option<&'a Accounts>,
}

/// Finds the caller's token. `Authorization` wins over the vendors' headers, and those over
/// `?key=`. `now` is Unix seconds.
pub fn authenticate(
    surface: Surface,
    uri: &Uri,
    headers: &HeaderMap,
    callers: Callers<'_>,
    now: i64,
) -> Result<Arc<Token>, Failure> {
    let key;
    let presented: &[u8] = match presented(surface, headers)? {
        Some(text) => text,
        None => {
            key = match surface {
                Surface::Gemini => query_key(uri),
                Surface::OpenAi | Surface::Anthropic => None,
            };
            key.as_deref().ok_or(Failure::MissingCredentials)?
        }
    };
    let hash = TokenHash::of(presented);
    match callers.tokens.and_then(|tokens| tokens.get(&hash)) {
        Some(token) => match token.expires {
            Some(expires) if expires <= now => Err(Failure::ExpiredToken),
            _ => Ok(Arc::clone(token)),
        },
        None => unlisted(presented, hash, callers, now),
    }
}

/// A credential that is not in the table.
fn unlisted(
    presented: &[u8],
    hash: TokenHash,
    callers: Callers<'_>,
    now: i64,
) -> Result<Arc<Token>, Failure> {
    let is_jwt = looks_like_jwt(presented);
    if let (true, Some(accounts)) = (is_jwt, callers.accounts) {
        return accounts.authenticate(presented, hash, now);
    }
    if callers.tokens.is_none() {
        return Err(Failure::NotReady(
            "This data plane has not received its tokens yet.".into(),
        ));
    }
    let why = match (is_jwt, looks_truncated(presented)) {
        (true, _) => "it looks like a JWT, and no ServiceAccount may call this gateway",
        (_, true) => "its checksum is wrong; it may have been cut or changed while copying",
        (_, false) => "it is unknown or was revoked",
    };
    Err(Failure::InvalidToken(why.into()))
}

fn presented(surface: Surface, headers: &HeaderMap) -> Result<Option<&[u8]>, Failure> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        // RFC 9110, 11.1: the scheme is matched without regard to case.
        let bytes = value.as_bytes();
        return match bytes.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => {
                Ok(Some(rest.trim_ascii()))
            }
            _ => Err(Failure::InvalidToken(
                "the Authorization header must read 'Bearer <token>'".into(),
            )),
        };
    }
    let name = match surface {
        Surface::OpenAi | Surface::Anthropic => "x-api-key",
        Surface::Gemini => "x-goog-api-key",
    };
    Ok(headers.get(name).map(|v| v.as_bytes().trim_ascii()))
}

/// The first query parameter whose decoded name is `key`, decoded.
fn query_key(uri: &Uri) -> Option<Vec<u8>> {
    crate::api::query::pairs(uri.query()?)
        .find(|pair| pair.name() == "key")
        .map(|pair| pair.value().into_owned().into_bytes())
}

fn looks_truncated(presented: &[u8]) -> bool {
    presented.starts_with(token::PREFIX.as_bytes()) && token::parse(presented).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodhi_proto::names::TokenId;
    use bodhi_proto::snapshot::{Scope, TokenLimits};

    const TOKEN: &str = "static-key";

    fn table(expires: Option<i64>) -> TokenTable {
        let token = Arc::new(Token {
            id: TokenId::parse("t1").unwrap(),
            hash: TokenHash::of(TOKEN.as_bytes()),
            owner: "team".into(),
            scope: Scope::User,
            expires,
            models: None,
            output_caps: Vec::new(),
            limits: TokenLimits::default(),
        });
        TokenTable::default().changed(&[token], &[])
    }

    fn ask(uri: &str, headers: &[(&'static str, &str)]) -> Result<String, Failure> {
        let uri: Uri = uri.parse().unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let tokens = table(None);
        let surface = Surface::of(uri.path(), &map);
        authenticate(surface, &uri, &map, callers(Some(&tokens)), 0).map(|t| t.id.to_string())
    }

    fn callers(tokens: Option<&TokenTable>) -> Callers<'_> {
        let accounts = None;
        Callers { tokens, accounts }
    }

    #[test]
    fn each_surface_takes_its_vendors_header_and_all_take_bearer() {
        let bearer = [("authorization", "bEaReR static-key")];
        for path in ["/v1/models", "/anthropic/v1/models", "/v1beta/models"] {
            assert_eq!(ask(path, &bearer).unwrap(), "t1", "{path}");
        }
        assert!(ask("/v1/models", &[("x-api-key", TOKEN)]).is_ok());
        assert!(ask("/anthropic/v1/models", &[("x-api-key", TOKEN)]).is_ok());
        assert!(ask("/v1beta/models", &[("x-goog-api-key", TOKEN)]).is_ok());
        assert!(ask("/v1beta/models?a=b&%6bey=static%2Dkey", &[]).is_ok());
    }

    #[test]
    fn a_header_of_another_surface_is_not_a_credential() {
        let missing = Err(Failure::MissingCredentials);
        assert_eq!(ask("/v1beta/models", &[("x-api-key", TOKEN)]), missing);
        assert_eq!(
            ask("/v1/chat/completions", &[("x-goog-api-key", TOKEN)]),
            missing
        );
        assert_eq!(ask("/v1/models?key=static-key", &[]), missing);
    }

    #[test]
    fn authorization_wins_even_when_it_is_wrong() {
        let headers = [("authorization", "Bearer nope"), ("x-api-key", TOKEN)];
        assert!(matches!(
            ask("/v1/models", &headers),
            Err(Failure::InvalidToken(_))
        ));
        let headers = [("authorization", "Basic c3RhdGlj"), ("x-api-key", TOKEN)];
        assert!(matches!(
            ask("/v1/models", &headers),
            Err(Failure::InvalidToken(_))
        ));
    }

    #[test]
    fn a_token_is_refused_from_its_expiry_on() {
        let uri: Uri = "/v1/models".parse().unwrap();
        let mut map = HeaderMap::new();
        map.insert("x-api-key", TOKEN.parse().unwrap());
        let tokens = table(Some(100));
        let at = |now| authenticate(Surface::OpenAi, &uri, &map, callers(Some(&tokens)), now);
        assert!(at(99).is_ok());
        assert_eq!(at(100), Err(Failure::ExpiredToken));
    }
    /// F11: 503, not 401; but what is wrong in any case is said.
    #[test]
    fn without_a_table_no_token_is_called_wrong() {
        let uri: Uri = "/v1/models".parse().unwrap();
        let ask = |header: Option<&str>| {
            let header = header.map(|text| (AUTHORIZATION, text.parse().unwrap()));
            let headers = header.into_iter().collect();
            authenticate(Surface::OpenAi, &uri, &headers, callers(None), 0).unwrap_err()
        };
        assert!(matches!(ask(Some("Bearer a-key")), Failure::NotReady(_)));
        assert!(matches!(
            ask(Some("Bearer eyJh.e30.AA")),
            Failure::NotReady(_)
        ));
        assert_eq!(ask(None), Failure::MissingCredentials);
        assert!(matches!(ask(Some("Basic a-key")), Failure::InvalidToken(_)));
    }
}
