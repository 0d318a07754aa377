//! What the protocol costs: bytes on the wire, messages, memory behind a slow reader.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bodhi_proto::names::{ObjectRef, TokenId};
use bodhi_proto::provider::Format;
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::*;
use bodhi_proto::sync::*;
use bodhi_proto::wire::sync as pb;
use prost::Message as _;

/// gRPC's own 5 bytes before each message are counted, HTTP/2's frames are not.
const PREFIX: usize = 5;

fn upstream(n: usize) -> Resource {
    Resource::Upstream(Arc::new(Upstream {
        object: ObjectRef::api_model("team-a", &format!("openrouter-{n}")),
        format: Format::OpenAi,
        base_url: BaseUrl::parse("https://openrouter.ai/api/v1").unwrap(),
        auth: Auth::Credential,
        features: Features::ALL,
        output_limit_field: OutputLimitField::MaxTokens,
        extra_headers: Vec::new(),
        extra_body: None,
        timeouts: Timeouts::default(),
        attempts: NonZeroU32::MIN,
        max_in_flight: NonZeroU32::new(500).unwrap(),
        roots: Roots::System,
        egress: EgressScope::Release,
    }))
}

fn credential(n: usize) -> Resource {
    Resource::Credential(Arc::new(Credential {
        object: ObjectRef::api_model("team-a", &format!("openrouter-{n}")),
        secret: Secret::new(format!("sk-or-v1-{n:064}")),
        allowed_origins: AllowedOrigins::Listed(vec![
            OriginPattern::parse("https://openrouter.ai").unwrap(),
        ]),
    }))
}

fn served(n: usize, upstreams: usize, created: i64) -> Resource {
    Resource::ServedName(Arc::new(ServedName {
        key: ServedKey::parse(&format!("general/exact/team-a/chat-{n}")).unwrap(),
        owner: ObjectRef::alias("team-a", &format!("chat-{n}")),
        created,
        visibility: Visibility::Public,
        serving: Serving::Routes(vec![Route {
            upstream: ObjectRef::api_model("team-a", &format!("openrouter-{}", n % upstreams)),
            model: RouteModel::Named("openai/gpt-4o".into()),
            exposed: Some("openrouter/openai/gpt-4o".into()),
            weight: NonZeroU32::MIN,
            priority: 0,
        }]),
        max_output_tokens: None,
        defaults: None,
    }))
}

fn token(n: usize) -> Resource {
    Resource::Token(Arc::new(Token {
        id: TokenId::parse(&format!("tok_{n:012}")).unwrap(),
        hash: TokenHash::of(&n.to_le_bytes()),
        owner: "someone@example.com".into(),
        scope: Scope::User,
        expires: Some(1_900_000_000),
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    }))
}

/// A server and a data plane with a perfect connection, counting bytes.
struct Pair {
    state: State,
    offer: Offer,
    hold: Hold,
    now: Duration,
    bytes: usize,
    largest: usize,
    messages: usize,
    diverged: Vec<Kind>,
}

impl Pair {
    fn new(state: State) -> Self {
        let mut pair = Self {
            state,
            offer: Offer::new(Welcome::default()),
            hold: Hold::new(),
            now: Duration::ZERO,
            bytes: 0,
            largest: 0,
            messages: 0,
            diverged: Vec::new(),
        };
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        (self.bytes, self.messages) = (0, 0);
        self.offer = Offer::new(Welcome {
            controller: "bodhi-controller-0".to_owned(),
            version: "0.1.0".to_owned(),
            leader: None,
        });
        let hello = self.hold.hello("bodhi-dataplane-7d9f8b6c5-x2x9z", "0.1.0");
        self.up(hello);
        self.settle();
    }

    fn count(&mut self, bytes: usize) {
        self.bytes += bytes + PREFIX;
        self.largest = self.largest.max(bytes);
        self.messages += 1;
    }

    fn up(&mut self, up: Up) {
        let wire = pb::FromDataPlane::from(up).encode_to_vec();
        self.count(wire.len());
        let up = Up::try_from(pb::FromDataPlane::decode(&*wire).unwrap()).unwrap();
        self.offer.receive(up, &self.state, self.now).unwrap();
    }

    fn settle(&mut self) {
        let until = self.now + Duration::from_secs(3);
        while self.now < until {
            match self.offer.next(&self.state, self.now, true) {
                Some(down) => {
                    let wire = pb::FromController::from(down).encode_to_vec();
                    self.count(wire.len());
                    let down = pb::FromController::decode(&*wire).unwrap();
                    for effect in self.hold.receive(down.try_into().unwrap()).unwrap() {
                        match effect {
                            Effect::Send(up) => self.up(*up),
                            Effect::Diverged(kind) => self.diverged.push(kind),
                            _ => {}
                        }
                    }
                }
                None => self.now += Duration::from_millis(50),
            }
        }
    }

    fn change(&mut self, resource: Resource) {
        (self.bytes, self.messages) = (0, 0);
        let keys: Vec<_> = self.state.put(resource).into_iter().collect();
        self.offer.changed(&keys, &self.state, self.now);
    }
}

fn state(api_models: usize, aliases: usize, tokens: usize) -> State {
    let mut state = State::default();
    state.put(Resource::Policy(Arc::default()));
    for n in 0..api_models {
        state.put(upstream(n));
        state.put(credential(n));
    }
    for n in 0..aliases {
        state.put(served(n, api_models, 1_760_000_000));
    }
    for n in 0..tokens {
        state.put(token(n));
    }
    for source in Source::ALL {
        state.raise(source, Revision::number(123_456));
    }
    state
}

#[test]
fn ten_thousand_objects_are_less_than_two_megabytes_in_small_chunks() {
    let pair = Pair::new(state(1_000, 9_000, 0));
    assert_eq!(pair.hold.snapshot().unwrap().table.len(), 9_000);
    assert!(pair.bytes < 2_000_000, "{} bytes", pair.bytes);
    assert!(pair.largest < 66 << 10, "{} bytes", pair.largest);
}

#[test]
fn a_token_costs_about_a_hundred_bytes() {
    let pair = Pair::new(state(0, 0, 10_000));
    assert!(pair.bytes < 10_000 * 110, "{} bytes", pair.bytes);
}

#[test]
fn a_reconnect_with_nothing_changed_is_a_greeting_and_a_mark() {
    let mut pair = Pair::new(state(10, 100, 100));
    pair.connect();
    assert!(pair.bytes < 280, "{} bytes", pair.bytes);
    assert_eq!(pair.messages, 4);
}

#[test]
fn an_edit_costs_its_resource_and_an_acknowledgement() {
    let mut pair = Pair::new(state(10, 100, 100));
    pair.change(served(7, 10, 1_760_000_001));
    pair.settle();
    assert!(pair.bytes < 220, "{} bytes", pair.bytes);
    assert_eq!(pair.messages, 2);
}

#[test]
fn a_burst_of_edits_waits_for_quiet_but_no_longer_than_a_second() {
    let mut pair = Pair::new(state(10, 100, 0));
    let began = pair.now;
    let mut n = 0;
    while pair.offer.next(&pair.state, pair.now, true).is_none() {
        n += 1;
        pair.change(served(n % 100, 10, 1_770_000_000 + n as i64));
        pair.now += Duration::from_millis(50);
    }
    let waited = pair.now - began;
    assert_eq!(waited, Duration::from_millis(1_000), "{waited:?}");
}

/// F5: a resource that is not accepted is sent once per version.
#[test]
fn a_rejected_version_is_not_sent_again() {
    let mut pair = Pair::new(state(1, 1, 0));
    let Resource::ServedName(good) = served(0, 1, 5) else {
        unreachable!("it is a served name")
    };
    let mut bad = (*good).clone();
    bad.defaults = Some("not json".into());
    pair.change(Resource::ServedName(Arc::new(bad.clone())));
    pair.settle();
    assert_eq!(pair.messages, 2);
    assert_eq!(pair.offer.rejections().count(), 1);
    // An hour later, still; and after a reconnect.
    pair.messages = 0;
    pair.now += Duration::from_secs(3600);
    pair.settle();
    assert_eq!(pair.messages, 0);
    pair.connect();
    assert_eq!((pair.messages, pair.offer.rejections().count()), (4, 1));
    // Its earlier version serves on, and a good one takes its place.
    let snapshot = pair.hold.snapshot().unwrap();
    let kept = snapshot
        .table
        .find(good.key.family, "team-a/chat-0")
        .unwrap();
    assert_eq!(kept.served.created, 1_760_000_000);
    pair.change(Resource::ServedName(good));
    pair.settle();
    assert_eq!(pair.offer.rejections().count(), 0);
}

#[test]
fn poison_answers_for_its_name_and_its_upstream() {
    let mut pair = Pair::new(state(1, 1, 0));
    let (Resource::ServedName(name), Resource::Upstream(upstream)) = (served(0, 1, 5), upstream(9))
    else {
        unreachable!("they are what they are called")
    };
    let mut name = (*name).clone();
    name.key = ServedKey::parse("general/exact/team-a/new").unwrap();
    name.defaults = Some("not json".into());
    let mut upstream = (*upstream).clone();
    upstream.extra_body = Some("[]".into());
    pair.change(Resource::ServedName(Arc::new(name.clone())));
    pair.change(Resource::Upstream(Arc::new(upstream.clone())));
    pair.settle();
    let snapshot = pair.hold.snapshot().unwrap();
    let found = snapshot.table.find(name.key.family, "team-a/new").unwrap();
    match &found.served.serving {
        Serving::Refused(refusal) => assert!(refusal.message.contains("defaults"), "{refusal:?}"),
        Serving::Routes(_) => panic!("it must not be served"),
    }
    assert!(snapshot.rejected.contains_key(&upstream.object));
    // The others are as they were.
    assert!(
        snapshot
            .table
            .find(name.key.family, "team-a/chat-0")
            .is_some()
    );
}

#[test]
fn a_policy_that_is_not_understood_allows_nothing() {
    let cap = ModelCap {
        model: bodhi_proto::names::ModelName::parse("m").unwrap(),
        limit: NonZeroU32::MIN,
    };
    let policy = Policy {
        output_caps: vec![cap; 2_000],
        ..Policy::default()
    };
    let mut state = State::default();
    state.put(Resource::Policy(Arc::new(policy)));
    state.raise(Source::Objects, Revision::number(1));
    let pair = Pair::new(state);
    let policy = &pair.hold.snapshot().unwrap().policy;
    assert!(!policy.allowed_models.as_ref().unwrap().matches("anything"));
}

/// F7: a data plane that does not read costs one transaction and a bounded set of keys.
#[test]
fn a_reader_that_never_reads_is_owed_no_more_than_everything() {
    let mut pair = Pair::new(state(1, 10, 0));
    pair.change(served(1, 1, 1));
    pair.now += Duration::from_secs(1);
    // One transaction is on its way and never acknowledged.
    assert!(pair.offer.next(&pair.state, pair.now, true).is_some());
    for n in 0..20_000 {
        let name = served(1_000_000 + n, 1, 1);
        let key = pair.state.put(name.clone()).unwrap();
        pair.offer
            .changed(std::slice::from_ref(&key), &pair.state, pair.now);
        let gone = pair.state.remove(key.kind, &key.name).unwrap();
        pair.offer.changed(&[gone], &pair.state, pair.now);
    }
    assert!(pair.offer.next(&pair.state, pair.now, true).is_none());
    let owed = format!("{:?}", pair.offer).matches("team-a/chat-1").count();
    assert!(owed <= 1_100, "{owed} keys");
}

#[test]
fn untouched_parts_of_a_snapshot_are_shared() {
    let mut pair = Pair::new(state(10, 10, 10));
    let before = pair.hold.snapshot().unwrap();
    pair.change(served(3, 10, 99));
    pair.settle();
    let after = pair.hold.snapshot().unwrap();
    assert!(!Arc::ptr_eq(&before.table, &after.table));
    assert!(Arc::ptr_eq(&before.upstreams, &after.upstreams));
    assert!(Arc::ptr_eq(&before.credentials, &after.credentials));
    assert!(Arc::ptr_eq(&before.policy, &after.policy));
}

#[test]
fn a_plane_without_a_token_table_knows_that_it_has_none() {
    let mut state = State::default();
    state.put(Resource::Policy(Arc::default()));
    state.raise(Source::Objects, Revision::number(1));
    let mut pair = Pair::new(state);
    let snapshot = pair.hold.snapshot().unwrap();
    assert!(snapshot.tokens.is_none());
    // The database answers at last, and has no token.
    pair.state.raise(Source::Store, Revision::number(1));
    pair.settle();
    assert!(
        pair.hold
            .snapshot()
            .unwrap()
            .tokens
            .as_ref()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn garbage_and_broken_order_end_the_stream_and_change_nothing() {
    let mut pair = Pair::new(state(2, 2, 2));
    let before = pair.hold.digests();
    let chunk = |transaction, commit| {
        Down::Chunk(Chunk {
            transaction,
            removals: vec![(Kind::Token, "tok_000000000001".to_owned())],
            commit,
            ..Chunk::default()
        })
    };
    assert!(pair.hold.receive(chunk(7, None)).unwrap().is_empty());
    assert_eq!(
        pair.hold.receive(chunk(8, None)).unwrap_err(),
        Violation::Interleaved
    );
    // A transaction about kinds that it does not name, and one from before what is held.
    for commit in [
        Commit::default(),
        Commit {
            complete: [Kind::Token].into_iter().collect(),
            ..Commit::default()
        },
    ] {
        let effects = pair.hold.receive(chunk(9, Some(commit))).unwrap();
        let [Effect::Send(up)] = &effects[..] else {
            panic!("{effects:?}");
        };
        assert!(matches!(&**up, Up::Ack(ack) if ack.refused.is_some()));
    }
    assert_eq!(pair.hold.digests(), before);
    // The controller's side likewise.
    let twice = Up::Hello(Hello::default());
    let refused = pair.offer.receive(twice, &pair.state, pair.now);
    assert_eq!(refused, Err(Violation::Hello));
    let unasked = Up::Ack(Ack::default());
    let refused = pair.offer.receive(unasked, &pair.state, pair.now);
    assert_eq!(refused, Err(Violation::Answer));
}

#[test]
fn a_refusal_is_not_tried_again_at_once() {
    let mut pair = Pair::new(state(2, 2, 2));
    pair.change(served(1, 2, 42));
    pair.now += Duration::from_secs(1);
    let Some(Down::Chunk(chunk)) = pair.offer.next(&pair.state, pair.now, true) else {
        panic!("a transaction is due");
    };
    let refusal = Up::Ack(Ack {
        transaction: chunk.transaction,
        digests: pair.hold.digests(),
        refused: Some("no".to_owned()),
        ..Ack::default()
    });
    pair.offer.receive(refusal, &pair.state, pair.now).unwrap();
    assert_eq!(pair.offer.next(&pair.state, pair.now, true), None);
    let wake = pair.offer.wake(&pair.state, pair.now);
    assert_eq!(wake, Some(pair.now + Duration::from_secs(1)));
    // After the wait the two compare, find the difference and are level again.
    pair.settle();
    assert_eq!(
        pair.hold.digests().get(Kind::ServedName),
        Some(pair.state.sums(Kind::ServedName).total())
    );
}

#[test]
fn a_divergence_is_found_and_only_its_buckets_are_replaced() {
    let mut pair = Pair::new(state(10, 1_000, 0));
    // The controller's state changes behind the protocol's back.
    pair.state.put(served(5, 10, 77));
    pair.change(served(6, 10, 78));
    pair.settle();
    assert_eq!(pair.offer.divergences(), 1);
    assert_eq!(pair.diverged, [Kind::ServedName]);
    assert_eq!(
        pair.hold.digests().get(Kind::ServedName),
        Some(pair.state.sums(Kind::ServedName).total())
    );
    // Bucket sums are 4 KiB, a bucket four names.
    assert!(pair.bytes < 8 << 10, "{} bytes", pair.bytes);
}

#[test]
fn kinds_that_a_plane_does_not_understand_are_not_sent() {
    let mut pair = Pair::new(state(1, 1, 1));
    pair.offer = Offer::new(Welcome::default());
    (pair.bytes, pair.messages) = (0, 0);
    let hello = Up::Hello(Hello {
        kinds: [Kind::Policy, Kind::Upstream].into_iter().collect(),
        ..Hello::default()
    });
    pair.offer.receive(hello, &pair.state, pair.now).unwrap();
    let mut sent = Vec::new();
    while let Some(down) = pair.offer.next(&pair.state, pair.now, true) {
        if let Down::Chunk(chunk) = down {
            sent.extend(chunk.puts.into_iter().map(|put| put.kind));
        }
    }
    assert_eq!(sent, [Kind::Upstream, Kind::Policy]);
}
