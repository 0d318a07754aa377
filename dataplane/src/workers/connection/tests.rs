//! Real TLS on loopback, with a worker that answers every call at once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bodhi_net::identity::{Credentials, Identity, PemFile, Role, Server};
use bodhi_proto::wire::inference as pb;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;

const WORKER: &str = "Alias/bodhi/qwen/3f1c";
const NAMED: &str = "bodhi:worker/bodhi/qwen/3f1c";

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
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }
}

/// Files of both ends, and a worker between them.
struct Setting {
    folder: TempDir,
    ca: Arc<Authority>,
    address: SocketAddr,
    asked: Rc<AtomicUsize>,
}

fn file(folder: &Path, name: String, flag: &'static str) -> PemFile {
    let path: PathBuf = folder.join(name);
    PemFile { path, flag }
}

fn identity(folder: &Path, end: &str) -> Identity {
    Identity {
        certificate: file(folder, format!("{end}.crt"), "--cert"),
        key: file(folder, format!("{end}.key"), "--key"),
        authorities: file(folder, format!("{end}.ca"), "--ca"),
    }
}

/// Writes the files of one end, each in one step, as volumes of Secrets are replaced.
fn write(folder: &Path, end: &str, signed_by: &Authority, uri: &str, believed: &str) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let certificate = params.signed_by(&key, &signed_by.issuer).unwrap();
    for (ending, text) in [
        ("key", key.serialize_pem()),
        ("crt", certificate.pem()),
        ("ca", believed.to_owned()),
    ] {
        let path = folder.join(format!("{end}.{ending}"));
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &path).unwrap();
    }
}

impl Setting {
    /// A worker that proves to be `named`, and serves until the runtime ends.
    async fn start(named: &str) -> Self {
        let (folder, ca) = (
            tempfile::tempdir().unwrap(),
            Arc::new(Authority::new("ours")),
        );
        write(folder.path(), "worker", &ca, named, &ca.pem);
        write(folder.path(), "plane", &ca, Role::DataPlane.uri(), &ca.pem);
        let roles = &[Role::DataPlane, Role::Controller];
        let server = Server::load(identity(folder.path(), "worker"), roles).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Rc::<AtomicUsize>::default();
        let counted = Rc::clone(&asked);
        let mut incoming = server.incoming(listener);
        tokio::task::spawn_local(async move {
            while let Some((stream, _)) = incoming.recv().await {
                tokio::task::spawn_local(serve(stream, Rc::clone(&counted)));
            }
        });
        Self {
            folder,
            ca,
            address,
            asked,
        }
    }

    fn endpoint(&self) -> WorkerEndpoint {
        WorkerEndpoint {
            id: WorkerId::parse(WORKER).unwrap(),
            address: WorkerAddress::parse(&self.address.to_string()).unwrap(),
            slots: 1,
        }
    }

    fn connections(&self) -> Connections {
        let files = Credentials::files(identity(self.folder.path(), "plane"));
        Connections::new(Some(Arc::new(identity::Client::new(files.unwrap()))))
    }

    /// Why the call was not sent.
    async fn refused(&self) -> String {
        let refused = self.connections().client(&self.endpoint()).await;
        let why = refused.expect_err("it was sent").to_string();
        assert_eq!(self.asked.load(Ordering::Relaxed), 0);
        why
    }
}

/// Answers every call with an empty embedding.
async fn serve(stream: bodhi_net::stream::Stream, asked: Rc<AtomicUsize>) {
    let service = service_fn(move |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        let body = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let body = http_body_util::BodyExt::with_trailers(body, async { Some(Ok(trailers)) });
        let response = Response::builder().header("content-type", "application/grpc");
        std::future::ready(Ok::<_, Infallible>(
            response.body(body).expect("a response"),
        ))
    });
    let connection = Builder::new(LocalExecutor).serve_connection(TokioIo::new(stream), service);
    // The other end went: that is how it ends.
    let _ = connection.await;
}

#[derive(Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

async fn ask(connections: &Connections, endpoint: &WorkerEndpoint) -> Result<(), String> {
    let mut client = connections
        .client(endpoint)
        .await
        .map_err(|error| error.to_string())?;
    let answer = client.embed(pb::Embedding::default()).await;
    answer.map(drop).map_err(|status| status.to_string())
}

/// As a serving thread has it.
fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    tokio::task::LocalSet::new().block_on(&runtime.unwrap(), test);
}

#[test]
fn the_pod_that_is_named_is_asked_over_one_connection() {
    on_one_thread(async {
        let setting = Setting::start(NAMED).await;
        let connections = setting.connections();
        for _ in 0..3 {
            ask(&connections, &setting.endpoint()).await.unwrap();
        }
        assert_eq!(setting.asked.load(Ordering::Relaxed), 3);
        assert_eq!(connections.kept.borrow().len(), 1);
        let first = connections.known(&setting.endpoint().id);
        assert!(first.is_some());
    });
}

#[test]
fn another_pod_at_the_address_is_not_sent_a_prompt() {
    on_one_thread(async {
        for other in [
            "bodhi:worker/bodhi/qwen/9999",
            "bodhi:worker/tenant/qwen/3f1c",
            "bodhi:controller",
        ] {
            let why = Setting::start(other).await.refused().await;
            assert!(
                why.contains("does not name bodhi:worker/bodhi/qwen/3f1c"),
                "{why}"
            );
        }
    });
}

#[test]
fn other_authorities_are_refused_on_either_end() {
    on_one_thread(async {
        let other = Authority::new("other");
        let setting = Setting::start(NAMED).await;
        let folder = setting.folder.path();
        write(folder, "worker", &other, NAMED, &setting.ca.pem);
        let why = setting.refused().await;
        assert!(why.contains("UnknownIssuer"), "{why}");

        write(folder, "worker", &setting.ca, NAMED, &setting.ca.pem);
        write(
            folder,
            "plane",
            &other,
            Role::DataPlane.uri(),
            &setting.ca.pem,
        );
        let why = setting.refused().await;
        assert!(why.contains("refuses our certificate"), "{why}");
    });
}

#[test]
fn without_a_certificate_only_this_machine_is_called() {
    on_one_thread(async {
        let setting = Setting::start(NAMED).await;
        let none = Connections::new(None).client(&setting.endpoint()).await;
        let why = none.expect_err("it was sent").to_string();
        assert!(why.contains("this data plane has none"), "{why}");
    });
}

/// Both ends get new pairs, file by file, and move to another authority over a time in which both
/// are believed. Every request makes its own connection here.
#[test]
fn no_request_fails_while_certificates_are_renewed() {
    on_one_thread(async {
        let setting = Setting::start(NAMED).await;
        let mut connections = setting.connections();
        connections.age = Duration::ZERO;
        let endpoint = setting.endpoint();
        let next = Arc::new(Authority::new("next"));
        let both = [&*setting.ca.pem, &next.pem].concat();
        let steps = [
            (&setting.ca, &setting.ca.pem),
            (&setting.ca, &both),
            (&next, &both),
            (&next, &next.pem),
        ];
        let ends = [("worker", NAMED), ("plane", Role::DataPlane.uri())];
        let mut sent = 0;
        for (signed_by, believed) in steps {
            for (end, named) in ends {
                let (folder, signed_by) = (setting.folder.path().to_owned(), Arc::clone(signed_by));
                let believed = believed.clone();
                let writing = tokio::task::spawn_blocking(move || {
                    write(&folder, end, &signed_by, named, &believed);
                });
                let mut written = false;
                while !written {
                    written = writing.is_finished();
                    ask(&connections, &endpoint).await.unwrap();
                    sent += 1;
                }
                writing.await.unwrap();
            }
        }
        assert_eq!(setting.asked.load(Ordering::Relaxed), sent);
    });
}
