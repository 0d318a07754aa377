//! The worker put together: the only place that constructs its rooms and connects them.

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bodhi_net::{drain, logging};
use bodhi_proto::chat::{Fault, FaultCode, Phase};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::Admin;
use crate::config::{Config, Flags};
use crate::exit::{Fatal, Reason};
use crate::grpc::{InFlight, Listener, Service};
use crate::metrics::Counters;
use crate::serving::Serving;
use crate::start::{Starter, start};
use crate::state::{State, describe};

/// The exit code of a wrong command line, as clap has it.
const USAGE: u8 = 2;
/// How long last words may take to reach those who watch.
const FAREWELL: Duration = Duration::from_secs(2);

/// The program: serves until it is told to end, and ends with its exit code.
pub fn main(flags: Flags, starter: impl Starter) -> ! {
    leave(exit_code(flags, starter))
}

/// Ends the process at once. The engine's thread may be within a step, and cannot be told to leave
/// it. exit(3) would take away beneath it what llama.cpp's static objects hold, and the process would
/// end by SIGSEGV instead of its code.
fn leave(code: u8) -> ! {
    #[expect(unsafe_code, reason = "the standard library only knows exit(3)")]
    // SAFETY: it has no preconditions. Nothing is left unwritten: standard error has no buffer.
    unsafe {
        libc::_exit(code.into())
    }
}

fn exit_code(flags: Flags, starter: impl Starter) -> u8 {
    logging::start();
    let termination_log = flags.termination_log.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let entered = runtime.enter();
            let config = match flags.judge() {
                Ok(config) => config,
                Err(error) => {
                    tracing::error!(%error, "the worker cannot start");
                    return USAGE;
                }
            };
            drop(entered);
            let stop = told_to_stop(config.flags.exit_with_parent);
            let ended = runtime.block_on(run(config, starter, stop));
            // A load that is under way cannot be ended, and must not be waited for.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Fatal::new(
            Reason::EngineFailed,
            format!("no threads: {error}"),
        )),
    };
    match ended {
        Ok(()) => 0,
        Err(fatal) => {
            fatal.tell(termination_log.as_deref());
            fatal.reason.code()
        }
    }
}

/// SIGTERM, SIGINT, or the parent's end.
async fn told_to_stop(with_parent: bool) {
    let parent = async {
        match with_parent {
            true => parent_gone().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        told = drain::terminate() => {
            if let Err(error) = told {
                tracing::error!(%error, "signals cannot be watched");
                std::future::pending::<()>().await;
            }
        }
        () = parent => tracing::info!("standard input was closed"),
    }
}

/// Returns when standard input ends: the parent holds its other end, and the system closes it
/// however the parent ends. Reading it needs a thread of its own, which nobody waits for.
async fn parent_gone() {
    let (gone, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = gone.send(());
    });
    let _ = ended.await;
}

/// Starts a model, serves it until `stop`, and goes down in good order. Watching is possible
/// from the first moment on.
///
/// # Errors
/// Why it could not start, or not go on; it was told to all who watch.
pub async fn run(
    config: Config,
    starter: impl Starter,
    stop: impl Future<Output = ()>,
) -> Result<(), Fatal> {
    let Config { listen, flags } = config;
    let state = Arc::new(State::default());
    let counters = Arc::new(Counters::default());
    let admin = Admin {
        state: Arc::clone(&state),
        counters: Arc::clone(&counters),
    };
    let provable = listen.provable();
    let listener = Listener::bind(listen).await?;
    let socket = listener.path();
    let admin = match flags.admin_listen {
        Some(address) => Some(serve_admin(admin, address).await?.to_string()),
        None => None,
    };
    tracing::info!(address = %listener, admin, alias = flags.alias(), "listening");
    let service = Service::new(Arc::clone(&state), Arc::clone(&counters));
    let in_flight = service.in_flight();
    let closed = CancellationToken::new();
    let server = tokio::spawn(service.serve(listener, closed.clone().cancelled_owned()));
    tokio::spawn(tell(Arc::clone(&state)));

    let living = live(&flags, starter, &state, provable);
    let ended = serve(&flags, living, &state, &in_flight, stop).await;
    match &ended {
        Ok(()) => in_flight.cut(Fault::new(
            FaultCode::Draining,
            "the worker went down before the answer was complete",
        )),
        Err(fatal) => {
            state.move_to(Phase::Failed(fatal.failure()));
            in_flight.cut(Fault::new(FaultCode::Failed, fatal.to_string()));
        }
    }
    // Before the connections end: later the path may be a successor's.
    if let Some(path) = socket
        && let Err(error) = std::fs::remove_file(&path)
    {
        tracing::warn!(path = %path.display(), %error, "the socket was not removed");
    }
    closed.cancel();
    let _ = timeout(FAREWELL, server).await;
    ended
}

async fn serve_admin(admin: Admin, address: SocketAddr) -> Result<SocketAddr, Fatal> {
    let cannot = |error| {
        let message = format!("cannot listen on {address} (--admin-listen): {error}");
        Fatal::new(Reason::CannotListen, message)
    };
    let listener = TcpListener::bind(address).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    tokio::spawn(admin.serve(listener));
    Ok(address)
}

/// Lives until `stop`, and then for as long as requests are in flight, up to the drain time.
async fn serve(
    flags: &Flags,
    living: impl Future<Output = Fatal>,
    state: &State,
    in_flight: &InFlight,
    stop: impl Future<Output = ()>,
) -> Result<(), Fatal> {
    let mut living = Box::pin(living);
    tokio::select! {
        fatal = &mut living => return Err(fatal),
        () = stop => {}
    }
    state.move_to(Phase::Draining);
    tokio::select! {
        fatal = &mut living => Err(fatal),
        // Either way it is over: those who took too long are told so.
        _ = timeout(flags.drain(), in_flight.ended()) => Ok(()),
    }
}

/// Lives until something fatal happens. Ready is who can also prove who it is.
async fn live(
    flags: &Flags,
    starter: impl Starter,
    state: &Arc<State>,
    provable: impl Future<Output = ()>,
) -> Fatal {
    match start(starter, flags, state).await {
        Ok(serving) => {
            let serving = Arc::new(serving);
            provable.await;
            state.ready(Arc::clone(&serving));
            tokio::select! {
                fatal = hangs(&serving, Duration::from_secs(flags.hang)) => fatal,
                fatal = exhausts(&serving) => fatal,
                words = serving.runner.ended() => {
                    let message = format!("the engine's thread has ended: {words}");
                    Fatal::new(Reason::EngineFailed, message)
                }
            }
        }
        Err(fatal) => fatal,
    }
}

/// Returns when the engine has worked on one step for longer than `patience`. A model runtime
/// that hangs cannot be talked to, only ended, and that by ending the process.
async fn hangs(serving: &Serving, patience: Duration) -> Fatal {
    let period = (patience / 10).clamp(Duration::from_millis(50), Duration::from_secs(5));
    loop {
        sleep(period).await;
        if let Some(busy) = serving.runner.busy_for()
            && busy >= patience
        {
            let seconds = busy.as_secs();
            let message =
                format!("the engine has not got on for {seconds} s although requests wait");
            return Fatal::new(Reason::EngineHung, message);
        }
    }
}

/// Returns when too many threads are lost to chat templates that do not come back.
async fn exhausts(serving: &Serving) -> Fatal {
    match &serving.pool {
        Some(pool) => pool.exhausted().await,
        None => std::future::pending().await,
    }
    let message = "the threads for chat templates are all stuck";
    Fatal::new(Reason::ChatTemplateInvalid, message)
}

/// Logs each phase, and its progress in steps of ten percent.
async fn tell(state: Arc<State>) {
    // There, a download draws its own bar.
    let draws = std::io::stderr().is_terminal();
    let mut phase = state.watch();
    let mut told = None;
    loop {
        let now = phase.borrow_and_update().clone();
        let tenth = match &now {
            Phase::Downloading(_) if draws => None,
            Phase::Downloading(progress) | Phase::Loading(progress) => {
                progress.percent().map(|percent| percent / 10)
            }
            _ => None,
        };
        let step = Some((std::mem::discriminant(&now), tenth));
        if step != told {
            tracing::info!("{}", describe(&now));
            told = step;
        }
        if phase.changed().await.is_err() {
            return;
        }
    }
}
