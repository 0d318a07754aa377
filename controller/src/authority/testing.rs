//! What the tests of several rooms need: an authority, a cluster's tokens, a client without a
//! certificate.

use std::net::SocketAddr;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bodhi_net::service_account::Object;
use bodhi_proto::names::{ObjectRef, ServiceAccountName};
use bodhi_proto::snapshot::{Curve, KeyMaterial, VerifyingKey};
use rcgen::CertificateParams;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::jwks::{ClusterKeys, Jwks};

pub(crate) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// An authority with roots that were made then.
pub(crate) fn authority(made: &[i64]) -> (watch::Sender<Arc<Vec<Root>>>, Authority) {
    let roots = made.iter().map(|at| Root::make(*at).unwrap()).collect();
    let (keep, roots) = watch::channel(Arc::new(roots));
    (keep, Authority::new(roots))
}

/// A request as our programs make it, with names that nobody asked it for.
pub(crate) fn request(key: &KeyPair) -> Vec<u8> {
    let mut params = CertificateParams::new(["kubernetes.default.svc".into()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serialize_request(key).unwrap().der().to_vec()
}

/// TLS to a server of this authority, without a certificate of one's own.
pub(crate) async fn stranger(
    authority: &Authority,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in authority.0.borrow().iter() {
        roots.add(root.certificate().clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::from(address.ip());
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
}

/// A cluster's tokens; data planes run as `bodhi/bodhi-dataplane`, and the pod whose uid is
/// `worker-pod` runs in `team-a` for the Alias `qwen`.
pub(crate) struct Cluster(EcdsaKeyPair);

impl Cluster {
    pub(crate) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(crate) fn token(&self, account: &str, audience: &str, pod: Option<&str>) -> String {
        let (namespace, name) = account.split_once('/').unwrap();
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let head = part(json!({"alg": "ES256", "kid": "k"}));
        let pod = pod.map(|uid| json!({"name": format!("{uid}-name"), "uid": uid}));
        let claims = part(json!({
            "iss": "https://cluster", "aud": [audience], "exp": now() + 600, "nbf": now(),
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {
                "namespace": namespace, "serviceaccount": {"name": name, "uid": "u"}, "pod": pod,
            },
        }));
        let signed = format!("{head}.{claims}");
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.unwrap()))
    }

    pub(crate) fn seller(&self, authority: Authority) -> Seller {
        let material = KeyMaterial::ec(Curve::P256, self.0.public_key().as_ref()).unwrap();
        let id = "k".into();
        let alias_of = |namespace: &str, pod: &Object| {
            let is_it = namespace == "team-a" && &*pod.uid == "worker-pod";
            is_it.then(|| ObjectRef::alias("team-a", "qwen"))
        };
        Seller::new(SellerConfig {
            authority,
            jwks: Jwks::of(ClusterKeys {
                issuer: "https://cluster".into(),
                keys: [VerifyingKey { id, material }].into(),
            }),
            data_plane: ServiceAccountName::parse("bodhi/bodhi-dataplane").unwrap(),
            workers: Arc::new(alias_of),
        })
    }
}
