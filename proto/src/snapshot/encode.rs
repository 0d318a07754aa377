//! Resources to bytes. The same value always gives the same bytes: no maps, defaults left out.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::{
    AllowedOrigins, Auth, Balancing, Credential, Curve, EgressScope, Globs, KeyMaterial, ModelCap,
    OutputLimitField, Policy, Pool, PoolState, Refusal, Resource, ResponsesIsolation, Roots, Route,
    RouteModel, Scope, ServedName, ServiceAccounts, Serving, Timeouts, Token, Upstream,
    VerifyingKey, Visibility, WorkerEndpoint,
};
use crate::provider::Format;
use crate::wire::sync as pb;

impl Resource {
    /// The body of the resource, from which [`Resource::decode`] makes it again.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Upstream(v) => upstream(v).encode_to_vec(),
            Self::Credential(v) => credential(v).encode_to_vec(),
            Self::ServedName(v) => served_name(v).encode_to_vec(),
            Self::Token(v) => token(v).encode_to_vec(),
            Self::Policy(v) => policy(v).encode_to_vec(),
            Self::Pool(v) => pool(v).encode_to_vec(),
            Self::Endpoint(v) => endpoint(v).encode_to_vec(),
        }
        .into()
    }
}

fn upstream(u: &Upstream) -> pb::Upstream {
    let default = Timeouts::default();
    let base_url = u.base_url.to_string();
    pb::Upstream {
        format: format(u.format).into(),
        base_url: match base_url == u.format.canonical_base_url() {
            true => String::new(),
            false => base_url,
        },
        anonymous: u.auth == Auth::None,
        lacks_chat: !u.features.chat,
        lacks_completions: !u.features.completions,
        lacks_embeddings: !u.features.embeddings,
        limits_by_max_tokens: u.output_limit_field == OutputLimitField::MaxTokens,
        extra_headers: u
            .extra_headers
            .iter()
            .map(|(name, value)| pb::Header {
                name: name.as_str().to_owned(),
                value: Bytes::copy_from_slice(value.as_bytes()),
            })
            .collect(),
        extra_body: u.extra_body.as_deref().map(str::to_owned),
        connect_timeout_ms: millis(u.timeouts.connect, default.connect),
        first_byte_timeout_ms: millis(u.timeouts.first_byte, default.first_byte),
        idle_timeout_ms: millis(u.timeouts.idle, default.idle),
        retries: u.attempts.get() - 1,
        max_in_flight: u.max_in_flight.get(),
        ca_bundle: match &u.roots {
            Roots::System => None,
            Roots::Bundle(pem) => Some(pem.to_string()),
        },
        egress: Some(egress(&u.egress)),
    }
}

/// Milliseconds; zero stands for the default, so that no timeout can become one by rounding.
fn millis(value: Duration, default: Duration) -> u64 {
    match value == default {
        true => 0,
        false => u64::try_from(value.as_millis()).unwrap_or(u64::MAX).max(1),
    }
}

fn format(format: Format) -> pb::Format {
    match format {
        Format::OpenAi => pb::Format::Openai,
        Format::OpenAiResponses => pb::Format::OpenaiResponses,
        Format::Anthropic => pb::Format::Anthropic,
        Format::AnthropicOauth => pb::Format::AnthropicOauth,
        Format::Gemini => pb::Format::Gemini,
    }
}

fn egress(scope: &EgressScope) -> pb::Egress {
    let (scope, ranges) = match scope {
        EgressScope::Standalone => (pb::egress::Scope::Standalone, Vec::new()),
        EgressScope::Release => (pb::egress::Scope::Release, Vec::new()),
        EgressScope::Tenant(ranges) => (
            pb::egress::Scope::Tenant,
            ranges.iter().map(ToString::to_string).collect(),
        ),
    };
    pb::Egress {
        scope: scope.into(),
        ranges,
    }
}

fn credential(c: &Credential) -> pb::Credential {
    let (any_origin, allowed_origins) = match &c.allowed_origins {
        AllowedOrigins::Any => (true, Vec::new()),
        AllowedOrigins::Listed(patterns) => {
            (false, patterns.iter().map(ToString::to_string).collect())
        }
    };
    pb::Credential {
        secret: c.secret.expose().to_owned(),
        any_origin,
        allowed_origins,
    }
}

fn served_name(s: &ServedName) -> pb::ServedName {
    let (routes, refusal) = match &s.serving {
        Serving::Routes(routes) => (routes.iter().map(route).collect(), None),
        Serving::Refused(refusal) => (Vec::new(), Some(self::refusal(refusal))),
    };
    pb::ServedName {
        owner: s.owner.to_string(),
        created: s.created,
        internal: s.visibility == Visibility::Internal,
        routes,
        refusal,
        max_output_tokens: or_zero(s.max_output_tokens),
        defaults: s.defaults.as_deref().map(str::to_owned),
    }
}

fn route(r: &Route) -> pb::Route {
    pb::Route {
        upstream: r.upstream.to_string(),
        model: Some(match &r.model {
            RouteModel::Named(id) => pb::route::Model::Named(id.to_string()),
            RouteModel::Remainder => pb::route::Model::Remainder(true),
            RouteModel::AsAsked => pb::route::Model::AsAsked(true),
        }),
        exposed: r.exposed.as_deref().map(str::to_owned),
        weight: match r.weight.get() {
            1 => 0,
            weight => weight,
        },
        priority: r.priority,
    }
}

fn token(t: &Token) -> pb::Token {
    pb::Token {
        hash: Bytes::copy_from_slice(&t.hash.0),
        owner: t.owner.to_string(),
        scope: scope(t.scope).into(),
        expires: t.expires,
        models: t.models.as_ref().map(globs),
        output_caps: t.output_caps.iter().map(cap).collect(),
        requests_per_minute: or_zero(t.limits.requests_per_minute),
        tokens_per_minute: or_zero(t.limits.tokens_per_minute),
        concurrency: or_zero(t.limits.concurrency),
    }
}

fn scope(scope: Scope) -> pb::Scope {
    match scope {
        Scope::User => pb::Scope::User,
        Scope::PowerUser => pb::Scope::PowerUser,
        Scope::Admin => pb::Scope::Admin,
    }
}

fn policy(p: &Policy) -> pb::Policy {
    pb::Policy {
        allowed_models: p.allowed_models.as_ref().map(globs),
        output_caps: p.output_caps.iter().map(cap).collect(),
        strict_responses: p.responses_isolation == ResponsesIsolation::Strict,
        service_accounts: p.service_accounts.as_ref().map(service_accounts),
    }
}

fn service_accounts(s: &ServiceAccounts) -> pb::ServiceAccounts {
    pb::ServiceAccounts {
        issuer: s.issuer.to_string(),
        keys: s.keys.iter().map(verifying_key).collect(),
        callers: s
            .callers
            .iter()
            .map(|mapped| pb::MappedAccount {
                namespace: mapped.account.namespace().to_owned(),
                name: mapped.account.name().to_owned(),
                scope: scope(mapped.scope).into(),
                models: mapped.models.as_ref().map(globs),
            })
            .collect(),
    }
}

fn verifying_key(key: &VerifyingKey) -> pb::VerifyingKey {
    use pb::verifying_key::Material;
    pb::VerifyingKey {
        id: key.id.to_string(),
        material: Some(match &key.material {
            KeyMaterial::Rsa { modulus, exponent } => Material::Rsa(pb::RsaKey {
                modulus: Bytes::copy_from_slice(modulus),
                exponent: Bytes::copy_from_slice(exponent),
            }),
            KeyMaterial::Ec { curve, point } => Material::Ec(pb::EcKey {
                curve: match curve {
                    Curve::P256 => pb::Curve::P256,
                    Curve::P384 => pb::Curve::P384,
                    Curve::P521 => pb::Curve::P521,
                }
                .into(),
                point: Bytes::copy_from_slice(point),
            }),
        }),
    }
}

fn globs(globs: &Globs) -> pb::Globs {
    pb::Globs {
        patterns: globs.patterns().map(str::to_owned).collect(),
    }
}

fn cap(cap: &ModelCap) -> pb::ModelCap {
    pb::ModelCap {
        model: cap.model.to_string(),
        limit: cap.limit.get(),
    }
}

fn or_zero(limit: Option<NonZeroU32>) -> u32 {
    limit.map_or(0, NonZeroU32::get)
}

fn refusal(refusal: &Refusal) -> pb::Refusal {
    pb::Refusal {
        reason: refusal.reason.to_string(),
        message: refusal.message.to_string(),
        unsupported: refusal.unsupported,
    }
}

fn pool(p: &Pool) -> pb::Pool {
    let (state, failure) = match &p.state {
        PoolState::Ready => (pb::PoolState::Ready, None),
        PoolState::Starting => (pb::PoolState::Starting, None),
        PoolState::Asleep => (pb::PoolState::Asleep, None),
        PoolState::Failed(why) => (pb::PoolState::Failed, Some(refusal(why))),
    };
    pb::Pool {
        chat: p.features.chat,
        completions: p.features.completions,
        embeddings: p.features.embeddings,
        rerank: p.features.rerank,
        mean_load_percent: match p.balancing {
            Balancing::PrefixHash { mean_load_percent } => mean_load_percent,
            Balancing::LeastLoad => 0,
        },
        hold_timeout_ms: u64::try_from(p.hold_timeout.as_millis()).unwrap_or(u64::MAX),
        max_held: p.max_held,
        system_prompt: p.system_prompt.as_deref().map(str::to_owned),
        state: state.into(),
        failure,
    }
}

fn endpoint(e: &WorkerEndpoint) -> pb::Endpoint {
    pb::Endpoint {
        address: e.address.to_string(),
        slots: e.slots,
    }
}
