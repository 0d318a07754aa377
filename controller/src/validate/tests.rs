use super::*;
use serde_json::json;

fn api_model(spec: Value) -> Value {
    json!({
        "apiVersion": "bodhi.dev/v1alpha1",
        "kind": "ApiModel",
        "metadata": { "name": "openrouter" },
        "spec": spec,
    })
}

fn faults(object: Value) -> Vec<String> {
    let judged = Validator::new().judge(ObjectKind::ApiModel, object, None);
    let faults = judged.expect_err("the object is faulty");
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn an_accepted_object_has_its_defaults_and_no_status() {
    let mut object = api_model(json!({
        "format": "openai",
        "auth": { "type": "None" },
        "models": ["gpt-4o"],
        "prefix": null,
    }));
    object["status"] = json!({ "conditions": "nonsense" });
    let judged = Validator::new()
        .judge(ObjectKind::ApiModel, object, None)
        .unwrap();
    assert_eq!(judged.get("status"), None);
    assert_eq!(judged["spec"]["maxInFlight"], 500);
    assert_eq!(judged["spec"]["timeouts"]["idle"], "2m");
    assert_eq!(judged["spec"].get("prefix"), None);
    let typed: crate::api::ApiModel = serde_json::from_value(judged).unwrap();
    assert_eq!(typed.spec.models, ["gpt-4o"]);
    assert_eq!(typed.spec.prefix, None);
}

#[test]
fn all_faults_are_reported_at_once_in_order_of_their_paths() {
    let found = faults(api_model(json!({
        "format": "openai",
        "auth": { "type": "SecretRef" },
        "baseURL": "https://x",
        "baseUrl": "https://user:pw@x/v1?q",
        "forwardAll": true,
        "maxInFlight": 0,
        "extraHeaders": [{ "name": "X-Api-Key", "value": "a" }],
    })));
    assert_eq!(
        found,
        [
            "spec.auth.secretRef: secretRef is needed with type SecretRef, and only there",
            "spec.baseURL: unknown field; did you mean \"baseUrl\"?",
            "spec.baseUrl: must not carry a user name or password: use auth",
            "spec.baseUrl: must not have a query or fragment",
            "spec.baseUrl: must not hold a user or password",
            "spec.extraHeaders[0].name: this header belongs to the gateway or to auth and cannot be set here",
            "spec.maxInFlight: must be greater than or equal to 1",
            "spec.prefix: forwardAll needs a prefix",
        ]
    );
}

#[test]
fn a_missing_field_is_named_by_its_own_path() {
    let found = faults(api_model(json!({ "format": "openai", "models": ["a"] })));
    assert_eq!(found, ["spec.auth: Required value"]);
}

#[test]
fn format_may_be_set_once_and_kept() {
    let validator = Validator::new();
    let spec = json!({ "format": "openai", "auth": { "type": "None" }, "models": ["a"] });
    let judge = |object, old| validator.judge(ObjectKind::ApiModel, object, old);
    let old = judge(api_model(spec.clone()), None).unwrap();
    assert!(judge(api_model(spec.clone()), Some(&old)).is_ok());
    let mut changed = spec;
    changed["format"] = json!("gemini");
    let faults = judge(api_model(changed), Some(&old)).unwrap_err();
    assert_eq!(faults[0].path.to_string(), "spec.format");
    assert!(faults[0].message.contains("cannot be changed"));
}

#[test]
fn a_key_in_the_wrong_field_is_not_repeated() {
    let found = faults(api_model(json!({
        "format": "sk-canary",
        "auth": { "type": "sk-canary", "secretRef": "sk-canary" },
        "baseUrl": "sk-canary",
        "prefix": "sk canary",
        "extraHeaders": [{ "name": "sk canary", "value": "sk-canary\n" }],
    })));
    assert!(found.len() >= 6, "{found:#?}");
    assert!(!found.join("\n").contains("canary"), "{found:#?}");
}

#[test]
fn lists_far_beyond_their_bounds_are_refused_quickly() {
    let header = |n: usize| json!({ "name": format!("h-{n}"), "value": "" });
    let headers: Vec<Value> = (0..50_000).map(header).collect();
    let found = faults(api_model(json!({
        "format": "openai",
        "auth": { "type": "None" },
        "models": ["a"],
        "extraHeaders": headers,
    })));
    assert_eq!(
        found,
        ["spec.extraHeaders: Too many: must have at most 32 items"]
    );
}

#[test]
fn validators_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Validator>();
}
