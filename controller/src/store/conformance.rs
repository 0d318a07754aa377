//! What every [`Store`] must do, whatever is beneath it.

use std::any::Any;
use std::num::NonZeroU32;

use bodhi_proto::names::{ModelName, ObjectRef, TokenId};
use bodhi_proto::secret::Secret;
use bodhi_proto::snapshot::{BaseUrl, Globs, ModelCap, Scope, Token, TokenHash, TokenLimits};
use serde_json::json;

use super::*;

/// A store in its first state, and what must live as long as it.
type Fresh = (Box<dyn Store>, Box<dyn Any>);

/// A new store, and what must live as long as it.
pub(super) fn fresh(store: impl Store, guard: impl Any) -> Fresh {
    (Box::new(store), Box::new(guard))
}

/// Runs every check, each on a store of its own.
pub(super) async fn check(fresh: impl AsyncFn() -> Fresh) {
    let (store, _guard) = fresh().await;
    tokens_come_back_as_they_went_in(&*store).await;
    let (store, _guard) = fresh().await;
    a_taken_id_or_hash_is_refused(&*store).await;
    let (store, _guard) = fresh().await;
    a_revocation_is_a_change_and_happens_once(&*store).await;
    let (store, _guard) = fresh().await;
    tokens_are_paged_oldest_first(&*store).await;
    let (store, _guard) = fresh().await;
    changes_number_every_commit_and_wake_the_watcher(&*store).await;
    let (store, _guard) = fresh().await;
    keys_belong_to_a_uid_and_are_erased_with_their_object(&*store).await;
    let (store, _guard) = fresh().await;
    objects_keep_identity_and_count_generations(&*store).await;
    let (store, _guard) = fresh().await;
    statuses_are_replaced_and_forgotten(&*store).await;
    let (store, _guard) = fresh().await;
    the_audit_trail_is_written_with_each_change(&*store).await;
    let (store, _guard) = fresh().await;
    responses_stay_with_their_first_owner_until_pruned(&*store).await;
    let (store, _guard) = fresh().await;
    counters_grow_by_one(&*store).await;
    let (store, _guard) = fresh().await;
    another_master_key_takes_over_key_by_key(&*store).await;
}

/// The ring that the stores of [`check`] are opened with.
pub(super) fn keys() -> Arc<seal::Keys> {
    let ring = "old AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\
                new /////////////////////////////////////////w8=\n";
    Arc::new(seal::Keys::of(seal::KeyRing::parse(ring).unwrap()))
}

fn actor() -> Actor {
    Actor {
        token: Some(TokenId::parse("root").unwrap()),
        owner: "ada".into(),
    }
}

/// Token number `n`.
pub(super) fn new_token(n: u64) -> NewToken {
    NewToken {
        token: Token {
            id: TokenId::parse(&format!("t{n}")).unwrap(),
            hash: TokenHash::of(&n.to_be_bytes()),
            owner: if n.is_multiple_of(2) { "even" } else { "odd" }.into(),
            scope: Scope::PowerUser,
            expires: Some(4_000_000_000),
            models: Some(Globs::new(["gpt-*", "a\"b"])),
            output_caps: vec![ModelCap {
                model: ModelName::parse("gpt-4o").unwrap(),
                limit: NonZeroU32::new(100).unwrap(),
            }],
            limits: TokenLimits {
                requests_per_minute: NonZeroU32::new(1),
                tokens_per_minute: NonZeroU32::new(u32::MAX),
                concurrency: None,
            },
        },
        name: format!("token {n}"),
    }
}

/// Adds token number `n`.
pub(super) async fn create(store: &dyn Store, n: u64) -> TokenRecord {
    store
        .create_token(new_token(n), actor(), 1000)
        .await
        .unwrap()
}

/// A key for `bodhi/openai` under this uid.
pub(super) fn stored_key(uid: &str, secret: &str) -> StoredKey {
    StoredKey {
        uid: ObjectUid::parse(uid).unwrap(),
        object: ObjectRef::api_model("bodhi", "openai"),
        origin: BaseUrl::parse("https://api.openai.com/v1").unwrap().origin,
        secret: Secret::new(secret),
    }
}

async fn tokens_come_back_as_they_went_in(store: &dyn Store) {
    let record = create(store, 1).await;
    let new = new_token(1);
    assert_eq!((&*record.token, &record.name), (&new.token, &new.name));
    assert_eq!((record.created, record.revoked), (1000, None));
    assert_eq!(
        store.find_token(new.token.hash).await.unwrap(),
        Some(record)
    );
    let plain = NewToken {
        token: Token {
            id: TokenId::parse("plain").unwrap(),
            hash: TokenHash::of(b"plain"),
            expires: None,
            models: None,
            output_caps: Vec::new(),
            limits: TokenLimits::default(),
            ..new.token
        },
        name: String::new(),
    };
    let record = store.create_token(plain.clone(), actor(), 1).await.unwrap();
    assert_eq!(*record.token, plain.token);
    assert_eq!(
        store.find_token(plain.token.hash).await.unwrap(),
        Some(record)
    );
    let by_id = store.token(TokenId::parse("t1").unwrap()).await.unwrap();
    assert_eq!(by_id.map(|r| r.name), Some("token 1".into()));
    assert_eq!(
        store.token(TokenId::parse("t2").unwrap()).await.unwrap(),
        None
    );
    assert_eq!(store.find_token(TokenHash::of(b"?")).await.unwrap(), None);
}

async fn a_taken_id_or_hash_is_refused(store: &dyn Store) {
    create(store, 1).await;
    let mut same_hash = new_token(1);
    same_hash.token.id = TokenId::parse("other").unwrap();
    let mut same_id = new_token(1);
    same_id.token.hash = TokenHash::of(b"other");
    for token in [same_hash, same_id] {
        let refused = store.create_token(token, actor(), 1).await;
        assert!(matches!(refused, Err(StoreError::Exists(_))), "{refused:?}");
    }
    assert_eq!(store.changes_since(0).await.unwrap().seq, 1);
    // Whoever lost the answer asks again and gets it.
    let again = store.create_token(new_token(1), actor(), 9).await.unwrap();
    assert_eq!((again.created, again.change_seq), (1000, 1));
    assert_eq!(store.audit_page(None, 9).await.unwrap().len(), 1);
    let id = new_token(1).token.id;
    store.revoke_token(id, actor(), 9).await.unwrap();
    let revoked = store.create_token(new_token(1), actor(), 9).await;
    assert!(matches!(revoked, Err(StoreError::Exists(_))), "{revoked:?}");
}

async fn a_revocation_is_a_change_and_happens_once(store: &dyn Store) {
    let record = create(store, 1).await;
    let id = record.token.id.clone();
    let first = store.revoke_token(id.clone(), actor(), 2000).await.unwrap();
    assert_eq!(
        first,
        Some(Revoked {
            change_seq: 2,
            at: 2000
        })
    );
    assert_eq!(store.revoke_token(id, actor(), 3000).await.unwrap(), first);
    let changes = store.changes_since(1).await.unwrap();
    assert_eq!((changes.seq, changes.tokens.len()), (2, 1));
    assert_eq!(changes.tokens[0].revoked, Some(2000));
    assert_eq!(changes.tokens[0].change_seq, 2);
    let nobody = TokenId::parse("nobody").unwrap();
    assert_eq!(store.revoke_token(nobody, actor(), 1).await.unwrap(), None);
}

async fn tokens_are_paged_oldest_first(store: &dyn Store) {
    for n in 0..5 {
        create(store, n).await;
    }
    let query = |owner: Option<&str>, after: Option<&str>, limit| TokenQuery {
        owner: owner.map(Into::into),
        after: after.map(|id| TokenId::parse(id).unwrap()),
        limit,
    };
    for (query, expected) in [
        (query(None, None, 2), &["t0", "t1"][..]),
        (query(None, Some("t1"), 2), &["t2", "t3"]),
        (query(None, Some("t4"), 2), &[]),
        (query(Some("odd"), None, 9), &["t1", "t3"]),
        (query(Some("even"), Some("t0"), 9), &["t2", "t4"]),
        (query(None, Some("unknown"), 9), &[]),
    ] {
        let page = store.tokens(query.clone()).await.unwrap();
        let ids: Vec<_> = page.iter().map(|r| r.token.id.as_str()).collect();
        assert_eq!(ids, expected, "{query:?}");
    }
}

async fn changes_number_every_commit_and_wake_the_watcher(store: &dyn Store) {
    let mut watch = store.watch();
    assert_eq!(*watch.borrow_and_update(), 0);
    assert_eq!(store.changes_since(0).await.unwrap().seq, 0);
    for n in 1..=3 {
        assert_eq!(create(store, n).await.change_seq, n);
        assert!(watch.has_changed().unwrap());
        assert_eq!(*watch.borrow_and_update(), n);
    }
    store.audit_page(None, 1).await.unwrap();
    assert!(!watch.has_changed().unwrap());
    let changes = store.changes_since(1).await.unwrap();
    let seqs: Vec<_> = changes.tokens.iter().map(|t| t.change_seq).collect();
    assert_eq!((changes.seq, seqs), (3, vec![2, 3]));
}

async fn keys_belong_to_a_uid_and_are_erased_with_their_object(store: &dyn Store) {
    let seen = SeenObject {
        object: ObjectRef::api_model("bodhi", "openai"),
        digest: [1; 32],
    };
    let object = store
        .see_objects(vec![seen.clone()], 1)
        .await
        .unwrap()
        .remove(0);
    let key = stored_key(object.uid.as_str(), "sk-1");
    assert_eq!(store.set_key(key.clone(), actor(), 1).await.unwrap(), 1);
    assert_eq!(store.key(key.uid.clone()).await.unwrap(), Some(key.clone()));

    let renewed = stored_key(object.uid.as_str(), "sk-2");
    assert_eq!(store.set_key(renewed.clone(), actor(), 2).await.unwrap(), 2);
    let changes = store.changes_since(0).await.unwrap();
    assert_eq!(changes.keys.len(), 1);
    assert_eq!(changes.keys[0].key, KeyState::Set(renewed));

    store
        .forget_objects(vec![seen.object.clone()], 3)
        .await
        .unwrap();
    assert_eq!(store.key(key.uid.clone()).await.unwrap(), None);
    let changes = store.changes_since(2).await.unwrap();
    assert_eq!(
        changes.keys,
        [KeyChange {
            uid: key.uid,
            key: KeyState::Removed,
            change_seq: 3
        }]
    );
    let again = store.see_objects(vec![seen], 4).await.unwrap().remove(0);
    assert_ne!(again.uid, object.uid);
    assert_eq!(store.key(again.uid.clone()).await.unwrap(), None);
    assert_eq!(store.remove_key(again.uid, actor(), 5).await.unwrap(), None);

    let other = stored_key("uid-2", "sk-3");
    store.set_key(other.clone(), actor(), 6).await.unwrap();
    assert_eq!(
        store
            .remove_key(other.uid.clone(), actor(), 7)
            .await
            .unwrap(),
        Some(5)
    );
    assert_eq!(store.remove_key(other.uid, actor(), 7).await.unwrap(), None);
}

async fn objects_keep_identity_and_count_generations(store: &dyn Store) {
    let seen = |object: ObjectRef, digest| SeenObject {
        object,
        digest: [digest; 32],
    };
    let (a, b) = (
        ObjectRef::api_model("bodhi", "a"),
        ObjectRef::alias("bodhi", "a"),
    );
    let first = store
        .see_objects(vec![seen(a.clone(), 1), seen(b.clone(), 1)], 10)
        .await
        .unwrap();
    assert_ne!(first[0].uid, first[1].uid);
    assert_eq!(
        (&first[0].object, first[0].created, first[0].generation),
        (&a, 10, 1)
    );
    let same = store
        .see_objects(vec![seen(a.clone(), 1)], 20)
        .await
        .unwrap();
    assert_eq!(same[0], first[0]);
    let changed = store
        .see_objects(vec![seen(a.clone(), 2)], 30)
        .await
        .unwrap();
    assert_eq!((changed[0].created, changed[0].generation), (10, 2));
    assert_eq!(changed[0].uid, first[0].uid);
    assert_eq!(
        store.objects().await.unwrap(),
        [first[1].clone(), changed[0].clone()]
    );
    store.forget_objects(vec![b], 40).await.unwrap();
    assert_eq!(store.objects().await.unwrap(), changed);
}

async fn statuses_are_replaced_and_forgotten(store: &dyn Store) {
    let (a, b) = (
        ObjectRef::api_model("bodhi", "a"),
        ObjectRef::api_model("bodhi", "b"),
    );
    let status = |text: &str| json!({"conditions": [{"type": "Ready", "message": text}]});
    store
        .put_statuses(vec![(b.clone(), status("b")), (a.clone(), status("a"))])
        .await
        .unwrap();
    store
        .put_statuses(vec![(a.clone(), status("\"new\""))])
        .await
        .unwrap();
    let expected = [(a.clone(), status("\"new\"")), (b.clone(), status("b"))];
    assert_eq!(store.statuses().await.unwrap(), expected);
    store.forget_objects(vec![a], 1).await.unwrap();
    assert_eq!(store.statuses().await.unwrap(), [(b, status("b"))]);
}

async fn the_audit_trail_is_written_with_each_change(store: &dyn Store) {
    let record = create(store, 1).await;
    store
        .revoke_token(record.token.id.clone(), actor(), 2)
        .await
        .unwrap();
    store
        .set_key(stored_key("uid-1", "sk"), actor(), 3)
        .await
        .unwrap();
    let event = AuditEvent {
        action: AuditAction::ResourceUpdate,
        object: "Alias/bodhi/fast".into(),
    };
    store
        .append_audit(event, Actor::program("bodhi"), 4)
        .await
        .unwrap();
    let page = store.audit_page(None, 10).await.unwrap();
    let told: Vec<_> = page
        .iter()
        .map(|r| (r.number, &*r.action, &*r.object, &*r.by.owner))
        .collect();
    let expected = [
        (4, "resource.update", "Alias/bodhi/fast", "bodhi"),
        (3, "key.set", "ApiModel/bodhi/openai", "ada"),
        (2, "token.revoke", "Token/t1", "ada"),
        (1, "token.create", "Token/t1", "ada"),
    ];
    assert_eq!(told, expected);
    assert_eq!(verify_chain(&page), Chain::Intact);
    assert_eq!(page[3].by, actor());
    let older = store.audit_page(Some(3), 1).await.unwrap();
    assert_eq!(older, page[2..3]);
    assert_eq!(store.audit_page(Some(1), 10).await.unwrap(), []);
}

async fn responses_stay_with_their_first_owner_until_pruned(store: &dyn Store) {
    let record = |id: &str, owner: &str, created| ResponseRecord {
        id: id.into(),
        upstream: ObjectRef::api_model("bodhi", "openai"),
        owner: owner.into(),
        created,
    };
    let (a, b) = (record("resp_a", "ada", 10), record("resp_b", "bob", 20));
    store
        .record_responses(vec![a.clone(), b.clone()])
        .await
        .unwrap();
    store
        .record_responses(vec![record("resp_a", "eve", 30)])
        .await
        .unwrap();
    assert_eq!(store.find_response("resp_a".into()).await.unwrap(), Some(a));
    assert_eq!(store.find_response("resp_c".into()).await.unwrap(), None);
    assert_eq!(store.prune_responses(20).await.unwrap(), 1);
    assert_eq!(store.find_response("resp_a".into()).await.unwrap(), None);
    assert_eq!(store.find_response("resp_b".into()).await.unwrap(), Some(b));
}

async fn counters_grow_by_one(store: &dyn Store) {
    assert_eq!(store.incarnation().await.unwrap(), 1);
    let mut watch = store.watch();
    watch.mark_unchanged();
    assert_eq!(store.raise_incarnation(actor(), 1).await.unwrap(), 2);
    assert!(watch.has_changed().unwrap());
    assert_eq!(store.changes_since(0).await.unwrap().incarnation, 2);
    assert_eq!(store.incarnation().await.unwrap(), 2);
    assert_eq!(store.manifests_revision().await.unwrap(), 0);
    assert_eq!(store.next_manifests_revision().await.unwrap(), 1);
    assert_eq!(store.manifests_revision().await.unwrap(), 1);
}

async fn another_master_key_takes_over_key_by_key(store: &dyn Store) {
    let unknown = store.seal_with("none".into(), actor(), 1).await;
    assert!(matches!(unknown, Err(StoreError::Seal(_))), "{unknown:?}");
    store.seal_with("old".into(), actor(), 1).await.unwrap();
    let stored: Vec<_> = (0..3)
        .map(|n| stored_key(&format!("uid-{n}"), &format!("sk-{n}")))
        .collect();
    for key in &stored {
        store.set_key(key.clone(), actor(), 1).await.unwrap();
    }
    let erased = ObjectUid::parse("uid-1").unwrap();
    store.remove_key(erased.clone(), actor(), 1).await.unwrap();
    let sealing = store.sealing().await.unwrap();
    assert_eq!(sealing.seals.as_deref(), Some("old"));
    assert_eq!((sealing.sealed["old"], sealing.outdated()), (2, 0));

    store.seal_with("new".into(), actor(), 2).await.unwrap();
    let before = store.changes_since(0).await.unwrap();
    assert_eq!(store.sealing().await.unwrap().outdated(), 2);
    let first = store.reseal_next(None).await.unwrap().unwrap();
    assert_eq!(
        (first.uid.as_str(), first.outcome),
        ("uid-0", ResealOutcome::Done)
    );
    let sealing = store.sealing().await.unwrap();
    assert_eq!((sealing.sealed["old"], sealing.sealed["new"]), (1, 1));
    // Begun again from the start, as after a crash.
    let mut last = None;
    let mut outcomes = Vec::new();
    while let Some(next) = store.reseal_next(last).await.unwrap() {
        outcomes.push(next.outcome);
        last = Some(next.uid);
    }
    assert_eq!(outcomes, [ResealOutcome::Current, ResealOutcome::Done]);
    assert_eq!(store.sealing().await.unwrap().outdated(), 0);
    for key in [&stored[0], &stored[2]] {
        assert_eq!(store.key(key.uid.clone()).await.unwrap(), Some(key.clone()));
    }
    assert_eq!(store.key(erased).await.unwrap(), None);
    // Nobody has to hear of it: the keys themselves are what they were.
    assert_eq!(store.changes_since(0).await.unwrap(), before);
    let trail = store.audit_page(None, 1).await.unwrap();
    assert_eq!(
        (&*trail[0].action, &*trail[0].object),
        ("master_key.rotate", "MasterKey/new")
    );
}
