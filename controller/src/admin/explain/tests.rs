//! Explanations over small tables.

use super::*;
use bodhi_proto::names::TokenId;
use bodhi_proto::routing::Table;
use bodhi_proto::snapshot::{
    Globs, Refusal, Scope, ServedKey, ServedName, TokenHash, TokenLimits, Visibility,
};
use serde_json::json;

fn token(models: Option<&[&str]>) -> Token {
    Token {
        id: TokenId::parse("t1").unwrap(),
        hash: TokenHash::of(b"t1"),
        owner: "ada".into(),
        scope: Scope::User,
        expires: None,
        models: models.map(|m| Globs::new(m.iter().copied())),
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    }
}

fn name(key: &str, owner: ObjectRef, serving: Serving) -> Arc<ServedName> {
    Arc::new(ServedName {
        key: ServedKey::parse(key).unwrap(),
        owner,
        created: 0,
        visibility: Visibility::Public,
        serving,
        max_output_tokens: NonZeroU32::new(50),
        defaults: None,
    })
}

fn to(object: &ObjectRef, model: RouteModel) -> Serving {
    Serving::Routes(vec![Route {
        upstream: object.clone(),
        model,
        exposed: None,
        weight: NonZeroU32::MIN,
        priority: 0,
    }])
}

fn snapshot() -> Snapshot {
    let (a, b) = (
        ObjectRef::api_model("bodhi", "a"),
        ObjectRef::api_model("bodhi", "b"),
    );
    let refused = Serving::Refused(Refusal {
        reason: "SecretNotFound".into(),
        message: "no Secret 'x'".into(),
        unsupported: false,
    });
    let table = Table::build([
        name(
            "general/exact/p/fast",
            ObjectRef::alias("bodhi", "fast"),
            to(&a, RouteModel::Named("gpt".into())),
        ),
        name(
            "general/prefix/p/",
            a.clone(),
            to(&a, RouteModel::Remainder),
        ),
        name("general/prefix/p/q/", b.clone(), refused),
    ]);
    Snapshot {
        table: Arc::new(table),
        ..Snapshot::default()
    }
}

fn ask(
    asked: &str,
    models: Option<&[&str]>,
    objects: &[Value],
    statuses: &[(ObjectRef, Value)],
) -> FamilyAnswer {
    judge(
        &snapshot(),
        &token(models),
        asked,
        Family::General,
        objects,
        statuses,
    )
}

#[test]
fn the_exact_name_wins_and_the_prefix_says_why_not() {
    let answer = ask("p/fast", None, &[], &[]);
    let served = answer.served_by.unwrap();
    assert_eq!((&*served.object, served.by), ("Alias/bodhi/fast", "exact"));
    assert_eq!(
        (&*served.routes[0].upstream, &*served.routes[0].model),
        ("ApiModel/bodhi/a", "gpt")
    );
    assert_eq!(served.output_cap, NonZeroU32::new(50));
    let other = Other {
        object: "ApiModel/bodhi/a".into(),
        pattern: "p/".into(),
        why: "an exact name goes before a prefix".into(),
    };
    assert_eq!(answer.others, [other]);
}

#[test]
fn the_longest_prefix_answers_even_when_it_cannot_serve() {
    let answer = ask("p/q/m", None, &[], &[]);
    let served = answer.served_by.unwrap();
    assert_eq!(
        (&*served.object, served.by, &*served.pattern),
        ("ApiModel/bodhi/b", "prefix", "p/q/")
    );
    assert_eq!(served.refusal.unwrap().reason, "SecretNotFound");
    assert_eq!(answer.others[0].why, "a longer prefix goes first");
}

#[test]
fn lists_are_judged_as_for_a_request() {
    let answer = ask("p/fast", Some(&["other"]), &[], &[]);
    assert_eq!((answer.allowed, answer.refused_by), (false, Some("token")));
    assert!(ask("p/fast", Some(&["p/*"]), &[], &[]).allowed);
}

#[test]
fn objects_that_lost_their_claim_name_their_condition() {
    let loser = json!({"kind": "ApiModel", "metadata": {"name": "c", "namespace": "bodhi"},
        "spec": {"format": "openai", "auth": {"type": "None"}, "prefix": "p/", "models": ["fast"]}});
    let other_family = json!({"kind": "ApiModel", "metadata": {"name": "d", "namespace": "bodhi"},
        "spec": {"format": "openai_responses", "auth": {"type": "None"}, "models": ["p/fast"]}});
    let status = json!({"conditions": [{"type": "Accepted", "status": "True", "reason": "ModelConflict", "message": "Alias/bodhi/fast has it"}]});
    let statuses = [(ObjectRef::api_model("bodhi", "c"), status)];
    let answer = ask("p/fast", None, &[loser.clone(), other_family], &statuses);
    assert_eq!(answer.others.len(), 2);
    assert_eq!(
        answer.others[1].why,
        "ModelConflict: Alias/bodhi/fast has it"
    );
    let answer = ask("p/fast", None, &[loser], &[]);
    assert!(answer.others[1].why.contains("on its way"));
}

#[test]
fn an_unknown_name_gets_near_ones_that_the_token_may_call() {
    let answer = ask("fast", None, &[], &[]);
    assert!(answer.served_by.is_none());
    let hidden = ask("p_fast", Some(&["p_*"]), &[], &[]);
    assert!(hidden.near.is_empty());
    let seen = ask("q/fast", None, &[], &[]);
    assert_eq!(seen.near, ["p/fast"]);
}

#[test]
fn people_read_it_in_lines() {
    let families = [ask("p/fast", None, &[], &[])];
    assert_eq!(
        text::render("p/fast", &token(None), &families),
        "p/fast, for token t1 of ada
at every endpoint but /v1/responses:
  Alias/bodhi/fast answers, by exact 'p/fast'
  → ApiModel/bodhi/a as 'gpt', unknown format at unknown address (priority 0, weight 1)
  at most 50 output tokens
  not ApiModel/bodhi/a ('p/'): an exact name goes before a prefix
"
    );
}
