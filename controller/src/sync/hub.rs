//! The one place where what is offered and who is listening meet. A short lock, never held
//! across an await.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bodhi_proto::digest::Digests;
use bodhi_proto::snapshot::{Kind, Resource};
use bodhi_proto::sync::{
    Deny, Down, Key, Leader, Mark, Offer, Revision, Source, State, Up, Violation, Welcome,
};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::acks::Plane;
use super::guard::{Guard, Held, Loss};
use super::{Publication, Published, Tokens};

/// So many large transactions are under way at once; other data planes wait for their turn.
const LARGE_AT_ONCE: usize = 4;

/// State and sessions.
pub(super) struct Hub {
    name: String,
    began: Instant,
    inner: Mutex<Inner>,
    acks: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    state: State,
    guard: Guard,
    sessions: HashMap<u64, Session>,
    next_session: u64,
    large: usize,
    leader: Option<Leader>,
    /// Why every stream is to end, once it is.
    closing: Option<String>,
}

struct Session {
    offer: Offer,
    wake: Arc<Notify>,
    large: bool,
}

/// What a session's task is to do.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this and ask again.
    Send(Down),
    /// Nothing until the time given, a wake-up or a message.
    Wait(Option<Duration>),
    /// End the stream.
    Close,
}

impl Hub {
    /// `acks` is told whenever what data planes say may have changed.
    pub(super) fn new(name: String, acks: watch::Sender<u64>) -> Self {
        Self {
            name,
            began: Instant::now(),
            inner: Mutex::default(),
            acks,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic cannot leave the state half changed in a way that digests do not repair.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// A moment of [`Offer`]'s clock as tokio's.
    pub(super) fn instant(&self, at: Duration) -> Instant {
        self.began + at
    }

    pub(super) fn mark(&self) -> Mark {
        *self.lock().state.mark()
    }

    pub(super) fn publish(&self, publication: Publication) -> Published {
        let now = self.now();
        let mut inner = self.lock();
        let (mut keys, mut denies, held) = (Vec::new(), Vec::new(), inner.judge(&publication));
        let of_objects = Source::Objects.kinds();
        let believe = held.is_empty();
        let sets = [
            publication.upstreams.map(|s| {
                (
                    Kind::Upstream,
                    s.into_iter().map(Resource::Upstream).collect::<Vec<_>>(),
                )
            }),
            publication.credentials.map(|s| {
                (
                    Kind::Credential,
                    s.into_iter().map(Resource::Credential).collect(),
                )
            }),
            publication.served_names.map(|s| {
                (
                    Kind::ServedName,
                    s.into_iter().map(Resource::ServedName).collect(),
                )
            }),
            publication
                .policy
                .map(|p| (Kind::Policy, vec![Resource::Policy(p)])),
            publication
                .pools
                .map(|s| (Kind::Pool, s.into_iter().map(Resource::Pool).collect())),
            publication.endpoints.map(|s| {
                (
                    Kind::Endpoint,
                    s.into_iter().map(Resource::Endpoint).collect(),
                )
            }),
        ];
        let state = &mut inner.state;
        for (kind, resources) in sets.into_iter().flatten() {
            match believe {
                true => keys.extend(state.replace(kind, resources)),
                false => keys.extend(resources.into_iter().filter_map(|r| state.put(r))),
            }
        }
        match publication.tokens {
            Tokens::Unchanged => {}
            Tokens::All(tokens) => {
                let changed = state.replace(Kind::Token, tokens.into_iter().map(Resource::Token));
                keys.extend(changed);
            }
            Tokens::Changed { upserts, removals } => {
                keys.extend(
                    upserts
                        .into_iter()
                        .filter_map(|t| state.put(Resource::Token(t))),
                );
                for (token, revision) in removals {
                    keys.extend(state.remove(Kind::Token, token.as_str()));
                    denies.push(Deny { token, revision });
                }
            }
        }
        if believe {
            for (source, revision) in publication.marks {
                state.raise(source, revision);
            }
        }
        if keys.iter().any(|key| of_objects.contains(key.kind)) {
            state.begin_edition();
        }
        let edition = state.edition();
        inner.tell(&keys, &denies, now);
        Published {
            changed: keys.len(),
            edition,
            held,
        }
    }

    pub(super) fn deny(&self, deny: &Deny) {
        let now = self.now();
        self.lock().tell(&[], std::slice::from_ref(deny), now);
    }

    /// Tells every data plane, connected or not yet, who leads.
    pub(super) fn announce(&self, leader: &Leader) {
        let mut inner = self.lock();
        inner.leader = Some(leader.clone());
        for session in inner.sessions.values_mut() {
            session.offer.announce(leader.clone());
            session.wake.notify_one();
        }
    }

    pub(super) fn goodbye(&self, reason: &str) {
        let mut inner = self.lock();
        inner.closing = Some(reason.to_owned());
        for session in inner.sessions.values_mut() {
            session.offer.goodbye(reason);
            session.wake.notify_one();
        }
    }

    /// The data planes that are connected.
    pub(super) fn planes(&self) -> Vec<Plane> {
        let inner = self.lock();
        let of = |session: &Session| {
            Some(Plane {
                node: session.offer.node()?.to_owned(),
                mark: *session.offer.mark(),
                edition: session.offer.edition(),
                rejections: session.offer.rejections().cloned().collect(),
                divergences: session.offer.divergences(),
            })
        };
        inner.sessions.values().filter_map(of).collect()
    }

    /// What every data plane that is level with this controller holds of what is compiled from
    /// objects, and which edition that is.
    pub(super) fn objects(&self) -> (Digests, u64) {
        let inner = self.lock();
        let mut digests = Digests::default();
        for kind in Source::Objects.kinds().iter() {
            digests.set(kind, inner.state.sums(kind).total());
        }
        (digests, inner.state.edition())
    }

    pub(super) fn acks_changed(&self) -> watch::Receiver<u64> {
        self.acks.subscribe()
    }

    /// The data planes that are connected, and whether each refuses the token that was revoked at
    /// `revision`.
    pub(super) fn applied(&self, revision: Revision) -> Vec<(String, bool)> {
        let inner = self.lock();
        let sessions = inner.sessions.values().map(|session| &session.offer);
        let of = |offer: &Offer| Some((offer.node()?.to_owned(), offer.has_applied(revision)));
        sessions.filter_map(of).collect()
    }

    /// Opens a session; it ends when the guard is dropped.
    pub(super) fn open(self: &Arc<Self>) -> OpenSession {
        let wake = Arc::new(Notify::new());
        let mut inner = self.lock();
        let id = inner.next_session;
        inner.next_session += 1;
        let mut offer = Offer::new(Welcome {
            controller: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader: inner.leader.clone(),
        });
        if let Some(reason) = &inner.closing {
            offer.goodbye(reason);
        }
        let session = Session {
            offer,
            wake: Arc::clone(&wake),
            large: false,
        };
        inner.sessions.insert(id, session);
        OpenSession {
            hub: Arc::clone(self),
            id,
            wake,
        }
    }

    fn acks_moved(&self) {
        self.acks.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl Inner {
    /// The sets that shrink too much to be believed at once.
    fn judge(&mut self, publication: &Publication) -> Vec<Held> {
        let upstreams = publication.upstreams.as_ref().map(|set| {
            let names: Vec<String> = set.iter().map(|u| u.object.to_string()).collect();
            (Kind::Upstream, names)
        });
        let served = publication.served_names.as_ref().map(|set| {
            let names = set.iter().map(|s| s.key.to_string()).collect();
            (Kind::ServedName, names)
        });
        let mut held = Vec::new();
        for (kind, names) in [upstreams, served].into_iter().flatten() {
            let mut removed: BTreeSet<String> = self
                .state
                .iter(kind)
                .map(|(name, _)| name.to_string())
                .collect();
            let of = removed.len();
            for name in names {
                removed.remove(&name);
            }
            let loss = Loss {
                kind,
                removed,
                of,
                reread: publication.reread,
            };
            held.extend(self.guard.judge(loss).err());
        }
        held
    }

    /// Marks changes on every session, denials first.
    fn tell(&mut self, keys: &[Key], denies: &[Deny], now: Duration) {
        for deny in denies {
            self.state.deny(deny.clone());
        }
        let state = &self.state;
        let urgent = keys.iter().any(|key| {
            let removable = matches!(key.kind, Kind::Credential | Kind::Token | Kind::Endpoint);
            removable && state.get(key.kind, &key.name).is_none()
        });
        for session in self.sessions.values_mut() {
            for deny in denies {
                session.offer.deny(deny);
            }
            session.offer.changed(keys, state, now);
            if urgent {
                session.offer.hasten();
            }
            session.wake.notify_one();
        }
    }
}

/// A session in the hub.
pub(super) struct OpenSession {
    hub: Arc<Hub>,
    id: u64,
    wake: Arc<Notify>,
}

impl OpenSession {
    /// Wakes when there may be something to send.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Takes in a message of the data plane.
    pub(super) fn receive(&self, up: Up) -> Result<(), Violation> {
        let now = self.hub.now();
        {
            let mut inner = self.hub.lock();
            let Inner {
                state,
                sessions,
                large,
                ..
            } = &mut *inner;
            if let Some(session) = sessions.get_mut(&self.id) {
                session.offer.receive(up, state, now)?;
                session.count_large(large);
            }
        }
        self.hub.acks_moved();
        Ok(())
    }

    /// What to do now. Only to be asked when the transport takes a message.
    pub(super) fn step(&self) -> Step {
        let now = self.hub.now();
        let mut inner = self.hub.lock();
        let Inner {
            state,
            sessions,
            large,
            closing,
            ..
        } = &mut *inner;
        let Some(session) = sessions.get_mut(&self.id) else {
            return Step::Close;
        };
        let room = *large < LARGE_AT_ONCE;
        let next = session.offer.next(state, now, room);
        session.count_large(large);
        match next {
            Some(down) => Step::Send(down),
            None if closing.is_some() => Step::Close,
            None => Step::Wait(session.offer.wake(state, now)),
        }
    }

    /// Announces the end of the stream.
    pub(super) fn goodbye(&self, reason: &str) {
        if let Some(session) = self.hub.lock().sessions.get_mut(&self.id) {
            session.offer.goodbye(reason);
        }
    }
}

impl Session {
    fn count_large(&mut self, large: &mut usize) {
        let is_large = self.offer.is_large();
        if is_large && !self.large {
            *large += 1;
        }
        if !is_large && self.large {
            *large -= 1;
        }
        self.large = is_large;
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        {
            let mut inner = self.hub.lock();
            if let Some(session) = inner.sessions.remove(&self.id)
                && session.large
            {
                inner.large -= 1;
            }
        }
        self.hub.acks_moved();
    }
}
