//! Both machines of the sync protocol against each other, through a transport that loses,
//! delays and stops wherever a random history says so.
//!
//! What is promised, and checked after every step or at rest:
//! - at rest a data plane holds what the server it is connected to offers, kind by kind,
//!   except where it has met something newer: then it keeps that;
//! - it never goes back behind its floor while it runs;
//! - a token that it has once seen revoked never works again, restarts included;
//! - nothing diverges: what an acknowledgement says is what was expected.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::provider::Format;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::*;
use bodhi_proto::sync::*;
use bodhi_proto::wire::sync as pb;
use proptest::prelude::*;
use prost::Message as _;

const SERVERS: usize = 3;

/// One change of a source. Values are small numbers; every seventh is one that data planes
/// do not accept.
#[derive(Debug, Clone)]
enum Edit {
    Upstream(u8, Option<u8>),
    Served(u8, Option<u8>),
    Credential(u8, Option<u8>),
    Worker(u8, Option<u8>),
    Token(u8, u8),
    Revoke(u8),
}

#[derive(Debug, Clone)]
enum Op {
    Edit(Edit),
    /// A server reads up to so many changes of a source.
    Follow(usize, Source, u8),
    Connect(usize),
    Disconnect,
    /// The server is asked for its next message.
    Pump,
    Up,
    Down,
    Wait(u16),
    Save,
    Restart,
}

fn edits() -> impl Strategy<Value = Edit> {
    let value = || prop::option::weighted(0.7, any::<u8>());
    prop_oneof![
        (0..4_u8, value()).prop_map(|(n, v)| Edit::Upstream(n, v)),
        (0..6_u8, value()).prop_map(|(n, v)| Edit::Served(n, v)),
        (0..4_u8, value()).prop_map(|(n, v)| Edit::Credential(n, v)),
        (0..4_u8, value()).prop_map(|(n, v)| Edit::Worker(n, v)),
        (0..12_u8, any::<u8>()).prop_map(|(n, v)| Edit::Token(n, v)),
        (0..12_u8).prop_map(Edit::Revoke),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let source = prop::sample::select(Source::ALL.to_vec());
    prop_oneof![
        6 => edits().prop_map(Op::Edit),
        6 => (0..SERVERS, source, 1..6_u8).prop_map(|(s, source, n)| Op::Follow(s, source, n)),
        2 => (0..SERVERS).prop_map(Op::Connect),
        1 => Just(Op::Disconnect),
        8 => Just(Op::Pump),
        8 => Just(Op::Up),
        8 => Just(Op::Down),
        4 => (0..1500_u16).prop_map(Op::Wait),
        2 => Just(Op::Save),
        2 => Just(Op::Restart),
    ]
}

fn object(n: u8) -> ObjectRef {
    ObjectRef::api_model("bodhi", &format!("m{n}"))
}

fn is_bad(value: u8) -> bool {
    value.is_multiple_of(7)
}

fn upstream(n: u8, value: u8) -> Resource {
    Resource::Upstream(Arc::new(Upstream {
        object: object(n),
        format: Format::OpenAi,
        base_url: BaseUrl::parse(&format!("https://host{value}.example/v1")).unwrap(),
        auth: Auth::Credential,
        features: Features::ALL,
        output_limit_field: OutputLimitField::MaxTokens,
        extra_headers: Vec::new(),
        // Not an object: nothing stops a faulty compiler from sending it.
        extra_body: is_bad(value).then(|| "[]".into()),
        timeouts: Timeouts::default(),
        attempts: NonZeroU32::MIN,
        max_in_flight: NonZeroU32::MIN,
        roots: Roots::System,
        egress: EgressScope::Standalone,
    }))
}

fn served(n: u8, value: u8) -> Resource {
    Resource::ServedName(Arc::new(ServedName {
        key: ServedKey::parse(&format!("general/exact/s{n}")).unwrap(),
        owner: ObjectRef::alias("bodhi", &format!("s{n}")),
        created: i64::from(value),
        visibility: Visibility::Public,
        serving: Serving::Routes(vec![Route {
            upstream: object(value % 4),
            model: RouteModel::AsAsked,
            exposed: None,
            weight: NonZeroU32::MIN,
            priority: 0,
        }]),
        max_output_tokens: None,
        defaults: is_bad(value).then(|| "1".into()),
    }))
}

fn credential(n: u8, value: u8) -> Resource {
    let end = if is_bad(value) { "\n" } else { "" };
    Resource::Credential(Arc::new(Credential {
        object: object(n),
        secret: Secret::new(format!("sk-{value}{end}")),
        allowed_origins: AllowedOrigins::Any,
    }))
}

fn worker(n: u8, value: u8) -> Resource {
    Resource::Endpoint(Arc::new(WorkerEndpoint {
        id: WorkerId::parse(&format!("Alias/bodhi/local/{n}")).unwrap(),
        address: WorkerAddress::parse(&format!("worker{value}:1")).unwrap(),
        // Nobody can be served by none.
        slots: u32::from(!is_bad(value)),
    }))
}

fn token_id(n: u8) -> TokenId {
    TokenId::parse(&format!("t{n}")).unwrap()
}

fn token(n: u8, value: u8) -> Resource {
    Resource::Token(Arc::new(Token {
        id: token_id(n),
        hash: TokenHash::of(&[n]),
        owner: format!("owner{value}").into(),
        scope: Scope::User,
        expires: None,
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    }))
}

/// A controller: what it offers, and how far it has read.
#[derive(Default)]
struct Server {
    state: State,
    read: BTreeMap<Source, usize>,
}

struct Stream {
    server: usize,
    offer: Offer,
    up: VecDeque<Vec<u8>>,
    down: VecDeque<Vec<u8>>,
}

/// The whole world.
struct World {
    logs: BTreeMap<Source, Vec<Edit>>,
    revoked: HashSet<u8>,
    servers: Vec<Server>,
    hold: Hold,
    stream: Option<Stream>,
    now: Duration,
    image: Option<Vec<Vec<u8>>>,
    journal: Vec<Deny>,
    published: Option<Arc<Snapshot>>,
    seen_revoked: HashSet<u8>,
    messages: u64,
    /// Servers have forgotten which denials they sent, as after a restart.
    forgetful: bool,
}

impl World {
    fn new() -> Self {
        let mut servers: Vec<Server> = (0..SERVERS).map(|_| Server::default()).collect();
        for server in &mut servers {
            server.state.put(Resource::Policy(Arc::default()));
        }
        Self {
            logs: Source::ALL.into_iter().map(|s| (s, Vec::new())).collect(),
            revoked: HashSet::new(),
            servers,
            hold: Hold::new(),
            stream: None,
            now: Duration::ZERO,
            image: None,
            journal: Vec::new(),
            published: None,
            seen_revoked: HashSet::new(),
            messages: 0,
            forgetful: false,
        }
    }

    fn step(&mut self, op: Op) {
        let floor = *self.hold.floor();
        let restarted = matches!(op, Op::Restart);
        match op {
            Op::Edit(edit) => self.edit(edit),
            Op::Follow(server, source, n) => self.follow(server, source, n.into()),
            Op::Connect(server) => self.connect(server),
            Op::Disconnect => self.stream = None,
            Op::Pump => drop(self.pump()),
            Op::Up => drop(self.up()),
            Op::Down => drop(self.down()),
            Op::Wait(ms) => self.now += Duration::from_millis(ms.into()),
            Op::Save => self.save(),
            Op::Restart => self.restart(),
        }
        if !restarted {
            for (source, revision) in floor.iter() {
                assert!(self.hold.floor().at(source) >= Some(revision), "went back");
            }
        }
        self.check_tokens();
    }

    fn edit(&mut self, edit: Edit) {
        let source = match edit {
            Edit::Upstream(..) | Edit::Served(..) => Source::Objects,
            Edit::Worker(..) => Source::Workers,
            Edit::Credential(..) | Edit::Token(..) | Edit::Revoke(_) => Source::Store,
        };
        match edit {
            // Ids are random: a revoked one is never minted again.
            Edit::Token(n, _) if self.revoked.contains(&n) => return,
            Edit::Revoke(n) => drop(self.revoked.insert(n)),
            _ => {}
        }
        self.logs.get_mut(&source).unwrap().push(edit);
    }

    fn follow(&mut self, server: usize, source: Source, most: usize) {
        let Server { state, read } = &mut self.servers[server];
        let read = read.entry(source).or_default();
        let log = &self.logs[&source];
        let (mut keys, mut denies) = (Vec::new(), Vec::new());
        let until = log.len().min(*read + most);
        for (n, edit) in log.iter().enumerate().take(until).skip(*read) {
            let put = |resource: fn(u8, u8) -> Resource, n, value: Option<u8>| match value {
                Some(value) => Ok(resource(n, value)),
                None => Err(resource(n, 1).key()),
            };
            let change = match *edit {
                Edit::Upstream(n, value) => put(upstream, n, value),
                Edit::Served(n, value) => put(served, n, value),
                Edit::Credential(n, value) => put(credential, n, value),
                Edit::Worker(n, value) => put(worker, n, value),
                Edit::Token(n, value) => Ok(token(n, value)),
                Edit::Revoke(t) => {
                    denies.push(Deny {
                        token: token_id(t),
                        revision: Revision::number(n as u64 + 1),
                    });
                    Err(token(t, 1).key())
                }
            };
            keys.extend(match change {
                Ok(resource) => state.put(resource),
                Err((kind, name)) => state.remove(kind, &name),
            });
        }
        *read = until;
        state.raise(source, Revision::number(until as u64));
        if !self.forgetful {
            denies.iter().for_each(|deny| state.deny(deny.clone()));
        }
        if let Some(stream) = &mut self.stream
            && stream.server == server
        {
            for deny in &denies {
                stream.offer.deny(deny);
            }
            stream.offer.changed(&keys, state, self.now);
        }
    }

    fn connect(&mut self, server: usize) {
        let hello = self.hold.hello("plane", "1");
        self.stream = Some(Stream {
            server,
            offer: Offer::new(Welcome::default()),
            up: VecDeque::from([pb::FromDataPlane::from(hello).encode_to_vec()]),
            down: VecDeque::new(),
        });
    }

    /// The transport holds two messages.
    fn pump(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        if stream.down.len() >= 2 {
            return false;
        }
        let state = &self.servers[stream.server].state;
        let next = stream.offer.next(state, self.now, true);
        let wake = stream.offer.wake(state, self.now);
        assert!(
            next.is_some() || wake.is_none_or(|at| at > self.now),
            "would spin"
        );
        let Some(down) = next else {
            return false;
        };
        stream
            .down
            .push_back(pb::FromController::from(down).encode_to_vec());
        true
    }

    fn up(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let Some(bytes) = stream.up.pop_front() else {
            return false;
        };
        let up = Up::try_from(pb::FromDataPlane::decode(&*bytes).unwrap()).unwrap();
        let state = &self.servers[stream.server].state;
        stream.offer.receive(up, state, self.now).unwrap();
        assert_eq!(stream.offer.divergences(), 0);
        self.messages += 1;
        true
    }

    fn down(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            return false;
        };
        let Some(bytes) = stream.down.pop_front() else {
            return false;
        };
        let down = Down::try_from(pb::FromController::decode(&*bytes).unwrap()).unwrap();
        if let Down::Deny(deny) = &down {
            let n = deny.token.as_str()[1..].parse().unwrap();
            self.seen_revoked.insert(n);
        }
        for effect in self.hold.receive(down).unwrap() {
            match effect {
                Effect::Send(up) => {
                    if let Up::Ack(ack) = &*up {
                        assert_eq!(ack.refused, None);
                    }
                    let up = pb::FromDataPlane::from(*up).encode_to_vec();
                    self.stream.as_mut().unwrap().up.push_back(up);
                }
                Effect::Journal(deny) => self.journal.push(deny),
                Effect::Publish(snapshot) => self.published = Some(snapshot),
                Effect::Confirmed { revoked, .. } => {
                    if revoked {
                        self.save();
                    }
                }
                Effect::Diverged(kind) => panic!("diverged in {kind}"),
                Effect::Welcome(_) | Effect::Leader(_) | Effect::Goodbye(_) => {}
            }
        }
        self.messages += 1;
        true
    }

    fn save(&mut self) {
        let mut frames = Vec::new();
        let kept = self.hold.image("1", |frame| {
            frames.push(frame.to_vec());
            Ok::<_, ()>(())
        });
        kept.unwrap();
        self.image = Some(frames);
        self.journal.clear();
    }

    fn restart(&mut self) {
        self.stream = None;
        // Without a file a data plane knows nothing, and so has nothing to go back on.
        let Some(frames) = &self.image else { return };
        let mut restore = Restore::new("1");
        for frame in frames {
            restore.push(frame).unwrap();
        }
        self.hold = restore.finish().unwrap();
        for deny in self.journal.clone() {
            self.hold.deny(deny);
        }
        self.published = self.hold.snapshot();
    }

    fn check_tokens(&mut self) {
        let table = self.published.as_ref().and_then(|s| s.tokens.clone());
        for n in &self.revoked {
            let works = table
                .as_ref()
                .is_some_and(|t| t.get(&TokenHash::of(&[*n])).is_some());
            if works {
                assert!(!self.seen_revoked.contains(n), "token t{n} came back");
            } else if let Some(mark) = self.hold.mark().at(Source::Store) {
                // It is out of a table that is a picture of the revocation: for good.
                let log = &self.logs[&Source::Store];
                let contained = log.iter().take(mark.number as usize);
                if contained
                    .into_iter()
                    .any(|e| matches!(e, Edit::Revoke(t) if t == n))
                {
                    self.seen_revoked.insert(*n);
                }
            }
        }
    }

    /// Runs until nothing is left to say.
    fn settle(&mut self) {
        let mut idle = Duration::ZERO;
        let before = self.messages;
        while idle < Duration::from_secs(4) {
            let (pumped, up, down) = (self.pump(), self.up(), self.down());
            if !(pumped || up || down) {
                self.now += Duration::from_millis(50);
                idle += Duration::from_millis(50);
            } else {
                idle = Duration::ZERO;
            }
            self.check_tokens();
            assert!(self.messages - before < 500, "it never ends");
        }
    }

    /// After a visit to a server at rest: each kind is the server's, or newer and untouched.
    fn visit(&mut self, server: usize) {
        let (floor, before) = (*self.hold.floor(), self.hold.digests());
        self.connect(server);
        self.settle();
        let state = &self.servers[server].state;
        for kind in Kind::ALL {
            let expected = match state.mark().reaches(&floor, kind) {
                true => Some(state.sums(kind).total()),
                false => before.get(kind),
            };
            assert_eq!(self.hold.digests().get(kind), expected, "{kind}");
        }
    }

    /// Everything is known to everybody: names, values and rejections are as they must be.
    fn check_all(&self) {
        let state = &self.servers[0].state;
        let snapshot = self.hold.snapshot().unwrap();
        let mut rejected: Vec<_> = self.hold.rejections().map(|r| (r.kind, r.name)).collect();
        rejected.sort();
        let mut bad = Vec::new();
        for kind in Kind::ALL {
            for (name, entry) in state.iter(kind) {
                let body = entry.resource.encode();
                if Resource::decode(kind, name, &body).is_err() {
                    bad.push((kind, name.to_string()));
                    continue;
                }
                let holds = match &entry.resource {
                    Resource::Upstream(u) => snapshot.upstreams.get(&u.object) == Some(u),
                    Resource::Credential(c) => snapshot.credentials.get(&c.object) == Some(c),
                    Resource::ServedName(s) => snapshot
                        .table
                        .listed(s.key.family)
                        .iter()
                        .any(|held| held == s),
                    Resource::Token(t) => snapshot.tokens.as_ref().unwrap().get(&t.hash) == Some(t),
                    Resource::Policy(p) => snapshot.policy == *p,
                    Resource::Pool(p) => snapshot.pools.get(&p.object) == Some(p),
                    Resource::Endpoint(e) => snapshot
                        .workers
                        .get(&e.id.pool)
                        .is_some_and(|workers| workers.contains(e)),
                };
                assert!(holds, "{kind} {name}");
            }
        }
        bad.sort();
        assert_eq!(rejected, bad);
        let tokens = snapshot.tokens.as_ref().unwrap();
        assert_eq!(tokens.len(), state.count(Kind::Token));
        // Nothing but what is offered, and what is offered but not accepted.
        for object in snapshot.upstreams.keys() {
            assert!(state.get(Kind::Upstream, &object.to_string()).is_some());
        }
        for worker in snapshot.workers.values().flat_map(|workers| workers.iter()) {
            assert!(state.get(Kind::Endpoint, &worker.id.to_string()).is_some());
        }
        for object in snapshot.rejected.keys() {
            assert!(!snapshot.upstreams.contains_key(object));
        }
        assert_eq!(snapshot.table.len(), state.count(Kind::ServedName));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_data_plane_holds_the_newest_it_has_met(
        ops in prop::collection::vec(ops(), 1..250),
        visits in prop::collection::vec(0..SERVERS, 0..4),
    ) {
        let mut world = World::new();
        for op in ops {
            world.step(op);
        }
        for server in visits {
            world.visit(server);
        }
        for source in Source::ALL {
            world.follow(0, source, usize::MAX / 2);
        }
        world.visit(0);
        world.check_all();
        // Once more, with nothing changed: nothing but greetings.
        let before = world.messages;
        world.visit(0);
        prop_assert!(world.messages - before <= 4, "{} messages", world.messages - before);
        // And over a restart.
        world.save();
        world.restart();
        world.check_all();
        world.visit(0);
        world.check_all();
    }

    #[test]
    fn the_order_of_events_does_not_matter(
        edits in prop::collection::vec((0..6_u8, any::<u8>()), 1..30),
        seed in any::<u64>(),
    ) {
        // The last word on each name, in two orders.
        let last: BTreeMap<u8, u8> = edits.into_iter().collect();
        let resources: Vec<_> = last.iter().map(|(n, v)| served(*n, *v)).collect();
        let mut shuffled = resources.clone();
        let by = seed as usize % shuffled.len();
        shuffled.rotate_left(by);
        if seed % 2 == 0 {
            shuffled.reverse();
        }
        let (mut one, mut other) = (State::default(), State::default());
        resources.into_iter().for_each(|r| drop(one.put(r)));
        // With a detour: something else first under each name.
        for n in last.keys() {
            other.put(served(*n, 1));
        }
        shuffled.into_iter().for_each(|r| drop(other.put(r)));
        prop_assert_eq!(one.sums(Kind::ServedName), other.sums(Kind::ServedName));
    }
}

/// A world in which the data plane holds token 1 of server 0 and has kept it on disk.
fn with_a_token() -> World {
    let mut world = World::new();
    world.edit(Edit::Token(1, 1));
    for source in Source::ALL {
        world.follow(0, source, 9);
    }
    world.visit(0);
    world.save();
    assert!(works(&world));
    world
}

fn works(world: &World) -> bool {
    let table = world.published.as_ref().and_then(|s| s.tokens.as_ref());
    table.is_some_and(|t| t.get(&TokenHash::of(&[1])).is_some())
}

#[test]
fn a_denial_travels_ahead_of_everything_and_outlives_a_restart() {
    let mut world = with_a_token();
    for n in 0..200 {
        world.edit(Edit::Token(2 + n % 10, n));
    }
    world.edit(Edit::Revoke(1));
    world.follow(0, Source::Store, 999);
    // One message, long before the debounce is over.
    assert!(world.pump() && world.down());
    assert!(!works(&world));
    world.restart();
    assert!(!works(&world), "the journal was not read");
    world.save();
    world.restart();
    assert!(!works(&world), "the file forgot the denial");
}

#[test]
fn a_token_that_went_without_a_denial_does_not_come_back_with_an_old_file() {
    let mut world = with_a_token();
    world.forgetful = true;
    world.edit(Edit::Revoke(1));
    world.follow(1, Source::Store, 99);
    world.follow(1, Source::Objects, 99);
    world.visit(1);
    assert!(!works(&world));
    world.restart();
    assert!(!works(&world));
}

#[test]
fn a_lagging_server_is_not_believed_about_tokens_but_about_routes() {
    let mut world = with_a_token();
    world.edit(Edit::Revoke(1));
    world.follow(0, Source::Store, 99);
    world.settle();
    assert!(!works(&world));
    // Server 1 has read the token's creation and all of the manifests.
    world.edit(Edit::Upstream(1, Some(1)));
    world.follow(1, Source::Store, 1);
    world.follow(1, Source::Objects, 99);
    world.visit(1);
    assert!(!works(&world));
    assert_eq!(world.published.as_ref().unwrap().upstreams.len(), 1);
}
