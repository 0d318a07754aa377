//! The admin API over its router, a real store and in-memory neighbours.

use std::sync::Mutex;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::Scope;
use http_body_util::BodyExt as _;
use serde_json::json;
use tower::ServiceExt as _;
use zeroize::Zeroizing;

use super::*;
use crate::store::seal::{Keys, RingFile};
use crate::store::{Actor, SqliteStore};
use crate::upstreams::testing::{Provider, Reply};

const NOW: i64 = 1_800_000_000;

/// Resources in a list, for reading and writing.
#[derive(Default)]
struct Shelf(Mutex<Vec<Value>>);

impl Shelf {
    fn find(all: &[Value], object: &ObjectRef) -> Option<usize> {
        all.iter().position(|o| {
            o["kind"] == object.kind.as_str()
                && o["metadata"]["name"] == *object.name
                && o["metadata"]["namespace"] == *object.namespace
        })
    }
}

impl Resources for Shelf {
    fn list(&self, kind: ObjectKind) -> Vec<Value> {
        let all = self.0.lock().unwrap();
        all.iter()
            .filter(|o| o["kind"] == kind.as_str())
            .cloned()
            .collect()
    }

    fn get(&self, object: &ObjectRef) -> Option<Value> {
        let all = self.0.lock().unwrap();
        Self::find(&all, object).map(|at| all[at].clone())
    }
}

impl ResourceWriter for Shelf {
    fn put(&self, object: ObjectRef, mut manifest: Value, _: Option<Value>) -> Written<'_> {
        manifest["kind"] = object.kind.as_str().into();
        manifest["metadata"] =
            json!({"name": &*object.name, "namespace": &*object.namespace, "uid": "uid-1"});
        let mut all = self.0.lock().unwrap();
        match Self::find(&all, &object) {
            Some(at) => all[at] = manifest,
            None => all.push(manifest),
        }
        Box::pin(async { Ok(()) })
    }

    fn delete(&self, object: ObjectRef, _: Option<Value>) -> Written<'_> {
        let mut all = self.0.lock().unwrap();
        let found = Self::find(&all, &object).map(|at| all.remove(at));
        Box::pin(async { found.map(|_| ()).ok_or(WriteError::NotFound(object)) })
    }
}

struct Quiet;

impl Routing for Quiet {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::default()
    }
}

impl Revocations for Quiet {
    fn applied(&self, change_seq: u64) -> BoxFuture<'_, Applied> {
        Box::pin(async move {
            Applied {
                applied: vec![format!("dp-{change_seq}")],
                pending: Vec::new(),
            }
        })
    }
}

impl Health for Quiet {
    fn data_planes(&self) -> Value {
        json!([])
    }

    fn problems(&self) -> Value {
        json!([])
    }
}

struct Gateway {
    router: Router,
    store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

impl Gateway {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = RingFile::Own(dir.path().join("master.key"));
        let keys = Arc::new(Keys::load(file, &Zeroizing::new([7; 32])).unwrap());
        let store = SqliteStore::open(&dir.path().join("store.db"), Arc::clone(&keys)).unwrap();
        let (store, shelf): (Arc<dyn Store>, _) = (Arc::new(store), Arc::new(Shelf::default()));
        let state = AdminState {
            rotation: Rotation::new(Arc::clone(&store), keys),
            store: Arc::clone(&store),
            resources: shelf.clone(),
            writer: shelf,
            routing: Arc::new(Quiet),
            revocations: Arc::new(Quiet),
            health: Arc::new(Quiet),
            egress: Arc::new(|_| EgressScope::Standalone),
            clock: Arc::new(|| NOW),
        };
        Self {
            router: router(state),
            store,
            _dir: dir,
        }
    }

    /// A token whose id and text follow from `n`.
    async fn token(&self, n: u8, owner: &str, scope: Scope) -> Secret {
        let (text, new) = mint(&Zeroizing::new([n; 44]), "test", owner, scope);
        self.store
            .create_token(new, Actor::program("test"), NOW)
            .await
            .unwrap();
        text
    }

    async fn raw(&self, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, String) {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (
            head.status,
            head.headers,
            String::from_utf8(body.to_vec()).unwrap(),
        )
    }

    async fn call(&self, token: &Secret, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder()
            .method(method)
            .uri(format!("/bodhi/v1{path}"))
            .header("authorization", format!("Bearer {}", token.expose()))
            .body(match body {
                Value::Null => Body::empty(),
                body => Body::from(body.to_string()),
            });
        let (status, _, text) = self.raw(request.unwrap()).await;
        (status.as_u16(), serde_json::from_str(&text).unwrap())
    }
}

fn code(answer: &(u16, Value)) -> (u16, &str) {
    (
        answer.0,
        answer.1["error"]["code"].as_str().unwrap_or_default(),
    )
}

fn api_model(url: &str) -> Value {
    json!({
        "apiVersion": "bodhi.dev/v1alpha1", "kind": "ApiModel",
        "metadata": {"name": "a", "namespace": "bodhi"},
        "spec": {"format": "openai", "baseUrl": url, "auth": {"type": "Stored"}, "models": ["m"]},
    })
}

/// What the socket at `path` answers to a request without a body.
async fn by_socket(path: &std::path::Path, request: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let head = format!("{request}Host: local\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn whoever_reaches_the_socket_is_admin_and_nobody_else_is() {
    let gateway = Gateway::start();
    let path = gateway._dir.path().join("admin.sock");
    serve_socket(gateway.router.clone(), &path).await.unwrap();
    let request = "GET /bodhi/v1/whoami HTTP/1.1\r\n";
    let answer = by_socket(&path, request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(r#""scope":"admin""#), "{answer}");
    // Who shows a token means it.
    let token = gateway.token(1, "mia", Scope::User).await;
    let named = format!("{request}Authorization: Bearer {}\r\n", token.expose());
    let answer = by_socket(&path, &named).await;
    assert!(answer.contains(r#""owner":"mia""#), "{answer}");
    // The same router by another way.
    let request = Request::get("/bodhi/v1/whoami").body(Body::empty());
    let (status, ..) = gateway.raw(request.unwrap()).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn who_has_no_valid_token_is_told_which_way() {
    let gateway = Gateway::start();
    let get = |header: Option<String>| {
        let request = Request::builder().uri("/bodhi/v1/whoami");
        let request = match header {
            Some(value) => request.header("authorization", value),
            None => request,
        };
        gateway.raw(request.body(Body::empty()).unwrap())
    };
    let unknown = mint(&Zeroizing::new([9; 44]), "x", "x", Scope::Admin).0;
    for (header, code) in [
        (None, "missing_credentials"),
        (Some("Basic x".to_owned()), "missing_credentials"),
        (Some("Bearer sk-canary".to_owned()), "invalid_token"),
        (
            Some(format!("Bearer {}", unknown.expose())),
            "invalid_token",
        ),
    ] {
        let (status, headers, text) = get(header).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert!(
            text.contains(code) && text.contains("authentication_error"),
            "{text}"
        );
        assert!(!text.contains("canary"));
        assert!(headers.contains_key("www-authenticate"));
        assert!(!headers.contains_key("access-control-allow-origin"));
    }
}

#[tokio::test]
async fn a_token_is_shown_once_and_serves_until_it_is_revoked() {
    let gateway = Gateway::start();
    let admin = gateway.token(1, "ada", Scope::Admin).await;
    let body = json!({"name": "ci", "owner": "bob", "expiresIn": 60, "models": ["gpt-*"], "outputCaps": [{"model": "m", "limit": 5}], "requestsPerMinute": 3});
    let (status, minted) = gateway.call(&admin, "POST", "/tokens", body).await;
    assert_eq!(
        (status, &minted["owner"], &minted["scope"]),
        (201, &json!("bob"), &json!("user"))
    );
    assert_eq!(minted["expires"], NOW + 60);
    let text = Secret::new(minted["token"].as_str().unwrap());
    let (_, who) = gateway.call(&text, "GET", "/whoami", Value::Null).await;
    assert_eq!(
        (&who["owner"], &who["models"]),
        (&json!("bob"), &json!(["gpt-*"]))
    );

    let (_, list) = gateway.call(&admin, "GET", "/tokens", Value::Null).await;
    assert_eq!(list["data"].as_array().unwrap().len(), 2);
    assert_eq!(list["data"][1]["state"], "active");
    assert!(!list.to_string().contains("bodhi_"), "no list shows a text");

    let path = format!("/tokens/{}", minted["id"].as_str().unwrap());
    let (status, revoked) = gateway.call(&admin, "DELETE", &path, Value::Null).await;
    assert_eq!(
        (status, &revoked["dataPlanes"]["applied"]),
        (200, &json!(["dp-3"]))
    );
    let refused = gateway.call(&text, "GET", "/whoami", Value::Null).await;
    assert_eq!(code(&refused), (401, "invalid_token"));
}

#[tokio::test]
async fn an_expired_token_is_told_so() {
    let gateway = Gateway::start();
    let (text, mut new) = mint(&Zeroizing::new([3; 44]), "old", "ada", Scope::Admin);
    new.token.expires = Some(NOW);
    gateway
        .store
        .create_token(new, Actor::program("test"), 1)
        .await
        .unwrap();
    let refused = gateway.call(&text, "GET", "/whoami", Value::Null).await;
    assert_eq!(code(&refused), (401, "expired_token"));
}

#[tokio::test]
async fn scopes_are_kept_apart() {
    let gateway = Gateway::start();
    let user = gateway.token(1, "u", Scope::User).await;
    let power = gateway.token(2, "p", Scope::PowerUser).await;
    let other = gateway.call(&power, "GET", "/whoami", Value::Null).await.1;
    let others_token = format!("/tokens/{}", other["tokenId"].as_str().unwrap());
    for (method, path, needs_admin) in [
        ("GET", "/apimodels", false),
        ("POST", "/aliases", false),
        ("PUT", "/apimodels/bodhi/a", false),
        ("DELETE", "/aliases/bodhi/a", false),
        ("PUT", "/keys/bodhi/a", false),
        ("DELETE", "/keys/bodhi/a", false),
        ("POST", "/apimodels/bodhi/a/test", false),
        ("POST", "/apimodels/bodhi/a/fetch-models", false),
        ("GET", "/status", false),
        ("POST", "/tokens", true),
        ("GET", "/audit", true),
        ("GET", "/tokens?owner=else", true),
    ] {
        let body = match path {
            "/tokens" => json!({"name": "x"}),
            "/keys/bodhi/a" => json!({"key": "sk"}),
            _ => json!({}),
        };
        let by_user = gateway.call(&user, method, path, body.clone()).await;
        assert_eq!(
            code(&by_user),
            (403, "insufficient_scope"),
            "{method} {path}"
        );
        let by_power = gateway.call(&power, method, path, body).await;
        assert_eq!(by_power.0 == 403, needs_admin, "{method} {path}");
    }
    let hidden = gateway
        .call(&user, "DELETE", &others_token, Value::Null)
        .await;
    assert_eq!(code(&hidden), (404, "token_not_found"));
    let (_, own) = gateway.call(&user, "GET", "/tokens", Value::Null).await;
    assert_eq!(own["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn resources_are_created_read_replaced_and_deleted_on_record() {
    let gateway = Gateway::start();
    let admin = gateway.token(1, "ada", Scope::Admin).await;
    let manifest = api_model("https://a.example/v1");
    let (status, created) = gateway
        .call(&admin, "POST", "/apimodels", manifest.clone())
        .await;
    assert_eq!((status, &created["spec"]), (201, &manifest["spec"]));
    let again = gateway
        .call(&admin, "POST", "/apimodels", manifest.clone())
        .await;
    assert_eq!(code(&again), (409, "already_exists"));
    let misnamed = gateway
        .call(&admin, "PUT", "/apimodels/bodhi/b", manifest.clone())
        .await;
    assert_eq!(code(&misnamed), (400, "invalid_field"));
    let (status, _) = gateway
        .call(&admin, "PUT", "/apimodels/bodhi/a", manifest)
        .await;
    assert_eq!(status, 200);
    let (_, list) = gateway.call(&admin, "GET", "/apimodels", Value::Null).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let (_, deleted) = gateway
        .call(&admin, "DELETE", "/apimodels/bodhi/a", Value::Null)
        .await;
    assert_eq!(deleted["deleted"], "ApiModel/bodhi/a");
    let gone = gateway
        .call(&admin, "GET", "/apimodels/bodhi/a", Value::Null)
        .await;
    assert_eq!(code(&gone), (404, "object_not_found"));

    let (_, trail) = gateway.call(&admin, "GET", "/audit", Value::Null).await;
    let actions: Vec<_> = trail["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "resource.delete",
            "resource.update",
            "resource.create",
            "token.create"
        ]
    );
    assert_eq!(
        (&trail["chain"], &trail["data"][0]["owner"]),
        (&json!("intact"), &json!("ada"))
    );
}

#[tokio::test]
async fn a_stored_key_goes_to_its_own_origin_and_nowhere_else() {
    let gateway = Gateway::start();
    let admin = gateway.token(1, "ada", Scope::Admin).await;
    let own = Provider::start(|_| Reply::json(200, json!({"data": [{"id": "m1"}]}))).await;
    let elsewhere = Provider::start(|_| Reply::json(200, json!({"data": []}))).await;
    let url = |provider: &Provider| format!("http://127.0.0.1:{}/v1", provider.port());
    gateway
        .call(&admin, "POST", "/apimodels", api_model(&url(&own)))
        .await;

    let fetch = "/apimodels/bodhi/a/fetch-models";
    let missing = gateway.call(&admin, "POST", fetch, json!({})).await;
    assert_eq!(
        (missing.0, &missing.1["error"]["param"]),
        (400, &json!("key"))
    );
    let (_, set) = gateway
        .call(&admin, "PUT", "/keys/bodhi/a", json!({"key": "sk-canary"}))
        .await;
    assert_eq!(set["origin"], format!("http://127.0.0.1:{}", own.port()));
    let (_, found) = gateway.call(&admin, "POST", fetch, json!({})).await;
    assert_eq!(
        (&found["ok"], &found["models"]),
        (&json!(true), &json!(["m1"]))
    );
    assert_eq!(own.asked()[0].headers["authorization"], "Bearer sk-canary");

    let form = api_model(&url(&elsewhere))["spec"].clone();
    let refused = gateway
        .call(&admin, "POST", fetch, json!({"spec": form}))
        .await;
    assert_eq!(
        (refused.0, &refused.1["error"]["param"]),
        (400, &json!("key"))
    );
    assert!(elsewhere.asked().is_empty());
    let (_, typed) = gateway
        .call(
            &admin,
            "POST",
            fetch,
            json!({"spec": form, "key": "sk-other"}),
        )
        .await;
    assert_eq!(typed["ok"], true);
    assert_eq!(
        elsewhere.asked()[0].headers["authorization"],
        "Bearer sk-other"
    );

    let (_, tested) = gateway
        .call(
            &admin,
            "POST",
            "/apimodels/bodhi/a/test",
            json!({"model": "m9"}),
        )
        .await;
    assert_eq!(
        (&tested["ok"], &tested["model"]),
        (&json!(true), &json!("m9"))
    );
    let (_, removed) = gateway
        .call(&admin, "DELETE", "/keys/bodhi/a", Value::Null)
        .await;
    assert_eq!(removed["removed"], true);
}

#[tokio::test]
async fn no_fault_repeats_a_value() {
    let gateway = Gateway::start();
    let admin = gateway.token(1, "ada", Scope::Admin).await;
    gateway
        .call(
            &admin,
            "POST",
            "/apimodels",
            api_model("https://a.example/v1"),
        )
        .await;
    for (path, body) in [
        ("/keys/bodhi/a", json!({"key": ["sk-canary"]})),
        ("/keys/bodhi/a", json!({"key": "sk canary\u{0}"})),
        ("/keys/bodhi/a", json!("sk-canary")),
        ("/apimodels/bodhi/a", json!({"kind": "sk-canary"})),
    ] {
        let (status, answer) = gateway.call(&admin, "PUT", path, body).await;
        assert_eq!(status, 400);
        assert!(!answer.to_string().contains("canary"), "{answer}");
    }
    let form = json!({"spec": {"format": "sk-canary"}});
    let (status, answer) = gateway
        .call(&admin, "POST", "/apimodels/bodhi/a/test", form)
        .await;
    assert!(
        status == 400 && !answer.to_string().contains("canary"),
        "{answer}"
    );
}

#[tokio::test]
async fn explain_answers_for_the_callers_token() {
    let gateway = Gateway::start();
    let user = gateway.token(1, "u", Scope::User).await;
    let (status, answer) = gateway
        .call(&user, "GET", "/explain?model=gpt&surface=chat", Value::Null)
        .await;
    assert_eq!(status, 200);
    assert_eq!(answer["families"][0]["servedBy"], Value::Null);
    assert!(
        answer["text"]
            .as_str()
            .unwrap()
            .contains("no object serves it")
    );
    let others = gateway
        .call(&user, "GET", "/explain?model=gpt&token=other", Value::Null)
        .await;
    assert_eq!(code(&others), (404, "token_not_found"));
}

#[tokio::test]
async fn paths_methods_and_sizes_fail_in_the_envelope() {
    let gateway = Gateway::start();
    let admin = gateway.token(1, "ada", Scope::Admin).await;
    let long = json!({"name": "x".repeat(BODY_MAX)});
    for (method, path, body, expected) in [
        ("GET", "/nothing", Value::Null, (404, "unknown_path")),
        (
            "GET",
            "/apimodels/bodhi/a/b/c",
            Value::Null,
            (404, "unknown_path"),
        ),
        (
            "GET",
            "/apimodels/bodhi/..%2fa",
            Value::Null,
            (400, "invalid_field"),
        ),
        ("PATCH", "/tokens", Value::Null, (405, "method_not_allowed")),
        ("POST", "/tokens", json!("x"), (400, "invalid_json")),
        (
            "POST",
            "/tokens",
            json!({"nam": "x"}),
            (400, "invalid_field"),
        ),
        ("POST", "/tokens", long, (413, "body_too_large")),
        (
            "GET",
            "/tokens?limit=x",
            Value::Null,
            (400, "invalid_field"),
        ),
    ] {
        let answer = gateway.call(&admin, method, path, body).await;
        assert_eq!(code(&answer), expected, "{method} {path}");
    }
}

#[tokio::test]
async fn the_document_names_every_path_and_the_page_answers() {
    let gateway = Gateway::start();
    let get = |uri: &str| gateway.raw(Request::builder().uri(uri).body(Body::empty()).unwrap());
    let (status, _, text) = get("/openapi.json").await;
    assert_eq!(status, StatusCode::OK);
    let document: Value = serde_json::from_str(&text).unwrap();
    for path in [
        "/bodhi/v1/tokens",
        "/bodhi/v1/{kind}/{namespace}/{name}",
        "/bodhi/v1/keys/{namespace}/{name}",
        "/bodhi/v1/apimodels/{namespace}/{name}/fetch-models",
        "/bodhi/v1/explain",
        "/bodhi/v1/audit",
        "/v1/chat/completions",
        "/anthropic/v1/messages",
        "/v1beta/models/{model}:{action}",
    ] {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let (status, _, page) = get("/swagger-ui/").await;
    assert!(
        status == StatusCode::OK && page.contains("swagger-ui"),
        "{status}"
    );
}

#[tokio::test]
async fn master_keys_are_rotated_by_admins_and_never_shown() {
    let gateway = Gateway::start();
    let admin = gateway.token(1, "ada", Scope::Admin).await;
    let power = gateway.token(2, "bob", Scope::PowerUser).await;
    let rotate = |token| gateway.call(token, "POST", "/master-keys/rotate", Value::Null);
    assert_eq!(code(&rotate(&power).await), (403, "insufficient_scope"));
    let (status, rotated) = rotate(&admin).await;
    assert_eq!((status, &rotated["step"]), (200, &json!("sealing")));
    assert_eq!(
        (&rotated["seals"], &rotated["nextId"]),
        (&json!("k2"), &json!("k3"))
    );
    let (_, list) = gateway
        .call(&admin, "GET", "/master-keys", Value::Null)
        .await;
    let expected = json!([
        {"id": "k1", "held": true, "sealedKeys": 0},
        {"id": "k2", "held": true, "sealedKeys": 0},
    ]);
    assert_eq!((&list["data"], &list["outdated"]), (&expected, &json!(0)));
    // 32 times 7 in base64, as the first key of this test's ring is.
    assert!(!list.to_string().contains("BwcHBwcH"));

    let retire = |id: &str| {
        let path = format!("/master-keys/{id}");
        let (gateway, admin) = (&gateway, &admin);
        async move { gateway.call(admin, "DELETE", &path, Value::Null).await }
    };
    assert_eq!(code(&retire("k2").await), (409, "master_key_needed"));
    assert_eq!(code(&retire("k9").await), (404, "master_key_not_found"));
    let (status, retired) = retire("k1").await;
    assert_eq!((status, &retired["removed"]), (200, &json!(true)));
}

#[tokio::test]
async fn the_incarnation_is_raised_by_admins_on_record() {
    let gateway = Gateway::start();
    let admin = gateway.token(1, "ada", Scope::Admin).await;
    let power = gateway.token(2, "bob", Scope::PowerUser).await;
    let raise = |token| gateway.call(token, "POST", "/store/incarnation", Value::Null);
    assert_eq!(code(&raise(&power).await), (403, "insufficient_scope"));
    assert_eq!(raise(&admin).await, (200, json!({"incarnation": 2})));
    let (_, trail) = gateway
        .call(&admin, "GET", "/audit?limit=1", Value::Null)
        .await;
    assert_eq!(trail["data"][0]["action"], "incarnation.raise");
}
