//! A data plane as far as the protocol goes: it follows a controller's stream, keeps versions and
//! digests, and acknowledges.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bodhi_net::identity::{Client, Expected};
use bodhi_proto::digest::{Digests, Sums, Version};
use bodhi_proto::snapshot::{Kind, KindSet};
use bodhi_proto::sync::{Ack, Chunk, Commit, Down, Hello, Mark, Source, Up, sources};
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::config_sync_client::ConfigSyncClient;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// What all data planes are told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Told {
    /// Connect again whenever it grows.
    pub(crate) connection: u64,
    /// The first so many read nothing.
    pub(crate) silent: usize,
}

/// What a data plane says.
pub(crate) enum Event {
    /// It has all there is, for the first time.
    Complete,
    /// It contains the objects up to this revision.
    Objects(u64),
    /// It refuses what was revoked at this revision.
    Denied(u64),
    /// A stream has brought it level.
    Level,
    Failed(String),
}

/// What is known of all data planes together.
#[derive(Default)]
pub(crate) struct Books {
    /// A number for each name, so that a data plane's own table is an array.
    names: Mutex<HashMap<(Kind, Box<str>), usize>>,
    moved: AtomicUsize,
    tokens: AtomicUsize,
    diverged: AtomicUsize,
}

impl Books {
    fn number(&self, kind: Kind, name: &str) -> usize {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let next = names.len();
        *names.entry((kind, name.into())).or_insert(next)
    }

    /// Bytes per data plane since the last time: all within TLS, and those of tokens' messages.
    pub(crate) fn take(&self, planes: usize) -> (usize, usize) {
        let take = |count: &AtomicUsize| count.swap(0, Ordering::Relaxed) / planes;
        (take(&self.moved), take(&self.tokens))
    }

    pub(crate) fn diverged(&self) -> usize {
        self.diverged.load(Ordering::Relaxed)
    }
}

pub(crate) struct Plane {
    number: usize,
    books: Arc<Books>,
    events: mpsc::UnboundedSender<(usize, Event)>,
    /// By the number of the name; zero: not held.
    versions: Vec<u64>,
    sums: [Sums; Kind::ALL.len()],
    complete: KindSet,
    floor: Mark,
    staged: Vec<Chunk>,
    was_complete: bool,
}

impl Plane {
    pub(crate) fn new(
        number: usize,
        books: Arc<Books>,
        events: mpsc::UnboundedSender<(usize, Event)>,
    ) -> Self {
        Self {
            number,
            books,
            events,
            versions: Vec::new(),
            sums: std::array::from_fn(|_| Sums::default()),
            complete: KindSet::NONE,
            floor: Mark::default(),
            staged: Vec::new(),
            was_complete: false,
        }
    }

    /// Streams until told to connect again, and so on.
    pub(crate) async fn run(
        mut self,
        client: Arc<Client>,
        address: SocketAddr,
        expected: Expected,
        mut told: watch::Receiver<Told>,
    ) {
        loop {
            // As data planes do whose controller went.
            sleep(Duration::from_millis(200).mul_f64(rand::random())).await;
            if let Err(error) = self.stream(&client, address, &expected, &mut told).await {
                self.say(Event::Failed(format!("{error:#}")));
                return;
            }
        }
    }

    fn say(&self, event: Event) {
        // Where nobody listens the measurement is over.
        let _ = self.events.send((self.number, event));
    }

    async fn stream(
        &mut self,
        client: &Client,
        address: SocketAddr,
        expected: &Expected,
        told: &mut watch::Receiver<Told>,
    ) -> anyhow::Result<()> {
        let connection = told.borrow_and_update().connection;
        let stream = client.connect(address, expected).await?;
        let mut counted = Some(Counted {
            inner: stream,
            books: Arc::clone(&self.books),
        });
        let once = tower::service_fn(move |_: http::Uri| {
            let io = counted.take().ok_or(io::ErrorKind::NotConnected);
            async move { Ok::<_, io::Error>(TokioIo::new(io?)) }
        });
        let channel = Endpoint::from_static("http://controller")
            .connect_with_connector(once)
            .await?;
        let (up, outbound) = mpsc::channel::<pb::FromDataPlane>(1);
        up.send(self.hello().into()).await?;
        let mut client = ConfigSyncClient::new(channel).max_decoding_message_size(2 << 20);
        let mut inbound = client
            .sync(ReceiverStream::new(outbound))
            .await?
            .into_inner();
        let mut level = false;
        loop {
            let silent = self.number < told.borrow().silent;
            let message = tokio::select! {
                message = inbound.message(), if !silent => message?,
                changed = told.changed() => {
                    changed?;
                    match told.borrow_and_update().connection == connection {
                        true => continue,
                        false => return Ok(()),
                    }
                }
            };
            let message = message.context("closed by the controller")?;
            if let Some(up_message) = self.take_in(message)? {
                let is_ack = matches!(up_message, Up::Ack(_));
                up.send(up_message.into()).await?;
                if is_ack {
                    self.acknowledged(&mut level);
                }
            }
        }
    }

    fn acknowledged(&mut self, level: &mut bool) {
        let all = Kind::ALL
            .into_iter()
            .all(|kind| self.complete.contains(kind));
        if all && !self.was_complete {
            self.was_complete = true;
            self.say(Event::Complete);
        }
        if all && !*level {
            *level = true;
            self.say(Event::Level);
        }
        if let Some(at) = self.floor.at(Source::Objects) {
            self.say(Event::Objects(at.number));
        }
    }

    fn hello(&self) -> Up {
        Up::Hello(Hello {
            node: format!("bodhi-dataplane-7d9f8b6c5-{:05}", self.number),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            floor: self.floor,
            digests: self.digests(self.complete),
            rejections: Vec::new(),
            kinds: Kind::ALL.into_iter().collect(),
        })
    }

    fn digests(&self, of: KindSet) -> Digests {
        let mut digests = Digests::default();
        for kind in of.iter() {
            digests.set(kind, self.sums[kind.index()].total());
        }
        digests
    }

    fn take_in(&mut self, message: pb::FromController) -> anyhow::Result<Option<Up>> {
        if let Some(pb::from_controller::Message::Chunk(chunk)) = &message.message {
            let tokens = chunk
                .resources
                .iter()
                .filter(|r| r.kind == Kind::Token as i32);
            let size = tokens.map(prost::Message::encoded_len).sum();
            self.books.tokens.fetch_add(size, Ordering::Relaxed);
        }
        Ok(match Down::try_from(message)? {
            Down::Chunk(chunk) => self.chunk(chunk),
            Down::ShowBuckets(kind) => {
                self.books.diverged.fetch_add(1, Ordering::Relaxed);
                Some(Up::Buckets(kind, self.sums[kind.index()].clone()))
            }
            Down::Deny(deny) => {
                self.say(Event::Denied(deny.revision.number));
                Some(Up::Denied(deny.revision))
            }
            Down::Welcome(_) | Down::Leader(_) => None,
            Down::Goodbye(reason) => bail!("goodbye: {reason}"),
        })
    }

    fn chunk(&mut self, mut chunk: Chunk) -> Option<Up> {
        let commit = chunk.commit.take();
        // What acknowledging does not need is not kept.
        for put in &mut chunk.puts {
            put.body = bytes::Bytes::new();
        }
        self.staged.push(chunk);
        commit.map(|commit| self.commit(&commit))
    }

    fn commit(&mut self, commit: &Commit) -> Up {
        let mut named = KindSet::NONE;
        let mut transaction = 0;
        let mut puts: HashSet<(Kind, usize)> = HashSet::new();
        for chunk in std::mem::take(&mut self.staged) {
            transaction = chunk.transaction;
            for put in chunk.puts {
                named.insert(put.kind);
                let number = self.books.number(put.kind, &put.name);
                self.hold(put.kind, &put.name, number, put.version);
                if !commit.replacements.is_empty() && self.was_complete {
                    puts.insert((put.kind, number));
                }
            }
            for (kind, name) in chunk.removals {
                named.insert(kind);
                let number = self.books.number(kind, &name);
                self.hold(kind, &name, number, Version(0));
            }
        }
        for (kind, buckets) in &commit.replacements {
            named.insert(*kind);
            if self.was_complete {
                let gone: Vec<(String, usize)> = {
                    let names = &self.books.names;
                    let names = names.lock().unwrap_or_else(PoisonError::into_inner);
                    let of = names.iter().filter(|((k, name), number)| {
                        k == kind
                            && buckets.contains(bodhi_proto::digest::bucket(name))
                            && !puts.contains(&(*kind, **number))
                    });
                    of.map(|((_, name), number)| (name.to_string(), *number))
                        .collect()
                };
                for (name, number) in gone {
                    self.hold(*kind, &name, number, Version(0));
                }
            }
        }
        for kind in commit.complete.iter() {
            self.complete.insert(kind);
            for source in sources(kind) {
                if let Some(revision) = commit.mark.at(*source) {
                    self.floor.raise(*source, revision);
                }
            }
        }
        Up::Ack(Ack {
            transaction,
            digests: self.digests(named),
            ..Ack::default()
        })
    }

    /// Holds this version of a name, or with 0 none.
    fn hold(&mut self, kind: Kind, name: &str, number: usize, version: Version) {
        if self.versions.len() <= number {
            self.versions.resize(number + 1, 0);
        }
        let sums = &mut self.sums[kind.index()];
        let before = std::mem::replace(&mut self.versions[number], version.0);
        if before != 0 {
            sums.subtract(name, Version(before));
        }
        if version.0 != 0 {
            sums.add(name, version);
        }
    }
}

/// Counts what is read and written.
struct Counted<S> {
    inner: S,
    books: Arc<Books>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        self.books.moved.fetch_add(count, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = &written {
            self.books.moved.fetch_add(*count, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
