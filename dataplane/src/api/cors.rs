//! CORS: API paths answer any origin, without credentials (the WHATWG Fetch standard).

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

const ANY: HeaderValue = HeaderValue::from_static("*");

/// Whether the request is a preflight: it carries no credential and is answered at once.
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    *method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight: the method and the headers asked for are echoed.
pub fn preflight(request: &HeaderMap) -> http::Response<()> {
    let mut response = http::Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let echo = [
        (ACCESS_CONTROL_REQUEST_METHOD, ACCESS_CONTROL_ALLOW_METHODS),
        (ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_ALLOW_HEADERS),
    ];
    for (asked, answer) in echo {
        if let Some(value) = request.get(asked) {
            headers.insert(answer, value.clone());
        }
    }
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    headers.insert(
        VARY,
        HeaderValue::from_static("access-control-request-method, access-control-request-headers"),
    );
    response
}

/// Whose pages may read an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CrossOrigin {
    /// Any page: API paths.
    Anybody,
    /// Pages of this origin: API paths in anonymous mode.
    One(HeaderValue),
    /// None: console and admin paths.
    Nobody,
}

impl CrossOrigin {
    /// Says it in the response's headers.
    pub fn say(self, headers: &mut HeaderMap) {
        let allowed = match self {
            Self::Nobody => return,
            Self::Anybody => ANY,
            Self::One(origin) => {
                headers.append(VARY, HeaderValue::from_static("origin"));
                origin
            }
        };
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn a_preflight_echoes_what_was_asked_for() {
        let request = headers(&[
            ("origin", "https://a.example"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization, x-own"),
        ]);
        assert!(is_preflight(&Method::OPTIONS, &request));
        assert!(!is_preflight(&Method::POST, &request));
        let answer = preflight(&request);
        assert_eq!(answer.headers()[ACCESS_CONTROL_ALLOW_METHODS], "POST");
        assert_eq!(
            answer.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "authorization, x-own"
        );
    }

    #[test]
    fn admin_paths_say_nothing_and_one_origin_varies() {
        let mut none = HeaderMap::new();
        CrossOrigin::Nobody.say(&mut none);
        assert!(none.is_empty());
        let mut one = HeaderMap::new();
        CrossOrigin::One(HeaderValue::from_static("http://localhost:3000")).say(&mut one);
        assert_eq!(one[ACCESS_CONTROL_ALLOW_ORIGIN], "http://localhost:3000");
        assert_eq!(one[VARY], "origin");
    }
}
