//! The admin API, spoken to as its one JSON client: requests, and errors that say what
//! to do.

use std::time::Duration;

use reqwest::{Method, StatusCode, header};
use serde_json::Value;
use url::Url;

use crate::connection::{Connection, Gateway, is_this_machine};

/// Longer than the controller gives a provider in `test` and `fetch-models`.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody answered.
    #[error(
        "cannot reach {server}: {cause}. Is the gateway running (`bodhi up`)? Another one is named by BODHI_SERVER or --server"
    )]
    Unreachable { server: String, cause: String },
    /// The gateway answered with an error of its own.
    #[error("{}", refusal(*.status, code, message))]
    Refused {
        status: StatusCode,
        code: String,
        message: String,
    },
    /// Something else answered.
    #[error("{server} answered {status} without Bodhi's JSON. Is it a gateway's address?")]
    Foreign { server: String, status: StatusCode },
}

fn refusal(status: StatusCode, code: &str, message: &str) -> String {
    let advice = match status {
        StatusCode::UNAUTHORIZED => ". Set BODHI_TOKEN to a valid token of this gateway",
        StatusCode::FORBIDDEN => {
            ". On the gateway's own machine, unset BODHI_TOKEN: the kept admin token is used then"
        }
        _ => "",
    };
    let message = message.trim_end_matches('.');
    format!("{message} ({} {code}){advice}", status.as_u16())
}

/// A client of one gateway with one token, or none where a socket needs none.
pub(crate) struct Client {
    server: Url,
    /// The same for people.
    place: String,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Prepares calls; nothing is sent yet.
    pub(crate) fn open(connection: &Connection) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            // A redirect could carry the token elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT);
        let (server, place, http) = match connection.gateway()? {
            Gateway::Server(server, token) => {
                let mut bearer =
                    header::HeaderValue::try_from(format!("Bearer {}", token.expose())).map_err(
                        |_| anyhow::anyhow!("the token holds characters that no token has"),
                    )?;
                bearer.set_sensitive(true);
                let headers = [(header::AUTHORIZATION, bearer)].into_iter().collect();
                let mut http = http.default_headers(headers);
                if is_this_machine(&server) {
                    http = http.no_proxy();
                }
                (server.clone(), server.to_string(), http)
            }
            Gateway::Socket(path) => {
                let place = format!("unix:{}", path.display());
                // HTTP wants a host; nobody resolves it.
                let server = Url::parse("http://localhost").expect("a URL");
                (server, place, http.no_proxy().unix_socket(path))
            }
        };
        Ok(Self {
            server,
            place,
            http: http.build()?,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
        })
    }

    /// One call to `/bodhi/v1/<path…>`; each segment is encoded. `Null` when the answer is
    /// empty.
    pub(crate) fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, ClientError> {
        let mut request = self
            .http
            .request(method, endpoint(&self.server, path, query));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.runtime.block_on(async {
            let unreachable = |error: reqwest::Error| ClientError::Unreachable {
                server: self.place.clone(),
                cause: root_cause(&error),
            };
            let response = request.send().await.map_err(unreachable)?;
            let status = response.status();
            let body = response.bytes().await.map_err(unreachable)?;
            read_answer(status, &body).ok_or_else(|| ClientError::Foreign {
                server: self.place.clone(),
                status,
            })?
        })
    }

    /// GET.
    pub(crate) fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, ClientError> {
        self.call(Method::GET, path, query, None)
    }
}

fn endpoint(server: &Url, path: &[&str], query: &[(&str, &str)]) -> Url {
    let mut url = server.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(["bodhi", "v1"]).extend(path);
    }
    url.set_query(None);
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    url
}

/// `None`: not an answer that a gateway would give.
fn read_answer(status: StatusCode, body: &[u8]) -> Option<Result<Value, ClientError>> {
    if status.is_success() && body.is_empty() {
        return Some(Ok(Value::Null));
    }
    let json: Value = serde_json::from_slice(body).ok()?;
    if status.is_success() {
        return Some(Ok(json));
    }
    let error = json.get("error")?;
    let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
    Some(Err(ClientError::Refused {
        status,
        code: text("code").unwrap_or_default(),
        message: text("message")?,
    }))
}

/// The innermost cause: reqwest's own text repeats the URL and says little.
pub(crate) fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn paths_hold_what_they_are_given_and_nothing_else() {
        let url = endpoint(
            &server("http://h:1/"),
            &["keys", "a/../b?c"],
            &[("model", "x&y=z")],
        );
        assert_eq!(
            url.as_str(),
            "http://h:1/bodhi/v1/keys/a%2F..%2Fb%3Fc?model=x%26y%3Dz"
        );
        let below = endpoint(&server("https://h/gate/?q"), &["tokens"], &[]);
        assert_eq!(below.as_str(), "https://h/gate/bodhi/v1/tokens");
    }

    #[test]
    fn errors_of_the_gateway_keep_their_words() {
        let body = br#"{"error":{"message":"Unknown token.","type":"x","param":null,"code":"invalid_token"}}"#;
        let error = read_answer(StatusCode::UNAUTHORIZED, body)
            .unwrap()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "Unknown token (401 invalid_token). Set BODHI_TOKEN to a valid token of this gateway"
        );
    }

    #[test]
    fn what_is_no_gateway_is_noticed() {
        assert!(read_answer(StatusCode::NOT_FOUND, b"<html>").is_none());
        assert!(read_answer(StatusCode::OK, b"<html>").is_none());
        assert!(read_answer(StatusCode::BAD_REQUEST, b"{}").is_none());
        let empty = read_answer(StatusCode::NO_CONTENT, b"").unwrap().unwrap();
        assert_eq!(empty, Value::Null);
    }
}
