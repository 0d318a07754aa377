//! The acceptor and the threads it feeds.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bodhi_net::accept;
use bodhi_net::drain::{Phase, Signal};
use bodhi_net::identity::PemError;
use socket2::{Domain, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use super::connection::{self, Thread};
use super::drain::Connections;
use super::tls::{self, Tls};
use super::{Config, Limits, Service};
use crate::admission::memory::Gauge;

/// Connections that the kernel completes before we take them.
const BACKLOG: i32 = 4096;

/// Why the listener cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken, not ours, or needs rights.
    #[error("cannot listen on {address}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's word.
        source: io::Error,
    },
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] PemError),
}

/// A bound socket that accepts nothing yet.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    config: Config,
}

/// Binds the address and reads the certificate, so that what is wrong with either is known at start.
///
/// # Errors
/// [`BindError`].
pub fn bind(config: Config) -> Result<Listener, BindError> {
    let tls = config.tls.clone().map(tls::load).transpose()?;
    let listen = || {
        let socket = Socket::new(Domain::for_address(config.listen), Type::STREAM, None)?;
        // Restarting must not wait for old connections to leave TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&config.listen.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    let (socket, address) = listen().map_err(|source| BindError::Listen {
        address: config.listen,
        source,
    })?;
    Ok(Listener {
        socket,
        address,
        tls,
        config,
    })
}

/// A serving thread as the acceptor sees it.
struct Worker {
    sockets: mpsc::UnboundedSender<(TcpStream, SocketAddr)>,
    /// Connections it has, counted from the moment it is chosen.
    load: Arc<AtomicUsize>,
    /// Says so when the thread has ended.
    done: oneshot::Receiver<()>,
}

impl Listener {
    /// Where it listens; the port is known even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the shutdown that `signal` announces is over: from [`Phase::Draining`] on nothing is
    /// accepted, and it returns when the last connection has gone, which [`Phase::Closing`] enforces.
    ///
    /// `make` is called once on each serving thread, with its number, inside its runtime.
    ///
    /// # Errors
    /// When a thread cannot be started, or the socket cannot be watched.
    pub async fn serve<S, F>(self, mut signal: Signal, gauge: Arc<Gauge>, make: F) -> io::Result<()>
    where
        S: Service,
        F: Fn(usize) -> Rc<S> + Send + Sync + 'static,
    {
        let make = Arc::new(make);
        let mut workers = Vec::with_capacity(self.config.threads.get());
        for number in 0..self.config.threads.get() {
            let make = make.clone();
            let seed = Seed {
                limits: self.config.limits,
                tls: self.tls.clone(),
                gauge: gauge.clone(),
                signal: signal.clone(),
            };
            workers.push(start(number, seed, move || make(number))?);
        }
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        // Out of this runtime's hands, to be watched by the thread that gets it.
        let accept = || async {
            let (tcp, peer) = socket.accept().await?;
            Ok((tcp.into_std()?, peer))
        };
        let reload = async {
            match &self.tls {
                Some(tls) => tls.watch().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = signal.reached(Phase::Draining) => {}
            () = accept::forever(accept, |(tcp, peer)| hand_over(&workers, tcp, peer)) => {}
            () = reload => {}
        }
        drop(socket);
        for worker in workers {
            drop(worker.sockets);
            // An error means that the thread has ended without saying so: it is over as well.
            let _ = worker.done.await;
        }
        Ok(())
    }
}

/// To the least busy thread.
fn hand_over(workers: &[Worker], tcp: TcpStream, peer: SocketAddr) {
    let least = workers
        .iter()
        .min_by_key(|worker| worker.load.load(Ordering::Relaxed))
        .expect("the number of threads is not zero");
    least.load.fetch_add(1, Ordering::Relaxed);
    // A thread that has ended takes nothing: the connection closes.
    let _ = least.sockets.send((tcp, peer));
}

/// What a thread is started with.
struct Seed {
    limits: Limits,
    tls: Option<Arc<Tls>>,
    gauge: Arc<Gauge>,
    signal: Signal,
}

fn start<S: Service>(
    number: usize,
    seed: Seed,
    make: impl FnOnce() -> Rc<S> + Send + 'static,
) -> io::Result<Worker> {
    let (sockets, arriving) = mpsc::unbounded_channel();
    let (say_done, done) = oneshot::channel::<()>();
    let load = Arc::new(AtomicUsize::new(0));
    let counted = load.clone();
    let runtime = move || {
        Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
    };
    let (say_started, started) = std::sync::mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name(format!("serve-{number}"))
        .spawn(move || {
            let runtime = match runtime() {
                Ok(runtime) => runtime,
                Err(error) => {
                    // The one who asks is waiting right here.
                    let _ = say_started.send(Err(error));
                    return;
                }
            };
            runtime.block_on(async {
                let service = make();
                let _ = say_started.send(Ok(()));
                run(seed, counted, arriving, service).await;
            });
            drop(say_done);
        })?;
    started
        .recv()
        .map_err(|_| io::Error::other("a serving thread ended at its start"))??;
    Ok(Worker {
        sockets,
        load,
        done,
    })
}

/// A thread's life: takes connections until there is no acceptor any more, then waits for the last one.
async fn run<S: Service>(
    seed: Seed,
    load: Arc<AtomicUsize>,
    mut arriving: mpsc::UnboundedReceiver<(TcpStream, SocketAddr)>,
    service: Rc<S>,
) {
    let connections = Connections::new(load);
    let thread = Rc::new(Thread {
        service,
        limits: seed.limits,
        connections: connections.clone(),
        gauge: seed.gauge,
        tls: seed.tls,
    });
    let life = async {
        while let Some((tcp, peer)) = arriving.recv().await {
            let entry = thread.connections.enter();
            match tokio::net::TcpStream::from_std(tcp) {
                Ok(tcp) => {
                    let serving = connection::run(thread.clone(), entry, tcp, peer);
                    tokio::task::spawn_local(serving);
                }
                Err(error) => tracing::warn!(%peer, %error, "cannot watch a connection"),
            }
        }
        connections.emptied().await;
    };
    tokio::select! {
        () = life => {}
        () = connections.follow(seed.signal, seed.limits.farewell) => {}
    }
}
