//! The harness of clusters itself: what other tests rely on.

use bodhi_tests::cluster::{Cluster, Part};
use bodhi_tests::process::eventually;

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn an_api_server_keeps_what_it_was_told_across_a_restart() {
    let mut cluster = Cluster::start(&[]).unwrap();
    cluster.install_crds().unwrap();
    let model = "apiVersion: bodhi.dev/v1alpha1\nkind: ApiModel\n\
                 metadata: {name: openai, namespace: default}\n\
                 spec: {format: openai, auth: {type: None}, models: [gpt-4o]}\n";
    cluster.apply(model).unwrap();
    cluster.stop_api_server();
    assert!(cluster.kubectl(&["get", "bodhi"]).is_err());
    cluster.start_api_server().unwrap();
    let listed = cluster.kubectl(&["get", "bodhi"]).unwrap();
    assert!(listed.contains("apimodel.bodhi.dev/openai"), "{listed}");
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn pods_of_a_deployment_seem_to_run_on_a_simulated_node() {
    let parts = [Part::Controllers, Part::Scheduler, Part::Nodes];
    let cluster = Cluster::start(&parts).unwrap();
    cluster
        .add_node("gpu-1", &[("nvidia.com/gpu", "1")])
        .unwrap();
    let create = ["create", "deployment", "sleep", "--image=none"];
    cluster.kubectl(&create).unwrap();
    let wait = ["wait", "deployment/sleep", "--for=condition=Available"];
    cluster
        .kubectl(&[&wait[..], &["--timeout=30s"]].concat())
        .unwrap();
}

#[test]
#[ignore = "needs a cluster: make test-cluster"]
fn users_may_do_what_they_were_granted_and_no_more() {
    let cluster = Cluster::start(&[Part::Controllers]).unwrap();
    let account = eventually("a ServiceAccount", || {
        cluster.service_account("default", "default").ok()
    })
    .unwrap();
    let config = account.to_str().unwrap();
    let ask = ["auth", "can-i", "list", "secrets"];
    let own = ["auth", "whoami", "--kubeconfig", config];
    let who = cluster.kubectl(&own).unwrap();
    assert!(
        who.contains("system:serviceaccount:default:default"),
        "{who}"
    );
    assert!(
        cluster
            .kubectl(&[&ask[..], &["--kubeconfig", config]].concat())
            .is_err()
    );
    assert!(cluster.kubectl(&ask).unwrap().starts_with("yes"));
}
