//! What a provider of each format answers at each endpoint: the table of `docs/api.md`.

use bodhi_proto::provider::Format;
use bodhi_proto::snapshot::{Endpoint, LocalFeatures, Upstream};

use crate::api::Call;
use crate::api::error::Failure;

/// One cell of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    /// The endpoint is served.
    Serve,
    /// The route cannot serve this endpoint; if no route of the name can, this is the answer.
    Refuse(Failure),
}

/// What `upstream` does with `call`, for the model as asked.
pub fn cell(call: &Call, upstream: &Upstream, asked: &str) -> Cell {
    use Format::{Anthropic, AnthropicOauth, Gemini, OpenAi, OpenAiResponses};
    let feature = |endpoint| match upstream.features.offers(endpoint) {
        true => Cell::Serve,
        false => Cell::Refuse(Failure::Unsupported(format!(
            "'{}' does not offer {}: its ApiModel's features leave it out.",
            asked,
            describe(call)
        ))),
    };
    match (call, upstream.format) {
        (Call::Chat, OpenAi) => feature(Endpoint::Chat),
        (Call::Completions, OpenAi) => feature(Endpoint::Completions),
        (Call::Embeddings, OpenAi) => feature(Endpoint::Embeddings),
        (Call::CreateResponse | Call::Response(..), OpenAiResponses)
        | (Call::Messages | Call::CountTokens, Anthropic | AnthropicOauth)
        | (Call::Gemini { .. }, Gemini) => Cell::Serve,
        // The families keep these two apart; an object that changes hands may still meet them.
        (_, OpenAiResponses) => Cell::Refuse(not_responses_endpoint(asked)),
        (Call::CreateResponse | Call::Response(..), _) => Cell::Refuse(not_responses_model(asked)),
        (_, format) => Cell::Refuse(Failure::Unsupported(format!(
            "Model '{asked}' is served in the {format} format, which does not offer {}. Use {}.",
            describe(call),
            own_endpoint(format),
        ))),
    }
}

/// What a local model does with `call`, for the model as asked.
pub fn local_cell(call: &Call, features: LocalFeatures, asked: &str) -> Cell {
    let offered = match call {
        Call::Chat => features.chat,
        Call::Completions => features.completions,
        Call::Embeddings => features.embeddings,
        Call::Rerank => features.rerank,
        Call::CreateResponse | Call::Response(..) => {
            return Cell::Refuse(not_responses_model(asked));
        }
        // Translations of these formats come with a later release.
        Call::Messages | Call::CountTokens | Call::Gemini { .. } => false,
        Call::ListModels(_) | Call::GetModel(..) => true,
    };
    match offered {
        true => Cell::Serve,
        false => Cell::Refuse(Failure::Unsupported(format!(
            "'{asked}' is a local model and does not offer {}: {}.",
            describe(call),
            match call {
                Call::Chat | Call::Completions | Call::Embeddings | Call::Rerank =>
                    "its Alias's features leave it out",
                _ => "use POST /v1/chat/completions",
            }
        ))),
    }
}

/// A model outside the Responses family was asked for at `/v1/responses`.
pub fn not_responses_model(asked: &str) -> Failure {
    Failure::WrongFormat(format!(
        "Model '{asked}' is not configured for Responses API format. Configure an alias with \
         'openai_responses' format."
    ))
}

/// A model of the Responses family was asked for elsewhere.
pub fn not_responses_endpoint(asked: &str) -> Failure {
    Failure::WrongFormat(format!(
        "Model '{asked}' is configured for Responses API format only. Use POST /v1/responses, or \
         configure an alias with another format."
    ))
}

fn own_endpoint(format: Format) -> &'static str {
    match format {
        Format::OpenAi => "POST /v1/chat/completions, /v1/completions or /v1/embeddings",
        Format::OpenAiResponses => "POST /v1/responses",
        Format::Anthropic | Format::AnthropicOauth => "POST /v1/messages",
        Format::Gemini => "POST /v1beta/models/{model}:generateContent",
    }
}

fn describe(call: &Call) -> String {
    match call {
        Call::Chat => "chat completions".into(),
        Call::Completions => "completions".into(),
        Call::Embeddings => "embeddings".into(),
        Call::Rerank => "rerank".into(),
        Call::CreateResponse | Call::Response(..) => "responses".into(),
        Call::Messages => "messages".into(),
        Call::CountTokens => "token counts".into(),
        Call::Gemini { action, .. } => format!("'{action}'"),
        Call::ListModels(_) | Call::GetModel(..) => "model listings".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ResponseAction;
    use bodhi_proto::names::ObjectRef;
    use bodhi_proto::snapshot::*;
    use std::num::NonZeroU32;

    fn upstream(format: Format, features: Features) -> Upstream {
        Upstream {
            object: ObjectRef::api_model("bodhi", "u"),
            format,
            base_url: BaseUrl::parse(format.canonical_base_url()).unwrap(),
            auth: Auth::None,
            features,
            output_limit_field: OutputLimitField::MaxTokens,
            extra_headers: Vec::new(),
            extra_body: None,
            timeouts: Timeouts::default(),
            attempts: NonZeroU32::MIN,
            max_in_flight: NonZeroU32::MIN,
            roots: Roots::System,
            egress: EgressScope::Standalone,
        }
    }

    fn status(call: &Call, format: Format) -> u16 {
        match cell(call, &upstream(format, Features::ALL), "m") {
            Cell::Serve => 200,
            Cell::Refuse(failure) => failure.status().as_u16(),
        }
    }

    #[test]
    fn the_table_holds() {
        let gemini = |action: &str| Call::Gemini {
            model: "m".into(),
            action: action.into(),
        };
        let get = Call::Response(ResponseAction::Get, "r".into());
        // openai, openai_responses, anthropic, anthropic_oauth, gemini; 501 also stands for
        // cells that a later release translates.
        let rows = [
            (Call::Chat, [200, 400, 501, 501, 501]),
            (Call::Completions, [200, 400, 501, 501, 501]),
            (Call::Embeddings, [200, 400, 501, 501, 501]),
            (Call::CreateResponse, [400, 200, 400, 400, 400]),
            (get, [400, 200, 400, 400, 400]),
            (Call::Rerank, [501, 400, 501, 501, 501]),
            (Call::Messages, [501, 400, 200, 200, 501]),
            (Call::CountTokens, [501, 400, 200, 200, 501]),
            (gemini("generateContent"), [501, 400, 501, 501, 200]),
            (gemini("predict"), [501, 400, 501, 501, 200]),
        ];
        for (call, expected) in rows {
            let found = Format::ALL.map(|format| status(&call, format));
            assert_eq!(found, expected, "{call:?}");
        }
    }

    #[test]
    fn local_models_offer_what_their_features_say() {
        let chat = LocalFeatures {
            chat: true,
            ..LocalFeatures::default()
        };
        let status = |call: &Call| match local_cell(call, chat, "m") {
            Cell::Serve => 200,
            Cell::Refuse(failure) => failure.status().as_u16(),
        };
        assert_eq!(status(&Call::Chat), 200);
        for call in [
            Call::Completions,
            Call::Embeddings,
            Call::Rerank,
            Call::Messages,
        ] {
            assert_eq!(status(&call), 501, "{call:?}");
        }
        assert_eq!(status(&Call::CreateResponse), 400);
    }

    #[test]
    fn features_left_out_are_refused_without_a_call() {
        let features = Features {
            embeddings: false,
            ..Features::ALL
        };
        let refusal = cell(
            &Call::Embeddings,
            &upstream(Format::OpenAi, features),
            "tgi",
        );
        assert!(
            matches!(refusal, Cell::Refuse(Failure::Unsupported(text)) if text.contains("tgi"))
        );
    }
}
