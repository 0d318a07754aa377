//! May this token call this name, and with which cap. The data plane asks it for every
//! request, `explain` asks it for a dry run: one answer for both.

use std::num::NonZeroU32;

use crate::routing::Match;
use crate::snapshot::{Globs, ModelCap, Policy, Serving, Token};

/// Whose list leaves the model out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// The token's.
    #[error("this token may not call this model")]
    Token,
    /// The gateway's own list.
    #[error("this gateway does not allow this model")]
    Gateway,
}

/// Whether `token` may call `asked`. `found` is what the name resolves to, if anything:
/// the answer is the same whether or not the model exists, unless a list names it by the
/// provider's exposed id.
pub fn may_call(
    token: &Token,
    policy: &Policy,
    asked: &str,
    found: Option<&Match<'_>>,
) -> Result<(), NotAllowed> {
    let allows = |list: &Option<Globs>| match list {
        None => true,
        Some(globs) => globs.matches(asked) || all_exposed_ids_match(globs, found),
    };
    if !allows(&token.models) {
        return Err(NotAllowed::Token);
    }
    if !allows(&policy.allowed_models) {
        return Err(NotAllowed::Gateway);
    }
    Ok(())
}

fn all_exposed_ids_match(globs: &Globs, found: Option<&Match<'_>>) -> bool {
    match found.map(|m| &m.served.serving) {
        Some(Serving::Routes(routes)) => routes
            .iter()
            .all(|r| r.exposed.as_deref().is_some_and(|id| globs.matches(id))),
        _ => false,
    }
}

/// The least of all caps on output tokens that apply to a request for `asked`.
pub fn output_cap(
    token: &Token,
    policy: &Policy,
    asked: &str,
    found: &Match<'_>,
) -> Option<NonZeroU32> {
    let named = |caps: &[ModelCap]| {
        caps.iter()
            .filter(|c| c.model.as_str() == asked)
            .map(|c| c.limit)
            .min()
    };
    [
        found.served.max_output_tokens,
        named(&token.output_caps),
        named(&policy.output_caps),
    ]
    .into_iter()
    .flatten()
    .min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{ModelName, ObjectRef, TokenId};
    use crate::provider::Family;
    use crate::routing::Table;
    use crate::snapshot::*;
    use std::sync::Arc;

    fn token(models: Option<&[&str]>) -> Token {
        Token {
            id: TokenId::parse("t").unwrap(),
            hash: TokenHash::of(b"t"),
            owner: "o".into(),
            scope: Scope::User,
            expires: None,
            models: models.map(|m| Globs::new(m.iter().copied())),
            output_caps: vec![ModelCap {
                model: ModelName::parse("fast").unwrap(),
                limit: NonZeroU32::new(100).unwrap(),
            }],
            limits: TokenLimits::default(),
        }
    }

    fn table(exposed: &[&str]) -> Table {
        let routes = exposed.iter().map(|id| Route {
            upstream: ObjectRef::api_model("bodhi", "openai"),
            model: RouteModel::Named((*id).into()),
            exposed: Some((*id).into()),
            weight: NonZeroU32::MIN,
            priority: 0,
        });
        Table::build([Arc::new(ServedName {
            key: ServedKey::parse("general/exact/fast").unwrap(),
            owner: ObjectRef::alias("bodhi", "fast"),
            created: 0,
            visibility: Visibility::Public,
            serving: Serving::Routes(routes.collect()),
            max_output_tokens: NonZeroU32::new(50),
            defaults: None,
        })])
    }

    fn verdict(models: Option<&[&str]>, gateway: Option<&[&str]>, exposed: &[&str]) -> bool {
        let (table, policy) = (
            table(exposed),
            Policy {
                allowed_models: gateway.map(|m| Globs::new(m.iter().copied())),
                ..Policy::default()
            },
        );
        let found = table.find(Family::General, "fast");
        may_call(&token(models), &policy, "fast", found.as_ref()).is_ok()
    }

    #[test]
    fn a_list_names_the_asked_name_or_every_exposed_id() {
        assert!(verdict(None, None, &["gpt-4o"]));
        assert!(verdict(Some(&["fa*"]), None, &["gpt-4o"]));
        assert!(verdict(Some(&["gpt-*"]), None, &["gpt-4o", "gpt-5"]));
        assert!(!verdict(Some(&["gpt-*"]), None, &["gpt-4o", "o3"]));
        assert!(!verdict(Some(&[]), None, &["gpt-4o"]));
    }

    #[test]
    fn token_and_gateway_must_both_allow() {
        assert!(!verdict(Some(&["fast"]), Some(&["slow"]), &["gpt-4o"]));
        assert!(verdict(Some(&["fast"]), Some(&["gpt-4o"]), &["gpt-4o"]));
    }

    #[test]
    fn an_unknown_name_is_judged_by_the_name_alone() {
        let policy = Policy::default();
        assert!(may_call(&token(Some(&["a*"])), &policy, "abc", None).is_ok());
        assert_eq!(
            may_call(&token(Some(&["a*"])), &policy, "xyz", None),
            Err(NotAllowed::Token)
        );
    }

    #[test]
    fn the_least_cap_applies() {
        let table = table(&["gpt-4o"]);
        let found = table.find(Family::General, "fast").unwrap();
        let cap = output_cap(&token(None), &Policy::default(), "fast", &found);
        assert_eq!(cap, NonZeroU32::new(50));
    }
}
