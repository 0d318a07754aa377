//! A configuration of the size asked for, of ordinary objects.

use std::num::NonZeroU32;
use std::sync::Arc;

use bodhi_controller::sync::{Publication, Tokens};
use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::provider::Format;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::*;
use bodhi_proto::sync::{Revision, Source};

/// The objects at one moment.
pub(crate) struct Content {
    upstreams: Vec<Arc<Upstream>>,
    credentials: Vec<Arc<Credential>>,
    served: Vec<Arc<ServedName>>,
    tokens: usize,
    objects_at: u64,
    store_at: u64,
}

impl Content {
    pub(crate) fn new(objects: usize, tokens: usize) -> Self {
        let api_models = (objects / 10).max(1);
        Self {
            upstreams: (0..api_models).map(upstream).collect(),
            credentials: (0..api_models).map(credential).collect(),
            served: (0..objects - api_models)
                .map(|n| served(n, api_models, 1))
                .collect(),
            tokens,
            objects_at: 1_000_000,
            store_at: 1_000_000,
        }
    }

    /// All there is.
    pub(crate) fn all(&self) -> Publication {
        Publication {
            tokens: Tokens::All((0..self.tokens).map(token).collect()),
            policy: Some(Arc::default()),
            pools: Some(Vec::new()),
            endpoints: Some(Vec::new()),
            marks: vec![
                (Source::Objects, Revision::number(self.objects_at)),
                (Source::Store, Revision::number(self.store_at)),
                (Source::Workers, Revision::number(1)),
            ],
            ..self.objects()
        }
    }

    /// The objects, as a controller that compiles from scratch offers them.
    fn objects(&self) -> Publication {
        Publication {
            upstreams: Some(self.upstreams.clone()),
            credentials: Some(self.credentials.clone()),
            served_names: Some(self.served.clone()),
            marks: vec![(Source::Objects, Revision::number(self.objects_at))],
            ..Publication::default()
        }
    }

    /// One object is changed; the revision that contains it.
    pub(crate) fn edit(&mut self) -> (u64, Publication) {
        self.objects_at += 1;
        let n = usize::try_from(self.objects_at).expect("a count") % self.served.len();
        let created = self.objects_at.cast_signed();
        self.served[n] = served(n, self.upstreams.len(), created);
        (self.objects_at, self.objects())
    }

    /// A token is revoked; the revision that did it.
    pub(crate) fn revoke(&mut self, n: usize) -> (u64, Publication) {
        self.store_at += 1;
        let revision = Revision::number(self.store_at);
        let publication = Publication {
            tokens: Tokens::Changed {
                upserts: Vec::new(),
                removals: vec![(token_id(n), revision)],
            },
            marks: vec![(Source::Store, revision)],
            ..Publication::default()
        };
        (self.store_at, publication)
    }
}

fn upstream(n: usize) -> Arc<Upstream> {
    Arc::new(Upstream {
        object: ObjectRef::api_model("team-a", &format!("openrouter-{n}")),
        format: Format::OpenAi,
        base_url: BaseUrl::parse("https://openrouter.ai/api/v1").expect("a base URL"),
        auth: Auth::Credential,
        features: Features::ALL,
        output_limit_field: OutputLimitField::MaxTokens,
        extra_headers: Vec::new(),
        extra_body: None,
        timeouts: Timeouts::default(),
        attempts: NonZeroU32::MIN,
        max_in_flight: NonZeroU32::new(500).expect("not zero"),
        roots: Roots::System,
        egress: EgressScope::Release,
    })
}

fn credential(n: usize) -> Arc<Credential> {
    let origin = OriginPattern::parse("https://openrouter.ai").expect("an origin");
    Arc::new(Credential {
        object: ObjectRef::api_model("team-a", &format!("openrouter-{n}")),
        secret: Secret::new(format!("sk-or-v1-{n:064}")),
        allowed_origins: AllowedOrigins::Listed(vec![origin]),
    })
}

fn served(n: usize, upstreams: usize, created: i64) -> Arc<ServedName> {
    Arc::new(ServedName {
        key: ServedKey::parse(&format!("general/exact/team-a/chat-{n}")).expect("a name"),
        owner: ObjectRef::alias("team-a", &format!("chat-{n}")),
        created,
        visibility: Visibility::Public,
        serving: Serving::Routes(vec![Route {
            upstream: ObjectRef::api_model("team-a", &format!("openrouter-{}", n % upstreams)),
            model: RouteModel::Named("openai/gpt-4o".into()),
            exposed: Some("openrouter/openai/gpt-4o".into()),
            weight: NonZeroU32::MIN,
            priority: 0,
        }]),
        max_output_tokens: None,
        defaults: None,
    })
}

fn token_id(n: usize) -> TokenId {
    TokenId::parse(&format!("tok_{n:012}")).expect("an id")
}

fn token(n: usize) -> Arc<Token> {
    Arc::new(Token {
        id: token_id(n),
        hash: TokenHash::of(&n.to_le_bytes()),
        owner: "someone@example.com".into(),
        scope: Scope::User,
        expires: Some(1_900_000_000),
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    })
}
