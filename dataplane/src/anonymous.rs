//! `bodhi up --anonymous`: no credential is asked for, so everything else is.
//!
//! Without these guards any web site could spend the keys of whoever runs it: a page may send
//! simple requests to loopback (so the Origin is judged), and DNS rebinding makes its own name
//! lead here (so the Host is judged).

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Uri};

use bodhi_proto::snapshot::Token;

use crate::api::error::Failure;

/// Who a caller without a valid credential is, and the rules that make it bearable.
#[derive(Debug)]
pub struct Anonymous {
    /// Scope `user`, no limits.
    pub token: Arc<Token>,
}

impl Anonymous {
    /// Refuses a Host that is not this machine's own and a foreign Origin.
    pub fn guard(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Failure> {
        let host = uri.host().or_else(|| {
            headers
                .get(HOST)
                .and_then(|h| h.to_str().ok())
                .map(without_port)
        });
        if !host.is_some_and(is_local) {
            return Err(Failure::ForeignOrigin(
                "Without a credential this gateway answers for localhost and loopback addresses \
                 only. Call it by one of those, or start it without --anonymous.",
            ));
        }
        match headers.contains_key(ORIGIN) && self.allowed_origin(headers).is_none() {
            true => Err(Failure::ForeignOrigin(
                "Without a credential this gateway serves no web page from another origin than \
                 localhost. Start it without --anonymous and use a token.",
            )),
            false => Ok(()),
        }
    }

    /// The request's Origin if it is a loopback one: what CORS may answer.
    pub fn allowed_origin(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let rest = origin.to_str().ok()?.split_once("://")?.1;
        is_local(without_port(rest)).then(|| origin.clone())
    }
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn is_local(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bodhi_proto::names::TokenId;
    use bodhi_proto::snapshot::{Scope, TokenHash, TokenLimits};

    fn guard(host: &str, origin: Option<&str>) -> bool {
        let anonymous = Anonymous {
            token: Arc::new(Token {
                id: TokenId::parse("anonymous").unwrap(),
                hash: TokenHash::of(b""),
                owner: "anonymous".into(),
                scope: Scope::User,
                expires: None,
                models: None,
                output_caps: Vec::new(),
                limits: TokenLimits::default(),
            }),
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        anonymous
            .guard(&"/v1/models".parse().unwrap(), &headers)
            .is_ok()
    }

    #[test]
    fn only_this_machines_names_are_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:1135",
            "127.0.0.1:1135",
            "[::1]:1135",
            "127.8.8.8",
        ] {
            assert!(guard(host, None), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example:1135",
            "10.0.0.1",
            "0.0.0.0",
            "",
        ] {
            assert!(!guard(host, None), "{host}");
        }
    }

    #[test]
    fn only_loopback_pages_are_origins() {
        assert!(guard("localhost", Some("http://localhost:3000")));
        assert!(guard("localhost", Some("https://127.0.0.1")));
        for origin in [
            "https://evil.example",
            "null",
            "http://localhost.evil.example",
        ] {
            assert!(!guard("localhost", Some(origin)), "{origin}");
        }
    }
}
