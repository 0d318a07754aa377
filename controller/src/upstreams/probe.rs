//! Does a model answer? One request of one token, as the format asks it.

use bodhi_proto::provider::Format;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::call::Caller;
use super::{Failure, Target};
use crate::api::{Feature, OutputLimitField};

/// Read of an answer that is only looked at for being JSON.
const ANSWER_MAX: usize = 1024 * 1024;
/// The least that OpenAI's Responses API takes as `max_output_tokens`.
const RESPONSES_MIN: u32 = 16;

/// A model that answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// The provider's id of it.
    pub model: String,
    /// The HTTP status, 2xx.
    pub status: u16,
}

/// Why there was no good answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeError {
    /// No model was named and the spec lists none.
    NoModel,
    /// The provider was asked in vain.
    Failed(Failure),
}

impl From<Failure> for ProbeError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Asks `model` (the provider's id), else the first one that the spec lists, for one token.
pub async fn probe(target: &Target, model: Option<&str>) -> Result<Answered, ProbeError> {
    let model = model
        .or(target.first_model.as_deref())
        .ok_or(ProbeError::NoModel)?;
    let caller = Caller::new(target)?;
    let (path, body) = request(target, model);
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let url = caller.url(&path)?;
    let (status, bytes) = caller
        .exchange(Method::POST, url, Some(&body), ANSWER_MAX)
        .await?;
    // A login page or a proxy's greeting says 200 too.
    match serde_json::from_slice::<Map<String, Value>>(&bytes) {
        Ok(_) => Ok(Answered {
            model: model.to_owned(),
            status,
        }),
        Err(_) => Err(caller
            .misshapen(status, &bytes, "it is no JSON object")
            .into()),
    }
}

/// Path segments and body of the smallest request.
fn request(target: &Target, model: &str) -> (Vec<String>, Value) {
    let words = json!([{"role": "user", "content": "ping"}]);
    let (path, own) = match target.format {
        Format::OpenAi => openai(target, model, words),
        Format::OpenAiResponses => (
            vec!["responses".to_owned()],
            json!({"model": model, "input": "ping", "max_output_tokens": RESPONSES_MIN, "store": false}),
        ),
        Format::Anthropic | Format::AnthropicOauth => (
            vec!["messages".to_owned()],
            json!({"model": model, "max_tokens": 1, "messages": words}),
        ),
        Format::Gemini => (
            vec!["models".to_owned(), format!("{model}:generateContent")],
            json!({
                "contents": [{"role": "user", "parts": [{"text": "ping"}]}],
                "generationConfig": {"maxOutputTokens": 1},
            }),
        ),
    };
    let mut body = Value::Object(target.extra_body.clone());
    merge(&mut body, own);
    (path, body)
}

/// The first endpoint that the object says it has.
fn openai(target: &Target, model: &str, words: Value) -> (Vec<String>, Value) {
    let offers = |feature| match &target.features {
        None => true,
        Some(features) => features.contains(&feature),
    };
    if offers(Feature::Chat) {
        let limit = match target.output_limit_field {
            OutputLimitField::MaxTokens => "max_tokens",
            OutputLimitField::MaxCompletionTokens => "max_completion_tokens",
        };
        let path = vec!["chat".to_owned(), "completions".to_owned()];
        return (path, json!({"model": model, "messages": words, limit: 1}));
    }
    if offers(Feature::Completions) {
        let body = json!({"model": model, "prompt": "ping", "max_tokens": 1});
        return (vec!["completions".to_owned()], body);
    }
    let body = json!({"model": model, "input": "ping"});
    (vec!["embeddings".to_owned()], body)
}

/// Objects merge key by key; anything else of `ours` wins over the extra body.
fn merge(extra: &mut Value, ours: Value) {
    match (extra, ours) {
        (Value::Object(extra), Value::Object(ours)) => {
            for (key, value) in ours {
                merge(extra.entry(key).or_insert(Value::Null), value);
            }
        }
        (extra, ours) => *extra = ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstreams::Reason;
    use crate::upstreams::testing::{Provider, Reply, target};

    async fn probed(
        format: &str,
        spec: Value,
        reply: Reply,
    ) -> (Result<Answered, ProbeError>, Provider) {
        let provider = Provider::start(move |_| reply.clone()).await;
        let target = target(&provider, format, spec);
        let outcome = probe(&target, None).await;
        (outcome, provider)
    }

    fn failure(outcome: Result<Answered, ProbeError>) -> Failure {
        match outcome {
            Err(ProbeError::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn each_format_is_asked_in_its_own_way() {
        let words = json!([{"role": "user", "content": "ping"}]);
        for (format, path, body) in [
            (
                "openai",
                "/v1/chat/completions",
                json!({"model": "m", "messages": words, "max_tokens": 1}),
            ),
            (
                "openai_responses",
                "/v1/responses",
                json!({"model": "m", "input": "ping", "max_output_tokens": 16, "store": false}),
            ),
            (
                "anthropic",
                "/v1/messages",
                json!({"model": "m", "messages": words, "max_tokens": 1}),
            ),
            (
                "anthropic_oauth",
                "/v1/messages",
                json!({"model": "m", "messages": words, "max_tokens": 1}),
            ),
            (
                "gemini",
                "/v1/models/m:generateContent",
                json!({
                    "contents": [{"role": "user", "parts": [{"text": "ping"}]}],
                    "generationConfig": {"maxOutputTokens": 1},
                }),
            ),
        ] {
            let (outcome, provider) = probed(format, json!({}), Reply::json(200, json!({}))).await;
            assert_eq!(
                outcome.unwrap(),
                Answered {
                    model: "m".into(),
                    status: 200
                }
            );
            let asked = provider.asked();
            assert_eq!((asked.len(), &*asked[0].path), (1, path), "{format}");
            assert_eq!(asked[0].body, body, "{format}");
            assert!(
                asked[0]
                    .headers
                    .values()
                    .any(|v| v.to_str().unwrap().ends_with("sk-canary"))
            );
        }
    }

    #[tokio::test]
    async fn features_choose_the_endpoint_and_extra_body_travels() {
        let spec = json!({"features": ["Embeddings"], "extraBody": {"provider": {"sort": "price"}, "input": 1}});
        let (outcome, provider) = probed("openai", spec, Reply::json(200, json!({}))).await;
        outcome.unwrap();
        let asked = provider.asked().remove(0);
        assert_eq!(asked.path, "/v1/embeddings");
        assert_eq!(
            asked.body,
            json!({"model": "m", "input": "ping", "provider": {"sort": "price"}})
        );
    }

    #[tokio::test]
    async fn models_stay_inside_their_path_segment() {
        let spec = json!({"models": ["../a?b%2F#c"]});
        let (outcome, provider) = probed("gemini", spec, Reply::json(200, json!({}))).await;
        outcome.unwrap();
        let path = provider.asked().remove(0).path;
        assert_eq!(path, "/v1/models/..%2Fa%3Fb%252F%23c:generateContent");
    }

    #[tokio::test]
    async fn answers_are_told_apart() {
        let gemini = json!({"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}});
        for (status, body, reason) in [
            (401, json!({}), Reason::InvalidApiKey),
            (403, json!({}), Reason::InvalidApiKey),
            (400, gemini, Reason::InvalidApiKey),
            (400, json!({}), Reason::UpstreamError),
            (404, json!({}), Reason::UpstreamError),
            (429, json!({}), Reason::RateLimited),
            (302, json!({}), Reason::UpstreamError),
            (529, json!({}), Reason::UpstreamError),
        ] {
            let (outcome, provider) =
                probed("openai", json!({}), Reply::json(status, body.clone())).await;
            let failure = failure(outcome);
            assert_eq!(failure.reason, reason, "{status}");
            let answer = failure.upstream.unwrap();
            assert_eq!((answer.status, answer.body), (status, body.to_string()));
            assert_eq!(provider.asked().len(), 1, "nothing is retried or followed");
        }
    }

    #[tokio::test]
    async fn a_key_that_the_provider_repeats_is_blanked_out() {
        let long = format!("{}sk-canary{}", "x".repeat(4090), "y".repeat(9000));
        let (outcome, _provider) = probed("openai", json!({}), Reply::text(401, &long)).await;
        let body = failure(outcome).upstream.unwrap().body;
        assert_eq!(body.len(), 4096);
        assert!(
            body.ends_with("x[key]y") && !body.contains("sk-"),
            "{}",
            &body[4080..]
        );
    }

    #[tokio::test]
    async fn a_page_that_is_no_json_is_no_success() {
        let (outcome, _provider) = probed("openai", json!({}), Reply::text(200, "<html>")).await;
        let failure = failure(outcome);
        assert_eq!(failure.reason, Reason::UpstreamError);
        assert_eq!(failure.upstream.unwrap().body, "<html>");
    }

    #[tokio::test]
    async fn a_broken_connection_and_none_at_all_are_told_apart() {
        let (outcome, provider) = probed("openai", json!({}), Reply::Close).await;
        assert_eq!(failure(outcome).reason, Reason::NetworkError);
        let target = target(&provider, "openai", json!({}));
        provider.stop().await;
        let failure = failure(probe(&target, None).await);
        assert_eq!(failure.reason, Reason::ConnectionFailed);
        assert!(failure.message.contains("refused"), "{}", failure.message);
    }

    #[tokio::test]
    async fn without_a_model_there_is_nothing_to_ask() {
        let spec = json!({"models": []});
        let (outcome, provider) = probed("openai", spec, Reply::json(200, json!({}))).await;
        assert_eq!(outcome, Err(ProbeError::NoModel));
        assert!(provider.asked().is_empty());
    }

    #[tokio::test]
    async fn addresses_that_the_operator_forbids_are_not_dialled() {
        use bodhi_proto::secret::Secret;
        use bodhi_proto::snapshot::{EgressScope, Roots};
        let provider = Provider::start(|_| Reply::json(200, json!({}))).await;
        for host in ["127.0.0.1", "localhost", "0x7f.1", "[::ffff:127.0.0.1]"] {
            let url = format!("http://{host}:{}/v1", provider.port());
            let spec = crate::upstreams::testing::spec(
                json!({"format": "openai", "baseUrl": url, "models": ["m"], "insecureHttp": true}),
            );
            let key = Some(Secret::new("sk-canary"));
            let target = Target::new(&spec, key, Roots::System, EgressScope::Release).unwrap();
            let failure = failure(probe(&target, None).await);
            assert_eq!(failure.reason, Reason::ConnectionFailed, "{host}");
            assert!(
                failure.message.contains("egress policy"),
                "{host}: {}",
                failure.message
            );
        }
        assert!(provider.asked().is_empty());
    }
}
