//! One bounded exchange with a provider.

use std::time::Duration;

use bodhi_net::dial;
use bodhi_proto::egress;
use bodhi_proto::snapshot::{EgressScope, Roots};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Method, Url};

use super::{Answer, Failure, Reason, Target};

/// TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// One exchange, body included.
const EXCHANGE: Duration = Duration::from_secs(30);
/// Shown of a provider's error.
const SHOWN: usize = 4 * 1024;

/// A connection pool for the few calls of one question.
pub(super) struct Caller<'a> {
    target: &'a Target,
    client: Client,
}

impl<'a> Caller<'a> {
    pub(super) fn new(target: &'a Target) -> Result<Self, Failure> {
        let mut client = Client::builder()
            .default_headers(target.headers.clone())
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .connect_timeout(CONNECT)
            .timeout(EXCHANGE)
            .dns_resolver(Judged(target.egress.clone()));
        if let Roots::Bundle(pem) = &target.roots {
            let roots = reqwest::Certificate::from_pem_bundle(pem.as_bytes())
                .map_err(|e| no_connection(format!("the CA bundle is not PEM: {e}")))?;
            client = client.tls_certs_only(roots);
        }
        let client = client
            .build()
            .map_err(|e| no_connection(format!("no TLS client: {}", innermost(&e))))?;
        Ok(Self { target, client })
    }

    /// The base URL with these path segments, each encoded.
    pub(super) fn url(&self, segments: &[&str]) -> Result<Url, Failure> {
        let bad = || no_connection("baseUrl is not a URL that can be called".to_owned());
        let mut url = Url::parse(&self.target.base_url.to_string()).map_err(|_| bad())?;
        url.path_segments_mut()
            .map_err(|()| bad())?
            .pop_if_empty()
            .extend(segments);
        Ok(url)
    }

    /// Sends and reads at most `limit` bytes of a 2xx answer. Anything else is a [`Failure`].
    pub(super) async fn exchange(
        &self,
        method: Method,
        url: Url,
        body: Option<&serde_json::Value>,
        limit: usize,
    ) -> Result<(u16, Vec<u8>), Failure> {
        self.judge_literal(&url)?;
        let mut request = self.client.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let mut response = request.send().await.map_err(not_sent)?;
        let status = response.status().as_u16();
        let ok = response.status().is_success();
        // A cut key could not be blanked out, so it must be read whole before the cut.
        let key_len = self.target.key.as_ref().map_or(0, |k| k.expose().len());
        let most = if ok { limit } else { SHOWN + key_len };
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                if ok {
                    return Err(Failure {
                        reason: Reason::UpstreamError,
                        message: format!("the provider's answer is longer than {limit} bytes"),
                        upstream: None,
                    });
                }
                bytes.truncate(most);
                break;
            }
        }
        match ok {
            true => Ok((status, bytes)),
            false => Err(refused(self.answer(status, &bytes))),
        }
    }

    /// A 2xx answer that is not of the format's shape.
    pub(super) fn misshapen(&self, status: u16, bytes: &[u8], why: &str) -> Failure {
        Failure {
            reason: Reason::UpstreamError,
            message: format!("the provider's answer is not what its format says: {why}"),
            upstream: Some(self.answer(status, bytes)),
        }
    }

    fn answer(&self, status: u16, bytes: &[u8]) -> Answer {
        let mut body = String::from_utf8_lossy(bytes).into_owned();
        if let Some(key) = &self.target.key {
            body = body.replace(key.expose(), "[key]");
        }
        let mut end = body.len().min(SHOWN);
        while !body.is_char_boundary(end) {
            end -= 1;
        }
        body.truncate(end);
        Answer { status, body }
    }

    /// reqwest asks no resolver about a literal address, so it is judged here, in the spelling
    /// that the URL parser gave it (`0x7f.1` is 127.0.0.1 to it).
    fn judge_literal(&self, url: &Url) -> Result<(), Failure> {
        let verdict = match url.host() {
            Some(url::Host::Ipv4(ip)) => egress::check(ip.into(), &self.target.egress),
            Some(url::Host::Ipv6(ip)) => egress::check(ip.into(), &self.target.egress),
            Some(url::Host::Domain(_)) | None => Ok(()),
        };
        verdict.map_err(|refused| no_connection(refused.to_string()))
    }
}

/// Resolves a name to the addresses that may be dialled; reqwest dials these.
struct Judged(EgressScope);

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let scope = self.0.clone();
        Box::pin(async move {
            let found = dial::permitted(&dial::System, name.as_str(), 0, &scope).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn refused(answer: Answer) -> Failure {
    // Gemini says 400 for a key it does not know
    // (<https://ai.google.dev/gemini-api/docs/troubleshooting>).
    let unknown_key = answer.status == 400 && answer.body.contains("API_KEY_INVALID");
    let (reason, message) = match answer.status {
        401 | 403 => (Reason::InvalidApiKey, "the provider does not take this key"),
        _ if unknown_key => (Reason::InvalidApiKey, "the provider does not know this key"),
        429 => (
            Reason::RateLimited,
            "the provider limits the rate: try later",
        ),
        404 => (
            Reason::UpstreamError,
            "the provider knows no such path or model: check baseUrl, which includes the version (/v1), and the model's id",
        ),
        300..=399 => (
            Reason::UpstreamError,
            "the provider redirects, which is not followed: set baseUrl to where it leads",
        ),
        _ => (Reason::UpstreamError, "the provider answered with an error"),
    };
    Failure {
        reason,
        message: message.to_owned(),
        upstream: Some(answer),
    }
}

fn no_connection(message: String) -> Failure {
    Failure {
        reason: Reason::ConnectionFailed,
        message,
        upstream: None,
    }
}

fn not_sent(error: reqwest::Error) -> Failure {
    match error.is_connect() || error.is_builder() {
        true => no_connection(format!("cannot connect: {}", innermost(&error))),
        false => broken(error),
    }
}

fn broken(error: reqwest::Error) -> Failure {
    let message = match error.is_timeout() {
        true => format!("no complete answer within {} s", EXCHANGE.as_secs()),
        false => format!("the connection broke: {}", innermost(&error)),
    };
    Failure {
        reason: Reason::NetworkError,
        message,
        upstream: None,
    }
}

/// The cause that says most: reqwest's own text repeats the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
