//! Which provider a request is for, whether its credential is right, and that provider's errors.
//!
//! A first path segment `/openai`, `/anthropic` or `/gemini` chooses the provider; without one the
//! canonical paths do (`/v1beta` is Gemini, `/v1/messages` and requests with `anthropic-version`
//! are Anthropic, the rest is OpenAI).

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use super::answer::Answer;
use super::conn::Head;
use super::responses::Responses;
use super::{anthropic, gemini, openai, sample};

/// The provider whose habits an answer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Vendor {
    OpenAi,
    Anthropic,
    Gemini,
}

/// An error before it is put into its provider's envelope.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) message: String,
    pub(super) param: Option<String>,
    pub(super) code: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(status: u16, message: String) -> Self {
        Self {
            status,
            message,
            param: None,
            code: None,
        }
    }

    pub(super) fn missing(field: &str) -> Self {
        let message = format!("{field}: Field required");
        Self {
            param: Some(field.to_owned()),
            code: Some("missing_required_parameter"),
            ..Self::new(400, message)
        }
    }

    pub(super) fn not_found(kind: &str, id: &str) -> Self {
        Self {
            code: Some("model_not_found"),
            ..Self::new(404, format!("{kind}: {id} was not found"))
        }
    }
}

/// The list in `body[key]`.
pub(super) fn list<'a>(body: &'a Value, key: &str) -> Result<&'a [Value], Refusal> {
    body[key]
        .as_array()
        .map(Vec::as_slice)
        .ok_or_else(|| Refusal::missing(key))
}

/// A request that has been located: provider, decoded path segments, decoded query.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) vendor: Vendor,
    /// The path after the version segment, decoded segment by segment.
    segments: Vec<String>,
    query: Vec<(String, String)>,
}

impl Located {
    pub(super) fn new(head: &Head) -> Self {
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        let mut segments: Vec<String> = path.split('/').skip(1).map(decode).collect();
        let named = match segments.first().map(String::as_str) {
            Some("openai") => Some(Vendor::OpenAi),
            Some("anthropic") => Some(Vendor::Anthropic),
            Some("gemini") => Some(Vendor::Gemini),
            _ => None,
        };
        if named.is_some() {
            segments.remove(0);
        }
        let version = if segments.is_empty() {
            String::new()
        } else {
            segments.remove(0)
        };
        let vendor = named.unwrap_or_else(|| match segments.first().map(String::as_str) {
            _ if version == "v1beta" => Vendor::Gemini,
            Some("messages") => Vendor::Anthropic,
            _ if head.header("anthropic-version").is_some() => Vendor::Anthropic,
            _ => Vendor::OpenAi,
        });
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let query = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (decode(name), decode(value)));
        Self {
            vendor,
            segments,
            query: query.collect(),
        }
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.query(name).and_then(|value| value.parse().ok())
    }

    /// Gemini's `models/{model}:{action}`; a model's id may hold slashes and colons.
    fn action(&self) -> Option<(String, &str)> {
        let (first, rest) = self.segments.split_first()?;
        let (last, between) = rest.split_last()?;
        let (model, action) = last.rsplit_once(':')?;
        (first == "models").then(|| {
            let parts: Vec<&str> = between.iter().map(String::as_str).chain([model]).collect();
            (parts.join("/"), action)
        })
    }

    /// The model that the request is for, from path or body.
    pub(super) fn model(&self, body: &Value) -> String {
        match self.action() {
            Some((model, _)) if self.vendor == Vendor::Gemini => model,
            _ => body["model"].as_str().unwrap_or_default().to_owned(),
        }
    }

    /// Whether the request carries one of the keys, in the way its provider wants it.
    pub(super) fn authorize(&self, head: &Head, keys: &[String]) -> Result<(), Refusal> {
        let bearer = head
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        let (given, missing, wrong) = match self.vendor {
            Vendor::OpenAi => (
                bearer,
                (401, "You didn't provide an API key."),
                (401, "Incorrect API key provided."),
            ),
            Vendor::Anthropic => {
                // Recent client libraries send API keys as bearer tokens, and the provider takes both.
                let given = head.header("x-api-key").or(bearer);
                (
                    given,
                    (401, "x-api-key header is required"),
                    (401, "invalid x-api-key"),
                )
            }
            Vendor::Gemini => (
                head.header("x-goog-api-key").or_else(|| self.query("key")),
                (403, "Method doesn't allow unregistered callers."),
                (400, "API key not valid. Please pass a valid API key."),
            ),
        };
        let ((status, message), code) = match given {
            Some(key) if keys.iter().any(|known| known == key) => {
                if self.vendor == Vendor::Anthropic && head.header("anthropic-version").is_none() {
                    return Err(Refusal::new(
                        400,
                        "anthropic-version: header is required".to_owned(),
                    ));
                }
                return Ok(());
            }
            Some(_) => (wrong, "invalid_api_key"),
            None => (missing, "missing_api_key"),
        };
        Err(Refusal {
            code: Some(code),
            ..Refusal::new(status, message.to_owned())
        })
    }

    /// Answers the request as its provider would.
    pub(super) fn answer(
        &self,
        method: &str,
        body: &Value,
        responses: &mut Responses,
    ) -> Result<Answer, Refusal> {
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        match (self.vendor, method, segments.as_slice()) {
            (Vendor::OpenAi, "GET", ["models"]) => Ok(openai::models()),
            (Vendor::OpenAi, "GET", ["models", id @ ..]) => openai::model_by_id(&id.join("/")),
            (Vendor::OpenAi, "POST", ["chat", "completions"]) => openai::chat(body),
            (Vendor::OpenAi, "POST", ["completions"]) => openai::completions(body),
            (Vendor::OpenAi, "POST", ["embeddings"]) => openai::embeddings(body),
            (Vendor::OpenAi, "POST", ["responses"]) => responses.create(body),
            (Vendor::OpenAi, "GET", ["responses", id]) => {
                responses.get(id, self.query("stream") == Some("true"))
            }
            (Vendor::OpenAi, "DELETE", ["responses", id]) => responses.delete(id),
            (Vendor::OpenAi, "POST", ["responses", id, "cancel"]) => responses.cancel(id),
            (Vendor::OpenAi, "GET", ["responses", id, "input_items"]) => responses.input_items(id),
            (Vendor::Anthropic, "POST", ["messages"]) => anthropic::messages(body),
            (Vendor::Anthropic, "POST", ["messages", "count_tokens"]) => {
                anthropic::count_tokens(body)
            }
            (Vendor::Anthropic, "GET", ["models"]) => {
                anthropic::models(self.query("after_id"), self.number("limit"))
            }
            (Vendor::Anthropic, "GET", ["models", id]) => anthropic::model_by_id(id),
            (Vendor::Gemini, "GET", ["models"]) => {
                gemini::models(self.query("pageToken"), self.number("pageSize"))
            }
            (Vendor::Gemini, "POST", ["models", ..])
                if let Some((model, action)) = self.action() =>
            {
                gemini::act(&model, action, body, self.query("alt") == Some("sse"))
            }
            (Vendor::Gemini, "GET", ["models", id]) => gemini::model_by_id(id),
            _ => Err(Refusal::new(
                404,
                format!("Unknown request URL: {method} /{}", segments.join("/")),
            )),
        }
    }
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

impl Vendor {
    /// Headers that every answer of the provider carries. Some must travel to the client, others
    /// (the cookie, the CORS header) must not.
    pub(super) fn dress(self, answer: Answer, name: &str) -> Answer {
        let id = sample::id("req_", &[name]);
        let answer = answer
            .with("x-scripted-provider", name)
            .with("set-cookie", "__cf_bm=scripted; path=/; HttpOnly");
        match self {
            Self::OpenAi => answer
                .with("x-request-id", id)
                .with("openai-processing-ms", "12")
                .with("x-ratelimit-remaining-requests", "59")
                .with("access-control-allow-origin", "https://upstream.example"),
            Self::Anthropic => answer
                .with("request-id", id)
                .with("anthropic-ratelimit-requests-remaining", "59"),
            Self::Gemini => answer
                .with("vary", "X-Origin, Referer")
                .with("server-timing", "gfet4t7; dur=12"),
        }
    }

    /// A refusal in the provider's envelope.
    pub(super) fn error(self, refusal: &Refusal) -> Answer {
        let Refusal {
            status,
            message,
            param,
            code,
        } = refusal;
        let mut answer = match self {
            Self::OpenAi => {
                let kind = match status {
                    429 => "rate_limit_exceeded",
                    500.. => "server_error",
                    _ => "invalid_request_error",
                };
                Answer::pretty(
                    &json!({"error": {"message": message, "type": kind, "param": param, "code": code}}),
                )
            }
            Self::Anthropic => {
                let kind = match status {
                    401 => "authentication_error",
                    403 => "permission_error",
                    404 => "not_found_error",
                    413 => "request_too_large",
                    429 => "rate_limit_error",
                    529 => "overloaded_error",
                    500.. => "api_error",
                    _ => "invalid_request_error",
                };
                let id = sample::id("req_", &[message]);
                Answer::json(
                    &json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": id}),
                )
            }
            Self::Gemini => {
                let word = match status {
                    401 => "UNAUTHENTICATED",
                    403 => "PERMISSION_DENIED",
                    404 => "NOT_FOUND",
                    429 => "RESOURCE_EXHAUSTED",
                    501 => "UNIMPLEMENTED",
                    503 => "UNAVAILABLE",
                    504 => "DEADLINE_EXCEEDED",
                    500.. => "INTERNAL",
                    _ => "INVALID_ARGUMENT",
                };
                Answer::pretty(
                    &json!({"error": {"code": status, "message": message, "status": word}}),
                )
            }
        };
        answer.status = *status;
        answer
    }
}
