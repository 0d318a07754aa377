//! Real certificates, kept, read, signed, and shown in real handshakes.

use std::time::Duration;

use bodhi_net::identity::{Client, Credentials, Expected, Peer, Refused as Turned, Role, Server};
use bodhi_proto::names::ObjectRef;
use bodhi_proto::snapshot::WorkerId;
use rcgen::{PKCS_ECDSA_P384_SHA384, PublicKeyData as _, SanType};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;

use super::rotation::LEAF;
use super::testing::{authority, now, request};
use super::*;

fn worker() -> WorkerId {
    WorkerId {
        pool: ObjectRef::alias("team-a", "qwen"),
        worker: "9b0e".into(),
    }
}

fn memory(bundle: Bundle) -> Credentials {
    Credentials::memory(watch::channel(Some(Arc::new(bundle))).1)
}

/// What both ends make of a connection.
async fn meet(
    server: &Server,
    client: &Client,
    expected: &Expected,
) -> (Result<Peer, Turned>, std::io::Result<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut stream, peer) = server.accept(tcp).await?;
        stream.write_all(b"hello").await.unwrap();
        Ok(peer)
    };
    let calling = async { client.connect(address, expected).await.map(drop) };
    tokio::join!(serving, calling)
}

#[tokio::test]
async fn whom_it_certifies_is_believed_by_whom_it_certifies() {
    let (_keep, authority) = authority(&[now()]);
    let issue = |subject: &Subject| authority.issue(subject, now()).unwrap();
    let dialled = ServerNames::parse(["bodhi-controller.bodhi.svc", "127.0.0.1"]).unwrap();
    let controller = || issue(&Subject::Controller(dialled.clone()));
    let roles: &[Role] = &[Role::DataPlane, Role::Controller];
    let plane = Client::new(memory(issue(&Subject::DataPlane)));

    // A data plane at a controller, by whichever of its names.
    let server = Server::new(memory(controller()), roles);
    for name in ["bodhi-controller.bodhi.svc", "127.0.0.1"] {
        let (peer, met) = meet(&server, &plane, &Expected::host(name).unwrap()).await;
        met.unwrap();
        let peer = peer.unwrap();
        assert!(peer.is_one_of(&[Role::DataPlane]) && !peer.is_one_of(&[Role::Controller]));
    }
    let (_, met) = meet(&server, &plane, &Expected::host("other.svc").unwrap()).await;
    assert!(met.is_err());

    // Data planes and controllers at a worker, and at no other worker in its place.
    let server = Server::new(memory(issue(&Subject::Worker(worker()))), roles);
    for client in [&plane, &Client::new(memory(controller()))] {
        let (peer, met) = meet(&server, client, &Expected::worker(&worker())).await;
        met.unwrap();
        assert!(peer.unwrap().is_one_of(roles));
    }
    let other = WorkerId {
        worker: "another-pod".into(),
        ..worker()
    };
    assert!(
        meet(&server, &plane, &Expected::worker(&other))
            .await
            .1
            .is_err()
    );

    // A worker is nobody's client, and a data plane nobody's server.
    let as_client = Client::new(memory(issue(&Subject::Worker(worker()))));
    let (peer, _) = meet(&server, &as_client, &Expected::worker(&worker())).await;
    assert!(peer.is_err());
    let as_server = Server::new(memory(issue(&Subject::DataPlane)), roles);
    let expected = Expected::host("127.0.0.1").unwrap();
    assert!(meet(&as_server, &plane, &expected).await.1.is_err());
}

#[test]
fn a_secret_keeps_an_authority_and_shows_its_certificates() {
    let roots = [
        Root::make(now() - 9999).unwrap(),
        Root::make(now()).unwrap(),
    ];
    let data = write(roots.iter());
    let names: Vec<_> = data.keys().map(String::as_str).collect();
    assert_eq!(names, [AUTHORITY, CERTIFICATES]);
    let shown = String::from_utf8(data[CERTIFICATES].0.clone()).unwrap();
    assert_eq!(shown.matches("BEGIN CERTIFICATE").count(), 2);
    assert!(!shown.contains("PRIVATE"));
    let again = read(&data).unwrap();
    for (before, after) in roots.iter().zip(&again) {
        assert_eq!(before.certificate(), after.certificate());
        assert_eq!(before.life(), after.life());
        assert_eq!(format!("{after:?}").matches("PRIVATE").count(), 0);
    }
    assert_eq!(write(again.iter()), data);
    assert!(read(&Default::default()).unwrap().is_empty());
}

#[test]
fn what_a_secret_signs_is_believed_by_who_read_it_before() {
    let made = Root::make(now()).unwrap();
    let again = read(&write([&made].into_iter())).unwrap();
    let again = Authority::new(watch::channel(Arc::new(again)).1);
    let key = KeyPair::generate().unwrap();
    let certified = again.sign(&Subject::DataPlane, &key, now()).unwrap();
    assert_eq!(&certified.authorities, &[made.certificate().clone()]);
    let anchor = webpki::anchor_from_trusted_cert(made.certificate()).unwrap();
    let leaf = webpki::EndEntityCert::try_from(&certified.certificate).unwrap();
    let at = |second: i64| {
        let time = Duration::from_secs(second.unsigned_abs());
        let time = rustls::pki_types::UnixTime::since_unix_epoch(time);
        let usage = webpki::KeyUsage::client_auth();
        leaf.verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            std::slice::from_ref(&anchor),
            &[],
            time,
            usage,
            None,
            None,
        )
        .map(drop)
    };
    at(now()).unwrap();
    at(now() - 240).unwrap();
    at(now() + LEAF - 60).unwrap();
    assert!(at(now() + LEAF + 60).is_err() && at(now() - 600).is_err());
}

#[test]
fn a_secret_that_cannot_be_read_is_not_taken_for_an_empty_one() {
    let (one, two) = (Root::make(1).unwrap(), Root::make(2).unwrap());
    let good = write([&one].into_iter());
    let text = String::from_utf8(good[AUTHORITY].0.clone()).unwrap();
    let other = write([&two].into_iter());
    let other: serde_json::Value = serde_json::from_slice(&other[AUTHORITY].0).unwrap();
    let mut mixed: serde_json::Value = serde_json::from_str(&text).unwrap();
    mixed["roots"][0]["key"] = other["roots"][0]["key"].clone();
    for wrong in [
        String::new(),
        text.replace("\"version\":1", "\"version\":2"),
        text.replace("BEGIN CERT", "BEGIN DIRT"),
        text.replace("BEGIN PRIVATE KEY", "BEGIN"),
        mixed.to_string(),
    ] {
        let mut data = good.clone();
        data.insert(
            AUTHORITY.into(),
            k8s_openapi::ByteString(wrong.clone().into()),
        );
        let error = read(&data).unwrap_err().to_string();
        assert!(error.contains("'authority.json' cannot be used"), "{error}");
        assert!(!error.contains("PRIVATE"), "{error}");
    }
}

#[test]
fn a_request_counts_by_its_key_alone() {
    let (_keep, authority) = authority(&[now()]);
    let key = KeyPair::generate().unwrap();
    let asked = request(&key);
    let requested = request::read(&asked).unwrap();
    let certified = authority
        .sign(&Subject::DataPlane, &requested, now())
        .unwrap();
    let names: Vec<_> = webpki::EndEntityCert::try_from(&certified.certificate)
        .unwrap()
        .valid_uri_names()
        .map(str::to_owned)
        .collect();
    assert_eq!(names, ["bodhi:dataplane"]);
    let text = String::from_utf8_lossy(&certified.certificate);
    assert!(
        !text.contains("kubernetes.default.svc"),
        "asked for, not granted"
    );

    let mut forged = asked.clone();
    // The last byte of the signature.
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(request::read(&forged).unwrap_err(), RequestError::Signature);
    let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    assert_eq!(
        request::read(&request(&other)).unwrap_err(),
        RequestError::Algorithm
    );
    let long = vec![0; 5000];
    assert_eq!(
        request::read(&long).unwrap_err(),
        RequestError::TooLong(5000)
    );
    for wrong in [&b""[..], &asked[..asked.len() - 1], b"-----BEGIN"] {
        assert!(matches!(request::read(wrong), Err(RequestError::Form(_))));
    }
    for at in 0..asked.len() {
        let mut changed = asked.clone();
        changed[at] ^= 0x55;
        // Around what is signed, encodings may differ; the key may not.
        if let Ok(key) = request::read(&changed) {
            assert_eq!(key.der_bytes(), requested.der_bytes(), "byte {at}");
        }
    }
}

#[test]
fn a_controller_is_dialled_by_dns_names_and_addresses() {
    let names = ServerNames::parse(["a.b.svc", "::1"]).unwrap();
    let sans = Subject::Controller(names).names().unwrap();
    assert_eq!(
        sans,
        [
            SanType::URI("bodhi:controller".try_into().unwrap()),
            SanType::DnsName("a.b.svc".try_into().unwrap()),
            SanType::IpAddress([0_u16, 0, 0, 0, 0, 0, 0, 1].into()),
        ]
    );
    for wrong in ["", "a b", "https://a", "a:1138", "é.svc"] {
        let error = ServerNames::parse([wrong]).unwrap_err().to_string();
        assert!(
            error.contains("neither a DNS name nor an IP address"),
            "{error}"
        );
    }
}

/// F22, in small: a controller shows a new certificate once there are other roots.
#[tokio::test(start_paused = true)]
async fn a_controllers_own_certificate_follows_the_roots() {
    let (keep, authority) = authority(&[]);
    assert!(matches!(
        authority.issue(&Subject::DataPlane, now()),
        Err(SignError::NoRoot)
    ));
    let mut shown = authority.certificates();
    let mut own = own(authority, ServerNames::default());
    assert!(own.borrow().is_none() && shown.borrow().is_none());
    let root = |made| Arc::new(vec![Root::make(made).unwrap()]);
    keep.send_replace(root(now()));
    own.changed().await.unwrap();
    let first = own.borrow_and_update().clone().unwrap();
    shown.changed().await.unwrap();
    let text = shown.borrow().clone().unwrap();
    assert_eq!(text.matches("BEGIN CERTIFICATE").count(), 1);
    // Nothing to do.
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!own.has_changed().unwrap());
    keep.send_replace(root(now() + 1));
    own.changed().await.unwrap();
    let second = own.borrow_and_update().clone().unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
}
