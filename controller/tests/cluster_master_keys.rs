//! The Secret of the master keys, filled on a real API server by controllers that start at once.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use bodhi_controller::store::ObjectUid;
use bodhi_controller::store::seal::{Binding, KeyRing, Purpose, from_secret, open, seal};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::BaseUrl;
use bodhi_tests::cluster::Cluster;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use zeroize::Zeroizing;

async fn client(cluster: &Cluster) -> Client {
    let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// Whether what one ring seals, the other opens.
fn agree(one: &KeyRing, other: &KeyRing) -> bool {
    let row = ObjectUid::parse("uid-1").unwrap();
    let origin = BaseUrl::parse("https://api.openai.com/v1").unwrap().origin;
    let binding = Binding {
        purpose: Purpose::ProviderKey,
        row: &row,
        origin: &origin,
    };
    let secret = Secret::new("sk-canary");
    let sealed = seal(one, one.newest(), &binding, [1; 12], &secret).unwrap();
    open(other, &binding, &sealed) == Ok(secret)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a cluster: make test-cluster"]
async fn controllers_that_start_at_once_agree_on_one_master_key() {
    bodhi_net::tls::install_provider();
    let cluster = Cluster::start(&[]).unwrap();
    let missing = from_secret(client(&cluster).await, "default", "bodhi-master", &fill(0)).await;
    let told = missing.unwrap_err().to_string();
    assert!(
        told.contains("default/bodhi-master of the master keys cannot be read"),
        "{told}"
    );
    // As the chart ships it.
    let create = [
        "-n",
        "default",
        "create",
        "secret",
        "generic",
        "bodhi-master",
    ];
    cluster.kubectl(&create).unwrap();
    let starts = (1..=4).map(|n| {
        let cluster = &cluster;
        async move {
            let client = client(cluster).await;
            from_secret(client, "default", "bodhi-master", &fill(n))
                .await
                .unwrap()
        }
    });
    let rings = futures_util::future::join_all(starts).await;
    for ring in &rings {
        assert!(agree(&rings[0], ring));
    }
    // One that starts later finds it.
    let later = from_secret(client(&cluster).await, "default", "bodhi-master", &fill(9)).await;
    assert!(agree(&rings[0], &later.unwrap()));
}

fn fill(byte: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([byte; 32])
}
