//! Tokens signed here with a real key.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodhi_proto::snapshot::{Curve, Globs, KeyMaterial, Scope};
use serde_json::json;

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc";
const NOW: i64 = 1_790_000_000;

struct Cluster(EcdsaKeyPair);

impl Cluster {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn token(&self, account: &str, audience: &str, expires: i64) -> String {
        let (namespace, name) = account.split_once('/').unwrap();
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = part(json!({"alg": "ES256", "kid": "k"}));
        let claims = part(json!({
            "iss": ISSUER, "aud": [audience], "exp": expires, "nbf": NOW - 60,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {
                "namespace": namespace, "serviceaccount": {"name": name, "uid": "u"},
            },
        }));
        let signed = format!("{head}.{claims}");
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.unwrap()))
    }

    fn accounts(&self, callers: &[(&str, Option<&str>)]) -> ServiceAccounts {
        let material = KeyMaterial::ec(Curve::P256, self.0.public_key().as_ref()).unwrap();
        let id = "k".into();
        ServiceAccounts {
            issuer: ISSUER.into(),
            keys: [VerifyingKey { id, material }].into(),
            callers: callers
                .iter()
                .map(|(account, models)| MappedAccount {
                    account: ServiceAccountName::parse(account).unwrap(),
                    scope: Scope::User,
                    models: models.map(|glob| Globs::new([glob])),
                })
                .collect(),
        }
    }
}

fn ask(accounts: &Accounts, token: &str, now: i64) -> Result<Arc<Token>, Failure> {
    accounts.authenticate(token.as_bytes(), TokenHash::of(token.as_bytes()), now)
}

#[test]
fn a_mapped_account_calls_as_itself() {
    let cluster = Cluster::new();
    let accounts = Accounts::new(&cluster.accounts(&[("team-a/web", Some("qwen*"))]), None);
    let token = cluster.token("team-a/web", AUDIENCE, NOW + 600);
    let caller = ask(&accounts, &token, NOW).unwrap();
    assert_eq!(&*caller.owner, "system:serviceaccount:team-a:web");
    assert_eq!(caller.id.as_str(), &*caller.owner);
    assert_eq!(caller.scope, Scope::User);
    let models = caller.models.as_ref().unwrap();
    assert!(models.matches("qwen-small") && !models.matches("gpt-4o"));
    // Another token of the same account is the same caller.
    let other = cluster.token("team-a/web", AUDIENCE, NOW + 601);
    assert!(Arc::ptr_eq(&caller, &ask(&accounts, &other, NOW).unwrap()));
}

#[test]
fn refusals_say_what_the_operator_can_do() {
    let cluster = Cluster::new();
    let accounts = Accounts::new(&cluster.accounts(&[("team-a/web", None)]), None);
    let told = |token: &str| match ask(&accounts, token, NOW).unwrap_err() {
        Failure::InvalidToken(why) => why.into_owned(),
        other => panic!("{other:?}"),
    };
    let unmapped = told(&cluster.token("team-b/web", AUDIENCE, NOW + 600));
    assert!(
        unmapped.contains("--service-account team-b/web=user"),
        "{unmapped}"
    );
    let audience = told(&cluster.token("team-a/web", "vault", NOW + 600));
    assert!(audience.contains("'vault', not for 'bodhi'"), "{audience}");
    let forged = told(&Cluster::new().token("team-a/web", AUDIENCE, NOW + 600));
    assert!(forged.contains("signature"), "{forged}");
    let expired = cluster.token("team-a/web", AUDIENCE, NOW - 600);
    assert_eq!(ask(&accounts, &expired, NOW), Err(Failure::ExpiredToken));
}

#[test]
fn what_was_verified_is_known_until_it_expires() {
    let cluster = Cluster::new();
    let given = cluster.accounts(&[("team-a/web", None)]);
    let accounts = Accounts::new(&given, None);
    let token = cluster.token("team-a/web", AUDIENCE, NOW + 600);
    let hash = TokenHash::of(token.as_bytes());
    assert!(ask(&accounts, &token, NOW).is_ok());
    assert!(accounts.verifier.verified.contains_key(&hash));
    assert!(ask(&accounts, &token, NOW + 600).is_ok(), "within the skew");
    assert_eq!(
        ask(&accounts, &token, NOW + 660),
        Err(Failure::ExpiredToken)
    );
    assert!(!accounts.verifier.verified.contains_key(&hash));

    // Known or not, an account that is mapped no more is refused.
    assert!(
        ask(&accounts, &token, NOW).is_ok(),
        "a clock that went back"
    );
    let without = Accounts::new(&cluster.accounts(&[]), Some(&accounts));
    assert!(
        without.verifier.verified.contains_key(&hash),
        "the keys are the same"
    );
    assert!(matches!(
        ask(&without, &token, NOW),
        Err(Failure::InvalidToken(_))
    ));

    // And so is one whose key the cluster has withdrawn.
    let rotated = Cluster::new().accounts(&[("team-a/web", None)]);
    let rotated = Accounts::new(&rotated, Some(&accounts));
    assert!(matches!(
        ask(&rotated, &token, NOW),
        Err(Failure::InvalidToken(_))
    ));
}

#[test]
fn forged_tokens_are_remembered_apart() {
    let cluster = Cluster::new();
    let accounts = Accounts::new(&cluster.accounts(&[("team-a/web", None)]), None);
    let good = cluster.token("team-a/web", AUDIENCE, NOW + 600);
    ask(&accounts, &good, NOW).unwrap();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let verifier = &accounts.verifier;
    for n in 0..FORGED + 500 {
        let mut signature = [7; 64];
        signature[..8].copy_from_slice(&n.to_le_bytes());
        let forged = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
        let refused = ask(&accounts, &forged, NOW).unwrap_err();
        assert_eq!(ask(&accounts, &forged, NOW), Err(refused), "repeated");
    }
    verifier.forged.run_pending_tasks();
    assert!((1..=FORGED).contains(&verifier.forged.entry_count()));
    assert_eq!(verifier.verified.iter().count(), 1);
    // What costs no signature is not remembered.
    let before = verifier.forged.entry_count();
    ask(
        &accounts,
        &cluster.token("team-a/web", "vault", NOW + 1),
        NOW,
    )
    .unwrap_err();
    verifier.forged.run_pending_tasks();
    assert_eq!(verifier.forged.entry_count(), before);
}

#[test]
fn keys_that_have_not_arrived_make_nobodys_token_wrong() {
    let cluster = Cluster::new();
    let mut given = cluster.accounts(&[("team-a/web", None)]);
    given.keys = Arc::default();
    let accounts = Accounts::new(&given, None);
    let token = cluster.token("team-a/web", AUDIENCE, NOW + 600);
    assert!(matches!(
        ask(&accounts, &token, NOW),
        Err(Failure::NotReady(_))
    ));
}
