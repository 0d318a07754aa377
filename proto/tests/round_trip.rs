//! Every resource comes back from the wire as it was, and no bytes can do harm.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::digest::Version;
use bodhi_proto::names::{ModelName, ObjectRef, ServiceAccountName, TokenId};
use bodhi_proto::provider::Format;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::*;
use bodhi_proto::sync::{Down, Up};
use bodhi_proto::wire::sync as pb;
use http::{HeaderName, HeaderValue};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use prost::Message as _;

fn label() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9-]{0,20}"
}

fn api_model() -> impl Strategy<Value = ObjectRef> {
    (label(), label()).prop_map(|(ns, name)| ObjectRef::api_model(&ns, &name))
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "\\PC{1,40}".prop_map(Arc::from)
}

fn nonzero() -> impl Strategy<Value = NonZeroU32> {
    (1..=u32::MAX).prop_map(|n| NonZeroU32::new(n).unwrap())
}

fn base_url() -> impl Strategy<Value = BaseUrl> {
    (
        "https?",
        "[a-z0-9]{1,12}(\\.[a-z]{2,5})?|\\[::1\\]",
        option::of(1..=u16::MAX),
        "(/[a-z0-9._-]{1,8}){0,3}",
    )
        .prop_map(|(scheme, host, port, path)| {
            let port = port.map(|p| format!(":{p}")).unwrap_or_default();
            BaseUrl::parse(&format!("{scheme}://{host}{port}{path}")).unwrap()
        })
}

fn json_object() -> impl Strategy<Value = Option<Arc<str>>> {
    option::of(
        ("[a-z\"\\\\]{0,9}", any::<i64>())
            .prop_map(|(k, v)| serde_json::json!({ k: v }).to_string().into()),
    )
}

fn millis() -> impl Strategy<Value = Duration> {
    (1..=u64::from(u32::MAX)).prop_map(Duration::from_millis)
}

fn timeouts() -> impl Strategy<Value = Timeouts> {
    let some = (millis(), millis(), millis()).prop_map(|(connect, first_byte, idle)| Timeouts {
        connect,
        first_byte,
        idle,
    });
    prop_oneof![Just(Timeouts::default()), some]
}

fn headers() -> impl Strategy<Value = Vec<(HeaderName, HeaderValue)>> {
    let header = ("[a-z][a-z0-9-]{0,12}", "[ -~\u{80}-\u{ff}]{0,20}").prop_map(|(name, value)| {
        let value: Vec<u8> = value.chars().map(|c| c as u8).collect();
        (
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(&value).unwrap(),
        )
    });
    prop::collection::vec(header, 0..4)
}

fn egress() -> impl Strategy<Value = EgressScope> {
    let range = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(address, bits)| {
        ipnet::IpNet::new(std::net::IpAddr::from(address), bits).unwrap()
    });
    prop_oneof![
        Just(EgressScope::Standalone),
        Just(EgressScope::Release),
        prop::collection::vec(range, 0..4).prop_map(|r| EgressScope::Tenant(r.into())),
    ]
}

fn roots() -> impl Strategy<Value = Roots> {
    let pem = "[A-Za-z0-9]{4}"
        .prop_map(|b| format!("-----BEGIN CERTIFICATE-----\n{b}\n-----END CERTIFICATE-----\n"));
    prop_oneof![
        Just(Roots::System),
        pem.prop_map(|p| Roots::Bundle(p.into()))
    ]
}

fn upstream() -> impl Strategy<Value = Resource> {
    let plain = (
        api_model(),
        select(Format::ALL.to_vec()),
        any::<[bool; 5]>(),
        nonzero(),
        nonzero(),
    );
    let rest = (
        base_url(),
        headers(),
        json_object(),
        timeouts(),
        roots(),
        egress(),
    );
    (plain, rest).prop_map(|((object, format, flags, attempts, max_in_flight), rest)| {
        let (base_url, extra_headers, extra_body, timeouts, roots, egress) = rest;
        let [anonymous, chat, completions, embeddings, max_tokens] = flags;
        Resource::Upstream(Arc::new(Upstream {
            object,
            format,
            base_url: match chat && completions {
                true => BaseUrl::parse(format.canonical_base_url()).unwrap(),
                false => base_url,
            },
            auth: if anonymous {
                Auth::None
            } else {
                Auth::Credential
            },
            features: Features {
                chat,
                completions,
                embeddings,
            },
            output_limit_field: match max_tokens {
                true => OutputLimitField::MaxTokens,
                false => OutputLimitField::MaxCompletionTokens,
            },
            extra_headers,
            extra_body,
            timeouts,
            attempts,
            max_in_flight,
            roots,
            egress,
        }))
    })
}

fn credential() -> impl Strategy<Value = Resource> {
    let pattern = (
        "https?",
        option::of(Just("*.")),
        "[a-z]{1,8}\\.[a-z]{2,3}",
        option::of(1..=u16::MAX),
    )
        .prop_map(|(scheme, star, host, port)| {
            let star = star.unwrap_or_default();
            let port = port.map(|p| format!(":{p}")).unwrap_or_default();
            OriginPattern::parse(&format!("{scheme}://{star}{host}{port}")).unwrap()
        });
    let origins = prop_oneof![
        Just(AllowedOrigins::Any),
        prop::collection::vec(pattern, 0..4).prop_map(AllowedOrigins::Listed),
    ];
    (api_model(), "[!-~]{1,60}", origins).prop_map(|(object, key, allowed_origins)| {
        Resource::Credential(Arc::new(Credential {
            object,
            secret: Secret::new(key),
            allowed_origins,
        }))
    })
}

fn route() -> impl Strategy<Value = Route> {
    let model = prop_oneof![
        text().prop_map(RouteModel::Named),
        Just(RouteModel::Remainder),
        Just(RouteModel::AsAsked),
    ];
    (api_model(), model, option::of(text()), nonzero(), 0..3_u32).prop_map(
        |(upstream, model, exposed, weight, priority)| Route {
            upstream,
            model,
            exposed,
            weight,
            priority,
        },
    )
}

fn served_name() -> impl Strategy<Value = Resource> {
    let key = prop_oneof![
        "(general|responses)/exact/\\PC{1,60}",
        "(general|responses)/prefix/[A-Za-z0-9._:@/+~-]{1,40}",
    ];
    let refused = (text(), text(), any::<bool>()).prop_map(|(reason, message, unsupported)| {
        Serving::Refused(Refusal {
            reason,
            message,
            unsupported,
        })
    });
    let routes = prop::collection::vec(route(), 1..5).prop_map(|mut routes| {
        routes.sort_by_key(|r| r.priority);
        Serving::Routes(routes)
    });
    let serving = prop_oneof![refused, routes];
    (
        key,
        label(),
        any::<i64>(),
        any::<bool>(),
        serving,
        option::of(nonzero()),
        json_object(),
    )
        .prop_map(
            |(key, owner, created, public, serving, max_output_tokens, defaults)| {
                Resource::ServedName(Arc::new(ServedName {
                    key: ServedKey::parse(&key).unwrap(),
                    owner: ObjectRef::alias("bodhi", &owner),
                    created,
                    visibility: if public {
                        Visibility::Public
                    } else {
                        Visibility::Internal
                    },
                    serving,
                    max_output_tokens,
                    defaults,
                }))
            },
        )
}

fn globs() -> impl Strategy<Value = Option<Globs>> {
    option::of(prop::collection::vec("\\PC{0,12}", 0..4).prop_map(Globs::new))
}

fn caps() -> impl Strategy<Value = Vec<ModelCap>> {
    let cap = (text(), nonzero()).prop_map(|(model, limit)| ModelCap {
        model: ModelName::parse(&model).unwrap(),
        limit,
    });
    prop::collection::vec(cap, 0..3)
}

fn token() -> impl Strategy<Value = Resource> {
    let limits = (
        option::of(nonzero()),
        option::of(nonzero()),
        option::of(nonzero()),
    )
        .prop_map(
            |(requests_per_minute, tokens_per_minute, concurrency)| TokenLimits {
                requests_per_minute,
                tokens_per_minute,
                concurrency,
            },
        );
    let scope = scope();
    (
        "[A-Za-z0-9_-]{1,64}",
        any::<[u8; 32]>(),
        text(),
        scope,
        any::<Option<i64>>(),
        globs(),
        caps(),
        limits,
    )
        .prop_map(
            |(id, hash, owner, scope, expires, models, output_caps, limits)| {
                Resource::Token(Arc::new(Token {
                    id: TokenId::parse(&id).unwrap(),
                    hash: TokenHash(hash),
                    owner,
                    scope,
                    expires,
                    models,
                    output_caps,
                    limits,
                }))
            },
        )
}

fn scope() -> impl Strategy<Value = Scope> {
    select(vec![Scope::User, Scope::PowerUser, Scope::Admin])
}

fn verifying_key() -> impl Strategy<Value = VerifyingKey> {
    let bytes = |size| prop::collection::vec(1..=u8::MAX, size);
    let rsa = (bytes(256..1024), bytes(1..8))
        .prop_map(|(modulus, exponent)| KeyMaterial::rsa(&modulus, &exponent).unwrap());
    let ec = select(vec![Curve::P256, Curve::P384, Curve::P521]).prop_flat_map(move |curve| {
        let size = 2 * curve.coordinate();
        bytes(size..size + 1).prop_map(move |mut point| {
            point.insert(0, 4);
            KeyMaterial::ec(curve, &point).unwrap()
        })
    });
    (text(), prop_oneof![rsa, ec]).prop_map(|(id, material)| VerifyingKey { id, material })
}

fn service_accounts() -> impl Strategy<Value = ServiceAccounts> {
    let caller = (label(), label(), scope(), globs()).prop_map(|(ns, name, scope, models)| {
        let account = ServiceAccountName::new(&ns, &name).unwrap();
        MappedAccount {
            account,
            scope,
            models,
        }
    });
    (
        text(),
        prop::collection::vec(verifying_key(), 0..3),
        prop::collection::vec(caller, 0..4),
    )
        .prop_map(|(issuer, keys, mut callers)| {
            callers.sort_by(|a, b| a.account.cmp(&b.account));
            callers.dedup_by(|a, b| a.account == b.account);
            ServiceAccounts {
                issuer,
                keys: keys.into(),
                callers,
            }
        })
}

fn policy() -> impl Strategy<Value = Resource> {
    let accounts = option::of(service_accounts());
    (globs(), caps(), any::<bool>(), accounts).prop_map(
        |(allowed_models, output_caps, strict, service_accounts)| {
            Resource::Policy(Arc::new(Policy {
                allowed_models,
                output_caps,
                responses_isolation: match strict {
                    true => ResponsesIsolation::Strict,
                    false => ResponsesIsolation::Shared,
                },
                service_accounts,
            }))
        },
    )
}

fn alias() -> impl Strategy<Value = ObjectRef> {
    (label(), label()).prop_map(|(ns, name)| ObjectRef::alias(&ns, &name))
}

fn pool_state() -> impl Strategy<Value = PoolState> {
    prop_oneof![
        Just(PoolState::Ready),
        Just(PoolState::Starting),
        Just(PoolState::Asleep),
        (text(), text(), any::<bool>()).prop_map(|(reason, message, unsupported)| {
            PoolState::Failed(Refusal {
                reason,
                message,
                unsupported,
            })
        }),
    ]
}

fn pool() -> impl Strategy<Value = Resource> {
    let features = any::<[bool; 4]>();
    let rest = (millis(), any::<u32>(), option::of(text()), pool_state());
    (alias(), features, option::of(100..1000_u32), rest).prop_map(
        |(object, features, percent, (hold_timeout, max_held, system_prompt, state))| {
            let [chat, completions, embeddings, rerank] = features;
            Resource::Pool(Arc::new(Pool {
                object,
                features: LocalFeatures {
                    chat,
                    completions,
                    embeddings,
                    rerank,
                },
                balancing: match percent {
                    None => Balancing::LeastLoad,
                    Some(mean_load_percent) => Balancing::PrefixHash { mean_load_percent },
                },
                hold_timeout,
                max_held,
                system_prompt,
                state,
            }))
        },
    )
}

fn endpoint() -> impl Strategy<Value = Resource> {
    let address = prop_oneof!["unix:/[a-z/]{1,30}\\.sock", "[a-z]{1,9}:[1-9][0-9]{0,3}"];
    (alias(), label(), address, nonzero()).prop_map(|(pool, worker, address, slots)| {
        Resource::Endpoint(Arc::new(WorkerEndpoint {
            id: WorkerId {
                pool,
                worker: worker.into(),
            },
            address: WorkerAddress::parse(&address).unwrap(),
            slots: slots.get(),
        }))
    })
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        upstream(),
        credential(),
        served_name(),
        token(),
        policy(),
        pool(),
        endpoint()
    ]
}

proptest! {
    #[test]
    fn resources_come_back_as_they_were(resource in resource()) {
        let (kind, name) = resource.key();
        let body = resource.encode();
        let again = Resource::decode(kind, &name, &body);
        prop_assert_eq!(again.as_ref(), Ok(&resource));
        // Deterministic: what decodes to the same value encodes to the same bytes.
        prop_assert_eq!(again.unwrap().encode(), body);
    }

    #[test]
    fn a_changed_body_is_another_version_or_the_same_value(
        resource in resource(), at: prop::sample::Index, flip in 1..=u8::MAX,
    ) {
        let (kind, name) = resource.key();
        let body = resource.encode();
        prop_assume!(!body.is_empty());
        let mut damaged = body.to_vec();
        damaged[at.index(body.len())] ^= flip;
        prop_assert_ne!(Version::of(kind, &name, &body), Version::of(kind, &name, &damaged));
        // It may even decode; it must not panic, and the text must stay short.
        if let Err(why) = Resource::decode(kind, &name, &damaged) {
            prop_assert!(why.to_string().len() < 700);
        }
    }

    #[test]
    fn no_bytes_can_do_harm(
        name in "\\PC{0,20}", bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        for kind in Kind::ALL {
            let _ = Resource::decode(kind, &name, &bytes);
        }
        let _ = pb::FromController::decode(&*bytes).map(Down::try_from);
        let _ = pb::FromDataPlane::decode(&*bytes).map(Up::try_from);
    }
}

fn encoded(upstream: pb::Upstream) -> Vec<u8> {
    upstream.encode_to_vec()
}

#[test]
fn what_could_mislead_is_refused_and_says_where() {
    let good = pb::Upstream {
        format: pb::Format::Openai.into(),
        max_in_flight: 1,
        egress: Some(pb::Egress {
            scope: pb::egress::Scope::Standalone.into(),
            ranges: Vec::new(),
        }),
        ..pb::Upstream::default()
    };
    let decode = |name: &str, u: &pb::Upstream| {
        Resource::decode(Kind::Upstream, name, &encoded(u.clone())).map_err(|e| e.to_string())
    };
    assert!(decode("ApiModel/a/b", &good).is_ok());
    let change = |change: fn(&mut pb::Upstream)| {
        let mut bad = good.clone();
        change(&mut bad);
        decode("ApiModel/a/b", &bad).unwrap_err()
    };
    let cases: [(&str, String); 8] = [
        ("name", decode("Alias/a/b", &good).unwrap_err()),
        ("format", change(|u| u.format = 99)),
        (
            "base_url",
            change(|u| u.base_url = "https://u:p@host/".into()),
        ),
        ("extra_body", change(|u| u.extra_body = Some("[1]".into()))),
        ("max_in_flight", change(|u| u.max_in_flight = 0)),
        ("ca_bundle", change(|u| u.ca_bundle = Some("x".into()))),
        ("egress", change(|u| u.egress = None)),
        (
            "extra_headers",
            change(|u| {
                u.extra_headers = vec![pb::Header {
                    name: "x-a".into(),
                    value: b"a\r\nx-api-key: b".as_slice().into(),
                }];
            }),
        ),
    ];
    for (field, error) in cases {
        assert!(error.starts_with(field), "{field}: {error}");
    }
}

#[test]
fn a_key_that_is_refused_is_not_shown() {
    let body = pb::Credential {
        secret: "sk-canary\n".into(),
        any_origin: true,
        ..pb::Credential::default()
    };
    let error = Resource::decode(Kind::Credential, "ApiModel/a/b", &body.encode_to_vec());
    let error = error.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
}

#[test]
fn a_key_of_a_newer_release_is_left_out_and_a_wrong_map_is_refused() {
    let key = |material| pb::VerifyingKey {
        id: "k".into(),
        material,
    };
    let rsa = |bytes: usize| {
        Some(pb::verifying_key::Material::Rsa(pb::RsaKey {
            modulus: vec![1; bytes].into(),
            exponent: vec![1, 0, 1].into(),
        }))
    };
    let ec = |curve: i32| {
        let point = vec![4; 65].into();
        Some(pb::verifying_key::Material::Ec(pb::EcKey { curve, point }))
    };
    let caller = |name: &str| pb::MappedAccount {
        namespace: "a".into(),
        name: name.into(),
        scope: pb::Scope::User.into(),
        models: None,
    };
    let decode = |keys, callers: &[&str]| {
        let policy = pb::Policy {
            service_accounts: Some(pb::ServiceAccounts {
                issuer: "https://kubernetes.default.svc".into(),
                keys,
                callers: callers.iter().map(|name| caller(name)).collect(),
            }),
            ..pb::Policy::default()
        };
        match Resource::decode(Kind::Policy, POLICY_NAME, &policy.encode_to_vec()) {
            Ok(Resource::Policy(policy)) => Ok(policy.service_accounts.clone().unwrap()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    };
    let known = decode(vec![key(None), key(ec(99)), key(rsa(256))], &["b", "c"]).unwrap();
    assert_eq!((known.keys.len(), known.callers.len()), (1, 2));
    for (wrong, field) in [
        (decode(vec![key(rsa(128))], &[]), "service_accounts.keys"),
        (decode(vec![key(ec(2))], &[]), "service_accounts.keys"),
        (decode(vec![], &["c", "b"]), "service_accounts.callers"),
        (decode(vec![], &["b", "b"]), "service_accounts.callers"),
        (decode(vec![], &["B"]), "service_accounts.callers"),
    ] {
        let error = wrong.unwrap_err();
        assert!(error.starts_with(field), "{error}");
    }
}
