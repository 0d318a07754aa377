//! Tokens signed here with a real key, and what they buy.

use rcgen::KeyPair;

use super::super::testing::{Cluster, authority, now, request};
use super::*;

fn uris(sold: &Sold) -> Vec<String> {
    webpki::EndEntityCert::try_from(&sold.certified.certificate)
        .unwrap()
        .valid_uri_names()
        .map(str::to_owned)
        .collect()
}

#[test]
fn pods_of_ours_buy_what_they_are() {
    let (cluster, (_keep, authority)) = (Cluster::new(), authority(&[now()]));
    let seller = cluster.seller(authority);
    let request = request(&KeyPair::generate().unwrap());
    let buy = |account: &str, pod: &str| {
        let token = cluster.token(account, AUDIENCE, Some(pod));
        seller.sell(&token, &request, now()).unwrap()
    };
    let plane = buy("bodhi/bodhi-dataplane", "plane-pod");
    assert_eq!(uris(&plane), ["bodhi:dataplane"]);
    assert_eq!(plane.certified.authorities.len(), 1);
    let worker = buy("team-a/default", "worker-pod");
    assert_eq!(uris(&worker), ["bodhi:worker/team-a/qwen/worker-pod"]);
}

#[test]
fn all_others_are_told_why_not() {
    let (cluster, (_keep, authority)) = (Cluster::new(), authority(&[now()]));
    let seller = cluster.seller(authority);
    let request = request(&KeyPair::generate().unwrap());
    let refused = |account: &str, audience: &str, pod: Option<&str>| {
        let token = cluster.token(account, audience, pod);
        seller.sell(&token, &request, now()).unwrap_err()
    };
    for (account, pod, why) in [
        // A pod beside a worker, one that is no more, another namespace's that says it is it.
        ("team-a/default", Some("other-pod"), "neither a data plane"),
        ("team-b/default", Some("worker-pod"), "neither a data plane"),
        // The right ServiceAccount's name in the wrong namespace, and by hand.
        (
            "team-a/bodhi-dataplane",
            Some("p"),
            "those run as 'bodhi/bodhi-dataplane'",
        ),
        ("bodhi/bodhi-dataplane", None, "bound to no pod"),
    ] {
        let error = refused(account, AUDIENCE, pod);
        assert!(matches!(error, Refused::Stranger(_)), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    // A caller's token, which data planes get to see, buys nothing.
    let error = refused("bodhi/bodhi-dataplane", "bodhi", Some("p"));
    assert!(
        matches!(error, Refused::Token(TokenError::Audience { .. })),
        "{error}"
    );
    let forged = Cluster::new().token("bodhi/bodhi-dataplane", AUDIENCE, Some("p"));
    let error = seller.sell(&forged, &request, now()).unwrap_err();
    assert!(matches!(error, Refused::Token(TokenError::Signature)));
    let token = cluster.token("bodhi/bodhi-dataplane", AUDIENCE, Some("p"));
    let error = seller.sell(&token, b"no request", now()).unwrap_err();
    assert!(matches!(error, Refused::Request(_)));
}

#[test]
fn a_pod_that_goes_round_in_circles_is_held_up_alone() {
    let (cluster, (_keep, authority)) = (Cluster::new(), authority(&[now()]));
    let seller = cluster.seller(authority);
    let request = request(&KeyPair::generate().unwrap());
    let buy = |pod: &str| {
        let token = cluster.token("bodhi/bodhi-dataplane", AUDIENCE, Some(pod));
        seller.sell(&token, &request, now())
    };
    for _ in 0..SALES_MAX {
        buy("one").unwrap();
    }
    let error = buy("one").unwrap_err();
    assert!(matches!(error, Refused::TooMany(_)), "{error}");
    assert!(error.to_string().contains("'one-name'"), "{error}");
    buy("two").unwrap();
}

#[test]
fn without_roots_nothing_is_sold() {
    let (cluster, (_keep, authority)) = (Cluster::new(), authority(&[]));
    let seller = cluster.seller(authority);
    let token = cluster.token("bodhi/bodhi-dataplane", AUDIENCE, Some("p"));
    let request = request(&KeyPair::generate().unwrap());
    let error = seller.sell(&token, &request, now()).unwrap_err();
    assert!(matches!(error, Refused::Sign(SignError::NoRoot)));
}
