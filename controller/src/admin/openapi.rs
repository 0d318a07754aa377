//! The description of all that answers: the admin API from its handlers, the
//! inference API from a table.

use axum::Router;
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, HttpMethod, ObjectBuilder, Required, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::AdminState;
use super::{audit, explain, keys, master_keys, models, status, tokens, trial};

const TOKEN: &str = "token";

#[derive(OpenApi)]
#[openapi(info(
    title = "Bodhi",
    description = "A gateway for language models. The inference paths speak their providers' own formats: see the providers' documentation for bodies.",
    license(name = "Apache-2.0", identifier = "Apache-2.0"),
))]
struct Described;

/// Handlers and document together, so that neither names a path that the other lacks.
pub(super) fn describe() -> OpenApiRouter<AdminState> {
    let mut document = Described::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("bodhi_…")
        .build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(TOKEN, SecurityScheme::Http(bearer));
    for (method, path, summary) in INFERENCE {
        let operation = inference(method, path, summary);
        document
            .paths
            .add_path_operation(*path, vec![method.clone()], operation);
    }
    OpenApiRouter::with_openapi(document)
        .routes(routes!(tokens::whoami))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::revoke))
        .routes(routes!(keys::set, keys::remove))
        .routes(routes!(master_keys::list))
        .routes(routes!(master_keys::rotate))
        .routes(routes!(master_keys::retire))
        .routes(routes!(master_keys::raise_incarnation))
        .routes(routes!(models::list, models::create))
        .routes(routes!(models::read, models::replace, models::delete))
        .routes(routes!(trial::test))
        .routes(routes!(trial::fetch_models))
        .routes(routes!(explain::explain))
        .routes(routes!(status::status))
        .routes(routes!(audit::page))
}

/// `/openapi.json`, and the page that tries it out with a typed token.
pub(super) fn documents(document: utoipa::openapi::OpenApi) -> Router {
    let config = Config::default()
        .try_it_out_enabled(true)
        .validator_url("none");
    SwaggerUi::new("/swagger-ui")
        .url("/openapi.json", document)
        .config(config)
        .into()
}

fn inference(method: &HttpMethod, path: &str, summary: &str) -> Operation {
    let no_scopes: [&str; 0] = [];
    let json = || Content::new(Some(Object::new()));
    let answer = ResponseBuilder::new()
        .description("As the format says; errors are in its envelope")
        .content("application/json", json());
    let mut operation = OperationBuilder::new()
        .summary(Some(summary))
        .tag("inference")
        .response("default", answer)
        .security(SecurityRequirement::new(TOKEN, no_scopes));
    for parameter in path
        .split('{')
        .skip(1)
        .filter_map(|rest| rest.split('}').next())
    {
        let parameter = ParameterBuilder::new()
            .name(parameter)
            .parameter_in(ParameterIn::Path)
            .required(Required::True)
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)));
        operation = operation.parameter(parameter);
    }
    if *method == HttpMethod::Post {
        let body = RequestBodyBuilder::new().content("application/json", json());
        operation = operation.request_body(Some(body.build()));
    }
    operation.build()
}

/// The inference paths of the data plane.
const INFERENCE: &[(HttpMethod, &str, &str)] = &[
    (
        HttpMethod::Get,
        "/v1/models",
        "Models that the token may call",
    ),
    (HttpMethod::Get, "/v1/models/{id}", "One of them"),
    (
        HttpMethod::Post,
        "/v1/chat/completions",
        "OpenAI chat completions",
    ),
    (HttpMethod::Post, "/v1/completions", "OpenAI completions"),
    (HttpMethod::Post, "/v1/embeddings", "OpenAI embeddings"),
    (
        HttpMethod::Post,
        "/v1/responses",
        "OpenAI Responses: create",
    ),
    (
        HttpMethod::Get,
        "/v1/responses/{id}",
        "OpenAI Responses: read",
    ),
    (
        HttpMethod::Delete,
        "/v1/responses/{id}",
        "OpenAI Responses: delete",
    ),
    (
        HttpMethod::Get,
        "/v1/responses/{id}/input_items",
        "OpenAI Responses: input items",
    ),
    (
        HttpMethod::Post,
        "/v1/responses/{id}/cancel",
        "OpenAI Responses: cancel",
    ),
    (HttpMethod::Post, "/v1/messages", "Anthropic messages"),
    (
        HttpMethod::Post,
        "/v1/messages/count_tokens",
        "Anthropic token count",
    ),
    (
        HttpMethod::Post,
        "/anthropic/v1/messages",
        "Anthropic messages",
    ),
    (
        HttpMethod::Post,
        "/anthropic/v1/messages/count_tokens",
        "Anthropic token count",
    ),
    (
        HttpMethod::Get,
        "/anthropic/v1/models",
        "Models in Anthropic's shape",
    ),
    (HttpMethod::Get, "/anthropic/v1/models/{id}", "One of them"),
    (
        HttpMethod::Post,
        "/v1beta/models/{model}:{action}",
        "Gemini: generateContent, streamGenerateContent, embedContent, …",
    ),
    (
        HttpMethod::Get,
        "/v1beta/models",
        "Models in Gemini's shape",
    ),
    (HttpMethod::Get, "/v1beta/models/{id}", "One of them"),
];
