//! One thread's connections, idle and leased, by destination.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, Hash};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bodhi_proto::snapshot::{EgressScope, Map, Origin, Roots};
use foldhash::fast::RandomState;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;
use tokio::time::Instant;

use super::Deadline;
use super::gate::Gate;

/// Idle connections kept per destination and thread; the oldest go first.
const MAX_IDLE: usize = 64;
/// How often idle connections are looked through, while there are any.
const SWEEP: Duration = Duration::from_secs(1);

/// Where a connection leads and on whose word. Two of these never share a connection.
pub(super) struct Destination<B> {
    pub(super) origin: Origin,
    pub(super) roots: Roots,
    pub(super) egress: EgressScope,
    /// The `host` header.
    pub(super) authority: HeaderValue,
    idle: RefCell<Vec<Idle<B>>>,
}

struct Idle<B> {
    connection: Connection<B>,
    since: Instant,
}

/// An open connection; dropping it closes it, whatever it was doing.
///
/// It has no task of its own: whoever uses it lends it [turns](Connection::turn). So what arrives goes from
/// the socket to the client in one turn of one task, and all that arrived goes in one write.
pub(super) struct Connection<B> {
    sender: SendRequest<B>,
    /// The socket's side; `None` once it has closed.
    driver: Option<Driver>,
    gate: Gate,
    /// The one timer of whatever request is using it.
    pub(super) deadline: Deadline,
    /// When bytes were last written.
    pub(super) wrote: Rc<Cell<Instant>>,
    /// How long it may lie idle.
    keep: Duration,
}

/// hyper's half of a connection that reads and writes; it owns the socket.
pub(super) type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>>>>;

impl<B> Connection<B> {
    /// An open connection, unused. `wrote` is kept up to date by the driver's socket.
    pub(super) fn new(
        sender: SendRequest<B>,
        driver: Driver,
        wrote: Rc<Cell<Instant>>,
        keep: Duration,
    ) -> Self {
        Self {
            sender,
            driver: Some(driver),
            gate: Gate::new(),
            deadline: Deadline::new(Instant::now() + keep),
            wrote,
            keep,
        }
    }

    /// Reads and writes what it can, then looks with `take` for what that brought (a response head, a
    /// piece of a body). While there is none, the task is woken when there is more to do.
    ///
    /// `take` need not have itself woken: nothing but this brings what it looks for.
    pub(super) fn turn<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        drive(
            &mut self.driver,
            &mut Context::from_waker(self.gate.close()),
        );
        let taken = take(&mut nobody());
        if taken.is_pending() {
            self.gate.open(cx);
        }
        taken
    }

    /// Whether it is open and can take a request, as far as the socket knows by now.
    fn is_ready(&mut self) -> bool {
        // Nobody drove it meanwhile. There is no task to wake: it is looked at again before its next use.
        drive(&mut self.driver, &mut nobody());
        self.driver.is_some() && self.sender.is_ready()
    }
}

impl<B: Body + 'static> Connection<B> {
    /// Hands over a request; its [turns](Connection::turn) send it.
    pub(super) fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B> {
        self.sender.try_send_request(request)
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(open) = driver
        && open.as_mut().poll(cx).is_ready()
    {
        // The request that its end fails hears of it by itself; an idle connection ends in silence.
        *driver = None;
    }
}

/// A context in which nobody waits.
pub(super) fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A connection in use by one request.
pub(super) struct Lease<B> {
    connection: Connection<B>,
    destination: Rc<Destination<B>>,
}

impl<B> std::ops::Deref for Lease<B> {
    type Target = Connection<B>;

    fn deref(&self) -> &Connection<B> {
        &self.connection
    }
}

impl<B> std::ops::DerefMut for Lease<B> {
    fn deref_mut(&mut self) -> &mut Connection<B> {
        &mut self.connection
    }
}

impl<B> std::fmt::Debug for Lease<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({})", self.destination.origin)
    }
}

impl<B> Destination<B> {
    /// The connection that was used last, if one is idle and still open.
    pub(super) fn checkout(self: &Rc<Self>, now: Instant) -> Option<Lease<B>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle {
            mut connection,
            since,
        }) = idle.pop()
        {
            if now < since + connection.keep && connection.is_ready() {
                return Some(self.lease(connection));
            }
        }
        None
    }

    /// `connection`, which leads here, for one request.
    pub(super) fn lease(self: &Rc<Self>, connection: Connection<B>) -> Lease<B> {
        Lease {
            connection,
            destination: self.clone(),
        }
    }
}

/// All destinations of a thread.
pub(super) struct Pool<B> {
    /// By hash of (origin, roots, scope), so that looking one up clones nothing.
    destinations: RefCell<Map<u64, Vec<Rc<Destination<B>>>>>,
    hasher: RandomState,
    sweeping: Cell<bool>,
}

impl<B> std::fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pool({})", self.destinations.borrow().len())
    }
}

impl<B> Pool<B> {
    pub(super) fn new() -> Self {
        Self {
            destinations: RefCell::new(HashMap::default()),
            hasher: RandomState::default(),
            sweeping: Cell::new(false),
        }
    }

    /// The destination with exactly these three properties.
    pub(super) fn destination(
        &self,
        origin: &Origin,
        roots: &Roots,
        egress: &EgressScope,
    ) -> Rc<Destination<B>> {
        let hash = self.hash(origin, roots, egress);
        let mut destinations = self.destinations.borrow_mut();
        let same_hash = destinations.entry(hash).or_default();
        let found = same_hash
            .iter()
            .find(|d| d.origin == *origin && d.roots == *roots && d.egress == *egress);
        if let Some(found) = found {
            return found.clone();
        }
        let authority = HeaderValue::try_from(origin.authority())
            .expect("an origin was parsed as a URI, whose authority is visible ASCII");
        let new = Rc::new(Destination {
            origin: origin.clone(),
            roots: roots.clone(),
            egress: egress.clone(),
            authority,
            idle: RefCell::default(),
        });
        same_hash.push(new.clone());
        new
    }

    fn hash(&self, origin: &Origin, roots: &Roots, egress: &EgressScope) -> u64 {
        // A bundle is kilobytes; its length tells almost as much, and equality is compared anyway.
        let roots = match roots {
            Roots::System => 0,
            Roots::Bundle(pem) => pem.len(),
        };
        self.hasher.hash_one(Key(origin, roots, egress))
    }
}

#[derive(Hash)]
struct Key<'a>(&'a Origin, usize, &'a EgressScope);

impl<B: 'static> Pool<B> {
    /// Takes back a connection whose response has ended, if it can be used again.
    pub(super) fn put(self: &Rc<Self>, lease: Lease<B>) {
        let Lease {
            mut connection,
            destination,
        } = lease;
        // Not ready: the peer closes it, or the request is still being sent although its answer is complete.
        if !connection.is_ready() {
            return;
        }
        let mut idle = destination.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle {
            connection,
            since: Instant::now(),
        });
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }

    /// Closes what is due and forgets destinations that nobody uses. Whether any connection is left.
    fn close_expired(&self, now: Instant) -> bool {
        let mut any = false;
        self.destinations.borrow_mut().retain(|_, same_hash| {
            same_hash.retain(|destination| {
                let mut idle = destination.idle.borrow_mut();
                idle.retain_mut(|i| now < i.since + i.connection.keep && i.connection.is_ready());
                any |= !idle.is_empty();
                !idle.is_empty() || Rc::strong_count(destination) > 1
            });
            !same_hash.is_empty()
        });
        any
    }
}

async fn sweep<B: 'static>(pool: Weak<Pool<B>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(pool) = pool.upgrade() else { return };
        if !pool.close_expired(Instant::now()) {
            pool.sweeping.set(false);
            return;
        }
    }
}
