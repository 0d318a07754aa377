//! Tokens, keys and the authority's Secret against a real API server: what it signs is verified
//! offline, what it is granted is enough, and two controllers share one authority.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bodhi_controller::authority::{
    self, Authority, Pods, Refused, Seller, SellerConfig, SignError, Subject,
};
use bodhi_controller::jwks::Jwks;
use bodhi_controller::leader::{self, Candidate, Leadership, Timing};
use bodhi_net::identity::{Client, Credentials, Expected, Server};
use bodhi_net::service_account::{self, Expected as Claimed, Object, TokenError};
use bodhi_proto::names::{ObjectRef, ServiceAccountName};
use bodhi_proto::snapshot::{MappedAccount, Policy, Scope};
use bodhi_tests::cluster::Cluster;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Config;
use kube::api::{Api, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;

const OBJECTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: bodhi}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: bodhi-controller, namespace: bodhi}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: bodhi-dataplane, namespace: bodhi}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: bodhi}
---
apiVersion: v1
kind: Secret
metadata: {name: bodhi-ca, namespace: bodhi}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: bodhi-ca, namespace: bodhi}
rules:
- {apiGroups: [''], resources: [secrets], resourceNames: [bodhi-ca], verbs: [get, update]}
- {apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create, update]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: bodhi-ca, namespace: bodhi}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: bodhi-ca}
subjects: [{kind: ServiceAccount, name: bodhi-controller, namespace: bodhi}]
---
apiVersion: v1
kind: Pod
metadata: {name: plane-0, namespace: bodhi}
spec:
  serviceAccountName: bodhi-dataplane
  automountServiceAccountToken: false
  containers: [{name: plane, image: none}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: bodhi}
spec:
  serviceAccountName: web
  automountServiceAccountToken: false
  containers: [{name: web, image: none}]
";

async fn client(kubeconfig: &Path) -> kube::Client {
    bodhi_net::tls::install_provider();
    let read = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(read, &options)
        .await
        .unwrap();
    kube::Client::try_from(config).unwrap()
}

/// A cluster, and a client that may do what the chart grants a controller.
async fn start() -> (Cluster, kube::Client) {
    let cluster = Cluster::start(&[]).unwrap();
    cluster.apply(OBJECTS).unwrap();
    let account = cluster
        .service_account("bodhi", "bodhi-controller")
        .unwrap();
    let client = client(&account).await;
    (cluster, client)
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// A token as the kubelet projects it.
fn token(cluster: &Cluster, account: &str, audience: &str, pod: Option<&str>) -> String {
    let mut arguments = vec![
        "create",
        "token",
        "-n",
        "bodhi",
        account,
        "--audience",
        audience,
    ];
    arguments.extend(["--duration", "10m"]);
    if let Some(pod) = pod {
        arguments.extend(["--bound-object-kind", "Pod", "--bound-object-name", pod]);
    }
    cluster.kubectl(&arguments).unwrap().trim().to_owned()
}

async fn within<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            match ask() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let most = Duration::from_secs(30);
    let found = tokio::time::timeout(most, asking).await;
    found.unwrap_or_else(|_| panic!("no {what} within {most:?}"))
}

struct NoWorkers;

impl Pods for NoWorkers {
    fn alias_of(&self, _: &str, _: &Object) -> Option<ObjectRef> {
        None
    }
}

fn name(account: &str) -> ServiceAccountName {
    ServiceAccountName::parse(account).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn what_an_api_server_signs_is_verified_with_what_it_publishes() {
    let (cluster, client) = start().await;
    let jwks = Jwks::start(client);
    let keys = within("keys", || jwks.keys()).await;
    let verify = |token: &str, audience| {
        let expected = Claimed {
            issuer: &keys.issuer,
            audience,
        };
        service_account::verify(token.as_bytes(), &keys.keys, expected, now())
    };
    let projected = token(&cluster, "web", "bodhi", Some("web-0"));
    let claims = verify(&projected, "bodhi").unwrap();
    assert_eq!(claims.account, name("bodhi/web"));
    let uid = [
        "get",
        "pod",
        "-n",
        "bodhi",
        "web-0",
        "-o",
        "jsonpath={.metadata.uid}",
    ];
    let uid = cluster.kubectl(&uid).unwrap();
    let pod = claims.pod.unwrap();
    assert_eq!((&*pod.name, &*pod.uid), ("web-0", &*uid));
    assert!((now() + 500..=now() + 600).contains(&claims.expires));

    let other = verify(&projected, "bodhi-controller").unwrap_err();
    assert!(matches!(other, TokenError::Audience { .. }), "{other}");
    // What `kubectl create token` makes for the API server itself.
    let plain = ["create", "token", "-n", "bodhi", "web"];
    let plain = cluster.kubectl(&plain).unwrap();
    let refused = verify(plain.trim(), "bodhi").unwrap_err();
    assert!(matches!(refused, TokenError::Audience { .. }), "{refused}");

    // What data planes get to hold.
    let caller = MappedAccount {
        account: name("bodhi/web"),
        scope: Scope::User,
        models: None,
    };
    let policies = jwks.policy(Policy::default(), vec![caller]).await;
    let accounts = policies.borrow().service_accounts.clone().unwrap();
    assert_eq!(
        (accounts.issuer, accounts.keys),
        (keys.issuer.clone(), keys.keys.clone())
    );
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn who_may_not_read_the_keys_serves_without_them() {
    let cluster = Cluster::start(&[]).unwrap();
    let nobody = cluster.user("nobody", "nobodies").unwrap();
    let jwks = Jwks::start(client(&nobody).await);
    let caller = MappedAccount {
        account: name("bodhi/web"),
        scope: Scope::User,
        models: None,
    };
    let policies = jwks.clone().policy(Policy::default(), vec![caller]).await;
    let accounts = policies.borrow().service_accounts.clone().unwrap();
    assert!(accounts.keys.is_empty() && accounts.callers.len() == 1);
    assert!(jwks.keys().is_none());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn two_controllers_share_one_authority_and_sell_its_certificates() {
    let (cluster, client) = start().await;
    let controller = |number: u32| {
        let candidate = Candidate {
            identity: format!("controller-{number}").into(),
            address: format!("10.0.0.{number}:1138").into(),
        };
        let config = leader::Config {
            candidate,
            namespace: "bodhi".into(),
            name: "bodhi".into(),
            timing: Timing::default(),
        };
        let (leadership, _) = leader::stand(client.clone(), config, std::future::pending());
        keep(&client, leadership)
    };
    let (one, other) = (controller(1), controller(2));
    let ready = |authority: &Authority| authority.issue(&Subject::DataPlane, now()).ok();
    let plane = within("first certificate", || ready(&one)).await;
    within("certificate of the other", || ready(&other)).await;

    // Bought at either, believed at the other.
    let (jwks, request) = (Jwks::start(client.clone()), request());
    within("keys", || jwks.keys()).await;
    let seller = |authority: &Authority| {
        Seller::new(SellerConfig {
            authority: authority.clone(),
            jwks: jwks.clone(),
            data_plane: name("bodhi/bodhi-dataplane"),
            workers: Arc::new(NoWorkers),
        })
    };
    let projected = token(
        &cluster,
        "bodhi-dataplane",
        "bodhi-controller",
        Some("plane-0"),
    );
    let bought: Vec<_> = [&one, &other]
        .map(|authority| seller(authority).sell(&projected, &request, now()).unwrap())
        .into_iter()
        .map(|sold| sold.certified.authorities)
        .collect();
    assert_eq!(bought[0], bought[1], "the same roots");
    let web = token(&cluster, "web", "bodhi-controller", Some("web-0"));
    let refused = seller(&one).sell(&web, &request, now()).unwrap_err();
    assert!(matches!(refused, Refused::Stranger(_)), "{refused}");
    let own = authority::own(
        other.clone(),
        authority::ServerNames::parse(["127.0.0.1"]).unwrap(),
    );
    within("own certificate", || own.borrow().clone()).await;
    let server = Server::new(
        Credentials::memory(own),
        &[bodhi_net::identity::Role::DataPlane],
    );
    let plane = watch::channel(Some(Arc::new(plane))).1;
    greet(&server, &Client::new(Credentials::memory(plane))).await;
}

/// F23 and compare-and-swap: what is there is kept, what is damaged is not overwritten, and an
/// emptied Secret is filled anew.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_secret_is_filled_once_and_never_overwritten() {
    let (cluster, client) = start().await;
    let lead = || {
        let candidate = Candidate {
            identity: "controller".into(),
            address: "10.0.0.1:1138".into(),
        };
        let config = leader::Config {
            candidate,
            namespace: "bodhi".into(),
            name: "bodhi".into(),
            timing: Timing::default(),
        };
        leader::stand(client.clone(), config, std::future::pending()).0
    };
    let leadership = lead();
    let admin = self::client(&cluster.kubeconfig()).await;
    let secrets: Api<Secret> = Api::namespaced(admin, "bodhi");
    let read = || async { secrets.get("bodhi-ca").await.unwrap() };
    let issued = |authority: &Authority| authority.issue(&Subject::DataPlane, now()).ok();

    let first = keep(&client, leadership.clone());
    within("certificate", || issued(&first)).await;
    let filled = read().await;
    assert!(
        filled
            .data
            .as_ref()
            .unwrap()
            .contains_key(authority::CERTIFICATES)
    );
    // The next process writes nothing.
    drop(first);
    let second = keep(&client, leadership.clone());
    within("certificate", || issued(&second)).await;
    let version = |secret: &Secret| secret.metadata.resource_version.clone();
    assert_eq!(version(&read().await), version(&filled));

    // Damaged: nothing is signed, nothing is written.
    let damage = json!({"stringData": {authority::AUTHORITY: "{}"}});
    let params = PatchParams::default();
    let damaged = secrets
        .patch("bodhi-ca", &params, &Patch::Merge(damage))
        .await
        .unwrap();
    let third = keep(&client, leadership.clone());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(matches!(
        third.issue(&Subject::DataPlane, now()),
        Err(SignError::NoRoot)
    ));
    assert_eq!(version(&read().await), version(&damaged));

    // Emptied by the operator: begun anew.
    let empty = json!({"data": null});
    secrets
        .patch("bodhi-ca", &params, &Patch::Merge(empty))
        .await
        .unwrap();
    within("certificate", || issued(&third)).await;
    assert_ne!(
        read().await.data.unwrap()[authority::CERTIFICATES],
        filled.data.unwrap()[authority::CERTIFICATES]
    );
}

fn keep(client: &kube::Client, leadership: watch::Receiver<Leadership>) -> Authority {
    authority::keep(authority::Config {
        client: client.clone(),
        namespace: "bodhi".into(),
        secret: "bodhi-ca".into(),
        leadership,
    })
}

fn request() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    request.der().to_vec()
}

async fn greet(server: &Server, client: &Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut stream, _) = server.accept(tcp).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
    };
    let expected = Expected::host("127.0.0.1").unwrap();
    let calling = async { client.connect(address, &expected).await.map(drop) };
    tokio::join!(serving, calling).1.unwrap();
}
