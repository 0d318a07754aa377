//! Real purchases on loopback, from a seller that does what a test says.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bodhi_proto::wire::sync::identity_server::{Identity as Sells, IdentityServer};
use rcgen::{
    BasicConstraints, CertificateSigningRequestParams, DnType, IsCa, Issuer, SanType, date_time_ymd,
};
use rustls::pki_types::CertificateSigningRequestDer;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response};

use super::*;
use crate::identity::{Client, Identity, Role, Server};
use crate::stream::Stream;

const SOON: Duration = Duration::from_secs(20);

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    fn issue(&self, uri: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// How the seller answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// Sells for the token `good`.
    Open,
    /// Sells what ends in this many seconds.
    ShortLived(i64),
    Closed(Code),
}

/// A seller with what it was asked.
#[derive(Clone)]
struct Seller {
    ca: Arc<Authority>,
    mood: Arc<Mutex<Mood>>,
    asked: watch::Sender<Vec<String>>,
}

#[tonic::async_trait]
impl Sells for Seller {
    async fn sign_certificate(
        &self,
        request: Request<pb::SignCertificateRequest>,
    ) -> Result<Response<pb::SignCertificateReply>, Status> {
        let request = request.into_inner();
        self.asked
            .send_modify(|asked| asked.push(request.token.clone()));
        let mood = *self.mood.lock().unwrap();
        if let Mood::Closed(code) = mood {
            return Err(Status::new(code, "not today"));
        }
        if request.token != "good" {
            return Err(Status::unauthenticated("that token is no good"));
        }
        let der = CertificateSigningRequestDer::from(request.signing_request.to_vec());
        let mut csr = CertificateSigningRequestParams::from_der(&der).unwrap();
        csr.params.subject_alt_names = vec![SanType::URI("bodhi:dataplane".try_into().unwrap())];
        csr.params.not_after = match mood {
            Mood::ShortLived(seconds) => {
                (SystemTime::now() + Duration::from_secs(seconds.unsigned_abs())).into()
            }
            _ => date_time_ymd(4000, 1, 1),
        };
        let signed = csr.signed_by(&self.ca.issuer).unwrap();
        Ok(Response::new(pb::SignCertificateReply {
            chain: vec![signed.der().to_vec().into()],
            authorities: vec![self.ca.certificate.der().to_vec().into()],
        }))
    }
}

struct Connection(Stream);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A market: sellers, a buyer's files, and a controller to show what was bought.
struct Market {
    folder: TempDir,
    ca: Arc<Authority>,
}

impl Market {
    fn new() -> Self {
        let (folder, ca) = (
            tempfile::tempdir().unwrap(),
            Arc::new(Authority::new("ours")),
        );
        let market = Self { folder, ca };
        market.write("ca", &market.ca.certificate.pem());
        market.write("token", "good\n");
        market.own("controller", &market.ca.issue("bodhi:controller"));
        market
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn own(&self, end: &str, (certificate, key): &(String, String)) {
        self.write(&format!("{end}.crt"), certificate);
        self.write(&format!("{end}.key"), key);
    }

    fn file(&self, name: &str) -> PemFile {
        PemFile {
            path: self.folder.path().join(name),
            flag: "--file",
        }
    }

    fn server(&self, end: &str) -> Server {
        let identity = Identity {
            certificate: self.file(&format!("{end}.crt")),
            key: self.file(&format!("{end}.key")),
            authorities: self.file("ca"),
        };
        Server::load(identity, &[Role::DataPlane]).unwrap()
    }

    async fn seller(&self, end: &str, mood: Mood) -> (Seller, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let incoming = self.server(end).with_strangers().incoming(listener);
        let seller = Seller {
            ca: Arc::clone(&self.ca),
            mood: Arc::new(Mutex::new(mood)),
            asked: watch::channel(Vec::new()).0,
        };
        let sells = IdentityServer::new(seller.clone());
        let incoming =
            ReceiverStream::new(incoming).map(|(s, _)| Ok::<_, io::Error>(Connection(s)));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(sells)
                .serve_with_incoming(incoming),
        );
        (seller, port)
    }

    fn purchase(&self, ports: &[u16]) -> Purchase {
        let places = ports.iter().map(|port| ("127.0.0.1".to_owned(), *port));
        Purchase {
            token: self.folder.path().join("token"),
            token_flag: "--token-file",
            authorities: self.file("ca"),
            controllers: places.collect(),
        }
    }

    fn buy(&self, ports: &[u16]) -> Credentials {
        self.purchase(ports).start().unwrap()
    }

    /// Whether a controller lets in whoever shows these.
    async fn lets_in(&self, credentials: &Credentials) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = self.server("controller");
        let (client, expected) = (
            Client::new(credentials.clone()),
            Expected::controller(["x"]),
        );
        let serving = async {
            let (tcp, _) = listener.accept().await.unwrap();
            match server.accept(tcp).await {
                Ok((mut stream, peer)) => {
                    use tokio::io::AsyncWriteExt as _;
                    stream.write_all(b"hello").await.unwrap();
                    peer.is_one_of(&[Role::DataPlane])
                }
                Err(_) => false,
            }
        };
        let expected = expected.unwrap();
        tokio::join!(serving, client.connect(address, &expected)).0
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it comes soon")
}

async fn asked(seller: &Seller, times: usize) {
    let mut asked = seller.asked.subscribe();
    soon(asked.wait_for(|asked| asked.len() >= times))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_bought_opens_doors() {
    let market = Market::new();
    let (seller, port) = market.seller("controller", Mood::Open).await;
    let credentials = market.buy(&[port]);
    soon(credentials.ready()).await;
    assert!(market.lets_in(&credentials).await);
    assert_eq!(*seller.asked.borrow(), ["good"]);
}

#[tokio::test]
async fn a_token_that_is_refused_is_read_anew() {
    let market = Market::new();
    market.write("token", "stale");
    let (seller, port) = market.seller("controller", Mood::Open).await;
    let credentials = market.buy(&[port]);
    asked(&seller, 1).await;
    market.write("token", "good");
    soon(credentials.ready()).await;
    let said = seller.asked.borrow().clone();
    assert_eq!(said.first().map(String::as_str), Some("stale"));
    assert_eq!(said.last().map(String::as_str), Some("good"));
}

#[tokio::test]
async fn another_controller_is_asked_where_one_does_not_sell() {
    let market = Market::new();
    let (_, closed) = market
        .seller("controller", Mood::Closed(Code::Unavailable))
        .await;
    let (_, open) = market.seller("controller", Mood::Open).await;
    // And one at whose port nobody listens.
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let credentials = market.buy(&[nobody.port(), closed, open]);
    soon(credentials.ready()).await;
}

/// The token is not sent to somebody who only says that it is a controller.
#[tokio::test]
async fn a_token_is_shown_to_controllers_only() {
    let market = Market::new();
    market.own("plane", &market.ca.issue("bodhi:dataplane"));
    market.own("other", &Authority::new("other").issue("bodhi:controller"));
    let (plane, first) = market.seller("plane", Mood::Open).await;
    let (other, second) = market.seller("other", Mood::Open).await;
    let purchase = market.purchase(&[first, second]);
    let expected = purchase.controllers.controllers().unwrap();
    let refused = purchase
        .buy(&expected)
        .await
        .err()
        .expect("nothing is bought");
    assert!(matches!(refused, NotSold::Unreachable(_)), "{refused}");
    assert!(plane.asked.borrow().is_empty() && other.asked.borrow().is_empty());
}

/// Renewal comes at half life; while nobody sells, the old one stays in use.
#[tokio::test]
async fn what_was_bought_is_renewed_and_kept_meanwhile() {
    let market = Market::new();
    let (seller, port) = market.seller("controller", Mood::ShortLived(4)).await;
    let credentials = market.buy(&[port]);
    soon(credentials.ready()).await;
    *seller.mood.lock().unwrap() = Mood::Closed(Code::Internal);
    // Between the half and the end it is asked and refused, and the old one is good.
    asked(&seller, 2).await;
    assert!(market.lets_in(&credentials).await);
    *seller.mood.lock().unwrap() = Mood::Open;
    let count = seller.asked.borrow().len();
    asked(&seller, count + 1).await;
    soon(async {
        while !market.lets_in(&credentials).await {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[test]
fn faults_are_told_at_once() {
    let market = Market::new();
    let purchase = |authorities: &str, places: &str| Purchase {
        token: market.folder.path().join("none"),
        token_flag: "--token-file",
        authorities: market.file(authorities),
        controllers: Places::parse(places).unwrap(),
    };
    let error = purchase("none", "https://a:1")
        .start()
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("--file '") && error.contains("cannot be read"),
        "{error}"
    );
    let error = purchase("token", "https://a:1")
        .start()
        .unwrap_err()
        .to_string();
    assert!(error.contains("it holds no certificate"), "{error}");
    let error = purchase("ca", "https://a..b:1")
        .start()
        .unwrap_err()
        .to_string();
    assert!(error.contains("'a..b'"), "{error}");
    let error = purchase("ca", "https://a:1")
        .read_token()
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("--token-file '"), "{error}");
}

#[test]
fn renewal_is_due_between_four_tenths_and_half_of_what_is_left() {
    let ca = Authority::new("ours");
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_after = (now + Duration::from_secs(24 * 3600)).into();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    let hours = |jitter| {
        let due = due(certificate.der(), now, jitter).unwrap();
        due.duration_since(now).unwrap().as_secs_f64() / 3600.0
    };
    assert!((hours(0.0) - 12.0).abs() < 0.01);
    assert!((hours(1.0) - 9.6).abs() < 0.01);
    let later = now + Duration::from_secs(25 * 3600);
    assert!(due(certificate.der(), later, 0.0).is_err());
}
