//! One request, its redirects followed by our own rules, its answer sorted.
//!
//! reqwest would follow redirects by itself, but each hop must be judged: the address it leads to,
//! the scheme, and whether the credential may go along. It may not leave the first origin
//! (scheme, host, port), and once dropped it stays dropped.

use std::error::Error as _;
use std::time::{Duration, SystemTime};

use bodhi_net::dial::{self, DialError};
use bodhi_proto::egress;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::EgressScope;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH,
    IF_RANGE, LOCATION, RANGE,
};
use reqwest::{Client, Response, StatusCode};
use url::{Host, Url};

use super::retry;
use crate::models::ModelError;
use crate::models::source::{Digest, PlainHttp, shown};

/// TCP and TLS together.
const CONNECT: Duration = Duration::from_secs(10);
/// Hops; a hub takes two.
const MOST_REDIRECTS: usize = 10;

/// Why a try brought no more bytes.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again is no use.
    Final(ModelError),
    /// It may work later.
    Again {
        /// What happened.
        why: String,
        /// When the server wants to be asked again.
        asked: Option<Duration>,
        /// It said 429.
        limited: bool,
    },
}

impl Failure {
    pub(super) fn again(why: impl Into<String>) -> Self {
        Self::Again {
            why: why.into(),
            asked: None,
            limited: false,
        }
    }
}

/// What is asked for.
pub(super) struct Question<'a> {
    pub(super) url: Url,
    pub(super) token: Option<&'a Secret>,
    /// Name of the source in messages.
    pub(super) what: &'a str,
    /// Whether the first origin's `X-Linked-…` headers describe the file.
    pub(super) is_hub: bool,
    /// From this byte on, if the file is still the one with this validator.
    pub(super) from: u64,
    pub(super) if_range: Option<&'a str>,
    /// Only if it is not this one.
    pub(super) unless: Option<&'a str>,
}

/// An answer that has a body, or says that none is needed.
pub(super) struct Answer {
    pub(super) response: Response,
    pub(super) etag: Option<String>,
    pub(super) linked: Linked,
}

/// What a hub says of a file before it redirects to where it lies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) sha256: Option<Digest>,
    pub(super) size: Option<u64>,
    pub(super) commit: Option<String>,
}

impl Linked {
    fn learn(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let digest = text("x-linked-etag").and_then(|text| text.trim_matches('"').parse().ok());
        self.sha256 = self.sha256.or(digest);
        self.size = self.size.or_else(|| text("x-linked-size")?.parse().ok());
        let commit =
            |text: &str| text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric());
        let found = text("x-repo-commit").filter(|text| commit(text));
        self.commit = self.commit.take().or_else(|| found.map(str::to_owned));
    }
}

/// Connections that go only where they may.
pub(super) struct Caller {
    client: Client,
    egress: EgressScope,
    plain: PlainHttp,
}

impl Caller {
    pub(super) fn new(
        egress: EgressScope,
        plain: PlainHttp,
        silence: Duration,
    ) -> Result<Self, String> {
        let client = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .no_proxy()
            .http1_only()
            .user_agent(concat!("bodhi-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(silence)
            .dns_resolver(Judged(egress.clone()))
            .build()
            .map_err(|e| format!("no TLS client: {}", innermost(&e)))?;
        Ok(Self {
            client,
            egress,
            plain,
        })
    }

    /// The final answer: 200, 206, 304 or 416. Anything else is a [`Failure`].
    pub(super) async fn ask(&self, question: Question<'_>) -> Result<Answer, Failure> {
        let origin = question.url.origin();
        let mut url = question.url.clone();
        let mut token = question.token;
        let mut linked = Linked::default();
        for _ in 0..=MOST_REDIRECTS {
            self.judge(&url)
                .map_err(|detail| denied(&question, detail))?;
            let headers = headers(&question, token);
            let response = self.client.get(url.clone()).headers(headers).send().await;
            let response = response.map_err(|error| not_sent(&question, &error))?;
            if question.is_hub && url.origin() == origin {
                linked.learn(response.headers());
            }
            let Some(next) = redirect(&response, &url) else {
                return sort(response, linked, &question, token.is_some());
            };
            url = next.map_err(|detail| denied(&question, detail))?;
            if url.origin() != origin {
                token = None;
            }
        }
        Err(denied(
            &question,
            format!("more than {MOST_REDIRECTS} redirects"),
        ))
    }

    /// Scheme and literal addresses; reqwest asks no resolver about the latter.
    fn judge(&self, url: &Url) -> Result<(), String> {
        if !self.plain.allows(url) {
            return Err(format!("it leads to {}, which is not https", shown(url)));
        }
        let verdict = match url.host() {
            Some(Host::Ipv4(ip)) => egress::check(ip.into(), &self.egress),
            Some(Host::Ipv6(ip)) => egress::check(ip.into(), &self.egress),
            Some(Host::Domain(_)) | None => Ok(()),
        };
        verdict.map_err(|refused| refused.to_string())
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

fn headers(question: &Question<'_>, token: Option<&Secret>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // Bytes are counted, resumed and hashed as they lie there.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if question.from > 0 {
        headers.insert(RANGE, ascii(&format!("bytes={}-", question.from)));
        if let Some(etag) = question.if_range {
            headers.insert(IF_RANGE, ascii(etag));
        }
    } else if let Some(etag) = question.unless {
        headers.insert(IF_NONE_MATCH, ascii(etag));
    }
    if let Some(token) = token {
        let mut value = ascii(&format!("Bearer {}", token.expose().trim()));
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    headers
}

/// Texts that came from headers or are ours; one that cannot be a header is sent empty.
fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

/// Where a redirect leads, if it is one.
fn redirect(response: &Response, from: &Url) -> Option<Result<Url, String>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?;
    Some(next_hop(from, location.to_str().unwrap_or_default()))
}

/// A redirect never leaves encryption, not even for this machine.
fn next_hop(from: &Url, location: &str) -> Result<Url, String> {
    let next = from.join(location);
    let next = next.map_err(|_| format!("{} redirects to what is no URL", shown(from)))?;
    match from.scheme() == "https" && next.scheme() != "https" {
        true => Err(format!("it leads from https to {}", shown(&next))),
        false => Ok(next),
    }
}

fn denied(question: &Question<'_>, detail: String) -> Failure {
    Failure::Final(ModelError::DownloadDenied {
        what: question.what.to_owned(),
        detail,
    })
}

fn sort(
    response: Response,
    linked: Linked,
    question: &Question<'_>,
    had_token: bool,
) -> Result<Answer, Failure> {
    let status = response.status();
    let what = || question.what.to_owned();
    match status.as_u16() {
        200 | 206 | 304 | 416 => {
            let etag = response.headers().get(ETAG).and_then(|v| v.to_str().ok());
            // A weak one does not promise equal bytes (RFC 9110 §8.8.1).
            let etag = etag.filter(|etag| etag.starts_with('"')).map(str::to_owned);
            Ok(Answer {
                response,
                etag,
                linked,
            })
        }
        401 | 403 => Err(Failure::Final(ModelError::Unauthorized {
            what: what(),
            detail: refusal(&response, had_token),
        })),
        404 | 410 => Err(Failure::Final(ModelError::NotFound {
            what: what(),
            detail: format!("{} answers {}", host(&response), status.as_u16()),
        })),
        408 | 425 | 429 | 500..=599 => Err(Failure::Again {
            why: format!("{} answers {}", host(&response), named(status)),
            asked: retry::asked(response.headers(), SystemTime::now()),
            limited: status == StatusCode::TOO_MANY_REQUESTS,
        }),
        _ => {
            // S3 says so when a bucket is elsewhere.
            let region = header(&response, "x-amz-bucket-region");
            let hint = region.map_or_else(String::new, |region| {
                format!("; the bucket is in region {region}: set AWS_REGION")
            });
            let detail = format!("{} answers {}{hint}", host(&response), named(status));
            Err(denied(question, detail))
        }
    }
}

fn refusal(response: &Response, had_token: bool) -> String {
    let status = response.status().as_u16();
    let advice = match (header(response, "x-error-code"), had_token) {
        (Some("GatedRepo"), _) => "its owner grants access: accept the terms on the model's page",
        (_, false) => "name a Secret with a token in credentialsRef, and check the name",
        (_, true) => "the credential is not taken, or gives no access to this file",
    };
    format!("{} answers {status}: {advice}", host(response))
}

/// A header that is a short word; anything else is somebody's free text.
fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    let text = response.headers().get(name)?.to_str().ok()?;
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    (text.len() <= 64 && text.bytes().all(word)).then_some(text)
}

fn host(response: &Response) -> String {
    response.url().host_str().unwrap_or("the server").to_owned()
}

fn named(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}", status.as_u16())
        .trim_end()
        .to_owned()
}

/// First byte and whole size of a 206 (`bytes 7-99/100`), or the size of a 416 (`bytes */100`).
pub(super) fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, u64)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let first = match range {
        "*" => None,
        range => Some(range.split_once('-')?.0.parse().ok()?),
    };
    Some((first, total.parse().ok()?))
}

fn not_sent(question: &Question<'_>, error: &reqwest::Error) -> Failure {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(refused @ DialError::Refused { .. }) = inner.downcast_ref() {
            return denied(question, refused.to_string());
        }
        cause = inner.source();
    }
    match error.is_timeout() {
        true => Failure::again("no answer in time"),
        false => Failure::again(innermost(error)),
    }
}

/// The cause that says most: reqwest's own text repeats the URL, which may be signed.
pub(super) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        for (text, expected) in [
            ("bytes 7-99/100", Some((Some(7), 100))),
            ("bytes */100", Some((None, 100))),
            ("bytes 7-99/*", None),
            ("bytes x-99/100", None),
            ("items 7-99/100", None),
            ("bytes 7", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, text.parse().unwrap());
            assert_eq!(content_range(&headers), expected, "{text}");
        }
    }

    #[test]
    fn a_redirect_never_leaves_encryption() {
        let hop = |from: &str, to| next_hop(&Url::parse(from).unwrap(), to);
        assert_eq!(hop("https://h/a?b", "/c").unwrap().as_str(), "https://h/c");
        assert_eq!(
            hop("http://h/", "https://g/").unwrap().as_str(),
            "https://g/"
        );
        assert!(hop("http://localhost/", "http://localhost:1/").is_ok());
        for to in ["http://localhost/?canary", "file:///etc/passwd"] {
            let error = hop("https://h/", to).unwrap_err();
            assert!(error.starts_with("it leads from https to"), "{error}");
            assert!(!error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn a_hubs_word_on_a_file_is_taken_once() {
        let mut linked = Linked::default();
        let mut headers = HeaderMap::new();
        headers.insert(
            "x-linked-etag",
            format!("\"{}\"", "ab".repeat(32)).parse().unwrap(),
        );
        headers.insert("x-linked-size", "12".parse().unwrap());
        headers.insert("x-repo-commit", "0123abc".parse().unwrap());
        linked.learn(&headers);
        headers.insert("x-linked-size", "13".parse().unwrap());
        linked.learn(&headers);
        assert_eq!(linked.sha256, Some(Digest([0xab; 32])));
        assert_eq!(
            (linked.size, linked.commit.as_deref()),
            (Some(12), Some("0123abc"))
        );
        let mut git = HeaderMap::new();
        git.insert(
            "x-linked-etag",
            "\"a git hash, not a digest\"".parse().unwrap(),
        );
        let mut linked = Linked::default();
        linked.learn(&git);
        assert_eq!(linked, Linked::default());
    }
}
