//! Real handshakes on loopback, with certificates made here.

use std::path::Path;
use std::sync::Arc;

use std::io;
use std::net::SocketAddr;

use bodhi_proto::snapshot::WorkerId;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::*;
use crate::tls::provider;

/// An authority with its certificate as PEM.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Self { issuer, pem }
    }

    /// Certificate and key.
    fn issue(&self, names: Vec<SanType>) -> (String, String) {
        self.issue_until(names, 4096)
    }

    /// One that expires when this year begins.
    fn issue_until(&self, names: Vec<SanType>, year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.subject_alt_names = names;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

fn loopback() -> SanType {
    SanType::IpAddress([127, 0, 0, 1].into())
}

fn write(folder: &Path, end: &str, (certificate, key): (String, String), ca: &str) -> Identity {
    let file = |ending: &str, flag, text: &str| {
        let path = folder.join(format!("{end}.{ending}"));
        std::fs::write(&path, text).unwrap();
        PemFile { path, flag }
    };
    Identity {
        certificate: file("crt", "--cert", &certificate),
        key: file("key", "--key", &key),
        authorities: file("ca", "--ca", ca),
    }
}

/// A server that has `ca` and greets whom it accepts.
struct Running {
    folder: tempfile::TempDir,
    ca: Authority,
    server: Arc<Server>,
    listener: TcpListener,
}

impl Running {
    async fn start() -> Self {
        let (folder, ca) = (tempfile::tempdir().unwrap(), Authority::new("ours"));
        let identity = write(folder.path(), "server", ca.issue(vec![loopback()]), &ca.pem);
        Self {
            server: Arc::new(Server::load(identity, &[Role::DataPlane]).unwrap()),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            folder,
            ca,
        }
    }

    /// The same with another certificate.
    async fn showing(names: Vec<SanType>) -> Self {
        let running = Self::start().await;
        let pair = running.ca.issue(names);
        write(running.folder.path(), "server", pair, &running.ca.pem);
        running
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn client(&self, pair: (String, String)) -> Client {
        let identity = write(self.folder.path(), "client", pair, &self.ca.pem);
        Client::load(identity).unwrap()
    }

    fn data_plane(&self) -> Client {
        self.client(self.ca.issue(vec![uri("bodhi:dataplane")]))
    }

    /// What server and client make of one connection: the greeting, or the errors.
    async fn meet(&self, client: &Client) -> (Result<(), Refused>, io::Result<String>) {
        let expected = Expected::host("127.0.0.1").unwrap();
        self.meet_as(client, &expected).await
    }

    async fn meet_as(
        &self,
        client: &Client,
        expected: &Expected,
    ) -> (Result<(), Refused>, io::Result<String>) {
        let serving = async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            let (mut stream, _) = self.server.accept(tcp).await?;
            stream.write_all(b"hello").await.unwrap();
            stream.shutdown().await.unwrap();
            Ok(())
        };
        let calling = async {
            let mut greeting = String::new();
            client
                .connect(self.address(), expected)
                .await?
                .read_to_string(&mut greeting)
                .await?;
            Ok(greeting)
        };
        tokio::join!(serving, calling)
    }
}

#[tokio::test]
async fn a_data_plane_by_dns_name_or_uri_is_greeted() {
    let running = Running::start().await;
    for name in [dns("dataplane"), uri("bodhi:dataplane")] {
        let client = running.client(running.ca.issue(vec![dns("node-7"), name]));
        let (server, greeting) = running.meet(&client).await;
        server.unwrap();
        assert_eq!(greeting.unwrap(), "hello");
    }
}

#[tokio::test]
async fn other_roles_are_refused_by_name_and_the_client_is_told() {
    let running = Running::start().await;
    let near_misses = vec![
        dns("dataplane.example.com"),
        dns("*.dataplane"),
        uri("bodhi:dataplane/x"),
        uri("dataplane"),
        loopback(),
    ];
    for names in [near_misses, Vec::new()] {
        let client = running.client(running.ca.issue(names));
        let (server, greeting) = running.meet(&client).await;
        let refused = server.unwrap_err();
        assert!(matches!(
            refused,
            Refused::Role {
                roles: [Role::DataPlane]
            }
        ));
        assert_eq!(
            refused.to_string(),
            "its certificate names no data plane: its SAN must hold the DNS name 'dataplane' or the URI 'bodhi:dataplane'"
        );
        let told = greeting.unwrap_err().to_string();
        assert_eq!(told, "the other end refuses our certificate (AccessDenied)");
    }
}

#[tokio::test]
async fn another_authority_is_refused_on_either_end() {
    let running = Running::start().await;
    let other = Authority::new("other");
    let client = running.client(other.issue(vec![dns("dataplane")]));
    let (server, greeting) = running.meet(&client).await;
    assert!(matches!(server, Err(Refused::Handshake(_))), "{server:?}");
    assert!(greeting.is_err());

    // The client believes the other authority only.
    let pair = running.ca.issue(vec![dns("dataplane")]);
    let identity = write(running.folder.path(), "client", pair, &other.pem);
    let client = Client::load(identity).unwrap();
    let (server, greeting) = running.meet(&client).await;
    assert!(server.is_err());
    let why = greeting.unwrap_err().to_string();
    assert!(why.contains("UnknownIssuer"), "{why}");
}

#[tokio::test]
async fn a_server_of_another_name_is_not_believed() {
    let running = Running::start().await;
    let client = running.data_plane();
    for expected in [
        Expected::host("localhost"),
        Expected::controller(["localhost"]),
    ] {
        let (_, greeting) = running.meet_as(&client, &expected.unwrap()).await;
        let why = greeting.unwrap_err().to_string();
        assert!(why.contains("not valid for name"), "{why}");
    }
    let error = Expected::host("a..b").unwrap_err().to_string();
    assert_eq!(error, "'a..b' is neither a DNS name nor an IP address");
}

/// Its address was told by another controller: no certificate need hold it.
#[tokio::test]
async fn a_controller_is_believed_by_its_role_or_by_the_host() {
    let hosts = ["controller.bodhi.svc", "controller.example.com"];
    let expected = Expected::controller(hosts).unwrap();
    for names in [uri("bodhi:controller"), dns(hosts[0]), dns(hosts[1])] {
        let running = Running::showing(vec![names]).await;
        let met = running.meet_as(&running.data_plane(), &expected).await;
        assert_eq!(met.1.unwrap(), "hello");
    }
    // Anybody of ours who is something else.
    for names in [uri("bodhi:dataplane"), dns("controller"), loopback()] {
        let running = Running::showing(vec![names]).await;
        let met = running.meet_as(&running.data_plane(), &expected).await;
        let why = met.1.unwrap_err().to_string();
        assert!(why.contains("not valid for name"), "{why}");
    }
}

/// An address that was a worker's may be another pod's by now.
#[tokio::test]
async fn a_worker_is_believed_by_its_pod_and_by_nothing_else() {
    let worker = |text: &str| WorkerId::parse(text).unwrap();
    let expected = Expected::worker(&worker("Alias/bodhi/qwen/3f1c"));
    assert_eq!(expected.to_string(), "bodhi:worker/bodhi/qwen/3f1c");
    let running = Running::showing(vec![uri("bodhi:worker/bodhi/qwen/3f1c")]).await;
    let met = running.meet_as(&running.data_plane(), &expected).await;
    assert_eq!(met.1.unwrap(), "hello");
    let others = vec![
        loopback(),
        dns("bodhi"),
        uri("bodhi:dataplane"),
        uri("bodhi:worker/bodhi/qwen/3f1c0"),
        uri("bodhi:worker/bodhi/qwen"),
        uri("bodhi:worker/other/qwen/3f1c"),
    ];
    for names in [others, Vec::new()] {
        let running = Running::showing(names).await;
        let met = running.meet_as(&running.data_plane(), &expected).await;
        let why = met.1.unwrap_err().to_string();
        assert!(
            why.contains("does not name bodhi:worker/bodhi/qwen/3f1c"),
            "{why}"
        );
        assert!(met.0.is_err(), "the server was told");
    }
}

#[tokio::test]
async fn expired_certificates_are_refused_on_either_end() {
    let running = Running::start().await;
    let pair = running.ca.issue_until(vec![dns("dataplane")], 2020);
    let (served, greeting) = running.meet(&running.client(pair)).await;
    assert!(served.unwrap_err().to_string().contains("expired"));
    let told = greeting.unwrap_err().to_string();
    assert!(told.contains("CertificateExpired"), "{told}");

    let pair = running.ca.issue_until(vec![loopback()], 2020);
    write(running.folder.path(), "server", pair, &running.ca.pem);
    let why = running.meet(&running.data_plane()).await.1.unwrap_err();
    assert!(why.to_string().contains("expired"), "{why}");
}

#[tokio::test]
async fn strangers_get_in_where_they_may_and_are_nobody() {
    let running = Running::start().await;
    let folder = running.folder.path();
    let identity = write(
        folder,
        "server",
        running.ca.issue(vec![loopback()]),
        &running.ca.pem,
    );
    let roles = &[Role::DataPlane, Role::Controller];
    let server = Server::load(identity, roles).unwrap().with_strangers();
    let config = |own: Option<(String, String)>| {
        let roots = Pem::read(&PemFile {
            path: folder.join("server.ca"),
            flag: "--ca",
        });
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_root_certificates(roots.unwrap().roots().unwrap());
        match own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => config
                .with_client_auth_cert(
                    vec![
                        rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes())
                            .unwrap(),
                    ],
                    rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        }
    };
    let meet = async |own| {
        let calling = async {
            let tcp = TcpStream::connect(running.address()).await.unwrap();
            let name = ServerName::from(running.address().ip());
            let connector = TlsConnector::from(Arc::new(config(own)));
            // Kept open until the server is done.
            connector.connect(name, tcp).await
        };
        let serving = async {
            let (tcp, _) = running.listener.accept().await.unwrap();
            server.accept(tcp).await.map(|(_, peer)| peer)
        };
        tokio::join!(calling, serving).1
    };
    let stranger = meet(None).await.unwrap();
    assert!(!stranger.is_one_of(roles));
    let plane = meet(Some(running.ca.issue(vec![dns("dataplane")])))
        .await
        .unwrap();
    assert!(plane.is_one_of(roles) && !plane.is_one_of(&[Role::Controller]));
    let both = vec![dns("dataplane"), uri("bodhi:controller")];
    let both = meet(Some(running.ca.issue(both))).await.unwrap();
    assert!(both.is_one_of(&[Role::Controller]) && both.is_one_of(&[Role::DataPlane]));
    // Who shows a certificate is held to it.
    let other = meet(Some(running.ca.issue(vec![dns("worker")]))).await;
    assert!(matches!(other, Err(Refused::Role { .. })), "{other:?}");
}

#[tokio::test]
async fn what_is_in_memory_counts_from_the_next_connection_on() {
    let running = Running::start().await;
    let (bundles, latest) = watch::channel(None);
    let client = Client::new(Credentials::memory(latest));
    let expected = Expected::host("127.0.0.1").unwrap();
    let none = client
        .connect(running.address(), &expected)
        .await
        .unwrap_err();
    assert_eq!(none.to_string(), "this end has no certificate yet");
    let bundle = |name| {
        let identity = write(
            running.folder.path(),
            "client",
            running.ca.issue(vec![dns(name)]),
            &running.ca.pem,
        );
        let pems = identity
            .files()
            .each_ref()
            .map(|file| Pem::read(file).unwrap());
        let chain = (pems[0].chain().unwrap(), pems[1].key().unwrap());
        let authorities = pems[2].chain().unwrap();
        Some(Arc::new(
            Bundle::new(chain.0, chain.1, authorities).unwrap(),
        ))
    };
    bundles.send_replace(bundle("worker"));
    assert!(running.meet(&client).await.1.is_err());
    bundles.send_replace(bundle("dataplane"));
    assert_eq!(running.meet(&client).await.1.unwrap(), "hello");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let running = Running::start().await;
    let roots = Pem::read(&PemFile {
        path: running.folder.path().join("server.ca"),
        flag: "--ca",
    });
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots.unwrap().roots().unwrap())
        .with_no_client_auth();
    let address = running.listener.local_addr().unwrap();
    let calling = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::from(address.ip());
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, tcp).await?.read_u8().await
    };
    let serving = async {
        let (tcp, _) = running.listener.accept().await.unwrap();
        running.server.accept(tcp).await
    };
    let (served, called) = tokio::join!(serving, calling);
    let refused = served.unwrap_err().to_string();
    assert!(refused.contains("no certificates"), "{refused}");
    assert!(called.is_err());
}

#[tokio::test]
async fn files_renewed_on_disk_count_from_the_next_connection_on() {
    let running = Running::start().await;
    let client = running.client(running.ca.issue(vec![dns("dataplane")]));
    running.meet(&client).await.1.unwrap();
    // Both ends move to another authority, one after the other.
    let next = Authority::new("next");
    let folder = running.folder.path();
    write(folder, "server", next.issue(vec![loopback()]), &next.pem);
    running.meet(&client).await.1.unwrap_err();
    let pair = next.issue(vec![dns("dataplane")]);
    write(folder, "client", pair, &next.pem);
    assert_eq!(running.meet(&client).await.1.unwrap(), "hello");
    // Half a renewal changes nothing.
    let (_, key) = next.issue(vec![dns("dataplane")]);
    std::fs::write(folder.join("client.key"), key).unwrap();
    assert_eq!(running.meet(&client).await.1.unwrap(), "hello");
    std::fs::remove_file(folder.join("client.crt")).unwrap();
    assert_eq!(running.meet(&client).await.1.unwrap(), "hello");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_stalls_ends() {
    let running = Running::start().await;
    let address = running.listener.local_addr().unwrap();
    let silent = TcpStream::connect(address).await.unwrap();
    let (tcp, _) = running.listener.accept().await.unwrap();
    let refused = running.server.accept(tcp).await.unwrap_err();
    assert!(matches!(refused, Refused::TooSlow), "{refused}");
    drop(silent);
}

#[test]
fn faults_name_the_file_and_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ours");
    let pair = || ca.issue(vec![dns("dataplane")]);
    let (certificate, key) = pair();
    let (_, other_key) = pair();
    let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let cases = [
        (
            ("", key.as_str(), ca.pem.as_str()),
            "--cert '",
            "it holds no certificate",
        ),
        (
            (&certificate, "", &ca.pem),
            "--key '",
            "it holds no private key",
        ),
        (
            (&certificate, &key, "not PEM"),
            "--ca '",
            "it holds no certificate",
        ),
        ((&certificate, &key, damaged), "--ca '", "BadEncoding"),
        (
            (&certificate, &other_key, &ca.pem),
            "--key '",
            "client.crt'",
        ),
    ];
    for ((certificate, key, ca), file, why) in cases {
        let identity = write(
            folder.path(),
            "client",
            (certificate.into(), key.into()),
            ca,
        );
        let as_client = Client::load(identity.clone()).unwrap_err();
        let as_server = Server::load(identity, &[Role::DataPlane]).unwrap_err();
        for text in [as_client.to_string(), as_server.to_string()] {
            assert!(text.starts_with(file) && text.contains(why), "{text}");
        }
    }
    let mut identity = write(folder.path(), "client", (certificate, key), &ca.pem);
    identity.key.path = folder.path().join("none");
    let text = Server::load(identity, &[Role::DataPlane])
        .unwrap_err()
        .to_string();
    assert!(
        text.starts_with("--key '") && text.contains("none' cannot be read"),
        "{text}"
    );
}

/// The public API's certificate is watched; see also the connections above.
#[tokio::test(start_paused = true)]
async fn watched_files_are_looked_at_every_ten_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ours");
    let pair = || ca.issue(vec![loopback()]);
    let files = write(folder.path(), "server", pair(), &ca.pem).files();
    let reloading = Arc::new(Reloading::load(files, Bundle::read).unwrap());
    let before = reloading.current();
    let watched = Arc::clone(&reloading);
    let watching = tokio::spawn(async move { watched.watch().await });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(
        Arc::ptr_eq(&before, &reloading.current()),
        "nothing changed"
    );
    write(folder.path(), "server", pair(), &ca.pem);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!Arc::ptr_eq(&before, &reloading.current()), "a new pair");
    watching.abort();
}
