//! The client that data planes use, over a real connection.

use std::net::SocketAddr;

use bodhi_net::identity::{Client, Credentials, Expected, PemFile, Purchase, Role, Server};
use bodhi_net::places::Places;
use bodhi_proto::wire::sync::identity_client::IdentityClient;
use bodhi_proto::wire::sync::responses_client::ResponsesClient;
use hyper_util::rt::TokioIo;
use rcgen::KeyPair;
use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::*;
use crate::authority::testing::{self, Cluster, authority, now, request};
use crate::authority::{AUTHORITY, Authority, CERTIFICATES, ServerNames, own, read, write};
use crate::sync::{Config, OwnersFuture, ResponseOwner, ResponseOwners};

struct NoOwners;

impl ResponseOwners for NoOwners {
    fn record(&self, _: String, _: ResponseOwner) -> OwnersFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn find(&self, _: String) -> OwnersFuture<'_, Option<ResponseOwner>> {
        Box::pin(async { Ok(None) })
    }
}

/// A controller that sells.
async fn serve(cluster: &Cluster, authority: &Authority) -> SocketAddr {
    let mut own = own(
        authority.clone(),
        ServerNames::parse(["127.0.0.1"]).unwrap(),
    );
    own.changed().await.unwrap();
    let roles: &[Role] = &[Role::DataPlane, Role::Controller];
    let identity = Server::new(Credentials::memory(own), roles).with_strangers();
    let server = crate::sync::Server::new(Config {
        name: "c-0".into(),
        owners: Arc::new(NoOwners),
    });
    let server = server.selling(Arc::new(cluster.seller(authority.clone())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        server
            .serve_tls(listener, identity, std::future::pending())
            .await
    });
    address
}

async fn stranger(authority: &Authority, address: SocketAddr) -> Channel {
    let authority = authority.clone();
    let connector = service_fn(move |_| {
        let authority = authority.clone();
        async move {
            testing::stranger(&authority, address)
                .await
                .map(TokioIo::new)
        }
    });
    let endpoint = Endpoint::from_static("http://controller");
    endpoint.connect_with_connector(connector).await.unwrap()
}

#[tokio::test]
async fn a_pod_buys_its_first_certificate_and_is_let_in_with_it() {
    let (cluster, (_keep, authority)) = (Cluster::new(), authority(&[now()]));
    let address = serve(&cluster, &authority).await;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let token = cluster.token("bodhi/bodhi-dataplane", "bodhi-controller", Some("p"));
    std::fs::write(at("token"), token).unwrap();
    let roots = write([&read_root(&authority)].into_iter());
    std::fs::write(at("ca.crt"), &roots[CERTIFICATES].0).unwrap();
    assert!(read(&roots).is_ok() && roots.contains_key(AUTHORITY));
    let purchase = Purchase {
        token: at("token"),
        token_flag: "--token",
        authorities: PemFile {
            path: at("ca.crt"),
            flag: "--ca",
        },
        controllers: Places::parse(&format!("https://{address}")).unwrap(),
    };
    let client = Client::new(purchase.start().unwrap());
    let expected = Expected::host("127.0.0.1").unwrap();
    let connecting = async {
        while client.connect(address, &expected).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let most = std::time::Duration::from_secs(20);
    tokio::time::timeout(most, connecting).await.unwrap();
}

/// The same root, as a Secret's reader has it.
fn read_root(authority: &Authority) -> crate::authority::Root {
    let data = write(authority.roots().iter());
    read(&data).unwrap().remove(0)
}

#[tokio::test]
async fn without_a_certificate_one_may_buy_one_and_nothing_else() {
    let (cluster, (_keep, authority)) = (Cluster::new(), authority(&[now()]));
    let address = serve(&cluster, &authority).await;
    let channel = stranger(&authority, address).await;
    let find = pb::FindRequest { id: "r".into() };
    let refused = ResponsesClient::new(channel.clone()).find(find).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);

    let mut identity = IdentityClient::new(channel);
    let mut sign = async |token: String, signing_request: Vec<u8>| {
        let request = pb::SignCertificateRequest {
            token,
            signing_request: signing_request.into(),
        };
        identity.sign_certificate(request).await
    };
    let good = request(&KeyPair::generate().unwrap());
    let token = |account, pod| cluster.token(account, "bodhi-controller", pod);
    let plane = || token("bodhi/bodhi-dataplane", Some("p"));
    let reply = sign(plane(), good.clone()).await.unwrap().into_inner();
    assert_eq!((reply.chain.len(), reply.authorities.len()), (1, 1));
    let caller = cluster.token("bodhi/bodhi-dataplane", "bodhi", Some("p"));
    for (token, request, code, text) in [
        (
            caller,
            &good,
            Code::Unauthenticated,
            "not for 'bodhi-controller'",
        ),
        (String::new(), &good, Code::Unauthenticated, "no JWT"),
        (
            token("a/b", Some("p")),
            &good,
            Code::PermissionDenied,
            "neither a data plane",
        ),
        (
            plane(),
            &vec![1, 2],
            Code::InvalidArgument,
            "signing request",
        ),
    ] {
        let status = sign(token, request.clone()).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(text), "{status}");
    }
    let long = sign("t".repeat(20_000), good).await.unwrap_err();
    assert_eq!(long.code(), Code::OutOfRange, "{long}");
}
