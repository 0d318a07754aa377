use bodhi_proto::names::ModelName;
use bodhi_proto::provider::Family;
use bodhi_proto::snapshot::{BaseUrl, Route, RouteModel, Scheme};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::Event;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::api::{Alias, ApiModel, KeyRef};
use crate::index::Resources;
use crate::source::ResourceEvent;

/// Objects under test, in the order their events arrive.
#[derive(Default, Clone)]
struct World(Vec<Value>);

impl World {
    fn with(mut self, object: Value) -> Self {
        self.0.push(object);
        self
    }

    fn resources(&self) -> Resources {
        let mut resources = Resources::default();
        for event in [Event::Init, Event::InitDone] {
            resources.apply(ResourceEvent::ApiModel(event));
        }
        for event in [Event::Init, Event::InitDone] {
            resources.apply(ResourceEvent::Alias(event));
        }
        for event in [Event::Init, Event::InitDone] {
            resources.apply(ResourceEvent::Secret(event));
        }
        for object in &self.0 {
            let object = object.clone();
            resources.apply(match object["kind"].as_str().unwrap() {
                "ApiModel" => {
                    let typed: ApiModel = serde_json::from_value(object).unwrap();
                    ResourceEvent::ApiModel(Event::Apply(typed))
                }
                "Alias" => {
                    let typed: Alias = serde_json::from_value(object).unwrap();
                    ResourceEvent::Alias(Event::Apply(typed))
                }
                _ => {
                    let typed: Secret = serde_json::from_value(object).unwrap();
                    ResourceEvent::Secret(Event::Apply(typed))
                }
            });
        }
        resources
    }

    fn compile_with(&self, keys: &StoredKeys, settings: &Settings) -> Compiled {
        compile(self.resources().synced().unwrap(), keys, settings)
    }

    fn compile(&self) -> Compiled {
        self.compile_with(&StoredKeys::new(), &Settings::standalone("bodhi"))
    }
}

fn metadata(namespace: &str, name: &str, age: i64) -> Value {
    let created = jiff::Timestamp::from_second(1_700_000_000 + age).unwrap();
    json!({
        "name": name, "namespace": namespace, "generation": 3,
        "uid": format!("uid-{namespace}-{name}"), "creationTimestamp": created.to_string(),
    })
}

fn merged(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn api_model_in(namespace: &str, name: &str, age: i64, spec: Value) -> Value {
    let base = json!({ "format": "openai", "auth": { "type": "None" } });
    json!({
        "apiVersion": "bodhi.dev/v1alpha1", "kind": "ApiModel",
        "metadata": metadata(namespace, name, age), "spec": merged(base, spec),
    })
}

fn api_model(name: &str, age: i64, spec: Value) -> Value {
    api_model_in("bodhi", name, age, spec)
}

fn alias_in(namespace: &str, name: &str, age: i64, routes: Value, spec: Value) -> Value {
    let base = json!({ "target": { "type": "Api", "api": { "routes": routes } } });
    json!({
        "apiVersion": "bodhi.dev/v1alpha1", "kind": "Alias",
        "metadata": metadata(namespace, name, age), "spec": merged(base, spec),
    })
}

fn alias(name: &str, age: i64, routes: Value) -> Value {
    alias_in("bodhi", name, age, routes, json!({}))
}

fn secret(name: &str, labels: Value, annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "name": name, "namespace": "bodhi", "labels": labels, "annotations": annotations,
        },
        "data": { "key": "c2stdGVzdAo=", "blank": "IA==" },
    })
}

fn opted_in(name: &str, annotations: Value) -> Value {
    secret(name, json!({ "bodhi.dev/credential": "true" }), annotations)
}

impl Compiled {
    fn name(&self, key: &str) -> Option<&ServedName> {
        self.served
            .iter()
            .find(|served| served.key.to_string() == key)
    }

    fn owner(&self, key: &str) -> Option<String> {
        self.name(key).map(|served| served.owner.to_string())
    }

    fn routes(&self, key: &str) -> Vec<Route> {
        match self.name(key).map(|served| &served.serving) {
            Some(Serving::Routes(routes)) => routes.clone(),
            other => panic!("{key} has no routes: {other:?}"),
        }
    }

    fn refusal(&self, key: &str) -> Refusal {
        match self.name(key).map(|served| &served.serving) {
            Some(Serving::Refused(refusal)) => refusal.clone(),
            other => panic!("{key} is not refused: {other:?}"),
        }
    }

    fn condition(&self, object: &str, type_: ConditionType) -> &CompiledCondition {
        let status = self
            .statuses
            .iter()
            .find(|s| s.object.to_string() == object);
        status.unwrap().condition(type_).unwrap()
    }

    fn reason(&self, object: &str, type_: ConditionType) -> (ConditionStatus, &'static str) {
        let condition = self.condition(object, type_);
        (condition.status, condition.reason.as_str())
    }
}

const ACCEPTED: ConditionType = ConditionType::Accepted;
const RESOLVED: ConditionType = ConditionType::ResolvedRefs;

#[test]
fn an_api_model_serves_its_ids_and_its_prefix() {
    let spec = json!({ "prefix": "or/", "forwardAll": true, "models": ["openai/gpt-4o"],
        "baseUrl": "https://openrouter.ai/api/v1/", "extraBody": { "a": 1 } });
    let compiled = World::default()
        .with(api_model("openrouter", 0, spec))
        .compile();
    let exact = compiled.routes("general/exact/or/openai/gpt-4o");
    assert_eq!(exact[0].model, RouteModel::Named("openai/gpt-4o".into()));
    assert_eq!(exact[0].exposed, None);
    assert_eq!(
        compiled.routes("general/prefix/or/")[0].model,
        RouteModel::Remainder
    );
    let upstream = &compiled.upstreams[0];
    assert_eq!(
        upstream.base_url.to_string(),
        "https://openrouter.ai/api/v1"
    );
    assert_eq!(upstream.attempts.get(), 2);
    assert_eq!(upstream.extra_body.as_deref(), Some(r#"{"a":1}"#));
    assert_eq!(
        upstream.output_limit_field,
        bodhi_proto::snapshot::OutputLimitField::MaxTokens
    );
    let status = &compiled.statuses[0];
    assert_eq!((status.models, status.generation), (1, 3));
    assert_eq!(compiled.problems().count(), 0);
    assert_eq!(
        compiled.name("general/prefix/or/").unwrap().created,
        1_700_000_000
    );
}

#[test]
fn fields_that_are_kept_and_not_acted_upon_are_told() {
    let spec = json!({ "models": ["a"], "discovery": { "enabled": true } });
    let routes = json!([{ "apiModel": "o", "model": "a" }]);
    let compiled = World::default()
        .with(api_model("o", 0, spec))
        .with(alias_in(
            "bodhi",
            "x",
            0,
            routes.clone(),
            json!({ "systemPrompt": "Be kind." }),
        ))
        .with(alias("y", 0, routes))
        .compile();
    let accepted = |object| compiled.condition(object, ConditionType::Accepted);
    for (object, field) in [
        ("ApiModel/bodhi/o", "spec.discovery"),
        ("Alias/bodhi/x", "spec.systemPrompt"),
    ] {
        assert_eq!(accepted(object).status, ConditionStatus::True);
        assert!(
            accepted(object).message.contains(field),
            "{}",
            accepted(object).message
        );
    }
    assert_eq!(accepted("Alias/bodhi/y").message, "");
}

#[test]
fn without_strip_prefix_ids_and_names_are_the_same() {
    let spec = json!({ "format": "anthropic", "prefix": "claude-", "stripPrefix": false,
        "forwardAll": true, "models": ["claude-sonnet-4-5"] });
    let compiled = World::default()
        .with(api_model("claude", 0, spec))
        .compile();
    let exact = compiled.routes("general/exact/claude-sonnet-4-5");
    assert_eq!(
        exact[0].model,
        RouteModel::Named("claude-sonnet-4-5".into())
    );
    assert_eq!(
        compiled.routes("general/prefix/claude-")[0].model,
        RouteModel::AsAsked
    );
}

#[test]
fn the_two_families_do_not_meet() {
    let spec = json!({ "prefix": "openai/", "forwardAll": true, "models": ["gpt-4o"] });
    let responses = merged(spec.clone(), json!({ "format": "openai_responses" }));
    let compiled = World::default()
        .with(api_model("chat", 0, spec))
        .with(api_model("responses", 1, responses))
        .compile();
    assert_eq!(
        compiled.owner("general/exact/openai/gpt-4o").unwrap(),
        "ApiModel/bodhi/chat"
    );
    let owner = compiled.owner("responses/exact/openai/gpt-4o").unwrap();
    assert_eq!(owner, "ApiModel/bodhi/responses");
    assert_eq!(compiled.problems().count(), 0);
}

#[test]
fn the_older_object_keeps_an_id_and_the_younger_serves_its_others() {
    let compiled = World::default()
        .with(api_model(
            "a-young",
            5,
            json!({ "models": ["gpt-4o", "own"] }),
        ))
        .with(api_model("z-old", 1, json!({ "models": ["gpt-4o"] })))
        .compile();
    assert_eq!(
        compiled.owner("general/exact/gpt-4o").unwrap(),
        "ApiModel/bodhi/z-old"
    );
    assert_eq!(
        compiled.owner("general/exact/own").unwrap(),
        "ApiModel/bodhi/a-young"
    );
    let condition = compiled.condition("ApiModel/bodhi/a-young", ACCEPTED);
    assert_eq!(
        (condition.status, condition.reason),
        (ConditionStatus::True, Reason::ModelConflict)
    );
    assert_eq!(
        condition.message,
        "model \"gpt-4o\" belongs to ApiModel/bodhi/z-old"
    );
}

#[test]
fn accepted_is_false_when_no_id_is_left() {
    let compiled = World::default()
        .with(api_model("young", 5, json!({ "models": ["gpt-4o"] })))
        .with(api_model("old", 1, json!({ "models": ["gpt-4o"] })))
        .compile();
    assert_eq!(
        compiled.reason("ApiModel/bodhi/young", ACCEPTED),
        (ConditionStatus::False, "ModelConflict")
    );
    assert_eq!(compiled.upstreams.len(), 2, "Aliases may still lead there");
}

#[test]
fn an_alias_goes_before_an_older_api_model() {
    let compiled = World::default()
        .with(api_model(
            "old",
            1,
            json!({ "models": ["gpt-4o", "other"] }),
        ))
        .with(alias(
            "gpt-4o",
            9,
            json!([{ "apiModel": "old", "model": "gpt-4o-mini" }]),
        ))
        .compile();
    assert_eq!(
        compiled.owner("general/exact/gpt-4o").unwrap(),
        "Alias/bodhi/gpt-4o"
    );
    let condition = compiled.condition("ApiModel/bodhi/old", ACCEPTED);
    assert!(
        condition.message.contains("Alias/bodhi/gpt-4o"),
        "{}",
        condition.message
    );
}

#[test]
fn whoever_loses_its_prefix_loses_its_names_and_frees_them() {
    let compiled = World::default()
        .with(api_model(
            "old",
            1,
            json!({ "prefix": "p/", "forwardAll": true }),
        ))
        .with(api_model(
            "young",
            2,
            json!({ "prefix": "p/", "models": ["m"] }),
        ))
        .with(api_model("third", 3, json!({ "models": ["p/m"] })))
        .compile();
    assert_eq!(
        compiled.reason("ApiModel/bodhi/young", ACCEPTED),
        (ConditionStatus::False, "PrefixConflict")
    );
    let message = &compiled.condition("ApiModel/bodhi/young", ACCEPTED).message;
    assert!(
        message.starts_with("prefix \"p/\" belongs to ApiModel/bodhi/old"),
        "{message}"
    );
    assert_eq!(
        compiled.owner("general/exact/p/m").unwrap(),
        "ApiModel/bodhi/third"
    );
    assert_eq!(
        compiled.owner("general/prefix/p/").unwrap(),
        "ApiModel/bodhi/old"
    );
}

#[test]
fn a_prefix_without_forward_all_is_reserved_and_not_served() {
    let compiled = World::default()
        .with(api_model(
            "a",
            1,
            json!({ "prefix": "p/", "models": ["m"] }),
        ))
        .compile();
    assert_eq!(compiled.served.len(), 1);
    assert!(compiled.name("general/prefix/p/").is_none());
}

#[test]
fn a_suspended_object_keeps_its_names_and_answers_for_itself() {
    let spec = json!({ "models": ["m"], "prefix": "p/", "forwardAll": true, "suspend": true });
    let compiled = World::default()
        .with(api_model("off", 1, spec))
        .with(api_model("wide", 2, json!({ "models": ["p/m", "x"] })))
        .compile();
    let refusal = compiled.refusal("general/exact/p/m");
    assert_eq!(
        (&*refusal.reason, refusal.unsupported),
        ("Suspended", false)
    );
    assert_eq!(compiled.refusal("general/prefix/p/").reason, refusal.reason);
    assert_eq!(compiled.upstreams.len(), 1);
    assert_eq!(
        compiled.reason("ApiModel/bodhi/off", ACCEPTED).1,
        "Suspended"
    );
}

#[test]
fn a_body_that_sets_what_belongs_to_the_request_is_refused_without_an_api_server_too() {
    let spec = json!({ "models": ["m"], "extraBody": { "Model": "x" } });
    let compiled = World::default().with(api_model("a", 1, spec)).compile();
    assert_eq!(
        &*compiled.refusal("general/exact/m").reason,
        "InvalidExtraBody"
    );
    assert!(compiled.upstreams.is_empty());
}

/// A local Alias; `local` joins its target, `spec` the rest.
fn local_alias(name: &str, local: Value, spec: Value) -> Value {
    let target = json!({ "target": { "type": "Local", "local": local } });
    alias_in("bodhi", name, 1, json!([]), merged(target, spec))
}

#[test]
fn a_local_model_becomes_a_route_to_its_pool_and_a_worker() {
    let local = json!({ "source": "file:///m.gguf", "features": ["Chat", "Embeddings"], "engine": { "threads": 3 } });
    let spec = json!({
        "model": "q:1", "systemPrompt": "Be brief.", "maxOutputTokens": 64,
        "scaling": { "replicas": 2, "activation": { "holdTimeout": "30s", "maxHeld": 3 } },
        "loadBalancing": { "strategy": "LeastLoad" },
    });
    let compiled = World::default()
        .with(local_alias("qwen", local, spec))
        .compile();
    let routes = compiled.routes("general/exact/q:1");
    let object = ObjectRef::alias("bodhi", "qwen");
    assert_eq!(routes.len(), 1);
    assert_eq!(
        (&routes[0].upstream, &routes[0].model),
        (&object, &RouteModel::AsAsked)
    );
    assert_eq!(routes[0].exposed, None);
    let [model] = &compiled.locals[..] else {
        panic!("one model")
    };
    let features = model.pool.features;
    assert!(features.chat && features.embeddings && !features.completions && !features.rerank);
    assert_eq!(model.pool.hold_timeout.as_secs(), 30);
    assert_eq!(
        (model.pool.max_held, model.pool.system_prompt.as_deref()),
        (3, Some("Be brief."))
    );
    assert_eq!(model.worker.engine.threads, Some(3));
    assert_eq!((model.sizing.ceiling(), model.rollout), (2, Rollout::Surge));
    assert_eq!(compiled.reason("Alias/bodhi/qwen", ACCEPTED).1, "Accepted");
}

#[test]
fn a_model_that_asks_for_a_gpu_gives_it_back_before_it_asks_again() {
    let local =
        json!({ "source": "file:///m.gguf", "resources": { "limits": { "nvidia.com/gpu": 1 } } });
    let compiled = World::default()
        .with(local_alias("q", local, json!({})))
        .compile();
    assert_eq!(compiled.locals[0].rollout, Rollout::InPlace);
}

fn in_cluster() -> Settings {
    Settings {
        deployment: Deployment::Cluster,
        ..Settings::standalone("bodhi")
    }
}

#[test]
fn a_pod_is_told_which_secret_to_take_its_token_from_and_never_the_token() {
    let credentials = json!({ "name": "hub", "key": "token" });
    let local = json!({
        "source": "hf://o/r/m.gguf", "allowFloating": true, "credentialsRef": credentials,
    });
    let hub = json!({
        "kind": "Secret", "apiVersion": "v1", "data": { "token": "YWJj" },
        "metadata": {
            "name": "hub", "namespace": "bodhi", "labels": { "bodhi.dev/credential": "true" },
        },
    });
    let compiled = World::default()
        .with(local_alias("q", local, json!({})))
        .with(hub)
        .compile_with(&StoredKeys::new(), &in_cluster());
    let reference = KeyRef {
        name: "hub".into(),
        key: "token".into(),
    };
    let expected = Some(Credentials::Reference(reference));
    assert_eq!(compiled.locals[0].worker.credentials, expected);
}

#[test]
fn a_folder_of_a_node_is_a_cache_only_where_the_operator_says_so() {
    let settings = Settings {
        host_paths: vec![HostPathGrant {
            namespace: "bodhi".into(),
            folder: Path::new("/srv/models").into(),
        }],
        ..in_cluster()
    };
    let compiled = |settings: &Settings, path: &str| {
        let cache = json!({ "type": "HostPath", "path": path });
        let local = json!({ "source": "https://a.example/m.gguf", "cache": cache });
        let world = World::default().with(local_alias("q", local, json!({})));
        world.compile_with(&StoredKeys::new(), settings)
    };
    for path in ["/srv/models", "/srv/models/a"] {
        assert_eq!(compiled(&settings, path).locals.len(), 1, "{path}");
        assert!(compiled(&in_cluster(), path).locals.is_empty(), "{path}");
    }
    for path in [
        "/",
        "/srv",
        "/srv/models-of-others",
        "/srv/models/../../etc",
    ] {
        let compiled = compiled(&settings, path);
        assert!(compiled.locals.is_empty(), "{path}");
        let accepted = compiled.reason("Alias/bodhi/q", ACCEPTED);
        assert_eq!(accepted.1, "InvalidSettings", "{path}");
    }
}

#[test]
fn a_model_is_downloaded_from_where_its_namespace_may_go() {
    let granted: IpNet = "10.3.0.0/16".parse().unwrap();
    let settings = Settings {
        egress: vec![EgressGrant {
            namespace: "team".into(),
            range: granted,
        }],
        ..in_cluster()
    };
    let of = |namespace: &str| {
        let local = json!({ "source": "https://a.example/m.gguf" });
        let mut alias = local_alias("q", local, json!({}));
        alias["metadata"]["namespace"] = namespace.into();
        let compiled = World::default()
            .with(alias)
            .compile_with(&StoredKeys::new(), &settings);
        compiled.locals[0].worker.egress.clone()
    };
    assert_eq!(of("bodhi"), EgressScope::Release);
    assert_eq!(of("team"), EgressScope::Tenant([granted].into()));
    assert_eq!(of("other"), EgressScope::Tenant([].into()));
}

#[test]
fn sources_of_another_deployment_are_refused_with_what_to_write() {
    let cluster = in_cluster();
    let digest = "0".repeat(64);
    let oci = format!("oci://registry.example/m@sha256:{digest}");
    for (source, standalone, hint) in [
        ("pvc://models/m.gguf", true, "file:///PATH"),
        (oci.as_str(), true, "hf://"),
        ("file:///m.gguf", false, "pvc://CLAIM/PATH"),
    ] {
        let world = World::default().with(local_alias("q", json!({ "source": source }), json!({})));
        let compiled = match standalone {
            true => world.compile(),
            false => world.compile_with(&StoredKeys::new(), &cluster),
        };
        assert!(compiled.locals.is_empty());
        let refusal = compiled.refusal("general/exact/q");
        assert_eq!(&*refusal.reason, "SourceNotSupported");
        assert!(refusal.message.contains(hint), "{}", refusal.message);
    }
}

#[test]
fn a_download_takes_its_token_from_a_labelled_secret_that_may_go_there() {
    let local = |source: &str| {
        let credentials = json!({ "name": "hub", "key": "token" });
        let local =
            json!({ "source": source, "allowFloating": true, "credentialsRef": credentials });
        local_alias("q", local, json!({}))
    };
    let secret = |origins: &str| {
        json!({
            "kind": "Secret", "apiVersion": "v1", "data": { "token": "YWJj" },
            "metadata": {
                "name": "hub", "namespace": "bodhi",
                "labels": { "bodhi.dev/credential": "true" },
                "annotations": { "bodhi.dev/allowed-origins": origins },
            },
        })
    };
    let hub = "hf://o/r/m.gguf";
    let with = |source: &str, origins: &str| {
        World::default()
            .with(local(source))
            .with(secret(origins))
            .compile()
    };
    let compiled = with(hub, "https://huggingface.co");
    let Some(Credentials::Token(token)) = &compiled.locals[0].worker.credentials else {
        panic!("a process is given the token");
    };
    assert_eq!(token.expose(), "abc");
    for (compiled, reason) in [
        (
            World::default().with(local(hub)).compile(),
            "SecretNotFound",
        ),
        (with(hub, "https://a.example"), "SecretOriginNotAllowed"),
        (
            with("https://b.example/m.gguf?x=1", "https://a.example"),
            "SecretOriginNotAllowed",
        ),
        (
            with("file:///m.gguf", "https://a.example"),
            "SecretOriginNotAllowed",
        ),
    ] {
        assert!(compiled.locals.is_empty());
        let resolved = compiled.reason("Alias/bodhi/q", ConditionType::ResolvedRefs);
        assert_eq!(resolved.1, reason);
        assert_eq!(&*compiled.refusal("general/exact/q").reason, reason);
    }
}

#[test]
fn routes_come_in_order_of_priority_with_the_exposed_id() {
    let routes = json!([
        { "apiModel": "b", "model": "x", "priority": 1 },
        { "apiModel": "a", "model": "gpt-4o", "weight": 90 },
    ]);
    let spec = json!({ "maxOutputTokens": 64, "defaults": { "temperature": 0 }, "visibility": "Internal" });
    let compiled = World::default()
        .with(api_model(
            "a",
            1,
            json!({ "prefix": "oa/", "models": ["gpt-4o"] }),
        ))
        .with(api_model("b", 1, json!({ "models": ["y"] })))
        .with(alias_in("bodhi", "mine", 2, routes, spec))
        .compile();
    let routes = compiled.routes("general/exact/mine");
    assert_eq!(routes[0].upstream.to_string(), "ApiModel/bodhi/a");
    assert_eq!(
        (routes[0].weight.get(), routes[0].exposed.as_deref()),
        (90, Some("oa/gpt-4o"))
    );
    assert_eq!(routes[1].exposed.as_deref(), Some("x"));
    let served = compiled.name("general/exact/mine").unwrap();
    assert_eq!(served.visibility, Visibility::Internal);
    assert_eq!(served.max_output_tokens.map(NonZeroU32::get), Some(64));
    assert_eq!(served.defaults.as_deref(), Some(r#"{"temperature":0}"#));
}

#[test]
fn an_alias_serves_what_routes_it_has_and_tells_of_the_rest() {
    let routes = json!([{ "apiModel": "gone", "model": "m" }, { "apiModel": "a", "model": "m" }]);
    let compiled = World::default()
        .with(api_model("a", 1, json!({ "models": ["m"] })))
        .with(alias("mine", 2, routes))
        .with(alias(
            "lost",
            2,
            json!([{ "apiModel": "gone", "model": "m" }]),
        ))
        .compile();
    assert_eq!(compiled.routes("general/exact/mine").len(), 1);
    assert_eq!(
        compiled.reason("Alias/bodhi/mine", RESOLVED),
        (ConditionStatus::False, "ApiModelNotFound")
    );
    assert_eq!(
        &*compiled.refusal("general/exact/lost").reason,
        "ApiModelNotFound"
    );
}

#[test]
fn routes_of_two_families_are_refused_in_both() {
    let routes = json!([{ "apiModel": "a", "model": "m" }, { "apiModel": "r", "model": "m" }]);
    let compiled = World::default()
        .with(api_model("a", 1, json!({ "models": ["m"] })))
        .with(api_model(
            "r",
            1,
            json!({ "models": ["m"], "format": "openai_responses" }),
        ))
        .with(alias("mixed", 2, routes))
        .with(alias(
            "only-r",
            2,
            json!([{ "apiModel": "r", "model": "m" }]),
        ))
        .compile();
    assert_eq!(
        &*compiled.refusal("general/exact/mixed").reason,
        "MixedFormats"
    );
    assert_eq!(
        &*compiled.refusal("responses/exact/mixed").reason,
        "MixedFormats"
    );
    assert_eq!(compiled.routes("responses/exact/only-r").len(), 1);
    assert!(compiled.name("general/exact/only-r").is_none());
}

mod keys {
    use super::*;

    fn with_secret(secret: Option<Value>, settings: &Settings) -> Compiled {
        let auth = json!({ "auth": { "type": "SecretRef", "secretRef": { "name": "s", "key": "key" } },
            "baseUrl": "https://openrouter.ai/api/v1", "models": ["m"] });
        let world = World::default().with(api_model("a", 1, auth));
        let world = secret.into_iter().fold(world, World::with);
        world.compile_with(&StoredKeys::new(), settings)
    }

    fn cluster() -> Settings {
        Settings {
            deployment: Deployment::Cluster,
            ..Settings::standalone("bodhi")
        }
    }

    fn reason(compiled: &Compiled) -> &'static str {
        assert!(compiled.credentials.is_empty());
        assert_eq!(
            compiled.upstreams[0].auth,
            bodhi_proto::snapshot::Auth::Credential
        );
        compiled.reason("ApiModel/bodhi/a", RESOLVED).1
    }

    #[test]
    fn a_labelled_secret_is_used_and_trimmed() {
        let compiled = with_secret(
            Some(opted_in("s", json!({}))),
            &Settings::standalone("bodhi"),
        );
        let CompiledCredential::Inline(credential) = &compiled.credentials[0] else {
            panic!("the key is in a Secret");
        };
        assert_eq!(credential.secret.expose(), "sk-test");
        assert_eq!(credential.allowed_origins, AllowedOrigins::Any);
    }

    #[test]
    fn what_is_missing_is_named() {
        let standalone = Settings::standalone("bodhi");
        assert_eq!(reason(&with_secret(None, &standalone)), "SecretNotFound");
        let unlabelled = secret("s", json!({}), json!({}));
        assert_eq!(
            reason(&with_secret(Some(unlabelled), &standalone)),
            "SecretNotOptedIn"
        );
        for data in [
            json!({}),
            json!({ "key": "IA==" }),
            json!({ "key": "//4=" }),
        ] {
            let mut secret = opted_in("s", json!({}));
            secret["data"] = data;
            assert_eq!(
                reason(&with_secret(Some(secret), &standalone)),
                "SecretKeyMissing"
            );
        }
    }

    #[test]
    fn in_a_cluster_a_key_goes_only_where_its_secret_says() {
        let bare = with_secret(Some(opted_in("s", json!({}))), &cluster());
        assert_eq!(reason(&bare), "SecretOriginNotAllowed");
        let message = &bare.condition("ApiModel/bodhi/a", RESOLVED).message;
        assert!(
            message.contains("bodhi.dev/allowed-origins: https://openrouter.ai"),
            "{message}"
        );
        let annotate = |origins: &str| json!({ "bodhi.dev/allowed-origins": origins });
        let allowed = opted_in("s", annotate("https://a.example, https://openrouter.ai"));
        assert_eq!(with_secret(Some(allowed), &cluster()).credentials.len(), 1);
        for origins in ["https://a.example", "", "openrouter.ai"] {
            let other = opted_in("s", annotate(origins));
            let settings = Settings::standalone("bodhi");
            assert_eq!(
                reason(&with_secret(Some(other), &settings)),
                "SecretOriginNotAllowed"
            );
        }
    }

    #[test]
    fn a_stored_key_belongs_to_uid_and_origin() {
        let spec = json!({ "auth": { "type": "Stored" }, "models": ["m"], "baseUrl": "https://a.example/v1" });
        let world = World::default().with(api_model("a", 1, spec));
        let settings = Settings::standalone("bodhi");
        let origin = |url: &str| BaseUrl::parse(url).unwrap().origin;
        let compile = |uid: &str, url: &str| {
            world.compile_with(&StoredKeys::from([(uid.into(), origin(url))]), &settings)
        };
        let compiled = compile("uid-bodhi-a", "https://a.example");
        let CompiledCredential::Stored {
            uid,
            allowed_origins,
            ..
        } = &compiled.credentials[0]
        else {
            panic!("the key is stored");
        };
        assert_eq!(&**uid, "uid-bodhi-a");
        assert!(allowed_origins.permit(&origin("https://a.example")));
        assert!(!allowed_origins.permit(&origin("https://b.example")));
        assert_eq!(
            reason(&compile("uid-of-another", "https://a.example")),
            "KeyNotStored"
        );
        assert_eq!(
            reason(&compile("uid-bodhi-a", "https://a.example:444")),
            "KeyNotStored"
        );
    }

    #[test]
    fn without_its_certificates_a_provider_is_not_called() {
        let spec = json!({ "models": ["m"], "caBundleRef": { "name": "s", "key": "key" } });
        let world = World::default()
            .with(api_model("a", 1, spec))
            .with(opted_in("s", json!({})));
        let compiled = world.compile();
        assert!(compiled.upstreams.is_empty());
        assert_eq!(
            &*compiled.refusal("general/exact/m").reason,
            "CABundleNotFound"
        );
    }
}

mod namespaces {
    use super::*;

    fn settings(names: &[(&str, &str)]) -> Settings {
        let grant = |(namespace, glob): &(&str, &str)| NameGrant {
            namespace: (*namespace).into(),
            glob: (*glob).into(),
        };
        Settings {
            deployment: Deployment::Cluster,
            names: names.iter().map(grant).collect(),
            ..Settings::standalone("bodhi")
        }
    }

    fn compile(world: &World, names: &[(&str, &str)]) -> Compiled {
        world.compile_with(&StoredKeys::new(), &settings(names))
    }

    #[test]
    fn a_namespace_claims_what_is_under_its_name_unless_more_is_granted() {
        let spec = json!({ "models": ["gpt-4o", "team-a/gpt-4o"] });
        let world = World::default().with(api_model_in("team-a", "x", 1, spec));
        let compiled = compile(&world, &[]);
        assert!(compiled.name("general/exact/gpt-4o").is_none());
        assert!(compiled.name("general/exact/team-a/gpt-4o").is_some());
        let condition = compiled.condition("ApiModel/team-a/x", ACCEPTED);
        assert_eq!(
            (condition.status, condition.reason),
            (ConditionStatus::True, Reason::NameNotGranted)
        );
        assert!(
            condition.message.contains("--names team-a="),
            "{}",
            condition.message
        );
        let compiled = compile(&world, &[("team-a", "gpt-*")]);
        assert!(compiled.name("general/exact/gpt-4o").is_some());
        assert!(compiled.name("general/exact/team-a/gpt-4o").is_none());
    }

    #[test]
    fn a_name_that_is_not_granted_stands_in_nobodys_way() {
        let world = World::default()
            .with(api_model_in(
                "team-a",
                "old",
                1,
                json!({ "models": ["gpt-4o"] }),
            ))
            .with(api_model("young", 9, json!({ "models": ["gpt-4o"] })));
        let compiled = compile(&world, &[]);
        assert_eq!(
            compiled.owner("general/exact/gpt-4o").unwrap(),
            "ApiModel/bodhi/young"
        );
    }

    #[test]
    fn a_prefix_needs_an_open_ended_grant() {
        let spec = json!({ "prefix": "gpt-", "forwardAll": true });
        let world = World::default().with(api_model_in("team-a", "x", 1, spec));
        assert!(compile(&world, &[("team-a", "gpt-4?")]).served.is_empty());
        assert!(compile(&world, &[("team-a", "gpt-?")]).served.is_empty());
        assert_eq!(compile(&world, &[("team-a", "gpt-*")]).served.len(), 1);
    }

    #[test]
    fn between_namespaces_the_longer_grant_wins_then_the_older() {
        let mine = json!({ "models": ["team-a/m"] });
        let world = World::default()
            .with(api_model("release", 1, mine.clone()))
            .with(api_model_in("team-a", "tenant", 9, mine));
        let compiled = compile(&world, &[]);
        assert_eq!(
            compiled.owner("general/exact/team-a/m").unwrap(),
            "ApiModel/team-a/tenant"
        );
        let equal = [("bodhi", "team-a/*"), ("team-a", "team-a/*")];
        let compiled = compile(&world, &equal);
        assert_eq!(
            compiled.owner("general/exact/team-a/m").unwrap(),
            "ApiModel/bodhi/release"
        );
    }

    #[test]
    fn a_foreign_name_inside_a_prefix_is_a_conflict() {
        let world = World::default()
            .with(api_model(
                "wide",
                1,
                json!({ "prefix": "gpt-", "forwardAll": true }),
            ))
            .with(api_model_in(
                "team-a",
                "inside",
                9,
                json!({ "models": ["gpt-4o"] }),
            ));
        let compiled = compile(&world, &[("bodhi", "*"), ("team-a", "*")]);
        assert!(compiled.name("general/exact/gpt-4o").is_none());
        let message = &compiled
            .condition("ApiModel/team-a/inside", ACCEPTED)
            .message;
        assert_eq!(
            message,
            "model \"gpt-4o\" belongs to ApiModel/bodhi/wide through its prefix \"gpt-\""
        );
        let compiled = compile(&world, &[("bodhi", "*"), ("team-a", "gpt-*")]);
        assert!(
            compiled.name("general/prefix/gpt-").is_none(),
            "the longer grant wins"
        );
        assert!(compiled.name("general/exact/gpt-4o").is_some());
    }

    #[test]
    fn an_alias_without_a_name_carries_its_namespace() {
        let world = World::default()
            .with(api_model_in(
                "team-a",
                "x",
                1,
                json!({ "models": ["team-a/m"] }),
            ))
            .with(alias_in(
                "team-a",
                "small",
                1,
                json!([{ "apiModel": "x", "model": "m" }]),
                json!({}),
            ));
        assert_eq!(
            compile(&world, &[])
                .routes("general/exact/team-a/small")
                .len(),
            1
        );
    }

    #[test]
    fn references_stay_inside_the_namespace() {
        let world = World::default()
            .with(api_model("x", 1, json!({ "models": ["m"] })))
            .with(alias_in(
                "team-a",
                "s",
                1,
                json!([{ "apiModel": "x", "model": "m" }]),
                json!({}),
            ));
        let refusal = compile(&world, &[]).refusal("general/exact/team-a/s");
        assert_eq!(&*refusal.reason, "ApiModelNotFound");
    }

    #[test]
    fn addresses_are_the_operators_word() {
        let model = |namespace| api_model_in(namespace, "x", 1, json!({ "models": ["m"] }));
        let world = World::default().with(model("bodhi")).with(model("team-a"));
        let range: IpNet = "10.1.0.0/16".parse().unwrap();
        let grant = EgressGrant {
            namespace: "team-a".into(),
            range,
        };
        let settings = Settings {
            egress: vec![grant],
            ..settings(&[])
        };
        let compiled = world.compile_with(&StoredKeys::new(), &settings);
        let scopes: Vec<_> = compiled
            .upstreams
            .iter()
            .map(|u| u.egress.clone())
            .collect();
        assert_eq!(
            scopes,
            [EgressScope::Release, EgressScope::Tenant([range].into())]
        );
        assert_eq!(world.compile().upstreams[1].egress, EgressScope::Standalone);
    }

    #[test]
    fn a_namespace_that_is_not_served_claims_nothing() {
        let world = World::default().with(api_model_in(
            "team-a",
            "x",
            1,
            json!({ "models": ["team-a/m"] }),
        ));
        let settings = Settings {
            namespaces: Some(BTreeSet::from(["bodhi".into()])),
            ..settings(&[])
        };
        let compiled = world.compile_with(&StoredKeys::new(), &settings);
        assert!(compiled.served.is_empty() && compiled.upstreams.is_empty());
        assert_eq!(
            compiled.reason("ApiModel/team-a/x", ACCEPTED).1,
            "NamespaceNotServed"
        );
    }
}

#[test]
fn ready_is_the_first_condition_that_is_not_true() {
    let compiled = World::default()
        .with(api_model("a", 1, json!({ "models": ["m"] })))
        .compile();
    let programmed = |status, reason| CompiledCondition {
        type_: ConditionType::Programmed,
        status,
        reason,
        message: String::new(),
    };
    let conditions =
        compiled.statuses[0].with(vec![programmed(ConditionStatus::Unknown, Reason::Pending)]);
    let ready = conditions.last().unwrap();
    assert_eq!(
        (ready.type_, ready.status, ready.reason),
        (
            ConditionType::Ready,
            ConditionStatus::Unknown,
            Reason::Pending
        )
    );
    let conditions =
        compiled.statuses[0].with(vec![programmed(ConditionStatus::True, Reason::Programmed)]);
    assert_eq!(conditions.last().unwrap().reason, Reason::Ready);
}

/// Objects that meet each other often: few names, few prefixes, two namespaces.
fn objects() -> impl Strategy<Value = Vec<Value>> {
    let namespace = prop_oneof![Just("bodhi"), Just("team-a")];
    let prefix = prop_oneof![
        Just(None),
        Just(Some("p/")),
        Just(Some("team-a/")),
        Just(Some("team-a/p/"))
    ];
    let models = proptest::collection::btree_set(
        prop_oneof![Just("m"), Just("n"), Just("team-a/m"), Just("p/m")],
        0..3,
    );
    let format = prop_oneof![Just("openai"), Just("openai_responses")];
    let one = (
        namespace,
        0..6_usize,
        0..4_i64,
        prefix,
        any::<bool>(),
        models,
        format,
        0..8_u8,
    );
    let object = one.prop_map(
        |(namespace, name, age, prefix, all, models, format, what)| {
            let name = format!("o{name}");
            match what {
                0..=1 => {
                    let route = json!([{ "apiModel": format!("o{}", age), "model": "m" }]);
                    let model = models.iter().next().copied().unwrap_or("m");
                    alias_in(namespace, &name, age, route, json!({ "model": model }))
                }
                _ => {
                    let spec = json!({ "format": format, "models": models, "suspend": what == 2,
                    "forwardAll": all && prefix.is_some() });
                    let spec = match prefix {
                        Some(prefix) => merged(spec, json!({ "prefix": prefix })),
                        None => spec,
                    };
                    api_model_in(namespace, &name, age, spec)
                }
            }
        },
    );
    proptest::collection::vec(object, 0..14).prop_map(|objects| {
        // One object per kind and name: a later one of the same name would be an update.
        let named = objects.into_iter().map(|o| {
            (
                (
                    o["kind"].to_string(),
                    o["metadata"]["namespace"].to_string(),
                    o["metadata"]["name"].to_string(),
                ),
                o,
            )
        });
        named.collect::<BTreeMap<_, _>>().into_values().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_order_of_events_changes_nothing(
        (objects, shuffled) in objects().prop_flat_map(|objects| {
            (Just(objects.clone()), Just(objects).prop_shuffle())
        }),
        removed in any::<prop::sample::Index>(),
    ) {
        let compiled = World(objects.clone()).compile();
        prop_assert_eq!(&compiled, &World(shuffled.clone()).compile());
        // An object that came and went leaves no trace: the same as after a restart.
        if !objects.is_empty() {
            let gone = removed.get(&objects).clone();
            let mut resources = World(objects.clone()).resources();
            match gone["kind"].as_str() {
                Some("Alias") => resources.apply(ResourceEvent::Alias(Event::Delete(
                    serde_json::from_value(gone.clone()).unwrap()))),
                _ => resources.apply(ResourceEvent::ApiModel(Event::Delete(
                    serde_json::from_value(gone.clone()).unwrap()))),
            };
            let settings = Settings::standalone("bodhi");
            let after = compile(resources.synced().unwrap(), &StoredKeys::new(), &settings);
            let rest: Vec<Value> = shuffled.into_iter().filter(|o| *o != gone).collect();
            prop_assert_eq!(after, World(rest).compile());
        }
    }

    #[test]
    fn each_name_has_one_owner_and_each_lost_name_a_message(objects in objects()) {
        let compiled = World(objects).compile();
        let keys: BTreeSet<_> = compiled.served.iter().map(|served| &served.key).collect();
        prop_assert_eq!(keys.len(), compiled.served.len());
        for served in &compiled.served {
            if let Serving::Routes(routes) = &served.serving {
                prop_assert!(!routes.is_empty());
                for route in routes {
                    prop_assert!(compiled.upstreams.iter().any(|u| u.object == route.upstream));
                }
            }
        }
        for (_, condition) in compiled.problems() {
            prop_assert!(!condition.message.is_empty());
        }
    }
}

#[test]
fn ten_thousand_names_all_compile() {
    let models = |n: usize| -> Vec<String> { (0..50).map(|m| format!("m{n}-{m}")).collect() };
    let world = (0..200).fold(World::default(), |world, n| {
        let namespace = if n % 2 == 0 { "bodhi" } else { "team-a" };
        let spec =
            json!({ "prefix": format!("team-a/{n}/"), "forwardAll": true, "models": models(n) });
        world.with(api_model_in(namespace, &format!("o{n}"), 0, spec))
    });
    let resources = world.resources();
    let compiled = compile(
        resources.synced().unwrap(),
        &StoredKeys::new(),
        &Settings::standalone("bodhi"),
    );
    assert_eq!(compiled.upstreams.len(), 200);
    assert_eq!(compiled.served.len(), 200 * 51);
    let name = ModelName::parse("team-a/7/m7-7").unwrap();
    let key = ServedKey {
        family: Family::General,
        pattern: Pattern::Exact(name),
    };
    assert!(compiled.served.iter().any(|served| served.key == key));
    assert_eq!(compiled.upstreams[0].base_url.origin.scheme, Scheme::Https);
}
