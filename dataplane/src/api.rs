//! The public surface: which call a method and a path ask for.
//!
//! A [`Call`] is all that the rest of the data plane knows of a request line. Ids
//! and models that come by path are decoded and judged here, once, so that nothing
//! further in can be led astray by a path (`..`, double encoding, control characters).

pub mod cors;
pub mod error;
pub mod headers;
pub mod models;
pub(crate) mod path;
pub mod query;

use http::{HeaderMap, Method, Uri};

use bodhi_proto::provider::Family;

use self::error::Failure;

/// Whose envelope and conventions a request follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// OpenAI's API under `/v1`.
    OpenAi,
    /// Anthropic's API: `/v1/messages…` and everything under `/anthropic`.
    Anthropic,
    /// Google's Gemini API under `/v1beta`.
    Gemini,
}

/// What a client wants of one response by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseAction {
    /// `GET /v1/responses/{id}`
    Get,
    /// `DELETE /v1/responses/{id}`
    Delete,
    /// `GET /v1/responses/{id}/input_items`
    InputItems,
    /// `POST /v1/responses/{id}/cancel`
    Cancel,
}

/// A request line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `GET …/models`
    ListModels(Surface),
    /// `GET …/models/{id}`
    GetModel(Surface, String),
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/rerank`
    Rerank,
    /// `POST /v1/responses`
    CreateResponse,
    /// A call on one response; the id matches `[A-Za-z0-9_-]{1,256}`.
    Response(ResponseAction, String),
    /// `POST /v1/messages`
    Messages,
    /// `POST /v1/messages/count_tokens`
    CountTokens,
    /// `POST /v1beta/models/{model}:{action}`
    Gemini {
        /// The model as the path names it, decoded; may hold `/` and `:`.
        model: String,
        /// ASCII letters, such as `generateContent`.
        action: String,
    },
}

impl Surface {
    /// The surface a request belongs to, known or not: errors follow its envelope.
    ///
    /// Google's Python library calls `/v1/models` where its siblings call `/v1beta/models`; its
    /// credential header tells it from OpenAI's clients.
    pub fn of(path: &str, headers: &HeaderMap) -> Self {
        let googles = || {
            let holds = |name: &str| headers.contains_key(name);
            holds("x-goog-api-key") && !holds("authorization") && !holds("x-api-key")
        };
        let under = |root: &str| {
            path.strip_prefix(root)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if under("/v1beta") || (under("/v1/models") && googles()) {
            Self::Gemini
        } else if under("/anthropic") || under("/v1/messages") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

impl Call {
    /// Understands a request line; the failure says what there is instead.
    pub fn parse(method: &Method, uri: &Uri, surface: Surface) -> Result<Self, Failure> {
        match (surface, uri.path().strip_prefix("/v1/models")) {
            (Surface::Gemini, Some(rest)) => {
                Self::parse_path(method, &format!("/v1beta/models{rest}"))
            }
            _ => Self::parse_path(method, uri.path()),
        }
    }

    fn parse_path(method: &Method, path: &str) -> Result<Self, Failure> {
        let (allowed, call) = match path {
            "/v1/chat/completions" => (Method::POST, Self::Chat),
            "/v1/completions" => (Method::POST, Self::Completions),
            "/v1/embeddings" => (Method::POST, Self::Embeddings),
            "/v1/rerank" => (Method::POST, Self::Rerank),
            "/v1/responses" => (Method::POST, Self::CreateResponse),
            "/v1/messages" | "/anthropic/v1/messages" => (Method::POST, Self::Messages),
            "/v1/messages/count_tokens" | "/anthropic/v1/messages/count_tokens" => {
                (Method::POST, Self::CountTokens)
            }
            "/v1/models" => (Method::GET, Self::ListModels(Surface::OpenAi)),
            "/anthropic/v1/models" => (Method::GET, Self::ListModels(Surface::Anthropic)),
            "/v1beta/models" => (Method::GET, Self::ListModels(Surface::Gemini)),
            _ => return Self::parse_with_id(method, path),
        };
        expect_method(method, allowed).map(|()| call)
    }

    fn parse_with_id(method: &Method, path: &str) -> Result<Self, Failure> {
        if let Some(rest) = path.strip_prefix("/v1/responses/") {
            return Self::parse_response(method, rest);
        }
        if let Some(rest) = path.strip_prefix("/v1beta/models/")
            && *method != Method::GET
        {
            expect_method(method, Method::POST)?;
            let (model, action) = path::model_and_action(rest)?;
            return Ok(Self::Gemini { model, action });
        }
        let listings = [
            ("/v1/models/", Surface::OpenAi),
            ("/anthropic/v1/models/", Surface::Anthropic),
            ("/v1beta/models/", Surface::Gemini),
        ];
        for (root, surface) in listings {
            if let Some(id) = path.strip_prefix(root) {
                expect_method(method, Method::GET)?;
                return Ok(Self::GetModel(surface, path::model(id)?));
            }
        }
        Err(Failure::UnknownPath(path::hint(path)))
    }

    fn parse_response(method: &Method, rest: &str) -> Result<Self, Failure> {
        let (id, action) = match rest.split_once('/') {
            None if *method == Method::DELETE => (rest, ResponseAction::Delete),
            None => {
                if *method != Method::GET {
                    return Err(Failure::MethodNotAllowed("GET, DELETE"));
                }
                (rest, ResponseAction::Get)
            }
            Some((id, "input_items")) => {
                expect_method(method, Method::GET)?;
                (id, ResponseAction::InputItems)
            }
            Some((id, "cancel")) => {
                expect_method(method, Method::POST)?;
                (id, ResponseAction::Cancel)
            }
            Some(_) => return Err(Failure::UnknownPath(path::hint("/v1/responses/"))),
        };
        path::response_id(id)?;
        Ok(Self::Response(action, id.to_owned()))
    }

    /// Whose envelope the call follows.
    pub fn surface(&self) -> Surface {
        match self {
            Self::ListModels(surface) | Self::GetModel(surface, _) => *surface,
            Self::Messages | Self::CountTokens => Surface::Anthropic,
            Self::Gemini { .. } => Surface::Gemini,
            _ => Surface::OpenAi,
        }
    }

    /// The name space in which the call's model is looked up.
    pub fn family(&self) -> Family {
        match self {
            Self::CreateResponse | Self::Response(..) => Family::Responses,
            _ => Family::General,
        }
    }

    /// A bounded word for metrics and logs.
    pub fn label(&self) -> Label {
        match self {
            Self::ListModels(_) | Self::GetModel(..) => Label::Models,
            Self::Chat => Label::Chat,
            Self::Completions => Label::Completions,
            Self::Embeddings => Label::Embeddings,
            Self::Rerank => Label::Rerank,
            Self::CreateResponse | Self::Response(..) => Label::Responses,
            Self::Messages => Label::Messages,
            Self::CountTokens => Label::CountTokens,
            Self::Gemini { .. } => Label::Gemini,
        }
    }
}

macro_rules! labels {
    ($($variant:ident = $word:literal),* $(,)?) => {
        /// The endpoint of a request as metrics and logs name it; bounded.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Label {
            $(#[doc = $word] $variant),*
        }

        impl Label {
            /// All of them, in order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}
labels! {
    Models = "models",
    Chat = "chat_completions",
    Completions = "completions",
    Embeddings = "embeddings",
    Rerank = "rerank",
    Responses = "responses",
    Messages = "messages",
    CountTokens = "count_tokens",
    Gemini = "gemini",
    Admin = "admin",
    Other = "other",
}

fn expect_method(method: &Method, allowed: Method) -> Result<(), Failure> {
    match *method == allowed {
        true => Ok(()),
        false if allowed == Method::GET => Err(Failure::MethodNotAllowed("GET")),
        false => Err(Failure::MethodNotAllowed("POST")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, path: &str) -> Result<Call, Failure> {
        let uri: Uri = path.parse().expect("uri");
        let surface = Surface::of(uri.path(), &HeaderMap::new());
        Call::parse(&method.parse().expect("method"), &uri, surface)
    }

    #[test]
    fn models_may_hold_slashes_and_colons() {
        let id = |s: &str| Ok(Call::GetModel(Surface::OpenAi, s.to_owned()));
        assert_eq!(parse("GET", "/v1/models/a/b:c"), id("a/b:c"));
        assert_eq!(parse("GET", "/v1/models/a%2Fb%20c"), id("a/b c"));
        assert_eq!(
            parse("POST", "/v1beta/models/qwen3:4b:generateContent?alt=sse"),
            Ok(Call::Gemini {
                model: "qwen3:4b".into(),
                action: "generateContent".into()
            })
        );
    }

    #[test]
    fn misleading_paths_are_refused() {
        for path in [
            "/v1/models/a/../b",
            "/v1/models/a%2F..%2Fb",
            "/v1/models/%2e%2e",
            "/v1/models/a//b",
            "/v1/models/a%252Fb",
            "/v1/models/a%3Fb",
            "/v1/models/a%23b",
            "/v1/models/a%5Cb",
            "/v1/models/a%00",
            "/v1/models/a%0d%0ab",
            "/v1/models/a%ff",
            "/v1/models/a%2",
            "/v1/models/",
            "/v1/responses/resp_1%2F..",
            "/v1/responses/a.b",
            "/v1/responses/",
            "/v1beta/models/a?x",
        ] {
            assert!(
                parse("GET", path).is_err() || path == "/v1beta/models/a?x",
                "{path}"
            );
        }
        for path in [
            "/v1beta/models/a",
            "/v1beta/models/:generateContent",
            "/v1beta/models/a:gen%2e",
            "/v1beta/models/a:",
            "/v1beta/models/../b:generateContent",
        ] {
            assert!(parse("POST", path).is_err(), "{path}");
        }
    }

    #[test]
    fn responses_by_id_know_their_five_calls() {
        use ResponseAction::*;
        for (method, path, action) in [
            ("GET", "/v1/responses/resp_1", Get),
            ("DELETE", "/v1/responses/resp_1", Delete),
            (
                "GET",
                "/v1/responses/resp_1/input_items?limit=2",
                InputItems,
            ),
            ("POST", "/v1/responses/resp_1/cancel", Cancel),
        ] {
            assert_eq!(
                parse(method, path),
                Ok(Call::Response(action, "resp_1".into()))
            );
        }
        assert!(matches!(
            parse("PUT", "/v1/responses/resp_1"),
            Err(Failure::MethodNotAllowed("GET, DELETE"))
        ));
    }

    #[test]
    fn errors_follow_the_surface_of_the_path() {
        for (path, surface) in [
            ("/v1/messages/x", Surface::Anthropic),
            ("/v1/messagesx", Surface::OpenAi),
            ("/anthropic", Surface::Anthropic),
            ("/v1beta/x", Surface::Gemini),
            ("/v1betax", Surface::OpenAi),
            ("/", Surface::OpenAi),
        ] {
            assert_eq!(Surface::of(path, &HeaderMap::new()), surface, "{path}");
        }
    }

    #[test]
    fn googles_credential_makes_the_models_of_v1_googles() {
        let surface = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, http::HeaderValue::from_static(value));
            }
            Surface::of("/v1/models/m:generateContent", &headers)
        };
        assert_eq!(surface(&[("x-goog-api-key", "t")]), Surface::Gemini);
        let both = [("x-goog-api-key", "t"), ("authorization", "Bearer t")];
        assert_eq!(surface(&both), Surface::OpenAi);
        let uri: Uri = "/v1/models/m:generateContent".parse().expect("uri");
        let call = Call::parse(&Method::POST, &uri, Surface::Gemini);
        assert!(matches!(call, Ok(Call::Gemini { model, .. }) if model == "m"));
        let list: Uri = "/v1/models".parse().expect("uri");
        let call = Call::parse(&Method::GET, &list, Surface::Gemini);
        assert_eq!(call, Ok(Call::ListModels(Surface::Gemini)));
    }
}
