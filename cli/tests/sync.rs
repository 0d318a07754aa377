//! The real controller's sync server and the real data plane's control task, over the real
//! transport: in the process, on a Unix socket and over mutual TLS, whole and byte by byte.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::io;
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bodhi_controller::sync::{
    Config, OwnersError, OwnersFuture, Publication, ResponseOwner, ResponseOwners, ServeError,
    Server, Tokens,
};
use bodhi_dataplane::control::{self, Connect, Connector, Control, Controllers, Disk};
use bodhi_dataplane::proxy::{OwnerLookup as _, ResponseRecord};
use bodhi_net::identity::{self, Identity, PemFile, Role};
use bodhi_net::places::Places;
use bodhi_net::unix::BindError;
use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::provider::{Family, Format};
use bodhi_proto::snapshot::*;
use bodhi_proto::sync::{Revision, Source};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Nothing here takes longer.
const SOON: Duration = Duration::from_secs(10);

/// Response owners in memory; they can be made to fail.
#[derive(Default)]
struct Owners {
    kept: Mutex<Vec<(String, ResponseOwner)>>,
    down: AtomicBool,
}

impl ResponseOwners for Owners {
    fn record(&self, id: String, owner: ResponseOwner) -> OwnersFuture<'_, ()> {
        self.kept.lock().unwrap().push((id, owner));
        Box::pin(async { Ok(()) })
    }

    fn find(&self, id: String) -> OwnersFuture<'_, Option<ResponseOwner>> {
        let found = match self.down.load(Ordering::Relaxed) {
            true => Err(OwnersError("the database is away".to_owned())),
            false => {
                let kept = self.kept.lock().unwrap();
                Ok(kept.iter().find(|(k, _)| *k == id).map(|(_, o)| o.clone()))
            }
        };
        Box::pin(async { found })
    }
}

fn server(owners: &Arc<Owners>) -> Server {
    Server::new(Config {
        name: "controller-0".to_owned(),
        owners: Arc::clone(owners) as Arc<dyn ResponseOwners>,
    })
}

fn upstream(name: &str) -> Arc<Upstream> {
    Arc::new(Upstream {
        object: ObjectRef::api_model("bodhi", name),
        format: Format::OpenAi,
        base_url: BaseUrl::parse("https://api.example.com/v1").unwrap(),
        auth: Auth::None,
        features: Features::ALL,
        output_limit_field: OutputLimitField::MaxTokens,
        extra_headers: Vec::new(),
        extra_body: None,
        timeouts: Timeouts::default(),
        attempts: NonZeroU32::MIN,
        max_in_flight: NonZeroU32::new(500).unwrap(),
        roots: Roots::System,
        egress: EgressScope::Standalone,
    })
}

fn served(name: &str) -> Arc<ServedName> {
    Arc::new(ServedName {
        key: ServedKey::parse(&format!("general/exact/{name}")).unwrap(),
        owner: ObjectRef::alias("bodhi", "alias"),
        created: 1,
        visibility: Visibility::Public,
        serving: Serving::Routes(vec![Route {
            upstream: ObjectRef::api_model("bodhi", "openai"),
            model: RouteModel::AsAsked,
            exposed: None,
            weight: NonZeroU32::MIN,
            priority: 0,
        }]),
        max_output_tokens: None,
        defaults: None,
    })
}

fn token(id: &str) -> Arc<Token> {
    Arc::new(Token {
        id: TokenId::parse(id).unwrap(),
        hash: TokenHash::of(id.as_bytes()),
        owner: "ann".into(),
        scope: Scope::User,
        expires: None,
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    })
}

/// Everything once: these names, and tokens `a` and `b`.
fn everything(names: &[&str]) -> Publication {
    Publication {
        upstreams: Some(vec![upstream("openai")]),
        served_names: Some(names.iter().map(|n| served(n)).collect()),
        credentials: Some(Vec::new()),
        policy: Some(Arc::default()),
        tokens: Tokens::All(vec![token("a"), token("b")]),
        marks: vec![
            (Source::Objects, Revision::number(1)),
            (Source::Store, Revision::number(10)),
            (Source::Workers, Revision::number(1)),
        ],
        pools: Some(Vec::new()),
        endpoints: Some(Vec::new()),
        reread: false,
    }
}

fn plane(connect: Connect, disk: Option<&Path>) -> Control {
    let disk = disk.map(|folder| Disk {
        folder: folder.to_owned(),
        key_file: folder.join("key"),
        create_key: true,
    });
    let config = control::Config {
        node: "plane-0".to_owned(),
        connect,
        disk,
    };
    Control::start(config, &Handle::current()).unwrap()
}

/// The first snapshot that fits.
async fn snapshot(control: &Control, fits: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let mut snapshots = control.snapshots();
    let found = snapshots.wait_for(|s| s.as_ref().is_some_and(|s| fits(s)));
    let found = timeout(SOON, found).await.expect("it comes soon").unwrap();
    found.clone().unwrap()
}

fn serves(snapshot: &Snapshot, name: &str) -> bool {
    snapshot.table.find(Family::General, name).is_some()
}

fn knows(snapshot: &Snapshot, id: &str) -> bool {
    let table = snapshot.tokens.as_ref();
    table.is_some_and(|t| t.get(&TokenHash::of(id.as_bytes())).is_some())
}

/// Connects once. A plane that came back would tell how its second stream ended.
fn once(connector: Connector) -> Connect {
    let connected = AtomicBool::new(false);
    Connect::InProcess(Arc::new(move || {
        match connected.swap(true, Ordering::Relaxed) {
            false => connector(),
            true => Box::pin(std::future::pending()),
        }
    }))
}

/// Bytes to and from a Unix socket.
fn bridge(socket: PathBuf) -> Connector {
    Arc::new(move || {
        let socket = socket.clone();
        Box::pin(async move {
            let mut stream = UnixStream::connect(socket).await?;
            let (near, mut far) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut far, &mut stream).await });
            Ok(near)
        })
    })
}

/// How the first stream ended.
async fn end(control: &Control) -> Option<String> {
    let mut status = control.status();
    let ended = status.wait_for(|s| s.last_end.is_some());
    let end = timeout(SOON, ended).await.expect("it ends soon").unwrap();
    end.last_end.clone()
}

fn nowhere() -> Connect {
    Connect::Unix(PathBuf::from("/nonexistent/controller.sock"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_arrives_and_is_acknowledged() {
    let server = server(&Arc::default());
    let control = plane(Connect::InProcess(server.in_process()), None);
    assert!(control.snapshots().borrow().is_none(), "not ready yet");
    server.publish(everything(&["fast"]));
    let first = snapshot(&control, |s| serves(s, "fast") && knows(s, "a")).await;
    assert_eq!(&*first.mark, "objects=1;store=10;workers=1");

    let published = server.publish(Publication {
        served_names: Some(vec![served("fast"), served("slow")]),
        marks: vec![(Source::Objects, Revision::number(2))],
        ..Publication::default()
    });
    assert_eq!((published.changed, published.held.len()), (1, 0));
    let second = snapshot(&control, |s| serves(s, "slow")).await;
    assert!(Arc::ptr_eq(&first.upstreams, &second.upstreams));

    let mut acks = server.acks_changed();
    while server
        .acks()
        .containing(Source::Objects, Revision::number(2))
        == 0
    {
        timeout(SOON, acks.changed()).await.unwrap().unwrap();
    }
    assert_eq!(server.acks().planes[0].node, "plane-0");
    assert_eq!(server.acks().planes[0].divergences, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_is_applied_within_a_second() {
    let server = server(&Arc::default());
    let control = plane(Connect::InProcess(server.in_process()), None);
    server.publish(everything(&["fast"]));
    snapshot(&control, |s| knows(s, "a")).await;
    let revision = Revision::number(11);
    server.publish(Publication {
        tokens: Tokens::Changed {
            upserts: Vec::new(),
            removals: vec![(TokenId::parse("a").unwrap(), revision)],
        },
        marks: vec![(Source::Store, revision)],
        ..Publication::default()
    });
    let applied = server.wait_applied(revision, Duration::from_secs(1)).await;
    assert_eq!(applied.applied, ["plane-0"]);
    assert!(applied.pending.is_empty());
    let now = control.snapshots().borrow().clone().unwrap();
    assert!(!knows(&now, "a") && knows(&now, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_come_byte_by_byte_are_the_same_frames() {
    let server = server(&Arc::default());
    let inner = server.in_process();
    let drip: Connector = Arc::new(move || {
        let inner = Arc::clone(&inner);
        Box::pin(async move {
            let (near, far) = tokio::io::duplex(1 << 10);
            let server = inner().await?;
            let (mut from_server, mut to_server) = tokio::io::split(server);
            let (mut from_plane, mut to_plane) = tokio::io::split(far);
            tokio::spawn(async move {
                while let Ok(byte) = from_server.read_u8().await {
                    to_plane.write_u8(byte).await?;
                }
                io::Result::Ok(())
            });
            tokio::spawn(async move {
                while let Ok(byte) = from_plane.read_u8().await {
                    to_server.write_u8(byte).await?;
                }
                io::Result::Ok(())
            });
            Ok(near)
        })
    });
    let control = plane(Connect::InProcess(drip), None);
    server.publish(everything(&["fast"]));
    snapshot(&control, |s| serves(s, "fast") && knows(s, "b")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_and_cut_connections_change_nothing() {
    let server = server(&Arc::default());
    server.publish(everything(&["fast"]));
    let good = server.in_process();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    // One good connection that is cut, then garbage, then silence that ends, then good again.
    let faulty: Connector = Arc::new(move || {
        let (n, good) = (counted.fetch_add(1, Ordering::Relaxed), Arc::clone(&good));
        Box::pin(async move {
            let (near, mut far) = tokio::io::duplex(1 << 16);
            match n {
                0 => {
                    let mut server = good().await?;
                    tokio::spawn(async move {
                        let copy = tokio::io::copy_bidirectional(&mut far, &mut server);
                        timeout(Duration::from_millis(700), copy).await
                    });
                }
                1 => far.write_all(&[0x5A; 4096]).await?,
                2 => drop(far),
                _ => return good().await,
            }
            Ok(near)
        })
    });
    let control = plane(Connect::InProcess(faulty), None);
    let first = snapshot(&control, |s| serves(s, "fast")).await;
    let mut status = control.status();
    let again = status.wait_for(|s| s.streams >= 2 && s.controller.is_some());
    timeout(SOON, again).await.unwrap().unwrap();
    assert!(attempts.load(Ordering::Relaxed) >= 4);
    let now = control.snapshots().borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&first.table, &now.table));
}

/// F1: a controller that comes back empty-handed, or not at all, takes nothing away.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_controller_wipes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("controller.sock");
    let (stop, running) = listen(&socket, &["fast"]).await;
    let control = plane(Connect::Unix(socket.clone()), None);
    let first = snapshot(&control, |s| serves(s, "fast")).await;
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Another one on the same socket is refused.
    let second = server(&Arc::default());
    let refused = second.serve_unix(&socket, std::future::pending()).await;
    assert!(matches!(
        refused,
        Err(ServeError::Listen(BindError::InUse(_)))
    ));

    drop(stop);
    timeout(SOON, running).await.unwrap().unwrap();
    let mut status = control.status();
    let gone = status.wait_for(|s| s.controller.is_none());
    timeout(SOON, gone).await.unwrap().unwrap();
    let now = control.snapshots().borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&first.table, &now.table));

    // It is back, has read nothing yet, and has nothing to say.
    let empty = server(&Arc::default());
    let offered = empty.clone();
    let (_stop, stopped) = oneshot::channel::<()>();
    let path = socket.clone();
    tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        empty.serve_unix(&path, stopped).await
    });
    let back = status.wait_for(|s| s.controller.is_some());
    timeout(SOON, back).await.unwrap().unwrap();
    let now = control.snapshots().borrow().clone().unwrap();
    assert!(serves(&now, "fast") && knows(&now, "a"));
    // Then it has read the same as before: nothing changes hands.
    offered.publish(everything(&["fast"]));
    let mut acks = offered.acks_changed();
    while offered
        .acks()
        .containing(Source::Store, Revision::number(10))
        == 0
    {
        timeout(SOON, acks.changed()).await.unwrap().unwrap();
    }
    let now = control.snapshots().borrow().clone().unwrap();
    assert!(Arc::ptr_eq(&first.table, &now.table));
}

async fn listen(
    socket: &Path,
    names: &[&str],
) -> (oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
    let server = server(&Arc::default());
    server.publish(everything(names));
    let (stop, stopped) = oneshot::channel::<()>();
    let path = socket.to_owned();
    let running = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        server.serve_unix(&path, stopped).await.unwrap();
    });
    (stop, running)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_plane_is_ready_from_its_file_without_any_controller() {
    let folder = tempfile::tempdir().unwrap();
    keep(folder.path()).await;
    let control = plane(nowhere(), Some(folder.path()));
    // It is there when `start` returns.
    let kept = control.snapshots().borrow().clone().unwrap();
    assert!(serves(&kept, "fast") && knows(&kept, "a") && knows(&kept, "b"));
    assert_eq!(&*kept.mark, "objects=1;store=10;workers=1");
    for file in ["key", "snapshot.sealed"] {
        let mode = std::fs::metadata(folder.path().join(file)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{file}");
    }
    // Nothing legible is in it.
    let bytes = std::fs::read(folder.path().join("snapshot.sealed")).unwrap();
    assert!(!bytes.windows(4).any(|w| w == b"fast"));
}

/// A data plane that was up to date and stopped in good order.
async fn keep(folder: &Path) {
    let server = server(&Arc::default());
    server.publish(everything(&["fast"]));
    let control = plane(Connect::InProcess(server.in_process()), Some(folder));
    snapshot(&control, |s| serves(s, "fast") && knows(s, "a")).await;
    control.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_trusted_are_set_aside_or_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("snapshot.sealed");
    let ready = || {
        plane(nowhere(), Some(folder.path()))
            .snapshots()
            .borrow()
            .is_some()
    };
    keep(folder.path()).await;
    let good = std::fs::read(&path).unwrap();
    assert!(ready());

    let aside = folder.path().join("snapshot.sealed.bad");
    let mut cases = vec![
        ("empty", Vec::new()),
        ("cut at a frame", good[..good.len() - 21].to_vec()),
        (
            "another kind",
            b"BODHIDNY".iter().chain(&good[8..]).copied().collect(),
        ),
        ("a future version", [&good[..8], &[9], &good[9..]].concat()),
    ];
    for at in [20, 45, good.len() / 2, good.len() - 1] {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        cases.push(("a flipped bit", flipped));
    }
    for (what, bytes) in cases {
        std::fs::write(&path, bytes).unwrap();
        assert!(!ready(), "{what}");
        assert!(aside.exists() && !path.exists(), "{what}");
        std::fs::remove_file(&aside).unwrap();
    }

    // Unconfirmed for more than a day: not used. Confirmed an hour ago: used.
    std::fs::write(&path, &good).unwrap();
    let touch = |age: u64| {
        let then = SystemTime::now() - Duration::from_secs(age);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(then).unwrap();
    };
    touch(25 * 3600);
    assert!(!ready() && path.exists());
    touch(3600);
    assert!(ready());

    // Another key opens nothing.
    std::fs::write(folder.path().join("key"), [7; 32]).unwrap();
    assert!(!ready() && aside.exists());
    std::fs::write(folder.path().join("key"), [7; 31]).unwrap();
    let short = control::Config {
        node: "plane-0".to_owned(),
        connect: nowhere(),
        disk: Some(Disk {
            folder: folder.path().to_owned(),
            key_file: folder.path().join("key"),
            create_key: true,
        }),
    };
    let refused = Control::start(short, &Handle::current()).unwrap_err();
    assert!(
        refused.to_string().contains("fewer than 32 bytes"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_in_the_journal_before_it_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    keep(folder.path()).await;
    let journal = folder.path().join("denies.sealed");
    let server = server(&Arc::default());
    server.publish(everything(&["fast"]));
    let control = plane(Connect::InProcess(server.in_process()), Some(folder.path()));
    timeout(SOON, control.status().wait_for(|s| s.confirmed.is_some()))
        .await
        .unwrap()
        .unwrap();
    // The store has said so, and no publication contains it yet.
    server.deny(TokenId::parse("a").unwrap(), Revision::number(11));
    server.deny(TokenId::parse("b").unwrap(), Revision::number(12));
    let applied = server.wait_applied(Revision::number(12), SOON).await;
    assert_eq!(applied.applied, ["plane-0"]);
    // Killed: nothing is written any more.
    drop(control);
    assert!(journal.exists());
    let again = plane(nowhere(), Some(folder.path()));
    let kept = again.snapshots().borrow().clone().unwrap();
    assert!(serves(&kept, "fast") && !knows(&kept, "a") && !knows(&kept, "b"));

    // A record that was being written when the process died harms none before it.
    let bytes = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &bytes[..bytes.len() - 3]).unwrap();
    let again = plane(nowhere(), Some(folder.path()));
    let kept = again.snapshots().borrow().clone().unwrap();
    assert!(!knows(&kept, "a") && knows(&kept, "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn response_owners_are_recorded_and_found() {
    let owners = Arc::new(Owners::default());
    let server = server(&owners);
    let control = plane(Connect::InProcess(server.in_process()), None);
    let record = ResponseRecord {
        id: "resp_1".into(),
        upstream: ObjectRef::api_model("bodhi", "openai"),
        owner: "ann".into(),
    };
    let client = control.owners();
    timeout(SOON, client.record(record.clone()))
        .await
        .unwrap()
        .unwrap();
    let found = timeout(SOON, client.find("resp_1")).await.unwrap();
    assert_eq!(found.unwrap(), Some(record));
    assert_eq!(client.find("resp_2").await.unwrap(), None);
    owners.down.store(true, Ordering::Relaxed);
    assert!(client.find("resp_1").await.is_err());
    // Nobody is there: an answer, and soon.
    let alone = plane(nowhere(), None);
    let asked = timeout(SOON, alone.owners().find("resp_1")).await;
    assert!(asked.unwrap().is_err());
}

/// The three files of an end.
fn files_of(folder: &Path, end: &str, name: &str, ca: &Authority) -> Identity {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    let file = |ending: &str, text: String| {
        let path = folder.join(format!("{end}.{ending}"));
        std::fs::write(&path, text).unwrap();
        PemFile {
            path,
            flag: "--file",
        }
    };
    Identity {
        certificate: file("crt", certificate.pem()),
        key: file("key", key.serialize_pem()),
        authorities: file("ca", ca.pem.clone()),
    }
}

struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

fn authority() -> Authority {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(params, key);
    Authority { issuer, pem }
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_and_response_owners_go_over_mutual_tls() {
    let (folder, ca) = (tempfile::tempdir().unwrap(), authority());
    let owners = Arc::new(Owners::default());
    let server = server(&owners);
    server.publish(everything(&["fast"]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let own = files_of(folder.path(), "controller", "127.0.0.1", &ca);
    let own = identity::Server::load(own, &[Role::DataPlane]).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = server.clone();
    let running = tokio::spawn(async move {
        let stopped = async { drop(stopped.await) };
        serving.serve_tls(listener, own, stopped).await
    });

    let own = files_of(folder.path(), "plane", "dataplane", &ca);
    let client = Arc::new(identity::Client::load(own).unwrap());
    let controllers =
        Controllers::new(client, Places::from_iter([("127.0.0.1".to_owned(), port)])).unwrap();
    let control = plane(Connect::Tls(Arc::new(controllers)), None);
    snapshot(&control, |s| serves(s, "fast") && knows(s, "a")).await;
    let record = ResponseRecord {
        id: "resp_1".into(),
        upstream: ObjectRef::api_model("bodhi", "openai"),
        owner: "ann".into(),
    };
    let asked = control.owners();
    asked.record(record.clone()).await.unwrap();
    assert_eq!(asked.find("resp_1").await.unwrap(), Some(record));

    // A controller that stops says goodbye and does not wait for anybody.
    drop(stop);
    timeout(SOON, running).await.unwrap().unwrap().unwrap();
    assert_eq!(
        end(&control).await.as_deref(),
        Some("goodbye: the controller stops")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_loses_most_is_believed_the_second_time() {
    let server = server(&Arc::default());
    let names: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    server.publish(everything(&names));
    let control = plane(Connect::InProcess(server.in_process()), None);
    snapshot(&control, |s| serves(s, "m39")).await;
    let mut shrunk = everything(&names[..10]);
    shrunk.marks = vec![(Source::Objects, Revision::number(2))];
    let first = server.publish(shrunk.clone());
    assert_eq!((first.held[0].removed, first.held[0].of), (30, 40));
    assert_eq!(server.mark().at(Source::Objects), Some(Revision::number(1)));
    let again = server.publish(shrunk.clone());
    assert_eq!(again.held, first.held, "the same list proves nothing");
    shrunk.reread = true;
    let second = server.publish(shrunk);
    assert_eq!((second.changed, second.held.len()), (30, 0));
    snapshot(&control, |s| !serves(s, "m39") && serves(s, "m9")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goodbye_ends_every_stream() {
    let server = server(&Arc::default());
    server.publish(everything(&["fast"]));
    let planes = [(); 3].map(|()| plane(once(server.in_process()), None));
    for control in &planes {
        snapshot(control, |s| serves(s, "fast")).await;
    }
    server.goodbye("an upgrade");
    for control in &planes {
        assert_eq!(end(control).await.as_deref(), Some("goodbye: an upgrade"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_stops_says_so_first() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("controller.sock");
    let (stop, running) = listen(&socket, &["fast"]).await;
    let control = plane(once(bridge(socket.clone())), None);
    snapshot(&control, |s| serves(s, "fast")).await;
    drop(stop);
    let end = end(&control).await;
    assert_eq!(end.as_deref(), Some("goodbye: the controller stops"));
    timeout(SOON, running).await.unwrap().unwrap();
    assert!(!socket.exists(), "the socket is left behind");
}
