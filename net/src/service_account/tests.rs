//! Tokens signed here with real keys, and what an attacker makes of them.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
    RSA_PKCS1_SHA256, RsaKeyPair,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const NOW: i64 = 1_790_000_000;
const EXPECTED: Expected<'_> = Expected {
    issuer: ISSUER,
    audience: "bodhi",
};

/// What an API server signs with.
enum Signer {
    Rsa(RsaKeyPair),
    Ec(&'static str, EcdsaKeyPair),
}

impl Signer {
    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn ec(curve: &'static str, algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self::Ec(curve, EcdsaKeyPair::generate(algorithm).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec("P-256", _) => "ES256",
            Self::Ec("P-384", _) => "ES384",
            Self::Ec(..) => "ES512",
        }
    }

    /// As a JWK.
    fn public(&self, kid: &str) -> Value {
        match self {
            Self::Rsa(pair) => {
                // RFC 8017, A.1.1, for 2,048 bits: SEQUENCE, INTEGER, a zero and the modulus;
                // INTEGER and 65537.
                let key = pair.public_key().as_ref();
                json!({
                    "use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256",
                    "n": encode(&key[9..265]),
                    "e": encode(&key[267..]),
                })
            }
            Self::Ec(curve, pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = point[1..].split_at(point.len() / 2);
                json!({
                    "use": "sig", "kty": "EC", "kid": kid, "alg": self.algorithm(), "crv": curve,
                    "x": encode(x), "y": encode(y),
                })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)
                    .unwrap();
                signature
            }
            Self::Ec(_, pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
        }
    }

    fn token(&self, head: &Value, claims: &Value) -> String {
        let signed = format!(
            "{}.{}",
            encode(head.to_string()),
            encode(claims.to_string())
        );
        let signature = self.sign(signed.as_bytes());
        format!("{signed}.{}", encode(signature))
    }
}

static RSA: LazyLock<Signer> = LazyLock::new(Signer::rsa);
static EC: LazyLock<Signer> =
    LazyLock::new(|| Signer::ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING));
static KEYS: LazyLock<Vec<VerifyingKey>> =
    LazyLock::new(|| set(&[RSA.public("rsa"), EC.public("ec")]));

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn set(keys: &[Value]) -> Vec<VerifyingKey> {
    jwks(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

fn head(signer: &Signer, kid: &str) -> Value {
    json!({"alg": signer.algorithm(), "kid": kid})
}

/// As kube-apiserver 1.36 writes them.
fn claims() -> Value {
    json!({
        "aud": ["bodhi"],
        "exp": NOW + 3600, "iat": NOW, "nbf": NOW,
        "iss": ISSUER,
        "jti": "7c0e6c1e-5d3b-4f43-9b0e-0a0e4a0f6f0e",
        "kubernetes.io": {
            "namespace": "team-a",
            "node": {"name": "node-1", "uid": "5d3b"},
            "pod": {"name": "web-0", "uid": "9b0e"},
            "serviceaccount": {"name": "web", "uid": "4f43"},
            "warnafter": NOW + 3000,
        },
        "sub": "system:serviceaccount:team-a:web",
    })
}

fn judge(token: &str) -> Result<Claims, TokenError> {
    verify(token.as_bytes(), &KEYS, EXPECTED, NOW)
}

/// What becomes of a genuine token with one claim changed (or taken away, by null).
fn changed(pointer: &str, value: Value) -> Result<Claims, TokenError> {
    let mut claims = claims();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Value::Null => drop(parent.remove(name)),
        value => drop(parent.insert(name.to_owned(), value)),
    }
    judge(&RSA.token(&head(&RSA, "rsa"), &claims))
}

#[test]
fn a_genuine_token_tells_who_its_pod_is() {
    let token = RSA.token(&head(&RSA, "rsa"), &claims());
    assert!(looks_like_jwt(token.as_bytes()));
    let claims = judge(&token).unwrap();
    let object = |name: &str, uid: &str| Object {
        name: name.into(),
        uid: uid.into(),
    };
    assert_eq!(
        claims,
        Claims {
            account: ServiceAccountName::parse("team-a/web").unwrap(),
            account_uid: "4f43".into(),
            pod: Some(object("web-0", "9b0e")),
            node: Some("node-1".into()),
            expires: NOW + 3600,
        }
    );
}

#[test]
fn every_algorithm_that_kubernetes_signs_with_is_verified() {
    let signers = [
        Signer::rsa(),
        Signer::ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        Signer::ec("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        Signer::ec("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ];
    let public: Vec<_> = signers.iter().map(|s| s.public(s.algorithm())).collect();
    let keys = set(&public);
    for signer in &signers {
        let (head, other) = (head(signer, signer.algorithm()), Signer::rsa());
        let judge = |token: String| verify(token.as_bytes(), &keys, EXPECTED, NOW);
        assert!(judge(signer.token(&head, &claims())).is_ok(), "{head}");
        // Somebody else's signature under that key's name.
        let wrong = judge(other.token(&head, &claims()));
        assert_eq!(wrong, Err(TokenError::Signature), "{head}");
    }
}

#[test]
fn the_key_decides_the_algorithm() {
    let confused = |head: Value| judge(&RSA.token(&head, &claims())).unwrap_err();
    let found = |alg: &str| TokenError::Algorithm {
        found: alg.into(),
        expected: "RS256",
    };
    for alg in ["none", "None", "HS256", "RS384", "PS256", "ES256", ""] {
        assert_eq!(confused(json!({"alg": alg, "kid": "rsa"})), found(alg));
    }
    // CVE-2015-9235: the public key as the secret of an HMAC.
    let public = RSA.public("rsa").to_string();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, public.as_bytes());
    let head = encode(json!({"alg": "HS256", "kid": "rsa"}).to_string());
    let signed = format!("{head}.{}", encode(claims().to_string()));
    let tag = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
    let token = format!("{signed}.{}", encode(tag.as_ref()));
    assert_eq!(judge(&token), Err(found("HS256")));
    // No signature at all.
    for head in [
        json!({"alg": "none", "kid": "rsa"}),
        json!({"alg": "RS256", "kid": "rsa"}),
    ] {
        let token = format!(
            "{}.{}.",
            encode(head.to_string()),
            encode(claims().to_string())
        );
        assert!(judge(&token).is_err());
    }
    // CVE-2022-21449: a signature of nothing but zeros.
    let head = encode(json!({"alg": "ES256", "kid": "ec"}).to_string());
    let zeros = encode([0; 64]);
    let token = format!("{head}.{}.{zeros}", encode(claims().to_string()));
    assert_eq!(judge(&token), Err(TokenError::Signature));
}

#[test]
fn heads_that_bring_their_own_rules_are_refused() {
    let with = |head: Value| judge(&RSA.token(&head, &claims())).unwrap_err();
    assert_eq!(
        with(json!({"alg": "RS256", "kid": "other"})),
        TokenError::UnknownKey("other".into())
    );
    let own = RSA.public("mine");
    for head in [
        json!({"alg": "RS256"}),
        json!({"alg": "RS256", "jwk": own}),
        json!({"alg": "RS256", "kid": "rsa", "crit": ["b64"], "b64": false}),
        json!({"alg": ["RS256"], "kid": "rsa"}),
        json!({"kid": "rsa"}),
        json!([]),
    ] {
        assert!(matches!(with(head.clone()), TokenError::Head(_)), "{head}");
    }
    // The same member twice: parsers differ in which one counts.
    let twice = encode(r#"{"alg":"RS256","kid":"rsa","alg":"none"}"#);
    let token = format!("{twice}.{}.", encode(claims().to_string()));
    assert!(matches!(judge(&token), Err(TokenError::Head(_))));
}

#[test]
fn other_issuers_and_audiences_are_named() {
    let foreign = changed("/iss", json!("https://example.com")).unwrap_err();
    assert_eq!(
        foreign.to_string(),
        format!("it was issued by 'https://example.com', not by this cluster ('{ISSUER}')")
    );
    // Also when its key is unknown, which is so for every other cluster.
    let mut other = claims();
    other["iss"] = json!("https://example.com");
    let token = Signer::rsa().token(&json!({"alg": "RS256", "kid": "theirs"}), &other);
    assert_eq!(judge(&token), Err(foreign));
    let audience = |aud: Value| changed("/aud", aud).unwrap_err().to_string();
    assert_eq!(
        audience(json!(["api", "vault"])),
        "it is for the audience 'api, vault', not for 'bodhi'"
    );
    assert_eq!(
        audience(json!("bodhi-controller")),
        "it is for the audience 'bodhi-controller', not for 'bodhi'"
    );
    for none in [Value::Null, json!([])] {
        assert_eq!(
            audience(none),
            "it is for the audience of nobody, not for 'bodhi'"
        );
    }
    assert!(changed("/aud", json!("bodhi")).is_ok());
    assert!(changed("/aud", json!(["api", "bodhi"])).is_ok());
}

#[test]
fn time_counts_with_a_minute_of_skew() {
    assert!(changed("/exp", json!(NOW - SKEW + 1)).is_ok());
    assert_eq!(
        changed("/exp", json!(NOW - SKEW)),
        Err(TokenError::Expired(SKEW))
    );
    assert!(changed("/nbf", json!(NOW + SKEW)).is_ok());
    assert_eq!(
        changed("/nbf", json!(NOW + SKEW + 1)),
        Err(TokenError::TooEarly(SKEW + 1))
    );
    // Tokens of the old kind, out of a Secret, have no end.
    assert!(matches!(
        changed("/exp", Value::Null),
        Err(TokenError::Claims(_))
    ));
    for extreme in [i64::MIN, i64::MAX] {
        let _ = changed("/exp", json!(extreme));
        let _ = changed("/nbf", json!(extreme));
    }
    let at = |now| {
        let token = RSA.token(&head(&RSA, "rsa"), &claims());
        verify(token.as_bytes(), &KEYS, EXPECTED, now)
    };
    let claims = at(NOW).unwrap();
    for now in [NOW, NOW + 3600, NOW + 3600 + SKEW, NOW + 9999] {
        assert_eq!(claims.has_expired(now), at(now).is_err(), "{now}");
    }
}

#[test]
fn claims_that_are_not_a_service_accounts_are_refused() {
    for (pointer, value) in [
        ("/kubernetes.io", Value::Null),
        ("/kubernetes.io/serviceaccount", Value::Null),
        ("/kubernetes.io/serviceaccount/uid", Value::Null),
        ("/kubernetes.io/serviceaccount/name", json!("other")),
        ("/kubernetes.io/serviceaccount/name", json!("a:b")),
        ("/kubernetes.io/namespace", json!("kube-system")),
        ("/kubernetes.io/pod", json!("web-0")),
        ("/sub", json!("system:node:node-1")),
        ("/sub", Value::Null),
        ("/iss", Value::Null),
        ("/exp", json!("never")),
        ("/aud", json!({"bodhi": true})),
    ] {
        let refused = changed(pointer, value.clone());
        assert!(
            matches!(refused, Err(TokenError::Claims(_))),
            "{pointer} {value}: {refused:?}"
        );
    }
    // Made by `kubectl create token`, bound to nothing.
    assert_eq!(
        changed("/kubernetes.io/pod", Value::Null).unwrap().pod,
        None
    );
    // A node that was gone has no uid.
    let node = changed("/kubernetes.io/node", json!({"name": "n"})).unwrap();
    assert_eq!(node.node.as_deref(), Some("n"));
}

#[test]
fn what_is_no_jwt_is_refused_by_its_form() {
    let good = RSA.token(&head(&RSA, "rsa"), &claims());
    let (rest, signature) = good.rsplit_once('.').unwrap();
    for text in [
        String::new(),
        "bodhi_0123".into(),
        "..".into(),
        rest.into(),
        format!("{good}.{signature}"),
        format!("{good}="),
        format!(" {good}"),
        good.replace('.', ".."),
    ] {
        assert!(judge(&text).is_err(), "{text}");
    }
    let long = format!("{good}{}", "A".repeat(TOKEN_MAX));
    assert_eq!(judge(&long), Err(TokenError::TooLong(long.len())));
    // What a stranger wrote is repeated in part, and harmlessly.
    let loud = format!("\u{1b}[2J\n{}", "é".repeat(4000));
    let text = changed("/iss", json!(loud)).unwrap_err().to_string();
    assert!(
        text.len() < 400 && !text.contains(['\n', '\u{1b}']),
        "{text}"
    );
}

#[test]
fn only_keys_that_verify_our_tokens_are_taken_from_a_set() {
    let mut encryption = RSA.public("e");
    encryption["use"] = json!("enc");
    let mut padded = RSA.public("pss");
    padded["alg"] = json!("PS256");
    let mut nameless = RSA.public("n");
    nameless.as_object_mut().unwrap().remove("kid");
    let mut short = RSA.public("short");
    short["n"] = json!("AQAB");
    let others = [
        encryption,
        padded,
        nameless,
        short,
        json!({"kty": "oct", "kid": "k", "k": "c2VjcmV0"}),
        json!({"kty": "OKP", "kid": "o", "crv": "Ed25519", "x": "AAAA"}),
        json!({"kty": "EC", "kid": "b", "crv": "P-256", "x": "AAAA", "y": "AAAA"}),
        json!("no key"),
    ];
    let document = |keys: &[Value]| jwks(json!({ "keys": keys }).to_string().as_bytes());
    assert_eq!(document(&others), Err(JwksError::NoKey));
    let some = [&others[..], &[EC.public("ec")]].concat();
    let ids: Vec<_> = document(&some).unwrap().into_iter().map(|k| k.id).collect();
    assert_eq!(ids, ["ec".into()]);
    let many = vec![EC.public("ec"); 65];
    assert_eq!(document(&many), Err(JwksError::TooMany(65)));
    for text in ["", "<html>", "{}", r#"{"keys":{}}"#] {
        let refused = jwks(text.as_bytes());
        assert!(matches!(refused, Err(JwksError::Form(_))), "{text}");
    }
    assert_eq!(
        issuer(br#"{"issuer":"https://a","x":1}"#).unwrap(),
        "https://a"
    );
    for text in ["", "{}", r#"{"issuer":""}"#, r#"{"issuer":7}"#] {
        assert!(issuer(text.as_bytes()).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn a_token_with_any_byte_changed_is_refused(at: prop::sample::Index, to: u8) {
        let mut token = EC.token(&head(&EC, "ec"), &claims()).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != to);
        token[at] = to;
        prop_assert!(verify(&token, &KEYS, EXPECTED, NOW).is_err());
    }

    #[test]
    fn no_bytes_can_do_harm(
        head in "\\PC{0,40}", payload in "\\PC{0,80}", signature: Vec<u8>, raw: Vec<u8>,
    ) {
        let token = format!("{}.{}.{}", encode(head), encode(payload), encode(signature));
        prop_assert!(verify(token.as_bytes(), &KEYS, EXPECTED, NOW).is_err());
        prop_assert!(verify(&raw, &KEYS, EXPECTED, NOW).is_err());
        let _ = jwks(&raw);
        let _ = issuer(&raw);
    }
}
