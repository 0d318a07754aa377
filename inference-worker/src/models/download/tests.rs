//! Against a real HTTP server on loopback that misbehaves on request.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::EgressScope;
use bytes::Bytes;
use futures_util::StreamExt as _;

use super::*;
use crate::models::gguf::sample::Sample;
use crate::models::source::{Floating, PlainHttp};
use crate::models::{Artifact, Cache, Reason, obtain};

/// How one request is answered.
#[derive(Clone)]
enum Act {
    /// As a good server does, ranges included.
    Serve,
    /// The same, without ranges.
    ServeWhole,
    /// After so many bytes of the body the connection is closed.
    CutAfter(usize),
    /// After so many bytes nothing comes any more.
    StallAfter(usize),
    /// A complete answer of these bytes that announces this length or none.
    Raw(Vec<u8>, Option<usize>),
    Status(u16, Vec<(&'static str, String)>),
    /// From here on it is another file.
    Change(Vec<u8>),
}

#[derive(Default)]
struct Stage {
    file: Vec<u8>,
    etag: String,
    script: VecDeque<Act>,
    seen: Vec<(String, HeaderMap)>,
}

/// A scripted server; what the script does not say is served well.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    stage: Arc<Mutex<Stage>>,
}

impl Server {
    async fn start(file: Vec<u8>, script: impl IntoIterator<Item = Act>) -> Self {
        let stage = Arc::new(Mutex::new(Stage {
            file,
            etag: "\"one\"".to_owned(),
            script: script.into_iter().collect(),
            seen: Vec::new(),
        }));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&stage));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, stage }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn requests(&self) -> usize {
        self.stage.lock().unwrap().seen.len()
    }

    fn header(&self, request: usize, name: &str) -> Option<String> {
        let stage = self.stage.lock().unwrap();
        let value = stage.seen[request].1.get(name)?;
        Some(value.to_str().unwrap().to_owned())
    }
}

async fn answer(State(stage): State<Arc<Mutex<Stage>>>, request: Request) -> Response<Body> {
    let mut stage = stage.lock().unwrap();
    let headers = request.headers().clone();
    stage
        .seen
        .push((request.uri().path().to_owned(), headers.clone()));
    let act = match stage.script.pop_front().unwrap_or(Act::Serve) {
        Act::Change(file) => {
            stage.file = file;
            stage.etag = "\"two\"".to_owned();
            stage.script.pop_front().unwrap_or(Act::Serve)
        }
        act => act,
    };
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    if text("if-none-match").as_ref() == Some(&stage.etag) {
        return Response::builder().status(304).body(Body::empty()).unwrap();
    }
    let fresh = text("if-range").is_none_or(|etag| etag == stage.etag);
    let from = text("range").filter(|_| fresh && !matches!(act, Act::ServeWhole));
    let from = from.map(|r| {
        r["bytes=".len()..]
            .trim_end_matches('-')
            .parse::<usize>()
            .unwrap()
    });
    let total = stage.file.len();
    if from.is_some_and(|from| from >= total) && matches!(act, Act::Serve) {
        let range = format!("bytes */{total}");
        return Response::builder()
            .status(416)
            .header("content-range", range)
            .body(Body::empty())
            .unwrap();
    }
    let body = stage.file[from.unwrap_or(0).min(total)..].to_vec();
    let builder = Response::builder().header("etag", &stage.etag);
    let builder = match from {
        Some(from) => builder.status(206).header(
            "content-range",
            format!("bytes {from}-{}/{total}", total - 1),
        ),
        None => builder.status(200),
    };
    let cut = |len: usize, rest: Pace| {
        let first = Bytes::copy_from_slice(&body[..len.min(body.len())]);
        let first = futures_util::stream::iter([Ok(first)]);
        let rest = futures_util::stream::once(async move {
            match rest {
                Pace::Broken => Err(std::io::Error::other("cut")),
                Pace::Stalled => std::future::pending::<Result<Bytes, _>>().await,
            }
        });
        // Headers and first bytes are flushed before the break.
        let gap = futures_util::stream::once(async {
            tokio::task::yield_now().await;
            Ok(Bytes::new())
        });
        Body::from_stream(first.chain(gap).chain(rest))
    };
    let length = body.len().to_string();
    match act {
        Act::CutAfter(len) => builder
            .header("content-length", length)
            .body(cut(len, Pace::Broken)),
        Act::StallAfter(len) => builder
            .header("content-length", length)
            .body(cut(len, Pace::Stalled)),
        Act::Raw(body, len) => {
            let builder = Response::builder().header("etag", "\"raw\"");
            match len {
                Some(len) => builder.header("content-length", len).body(Body::from(body)),
                None => {
                    let one = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from(body))]);
                    builder.body(Body::from_stream(one))
                }
            }
        }
        Act::Status(status, headers) => {
            let builder = Response::builder().status(StatusCode::from_u16(status).unwrap());
            headers
                .into_iter()
                .fold(builder, |builder, (name, value)| {
                    builder.header(name, value)
                })
                .body(Body::from("a page"))
        }
        Act::Serve | Act::ServeWhole | Act::Change(_) => builder.body(Body::from(body)),
    }
    .unwrap()
}

enum Pace {
    Broken,
    Stalled,
}

/// A well-formed model of some hundred kilobytes.
fn model(fill: u8) -> Vec<u8> {
    let name = format!("model {fill}");
    let sample = Sample::empty()
        .string("general.architecture", "llama")
        .string("general.name", &name);
    let mut file = sample.tensor("t", &[64, 4000], 8).bytes();
    let data = file.len() - 272_000;
    for (at, byte) in file[data..].iter_mut().enumerate() {
        *byte = (at as u8).wrapping_mul(31) ^ fill;
    }
    file
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

fn settings() -> Settings {
    let none = |_: &str| None;
    let egress = EgressScope::Standalone;
    let mut settings =
        Settings::from_variables(none, "/claims".into(), egress, PlainHttp::Loopback).unwrap();
    settings.patience = Patience {
        tries: 4,
        first: Duration::from_millis(2),
        longest: Duration::from_millis(10),
        asked: Duration::from_secs(5),
        silence: Duration::from_millis(300),
    };
    settings
}

fn web(server: &Server, sha256: Option<&Digest>) -> Spec {
    let sha256 = sha256.map(ToString::to_string);
    let url = server.url("/models/a.gguf");
    Spec::parse(
        &url,
        None,
        sha256.as_deref(),
        Floating::Refused,
        PlainHttp::Loopback,
    )
    .unwrap()
}

fn quiet(_: &Progress) {}

async fn fetch(spec: &Spec, folder: &Path) -> Result<Artifact, ModelError> {
    obtain(spec, &settings(), &Cache::at(folder), &quiet).await
}

fn bytes_of(artifact: &Artifact) -> Vec<u8> {
    std::fs::read(&artifact.path).unwrap()
}

/// What lies in the cache besides the lock.
fn names(folder: &Path) -> Vec<String> {
    let shelf = std::fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let entries = std::fs::read_dir(shelf).unwrap();
    let mut names: Vec<_> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.retain(|name| name != ".lock");
    names.sort();
    names
}

#[tokio::test]
async fn a_pinned_file_is_downloaded_once_and_never_asked_for_again() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let server = Server::start(file.clone(), []).await;
    let spec = web(&server, Some(&digest_of(&file)));
    let reports = Mutex::new(Vec::new());
    let observer = |progress: &Progress| reports.lock().unwrap().push(progress.clone());
    let artifact = obtain(&spec, &settings(), &Cache::at(folder.path()), &observer)
        .await
        .unwrap();
    assert_eq!(bytes_of(&artifact), file);
    assert_eq!(artifact.header.name.as_deref(), Some("model 1"));
    assert_eq!(artifact.parts[0].sha256, Some(digest_of(&file)));
    assert_eq!(names(folder.path()), ["a.gguf", "a.gguf.json"]);
    let reports = reports.into_inner().unwrap();
    assert!(reports.windows(2).all(|pair| pair[0].done <= pair[1].done));
    assert_eq!(reports.last().unwrap().phase, Phase::Done);
    assert_eq!(reports.last().unwrap().done, file.len() as u64);

    let again = fetch(&spec, folder.path()).await.unwrap();
    assert_eq!(again, artifact);
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn a_broken_connection_is_resumed_where_it_broke() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let script = [
        Act::CutAfter(100_000),
        Act::CutAfter(50_000),
        Act::StallAfter(1000),
    ];
    let server = Server::start(file.clone(), script).await;
    let artifact = fetch(&web(&server, Some(&digest_of(&file))), folder.path())
        .await
        .unwrap();
    assert_eq!(bytes_of(&artifact), file);
    assert_eq!(server.requests(), 4);
    let ranges: Vec<_> = (0..4).map(|n| server.header(n, "range")).collect();
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1].as_deref(), Some("bytes=100000-"));
    assert_eq!(ranges[2].as_deref(), Some("bytes=150000-"));
    assert_eq!(ranges[3].as_deref(), Some("bytes=151000-"));
    assert_eq!(server.header(3, "if-range").as_deref(), Some("\"one\""));
}

#[tokio::test]
async fn a_server_without_ranges_is_read_from_the_beginning() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let server = Server::start(file.clone(), [Act::CutAfter(9000), Act::ServeWhole]).await;
    let artifact = fetch(&web(&server, None), folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
}

#[tokio::test]
async fn a_file_that_changes_midway_is_never_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let script = [Act::CutAfter(100_000), Act::Change(model(2))];
    let server = Server::start(model(1), script).await;
    let artifact = fetch(&web(&server, None), folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), model(2));
}

#[tokio::test]
async fn what_is_left_of_another_file_is_thrown_away() {
    let folder = tempfile::tempdir().unwrap();
    let mut longer = model(1);
    longer.resize(longer.len() + 64, 0);
    // The rest of a longer file was never sent: the server's file ends before it.
    let script = [
        Act::CutAfter(longer.len() - 32),
        Act::Status(416, vec![("content-range", "bytes */5".into())]),
    ];
    let server = Server::start(longer.clone(), script).await;
    let artifact = fetch(&web(&server, None), folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), longer);
    assert_eq!(server.header(2, "range"), None);
}

#[tokio::test]
async fn a_dropped_download_is_taken_up_by_the_next_worker() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let server = Server::start(file.clone(), [Act::StallAfter(120_000)]).await;
    let spec = web(&server, Some(&digest_of(&file)));
    let (sent, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let observer = move |progress: &Progress| {
        // The receiver outlives the download or does not care.
        let _ = sent.send(progress.done);
    };
    let cache = Cache::at(folder.path());
    let set = settings();
    {
        let mut download = std::pin::pin!(obtain(&spec, &set, &cache, &observer));
        loop {
            tokio::select! {
                biased;
                done = arrived.recv() => if done == Some(120_000) { break },
                _ = &mut download => panic!("the server stalls"),
            }
        }
    }
    assert_eq!(
        names(folder.path()),
        ["a.gguf.partial", "a.gguf.partial.json"]
    );
    let artifact = fetch(&spec, folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
    let range = server.header(1, "range").unwrap();
    let from: u64 = range["bytes=".len()..range.len() - 1].parse().unwrap();
    assert!((1..=120_000).contains(&from), "{range}");
    assert_eq!(names(folder.path()), ["a.gguf", "a.gguf.json"]);
}

#[tokio::test]
async fn a_partial_file_that_was_damaged_is_begun_anew() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let give_up = Act::Status(404, vec![]);
    let server = Server::start(file.clone(), [Act::CutAfter(100_000), give_up]).await;
    let spec = web(&server, Some(&digest_of(&file)));
    fetch(&spec, folder.path()).await.unwrap_err();
    let shelf = std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let partial = shelf.join("a.gguf.partial");
    let mut bytes = std::fs::read(&partial).unwrap();
    bytes[50_000] ^= 1;
    std::fs::write(&partial, bytes).unwrap();
    let artifact = fetch(&spec, folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
}

#[tokio::test]
async fn two_workers_on_one_cache_download_once() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let server = Server::start(file.clone(), [Act::CutAfter(100_000)]).await;
    let spec = web(&server, Some(&digest_of(&file)));
    let (one, two) = tokio::join!(fetch(&spec, folder.path()), fetch(&spec, folder.path()));
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn a_wrong_file_is_refused_and_not_kept() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let server = Server::start(file.clone(), []).await;
    let wrong = digest_of(b"another");
    let error = fetch(&web(&server, Some(&wrong)), folder.path())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::ChecksumMismatch);
    let text = error.to_string();
    assert!(
        text.contains(&digest_of(&file).to_string()) && text.contains(&wrong.to_string()),
        "{text}"
    );
    assert_eq!(names(folder.path()), [""; 0]);
}

#[tokio::test]
async fn a_wrong_file_in_pieces_is_looked_at_twice_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(model(1), vec![Act::CutAfter(100_000); 30]).await;
    let wrong = digest_of(b"another");
    let error = fetch(&web(&server, Some(&wrong)), folder.path())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::ChecksumMismatch);
    assert_eq!(server.requests(), 6);
}

#[tokio::test]
async fn without_validator_or_digest_nothing_is_put_together() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let server = Server::start(file.clone(), [Act::CutAfter(100_000)]).await;
    server.stage.lock().unwrap().etag = "W/\"weak\"".to_owned();
    let artifact = fetch(&web(&server, None), folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
    assert_eq!(server.header(1, "range"), None);
}

#[tokio::test]
async fn a_page_instead_of_a_model_is_noticed_at_its_first_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let page = b"<!DOCTYPE html><title>Sign in</title>".to_vec();
    let server = Server::start(page, []).await;
    let error = fetch(&web(&server, None), folder.path()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NotGguf);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[tokio::test]
async fn a_damaged_head_is_refused_though_its_digest_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = model(1);
    file.truncate(200_000);
    let server = Server::start(file.clone(), []).await;
    let error = fetch(&web(&server, Some(&digest_of(&file))), folder.path())
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::ArtifactCorrupted);
    assert!(
        error.to_string().contains("the file has 200000 bytes"),
        "{error}"
    );
}

#[tokio::test]
async fn lengths_that_do_not_hold_are_not_believed() {
    for (act, reason) in [
        // No length: nobody could tell whether it is whole, or whether it ends.
        (Act::Raw(model(1), None), Reason::DownloadDenied),
        // A range that was not asked for.
        (
            Act::Status(206, vec![("content-range", "bytes 7-9/10".into())]),
            Reason::DownloadInterrupted,
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(model(1), vec![act; 4]).await;
        let error = fetch(&web(&server, None), folder.path()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
    }
}

#[tokio::test]
async fn a_short_body_ends_after_some_tries_with_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let script = [vec![Act::CutAfter(100_000)], vec![Act::CutAfter(0); 4]].concat();
    let server = Server::start(model(1), script).await;
    let error = fetch(&web(&server, None), folder.path()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::DownloadInterrupted);
    assert!(
        error
            .to_string()
            .contains("97.7 KiB of 265.8 KiB after 4 tries"),
        "{error}"
    );
}

#[tokio::test]
async fn a_busy_server_is_left_alone_as_long_as_it_asks() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let busy = Act::Status(429, vec![("retry-after", "1".into())]);
    let server = Server::start(file.clone(), [Act::Status(503, vec![]), busy]).await;
    let started = Instant::now();
    let artifact = fetch(&web(&server, None), folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(server.requests(), 3);
}

#[tokio::test]
async fn a_server_that_asks_for_too_long_is_not_waited_for() {
    for header in [
        ("retry-after", "3600".to_owned()),
        ("ratelimit", "\"downloads\";r=0;t=3600".to_owned()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(model(1), [Act::Status(429, vec![header])]).await;
        let error = fetch(&web(&server, None), folder.path()).await.unwrap_err();
        assert_eq!(error.reason(), Reason::RateLimited);
        assert!(error.to_string().contains("3600 s"), "{error}");
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn refusals_are_told_apart_and_not_repeated() {
    for (status, reason) in [
        (401, Reason::Unauthorized),
        (403, Reason::Unauthorized),
        (404, Reason::NotFound),
        (410, Reason::NotFound),
        (400, Reason::DownloadDenied),
        (451, Reason::DownloadDenied),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(model(1), [Act::Status(status, vec![])]).await;
        let error = fetch(&web(&server, None), folder.path()).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{status}");
        assert_eq!(server.requests(), 1);
    }
}

fn location(to: String) -> Act {
    Act::Status(302, vec![("location", to)])
}

#[tokio::test]
async fn a_credential_stays_with_its_origin() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let store = Server::start(file.clone(), []).await;
    let back = Server::start(file.clone(), []).await;
    // Within the origin, then to another, then back: once dropped it stays dropped.
    let script = [
        location("/moved".into()),
        location(store.url("/x")),
        Act::Serve,
    ];
    back.stage.lock().unwrap().script = script.into();
    store.stage.lock().unwrap().script = [location(back.url("/last"))].into();
    let mut spec = web(&back, None);
    spec.token = Some(Secret::new("canary"));
    let artifact = fetch(&spec, folder.path()).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
    let token = |server: &Server, n| server.header(n, "authorization");
    assert_eq!(token(&back, 0).as_deref(), Some("Bearer canary"));
    assert_eq!(token(&back, 1).as_deref(), Some("Bearer canary"));
    assert_eq!(token(&store, 0), None);
    assert_eq!(token(&back, 2), None);
}

#[tokio::test]
async fn a_redirect_leads_only_where_one_may_go() {
    for (to, expected) in [
        ("http://169.254.169.254/latest/meta-data", "not https"),
        (
            "https://169.254.169.254/latest/meta-data",
            "metadata service address",
        ),
        ("http://10.0.0.1/a.gguf", "not https"),
        ("file:///etc/passwd", "not https"),
        ("http://[", "no URL"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut set = settings();
        set.patience.tries = 1;
        let server = Server::start(model(1), [location(to.into())]).await;
        let error = obtain(&web(&server, None), &set, &Cache::at(folder.path()), &quiet)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::DownloadDenied, "{to}: {error}");
        assert!(error.to_string().contains(expected), "{to}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(model(1), (0..20).map(|n| location(format!("/{n}")))).await;
    let error = fetch(&web(&server, None), folder.path()).await.unwrap_err();
    assert!(
        error.to_string().contains("more than 10 redirects"),
        "{error}"
    );
}

#[tokio::test]
async fn addresses_that_may_not_be_dialled_are_not_dialled() {
    let server = Server::start(model(1), []).await;
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let folder = tempfile::tempdir().unwrap();
        let mut set = settings();
        set.egress = EgressScope::Release;
        let url = format!("http://{host}:{}/a.gguf", server.address.port());
        let spec = Spec::parse(&url, None, None, Floating::Refused, PlainHttp::Loopback).unwrap();
        let error = obtain(&spec, &set, &Cache::at(folder.path()), &quiet)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::DownloadDenied, "{host}: {error}");
        assert!(error.to_string().contains("loopback address"), "{error}");
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn a_floating_source_is_asked_for_news() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(model(1), [Act::Serve, Act::Serve, Act::Change(model(2))]).await;
    let spec = web(&server, None);
    assert_eq!(
        bytes_of(&fetch(&spec, folder.path()).await.unwrap()),
        model(1)
    );
    assert_eq!(
        bytes_of(&fetch(&spec, folder.path()).await.unwrap()),
        model(1)
    );
    assert_eq!(
        server.header(1, "if-none-match").as_deref(),
        Some("\"one\"")
    );
    assert_eq!(
        bytes_of(&fetch(&spec, folder.path()).await.unwrap()),
        model(2)
    );
    // Without its server, what is here is used.
    server.stage.lock().unwrap().script = vec![Act::Status(503, vec![]); 4].into();
    assert_eq!(
        bytes_of(&fetch(&spec, folder.path()).await.unwrap()),
        model(2)
    );
}

#[tokio::test]
async fn a_damaged_file_in_the_cache_is_downloaded_again() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let server = Server::start(file.clone(), []).await;
    let spec = web(&server, Some(&digest_of(&file)));
    let artifact = fetch(&spec, folder.path()).await.unwrap();
    let mut damaged = file.clone();
    damaged[200_000] ^= 1;
    std::fs::write(&artifact.path, damaged).unwrap();
    assert_eq!(bytes_of(&fetch(&spec, folder.path()).await.unwrap()), file);
    assert_eq!(server.requests(), 2);
    // Touched only: hashed, not downloaded.
    std::fs::write(&artifact.path, &file).unwrap();
    assert_eq!(bytes_of(&fetch(&spec, folder.path()).await.unwrap()), file);
    assert_eq!(server.requests(), 2);
}

/// A hub and the store that it redirects to.
async fn hub(file: &[u8], told: &Digest) -> (Server, Server, Settings) {
    let store = Server::start(file.to_vec(), []).await;
    let headers = vec![
        ("location", store.url("/blob?signature=canary")),
        ("x-linked-etag", format!("\"{told}\"")),
        ("x-linked-size", file.len().to_string()),
        ("x-repo-commit", "abc123".to_owned()),
    ];
    let front = Server::start(Vec::new(), vec![Act::Status(302, headers); 8]).await;
    let mut set = settings();
    set.hub = front.url("/").parse().unwrap();
    set.hub_token = Some(Secret::new("canary"));
    (front, store, set)
}

#[tokio::test]
async fn a_hubs_digest_is_verified_and_saves_a_download() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let (front, store, set) = hub(&file, &digest_of(&file)).await;
    let spec = Spec::parse(
        "hf://o/r/q/a.gguf",
        Some("v1"),
        None,
        Floating::Refused,
        PlainHttp::Loopback,
    );
    let spec = spec.unwrap();
    let cache = Cache::at(folder.path());
    let artifact = obtain(&spec, &set, &cache, &quiet).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
    assert_eq!(artifact.commit.as_deref(), Some("abc123"));
    assert_eq!(
        front.stage.lock().unwrap().seen[0].0,
        "/o/r/resolve/v1/q/a.gguf"
    );
    assert_eq!(
        front.header(0, "authorization").as_deref(),
        Some("Bearer canary")
    );
    assert_eq!(store.header(0, "authorization"), None);
    // A tag may move: the hub is asked, and what it says fits what is here.
    assert_eq!(obtain(&spec, &set, &cache, &quiet).await.unwrap(), artifact);
    assert_eq!(front.requests(), 2);
}

#[tokio::test]
async fn bytes_that_are_not_the_hubs_are_refused() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let (_front, _store, set) = hub(&file, &digest_of(b"another")).await;
    let spec = Spec::parse(
        "hf://o/r/a.gguf",
        None,
        None,
        Floating::Allowed,
        PlainHttp::Loopback,
    );
    let error = obtain(&spec.unwrap(), &set, &Cache::at(folder.path()), &quiet)
        .await
        .unwrap_err();
    assert_eq!(error.reason(), Reason::ChecksumMismatch);
    assert!(!error.to_string().contains("canary"), "{error}");
}

#[tokio::test]
async fn a_buckets_object_is_asked_for_by_a_signed_url() {
    let (file, folder) = (model(1), tempfile::tempdir().unwrap());
    let elsewhere = Act::Status(301, vec![("x-amz-bucket-region", "eu-west-3".into())]);
    let server = Server::start(file.clone(), [elsewhere]).await;
    let mut set = settings();
    set.s3.endpoint = Some(server.url("/").parse().unwrap());
    let spec = Spec::parse(
        "s3://bucket/m/a.gguf",
        None,
        None,
        Floating::Refused,
        PlainHttp::Loopback,
    )
    .unwrap();
    let cache = Cache::at(folder.path());
    let error = obtain(&spec, &set, &cache, &quiet).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("region eu-west-3: set AWS_REGION"),
        "{error}"
    );
    let artifact = obtain(&spec, &set, &cache, &quiet).await.unwrap();
    assert_eq!(bytes_of(&artifact), file);
    assert_eq!(server.stage.lock().unwrap().seen[1].0, "/bucket/m/a.gguf");
}

#[tokio::test]
async fn all_parts_of_a_split_model_are_brought() {
    let folder = tempfile::tempdir().unwrap();
    let part = |number: u32| {
        let sample = Sample::empty()
            .u32("split.no", number)
            .u32("split.count", 2);
        let name = format!("t{number}");
        sample
            .string("general.architecture", "llama")
            .tensor(&name, &[32, 10], 8)
            .bytes()
    };
    let server = Server::start(part(0), [Act::Serve, Act::Change(part(1))]).await;
    let url = server.url("/a-00002-of-00002.gguf");
    let spec = Spec::parse(&url, None, None, Floating::Refused, PlainHttp::Loopback).unwrap();
    let artifact = fetch(&spec, folder.path()).await.unwrap();
    assert_eq!(artifact.parts.len(), 2);
    assert!(artifact.path.ends_with("a-00001-of-00002.gguf"));
    assert_eq!(artifact.header.tensor_bytes, 680);
    assert_eq!(artifact.header.tensors, 2);
    // The first file in the second one's place.
    std::fs::copy(&artifact.parts[0].path, &artifact.parts[1].path).unwrap();
    let error = crate::models::inspect(&artifact.path).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("part 1 of 2, its name part 2 of 2"),
        "{error}"
    );
}

#[tokio::test]
async fn all_parts_of_a_hubs_model_are_of_one_commit() {
    let folder = tempfile::tempdir().unwrap();
    let part = |number: u32| {
        let sample = Sample::empty()
            .u32("split.no", number)
            .u32("split.count", 2);
        sample.string("general.architecture", "llama").bytes()
    };
    let headers = vec![
        ("x-repo-commit", "abc123".to_owned()),
        ("location", "/blob".to_owned()),
    ];
    let script = [
        Act::Status(302, headers),
        Act::Serve,
        Act::Change(part(1)),
        Act::Serve,
    ];
    let server = Server::start(part(0), script).await;
    let mut set = settings();
    set.hub = server.url("/").parse().unwrap();
    let spec = Spec::parse(
        "hf://o/r/a-00001-of-00002.gguf",
        None,
        None,
        Floating::Allowed,
        PlainHttp::Loopback,
    );
    let artifact = obtain(&spec.unwrap(), &set, &Cache::at(folder.path()), &quiet)
        .await
        .unwrap();
    assert_eq!(artifact.commit.as_deref(), Some("abc123"));
    let seen = &server.stage.lock().unwrap().seen;
    assert_eq!(seen[0].0, "/o/r/resolve/main/a-00001-of-00002.gguf");
    assert_eq!(seen[2].0, "/o/r/resolve/abc123/a-00002-of-00002.gguf");
}

#[tokio::test]
async fn local_files_are_used_where_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let file = model(1);
    std::fs::create_dir_all(folder.path().join("claim/m")).unwrap();
    let path = folder.path().join("claim/m/a.gguf");
    std::fs::write(&path, &file).unwrap();
    let mut set = settings();
    set.claims = folder.path().to_owned();
    let cache = Cache::at(folder.path().join("cache"));
    let wrong = digest_of(b"another").to_string();
    let right = digest_of(&file).to_string();
    for source in [
        format!("file://{}", path.display()),
        "pvc://claim/m/a.gguf".to_owned(),
    ] {
        let spec = |sha256| {
            Spec::parse(
                &source,
                None,
                sha256,
                Floating::Refused,
                PlainHttp::Loopback,
            )
            .unwrap()
        };
        let artifact = obtain(&spec(Some(&right)), &set, &cache, &quiet)
            .await
            .unwrap();
        assert_eq!(artifact.path, path);
        let error = obtain(&spec(Some(&wrong)), &set, &cache, &quiet)
            .await
            .unwrap_err();
        assert_eq!(error.reason(), Reason::ChecksumMismatch);
    }
    let spec = Spec::parse(
        "pvc://claim/m",
        None,
        None,
        Floating::Refused,
        PlainHttp::Loopback,
    )
    .unwrap();
    let error = obtain(&spec, &set, &cache, &quiet).await.unwrap_err();
    assert_eq!(error.reason(), Reason::NotFound);
    assert!(!folder.path().join("cache").exists());
}

#[tokio::test]
async fn a_file_larger_than_the_disk_is_refused_before_it_is_downloaded() {
    let folder = tempfile::tempdir().unwrap();
    let huge = Act::Status(
        206,
        vec![("content-range", format!("bytes 0-{0}/{0}", 1u64 << 60))],
    );
    let server = Server::start(model(1), [huge]).await;
    let error = fetch(&web(&server, None), folder.path()).await.unwrap_err();
    assert_eq!(error.reason(), Reason::CacheFull);
    assert!(
        error.to_string().contains("needs 1048576.0 TiB more"),
        "{error}"
    );
}
