//! Tokens: minted and shown once, listed, revoked.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodhi_proto::names::{ModelName, TokenId};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{Globs, ModelCap, Scope, Token, TokenHash, TokenLimits};
use bodhi_proto::token;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use zeroize::Zeroizing;

use super::auth::Caller;
use super::extract::{Body, Params, Segments};
use super::{AdminState, ApiError, Applied};
use crate::store::{NewToken, TokenQuery, TokenRecord};

const NAME_MAX: usize = 128;
const OWNER_MAX: usize = 253;
const LIST_MAX: usize = 100;
const PAGE_DEFAULT: u32 = 100;
pub(super) const PAGE_MAX: u32 = 1000;

/// A new token without restrictions, and its text. `random` must come from the operating
/// system's generator: the first 32 bytes are the token's, the last 12 its id's.
pub fn mint(
    random: &Zeroizing<[u8; 44]>,
    name: &str,
    owner: &str,
    scope: Scope,
) -> (Secret, NewToken) {
    let mut own = Zeroizing::new([0; 32]);
    own.copy_from_slice(&random[..32]);
    let text = token::generate(&own);
    let id = URL_SAFE_NO_PAD.encode(&random[32..]);
    let new = NewToken {
        token: Token {
            id: TokenId::parse(&id).expect("base64url is what an id may hold"),
            hash: TokenHash::of(text.expose().as_bytes()),
            owner: owner.into(),
            scope,
            expires: None,
            models: None,
            output_caps: Vec::new(),
            limits: TokenLimits::default(),
        },
        name: name.to_owned(),
    };
    (text, new)
}

/// Who the caller is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct WhoAmI {
    owner: String,
    /// `user`, `power_user` or `admin`.
    scope: &'static str,
    token_id: String,
    token_name: String,
    /// Unix seconds; null: never.
    expires: Option<i64>,
    /// Globs; null: all models.
    models: Option<Vec<String>>,
}

/// Tells the caller who they are.
#[utoipa::path(get, path = "/bodhi/v1/whoami", tag = "tokens", responses((status = 200, body = WhoAmI)), security(("token" = [])))]
pub(super) async fn whoami(caller: Caller) -> Json<WhoAmI> {
    let record = caller.record;
    Json(WhoAmI {
        owner: record.token.owner.to_string(),
        scope: record.token.scope.as_str(),
        token_id: record.token.id.to_string(),
        token_name: record.name,
        expires: record.token.expires,
        models: globs(&record.token),
    })
}

fn globs(token: &Token) -> Option<Vec<String>> {
    let globs = token.models.as_ref()?;
    Some(globs.patterns().map(str::to_owned).collect())
}

/// What a new token may do. Left out: unlimited.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CreateToken {
    /// What it is for; listings and logs show it.
    name: String,
    /// Whose it is; default: the caller.
    owner: Option<String>,
    /// `user` (default), `power_user` or `admin`.
    scope: Option<String>,
    /// Seconds until it ends; default: never.
    #[schema(value_type = Option<u32>, minimum = 1)]
    expires_in: Option<NonZeroU32>,
    /// Globs over model names; default: all.
    models: Option<Vec<String>>,
    /// Caps on output tokens.
    #[serde(default)]
    output_caps: Vec<Cap>,
    /// Requests in a minute.
    #[schema(value_type = Option<u32>, minimum = 1)]
    requests_per_minute: Option<NonZeroU32>,
    /// Input and output tokens in a minute.
    #[schema(value_type = Option<u32>, minimum = 1)]
    tokens_per_minute: Option<NonZeroU32>,
    /// Requests at the same time.
    #[schema(value_type = Option<u32>, minimum = 1)]
    concurrency: Option<NonZeroU32>,
}

/// Most output tokens of one model.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Cap {
    /// The served name.
    model: String,
    /// Tokens per answer.
    #[schema(value_type = u32, minimum = 1)]
    limit: NonZeroU32,
}

/// A token without its text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokenInfo {
    id: String,
    name: String,
    owner: String,
    scope: &'static str,
    /// Unix seconds.
    created: i64,
    /// Unix seconds; null: never.
    expires: Option<i64>,
    /// Unix seconds; null: it was not.
    revoked: Option<i64>,
    /// `active`, `expired` or `revoked`.
    state: &'static str,
    models: Option<Vec<String>>,
    output_caps: Vec<Cap>,
    #[schema(value_type = Option<u32>, minimum = 1)]
    requests_per_minute: Option<NonZeroU32>,
    #[schema(value_type = Option<u32>, minimum = 1)]
    tokens_per_minute: Option<NonZeroU32>,
    #[schema(value_type = Option<u32>, minimum = 1)]
    concurrency: Option<NonZeroU32>,
}

impl TokenInfo {
    fn of(record: TokenRecord, now: i64) -> Self {
        let token = &record.token;
        let cap = |cap: &ModelCap| Cap {
            model: cap.model.to_string(),
            limit: cap.limit,
        };
        Self {
            state: match (record.revoked, token.expires) {
                (Some(_), _) => "revoked",
                (None, Some(expires)) if expires <= now => "expired",
                _ => "active",
            },
            id: token.id.to_string(),
            owner: token.owner.to_string(),
            scope: token.scope.as_str(),
            created: record.created,
            expires: token.expires,
            revoked: record.revoked,
            models: globs(token),
            output_caps: token.output_caps.iter().map(cap).collect(),
            requests_per_minute: token.limits.requests_per_minute,
            tokens_per_minute: token.limits.tokens_per_minute,
            concurrency: token.limits.concurrency,
            name: record.name,
        }
    }
}

/// A new token: the only answer that holds its text.
#[derive(Serialize, ToSchema)]
pub(super) struct Minted {
    /// Shown this once.
    token: String,
    #[serde(flatten)]
    info: TokenInfo,
}

/// Mints a token (scope admin). Its text is in this answer and never again.
#[utoipa::path(post, path = "/bodhi/v1/tokens", tag = "tokens", request_body = CreateToken, responses((status = 201, body = Minted)), security(("token" = [])))]
pub(super) async fn create(
    State(state): State<AdminState>,
    caller: Caller,
    Body(body): Body<CreateToken>,
) -> Result<(StatusCode, Json<Minted>), ApiError> {
    caller.require(Scope::Admin)?;
    let mut random = Zeroizing::new([0; 44]);
    getrandom::fill(random.as_mut_slice()).map_err(|e| ApiError::internal(&e))?;
    let now = state.now();
    let (text, new) = checked(body, &caller, now, &random)?;
    let record = state.store.create_token(new, caller.actor(), now).await?;
    let minted = Minted {
        token: text.expose().to_owned(),
        info: TokenInfo::of(record, now),
    };
    Ok((StatusCode::CREATED, Json(minted)))
}

fn checked(
    body: CreateToken,
    caller: &Caller,
    now: i64,
    random: &Zeroizing<[u8; 44]>,
) -> Result<(Secret, NewToken), ApiError> {
    let text_fits = |field: &str, text: &str, max: usize| {
        let fits = (1..=max).contains(&text.len()) && !text.chars().any(char::is_control);
        let message = format!("'{field}' needs 1 to {max} bytes without control characters.");
        fits.then_some(())
            .ok_or_else(|| ApiError::invalid(field, message))
    };
    text_fits("name", &body.name, NAME_MAX)?;
    let owner = match body.owner {
        Some(owner) => owner,
        None => caller.record.token.owner.to_string(),
    };
    text_fits("owner", &owner, OWNER_MAX)?;
    let scope = body.scope.as_deref().unwrap_or("user");
    let scope = Scope::parse(scope)
        .ok_or_else(|| ApiError::invalid("scope", "'scope' is user, power_user or admin."))?;
    if body.models.as_ref().is_some_and(|m| m.len() > LIST_MAX) || body.output_caps.len() > LIST_MAX
    {
        let message = format!("'models' and 'outputCaps' have at most {LIST_MAX} entries.");
        return Err(ApiError::invalid("models", message));
    }
    for glob in body.models.iter().flatten() {
        text_fits("models", glob, 512)?;
    }
    let cap = |cap: Cap| {
        let model = ModelName::parse(&cap.model)
            .map_err(|e| ApiError::invalid("outputCaps", format!("A model's name {e}.")))?;
        Ok::<_, ApiError>(ModelCap {
            model,
            limit: cap.limit,
        })
    };
    let (text, mut new) = mint(random, &body.name, &owner, scope);
    new.token.expires = body.expires_in.map(|s| now + i64::from(s.get()));
    new.token.models = body.models.map(Globs::new);
    new.token.output_caps = body
        .output_caps
        .into_iter()
        .map(cap)
        .collect::<Result<_, _>>()?;
    new.token.limits = TokenLimits {
        requests_per_minute: body.requests_per_minute,
        tokens_per_minute: body.tokens_per_minute,
        concurrency: body.concurrency,
    };
    Ok((text, new))
}

/// Which page of tokens.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListTokens {
    /// Only this owner's (scope admin; others see their own).
    owner: Option<String>,
    /// The last id of the page before.
    after: Option<String>,
    /// At most so many, up to 1,000; default 100.
    limit: Option<u32>,
}

/// A page of tokens.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenList {
    data: Vec<TokenInfo>,
    /// For `after`; null: this is the last page.
    next: Option<String>,
}

/// Lists tokens, oldest first: all of them for an admin, their own for others.
#[utoipa::path(get, path = "/bodhi/v1/tokens", tag = "tokens", params(ListTokens), responses((status = 200, body = TokenList)), security(("token" = [])))]
pub(super) async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    Params(params): Params<ListTokens>,
) -> Result<Json<TokenList>, ApiError> {
    let own = &caller.record.token.owner;
    let owner: Option<Arc<str>> = match (params.owner, caller.is_admin()) {
        (owner, true) => owner.map(Into::into),
        (Some(owner), false) if *owner != **own => {
            return Err(ApiError::insufficient_scope("admin"));
        }
        (_, false) => Some(Arc::clone(own)),
    };
    let limit = params.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let after = params.after.as_deref().map(token_id).transpose()?;
    let query = TokenQuery {
        owner,
        after,
        limit,
    };
    let page = state.store.tokens(query).await?;
    let full = page.len() == limit as usize;
    let last = page.last().map(|r| r.token.id.to_string());
    let now = state.now();
    Ok(Json(TokenList {
        data: page.into_iter().map(|r| TokenInfo::of(r, now)).collect(),
        next: last.filter(|_| full),
    }))
}

pub(super) fn token_id(text: &str) -> Result<TokenId, ApiError> {
    TokenId::parse(text).map_err(|_| ApiError::no_token("of that id"))
}

/// The token of this id, or 404; also when it is another's and the caller is no admin.
pub(super) async fn visible(
    state: &AdminState,
    caller: &Caller,
    id: &TokenId,
) -> Result<TokenRecord, ApiError> {
    let found = state.store.token(id.clone()).await?;
    found
        .filter(|record| caller.is_admin() || caller.owns(record))
        .ok_or_else(|| ApiError::no_token(id.as_str()))
}

/// A revocation and how far it has come.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RevokedToken {
    id: String,
    /// Unix seconds.
    revoked: i64,
    /// The number that data planes confirm.
    change_seq: u64,
    data_planes: Applied,
}

/// Revokes a token for ever; an admin any, others their own. A second call changes nothing.
#[utoipa::path(delete, path = "/bodhi/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)), responses((status = 200, body = RevokedToken)), security(("token" = [])))]
pub(super) async fn revoke(
    State(state): State<AdminState>,
    caller: Caller,
    Segments(id): Segments<String>,
) -> Result<Json<RevokedToken>, ApiError> {
    let id = token_id(&id)?;
    visible(&state, &caller, &id).await?;
    let now = state.now();
    let revoked = state
        .store
        .revoke_token(id.clone(), caller.actor(), now)
        .await?;
    let revoked = revoked.ok_or_else(|| ApiError::no_token(id.as_str()))?;
    Ok(Json(RevokedToken {
        id: id.to_string(),
        revoked: revoked.at,
        change_seq: revoked.change_seq,
        data_planes: state.revocations.applied(revoked.change_seq).await,
    }))
}
