//! Bytes to resources. Whatever arrives is checked here, once: behind this border a
//! resource cannot be wrong.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::{
    AllowedOrigins, Auth, Balancing, BaseUrl, Credential, Curve, EgressScope, Features, Globs,
    KeyMaterial, Kind, LocalFeatures, MappedAccount, ModelCap, OriginPattern, OutputLimitField,
    POLICY_NAME, Policy, Pool, PoolState, Refusal, Resource, ResponsesIsolation, Roots, Route,
    RouteModel, Scope, ServedKey, ServedName, ServiceAccounts, Serving, Timeouts, Token, TokenHash,
    TokenLimits, Upstream, VerifyingKey, Visibility, WorkerAddress, WorkerEndpoint, WorkerId,
};
use crate::names::{ModelName, ObjectKind, ObjectRef, ServiceAccountName, TokenId};
use crate::provider::Format;
use crate::secret::Secret;
use crate::wire::sync as pb;

/// Longest body of a resource, in bytes: a bundle of roots fits.
const BODY_MAX: usize = 1 << 20;
/// Longest text where nothing narrower is said, in bytes.
const TEXT_MAX: usize = 4096;
/// Longest JSON object carried for the data plane, in bytes.
const JSON_MAX: usize = 64 << 10;
/// Longest list of anything.
const LIST_MAX: usize = 1024;

/// Why a resource cannot be accepted. Its text goes into the object's status; it never
/// holds a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct DecodeError {
    /// Where, as the schema calls it.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

fn wrong(field: &'static str, why: impl Display) -> DecodeError {
    let mut why = why.to_string();
    if why.len() > 512 {
        why.truncate(why.floor_char_boundary(512));
        why.push('…');
    }
    DecodeError { field, why }
}

impl Resource {
    /// Reads and checks a body; the inverse of [`Resource::encode`].
    pub fn decode(kind: Kind, name: &str, body: &[u8]) -> Result<Self, DecodeError> {
        if body.len() > BODY_MAX {
            let why = format!("is {} bytes long; the limit is {BODY_MAX}", body.len());
            return Err(wrong("body", why));
        }
        Ok(match kind {
            Kind::Upstream => Self::Upstream(Arc::new(upstream(name, parse(body)?)?)),
            Kind::Credential => Self::Credential(Arc::new(credential(name, parse(body)?)?)),
            Kind::ServedName => Self::ServedName(Arc::new(served_name(name, parse(body)?)?)),
            Kind::Token => Self::Token(Arc::new(token(name, parse(body)?)?)),
            Kind::Policy => Self::Policy(Arc::new(policy(name, parse(body)?)?)),
            Kind::Pool => Self::Pool(Arc::new(pool(name, parse(body)?)?)),
            Kind::Endpoint => Self::Endpoint(Arc::new(endpoint(name, parse(body)?)?)),
        })
    }
}

fn parse<T: prost::Message + Default>(body: &[u8]) -> Result<T, DecodeError> {
    T::decode(body).map_err(|e| wrong("body", e))
}

fn upstream(name: &str, u: pb::Upstream) -> Result<Upstream, DecodeError> {
    let format = match pb::Format::try_from(u.format) {
        Ok(pb::Format::Openai) => Format::OpenAi,
        Ok(pb::Format::OpenaiResponses) => Format::OpenAiResponses,
        Ok(pb::Format::Anthropic) => Format::Anthropic,
        Ok(pb::Format::AnthropicOauth) => Format::AnthropicOauth,
        Ok(pb::Format::Gemini) => Format::Gemini,
        Ok(pb::Format::Unspecified) | Err(_) => {
            return Err(wrong("format", "is not known to this release"));
        }
    };
    let base_url = match &*u.base_url {
        "" => format.canonical_base_url(),
        given => bounded("base_url", given, TEXT_MAX)?,
    };
    let default = Timeouts::default();
    Ok(Upstream {
        object: api_model("name", name)?,
        format,
        base_url: BaseUrl::parse(base_url).map_err(|e| wrong("base_url", e))?,
        auth: match u.anonymous {
            true => Auth::None,
            false => Auth::Credential,
        },
        features: Features {
            chat: !u.lacks_chat,
            completions: !u.lacks_completions,
            embeddings: !u.lacks_embeddings,
        },
        output_limit_field: match u.limits_by_max_tokens {
            true => OutputLimitField::MaxTokens,
            false => OutputLimitField::MaxCompletionTokens,
        },
        extra_headers: list("extra_headers", u.extra_headers, header)?,
        extra_body: json_object("extra_body", u.extra_body)?,
        timeouts: Timeouts {
            connect: millis(u.connect_timeout_ms, default.connect),
            first_byte: millis(u.first_byte_timeout_ms, default.first_byte),
            idle: millis(u.idle_timeout_ms, default.idle),
        },
        attempts: NonZeroU32::MIN.saturating_add(u.retries),
        max_in_flight: positive("max_in_flight", u.max_in_flight)?,
        roots: match u.ca_bundle {
            None => Roots::System,
            Some(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Roots::Bundle(pem.into()),
            Some(_) => return Err(wrong("ca_bundle", "holds no PEM certificate")),
        },
        egress: egress(u.egress.unwrap_or_default())?,
    })
}

fn header(h: pb::Header) -> Result<(HeaderName, HeaderValue), DecodeError> {
    let name = HeaderName::from_bytes(h.name.as_bytes())
        .map_err(|_| wrong("extra_headers", format!("{:?} is no header name", h.name)))?;
    let value = HeaderValue::from_bytes(&h.value).map_err(|_| {
        let why = format!("the value of {name} holds a character no header may have");
        wrong("extra_headers", why)
    })?;
    Ok((name, value))
}

fn egress(e: pb::Egress) -> Result<EgressScope, DecodeError> {
    match e.scope() {
        pb::egress::Scope::Standalone => Ok(EgressScope::Standalone),
        pb::egress::Scope::Release => Ok(EgressScope::Release),
        pb::egress::Scope::Tenant => {
            let range = |r: String| {
                r.parse()
                    .map_err(|_| wrong("egress.ranges", format!("{r:?} is no CIDR range")))
            };
            Ok(EgressScope::Tenant(
                list("egress.ranges", e.ranges, range)?.into(),
            ))
        }
        // Unknown is not "anywhere": nothing may be dialled by a rule that was not understood.
        pb::egress::Scope::Unspecified => Err(wrong("egress", "is not known to this release")),
    }
}

fn credential(name: &str, c: pb::Credential) -> Result<Credential, DecodeError> {
    let secret = Secret::new(c.secret);
    let text = secret.expose();
    if text.is_empty() || text.len() > 16 << 10 {
        return Err(wrong("secret", "must have 1 to 16384 bytes"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
        let why = "holds a character that no header may have, such as a line break";
        return Err(wrong("secret", why));
    }
    let pattern = |text: String| {
        OriginPattern::parse(bounded("allowed_origins", &text, TEXT_MAX)?)
            .map_err(|e| wrong("allowed_origins", e))
    };
    let listed = list("allowed_origins", c.allowed_origins, pattern)?;
    Ok(Credential {
        object: api_model("name", name)?,
        secret,
        allowed_origins: match c.any_origin {
            true if listed.is_empty() => AllowedOrigins::Any,
            true => return Err(wrong("allowed_origins", "both any origin and some listed")),
            false => AllowedOrigins::Listed(listed),
        },
    })
}

fn served_name(name: &str, s: pb::ServedName) -> Result<ServedName, DecodeError> {
    let routes = list("routes", s.routes, route)?;
    let serving = match (routes.is_empty(), s.refusal) {
        (false, None) => Serving::Routes(routes),
        (true, Some(why)) => Serving::Refused(refusal(why)?),
        (true, None) => return Err(wrong("routes", "must not be empty")),
        (false, Some(_)) => return Err(wrong("refusal", "stands beside routes")),
    };
    if let Serving::Routes(routes) = &serving
        && !routes.is_sorted_by_key(|r| r.priority)
    {
        return Err(wrong("routes", "are not in order of priority"));
    }
    Ok(ServedName {
        key: ServedKey::parse(name).map_err(|e| wrong("name", e))?,
        owner: ObjectRef::parse(&s.owner).map_err(|e| wrong("owner", e))?,
        created: s.created,
        visibility: match s.internal {
            true => Visibility::Internal,
            false => Visibility::Public,
        },
        serving,
        max_output_tokens: NonZeroU32::new(s.max_output_tokens),
        defaults: json_object("defaults", s.defaults)?,
    })
}

fn route(r: pb::Route) -> Result<Route, DecodeError> {
    let id = |field, text: &str| match text {
        "" => Err(wrong(field, "must not be empty")),
        text => Ok(Arc::from(bounded(field, text, TEXT_MAX)?)),
    };
    Ok(Route {
        upstream: ObjectRef::parse(&r.upstream).map_err(|e| wrong("routes.upstream", e))?,
        model: match r.model {
            Some(pb::route::Model::Named(named)) => RouteModel::Named(id("routes.named", &named)?),
            Some(pb::route::Model::Remainder(true)) => RouteModel::Remainder,
            Some(pb::route::Model::AsAsked(true)) => RouteModel::AsAsked,
            _ => return Err(wrong("routes.model", "is not known to this release")),
        },
        exposed: match r.exposed {
            Some(text) => Some(id("routes.exposed", &text)?),
            None => None,
        },
        weight: NonZeroU32::new(r.weight).unwrap_or(NonZeroU32::MIN),
        priority: r.priority,
    })
}

fn token(name: &str, t: pb::Token) -> Result<Token, DecodeError> {
    let scope = scope("scope", t.scope())?;
    let hash = <[u8; 32]>::try_from(&*t.hash).map_err(|_| wrong("hash", "must have 32 bytes"))?;
    Ok(Token {
        id: TokenId::parse(name).map_err(|e| wrong("name", e))?,
        hash: TokenHash(hash),
        owner: bounded("owner", &t.owner, TEXT_MAX)?.into(),
        scope,
        expires: t.expires,
        models: t.models.map(|g| globs("models", g)).transpose()?,
        output_caps: list("output_caps", t.output_caps, cap)?,
        limits: TokenLimits {
            requests_per_minute: NonZeroU32::new(t.requests_per_minute),
            tokens_per_minute: NonZeroU32::new(t.tokens_per_minute),
            concurrency: NonZeroU32::new(t.concurrency),
        },
    })
}

fn scope(field: &'static str, scope: pb::Scope) -> Result<Scope, DecodeError> {
    match scope {
        pb::Scope::User => Ok(Scope::User),
        pb::Scope::PowerUser => Ok(Scope::PowerUser),
        pb::Scope::Admin => Ok(Scope::Admin),
        pb::Scope::Unspecified => Err(wrong(field, "is not known to this release")),
    }
}

fn policy(name: &str, p: pb::Policy) -> Result<Policy, DecodeError> {
    if name != POLICY_NAME {
        return Err(wrong(
            "name",
            format!("the one policy is named {POLICY_NAME}"),
        ));
    }
    let allowed_models = p.allowed_models.map(|g| globs("allowed_models", g));
    Ok(Policy {
        allowed_models: allowed_models.transpose()?,
        output_caps: list("output_caps", p.output_caps, cap)?,
        responses_isolation: match p.strict_responses {
            true => ResponsesIsolation::Strict,
            false => ResponsesIsolation::Shared,
        },
        service_accounts: p.service_accounts.map(service_accounts).transpose()?,
    })
}

fn service_accounts(s: pb::ServiceAccounts) -> Result<ServiceAccounts, DecodeError> {
    let issuer = bounded("service_accounts.issuer", &s.issuer, TEXT_MAX)?;
    let keys = list("service_accounts.keys", s.keys, verifying_key)?;
    let callers = list("service_accounts.callers", s.callers, mapped_account)?;
    if !callers.is_sorted_by(|a, b| a.account < b.account) {
        let why = "are not in order, or one is there twice";
        return Err(wrong("service_accounts.callers", why));
    }
    Ok(ServiceAccounts {
        issuer: issuer.into(),
        keys: keys.into_iter().flatten().collect(),
        callers,
    })
}

/// `None`: of a newer release. Its tokens are refused here, the others go on.
fn verifying_key(key: pb::VerifyingKey) -> Result<Option<VerifyingKey>, DecodeError> {
    use pb::verifying_key::Material;
    let material = match key.material {
        Some(Material::Rsa(rsa)) => KeyMaterial::rsa(&rsa.modulus, &rsa.exponent),
        Some(Material::Ec(ec)) => {
            let curve = match ec.curve() {
                pb::Curve::P256 => Curve::P256,
                pb::Curve::P384 => Curve::P384,
                pb::Curve::P521 => Curve::P521,
                pb::Curve::Unspecified => return Ok(None),
            };
            KeyMaterial::ec(curve, &ec.point)
        }
        None => return Ok(None),
    };
    Ok(Some(VerifyingKey {
        id: bounded("service_accounts.keys.id", &key.id, TEXT_MAX)?.into(),
        material: material.ok_or_else(|| wrong("service_accounts.keys", "holds no such key"))?,
    }))
}

fn mapped_account(mapped: pb::MappedAccount) -> Result<MappedAccount, DecodeError> {
    let account = ServiceAccountName::new(&mapped.namespace, &mapped.name);
    Ok(MappedAccount {
        account: account.map_err(|e| wrong("service_accounts.callers", e))?,
        scope: scope("service_accounts.callers.scope", mapped.scope())?,
        models: mapped
            .models
            .map(|g| globs("service_accounts.callers.models", g))
            .transpose()?,
    })
}

fn globs(field: &'static str, globs: pb::Globs) -> Result<Globs, DecodeError> {
    let pattern = |p: String| bounded(field, &p, TEXT_MAX).map(Box::<str>::from);
    Ok(Globs::new(list(field, globs.patterns, pattern)?))
}

fn cap(cap: pb::ModelCap) -> Result<ModelCap, DecodeError> {
    Ok(ModelCap {
        model: ModelName::parse(&cap.model).map_err(|e| wrong("output_caps.model", e))?,
        limit: positive("output_caps.limit", cap.limit)?,
    })
}

fn api_model(field: &'static str, text: &str) -> Result<ObjectRef, DecodeError> {
    let object = ObjectRef::parse(text).map_err(|e| wrong(field, e))?;
    match object.kind {
        ObjectKind::ApiModel => Ok(object),
        ObjectKind::Alias => Err(wrong(field, "must be an ApiModel")),
    }
}

fn bounded<'a>(field: &'static str, text: &'a str, max: usize) -> Result<&'a str, DecodeError> {
    match text.len() > max {
        true => Err(wrong(
            field,
            format!("is {} bytes long; the limit is {max}", text.len()),
        )),
        false => Ok(text),
    }
}

fn list<T, U>(
    field: &'static str,
    items: Vec<T>,
    each: impl FnMut(T) -> Result<U, DecodeError>,
) -> Result<Vec<U>, DecodeError> {
    match items.len() > LIST_MAX {
        true => Err(wrong(
            field,
            format!("has {} entries; the limit is {LIST_MAX}", items.len()),
        )),
        false => items.into_iter().map(each).collect(),
    }
}

fn json_object(field: &'static str, text: Option<String>) -> Result<Option<Arc<str>>, DecodeError> {
    let Some(text) = text else { return Ok(None) };
    bounded(field, &text, JSON_MAX)?;
    let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text);
    match parsed {
        Ok(_) if text.trim_start().starts_with('{') => Ok(Some(text.into())),
        Ok(_) => Err(wrong(field, "must be a JSON object")),
        Err(e) => Err(wrong(field, format!("is not valid JSON: {e}"))),
    }
}

fn positive(field: &'static str, n: u32) -> Result<NonZeroU32, DecodeError> {
    NonZeroU32::new(n).ok_or_else(|| wrong(field, "must be at least 1"))
}

fn millis(given: u64, default: Duration) -> Duration {
    match given {
        0 => default,
        ms => Duration::from_millis(ms),
    }
}

fn refusal(refusal: pb::Refusal) -> Result<Refusal, DecodeError> {
    Ok(Refusal {
        reason: bounded("refusal.reason", &refusal.reason, TEXT_MAX)?.into(),
        message: bounded("refusal.message", &refusal.message, JSON_MAX)?.into(),
        unsupported: refusal.unsupported,
    })
}

fn pool(name: &str, p: pb::Pool) -> Result<Pool, DecodeError> {
    let object = ObjectRef::parse(name).map_err(|e| wrong("name", e))?;
    if object.kind != ObjectKind::Alias {
        return Err(wrong("name", "must be an Alias"));
    }
    let state = match (p.state(), p.failure) {
        (pb::PoolState::Ready, None) => PoolState::Ready,
        (pb::PoolState::Starting, None) => PoolState::Starting,
        (pb::PoolState::Asleep, None) => PoolState::Asleep,
        (pb::PoolState::Failed, Some(why)) => PoolState::Failed(refusal(why)?),
        (pb::PoolState::Unspecified, _) => {
            return Err(wrong("state", "is not known to this release"));
        }
        (pb::PoolState::Failed, None) => return Err(wrong("failure", "is missing")),
        (_, Some(_)) => return Err(wrong("failure", "stands beside another state")),
    };
    Ok(Pool {
        object,
        features: LocalFeatures {
            chat: p.chat,
            completions: p.completions,
            embeddings: p.embeddings,
            rerank: p.rerank,
        },
        balancing: match p.mean_load_percent {
            0 => Balancing::LeastLoad,
            mean_load_percent @ 100.. => Balancing::PrefixHash { mean_load_percent },
            1..100 => return Err(wrong("mean_load_percent", "must be at least 100")),
        },
        hold_timeout: Duration::from_millis(p.hold_timeout_ms),
        max_held: p.max_held,
        system_prompt: match p.system_prompt {
            None => None,
            Some(text) => Some(bounded("system_prompt", &text, BODY_MAX)?.into()),
        },
        state,
    })
}

fn endpoint(name: &str, e: pb::Endpoint) -> Result<WorkerEndpoint, DecodeError> {
    Ok(WorkerEndpoint {
        id: WorkerId::parse(name).map_err(|e| wrong("name", e))?,
        address: WorkerAddress::parse(bounded("address", &e.address, TEXT_MAX)?)
            .ok_or_else(|| wrong("address", "must read unix:PATH or HOST:PORT"))?,
        slots: positive("slots", e.slots)?.get(),
    })
}
