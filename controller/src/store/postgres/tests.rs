//! The store on a real server, which is stopped, killed and started again.
//!
//! What is slow here is PostgreSQL starting: tests that end no server share one.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bodhi_proto::secret::Secret;
use bodhi_tests::postgres::{Disk, PASSWORD, PgBouncer, Postgres};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::store::conformance::{self, create, new_token, stored_key};
use crate::store::seal::KeyRing;
use crate::store::{Chain, KeyState, ResealOutcome, verify_chain};

/// How long anything may take before the test fails: machines under test are busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server that nobody stops.
fn shared() -> &'static Postgres {
    static SERVER: LazyLock<Postgres> = LazyLock::new(|| Postgres::start(Disk::Fast).unwrap());
    &SERVER
}

fn config(server: &Postgres, database: &str) -> PostgresConfig {
    let url = Secret::new(server.url("127.0.0.1", database));
    PostgresConfig::parse(&url, Password::Text(Secret::new(PASSWORD)), None).unwrap()
}

/// A controller's store.
fn store(server: &Postgres, database: &str) -> PostgresStore {
    PostgresStore::connect(config(server, database), conformance::keys())
}

async fn unavailable_within<T: std::fmt::Debug>(
    most: Duration,
    answer: StoreFuture<'_, T>,
) -> String {
    let began = Instant::now();
    let answer = timeout(most, answer).await.expect("an answer in time");
    match answer {
        Err(StoreError::Unavailable(why)) => why,
        other => panic!("{other:?} after {:?}", began.elapsed()),
    }
}

/// Asks until the store answers.
async fn recovered(store: &PostgresStore) -> u64 {
    let asking = async {
        loop {
            match store.incarnation().await {
                Ok(answer) => return answer,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    };
    timeout(PATIENCE, asking)
        .await
        .expect("the store to come back")
}

#[tokio::test]
async fn keeps_the_contract() {
    conformance::check(async || {
        let database = shared().database().unwrap();
        conformance::fresh(store(shared(), &database), ())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_misses_and_reorders_none_of_the_changes_of_two_writers() {
    const TASKS: u64 = 4;
    // Ten thousand together in `make soak`.
    let each = match std::env::var_os("BODHI_SOAK") {
        Some(_) => 5_000,
        None => 500,
    };
    let database = shared().database().unwrap();
    let (a, b) = (store(shared(), &database), store(shared(), &database));
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for (first, writer) in [(0, a.clone()), (each, b.clone())] {
        for task in 0..TASKS {
            let writer = writer.clone();
            writers.spawn(async move {
                for n in (first + task..first + each).step_by(TASKS as usize) {
                    create(&writer, n).await;
                }
            });
        }
    }
    // A third controller, which only listens.
    let reader = store(shared(), &database);
    let reading = tokio::spawn(async move {
        let mut watch = reader.watch();
        let (mut seen, mut reads) = (0, 0);
        while seen < 2 * each {
            watch.changed().await.unwrap();
            let told = *watch.borrow_and_update();
            let changes = reader.changes_since(seen).await.unwrap();
            assert!(
                changes.seq >= told,
                "{} was told, {} read",
                told,
                changes.seq
            );
            // Every number once, in order, up to the one that the answer is complete to.
            let numbers: Vec<u64> = changes.tokens.iter().map(|t| t.change_seq).collect();
            let expected: Vec<u64> = (seen + 1..=changes.seq).collect();
            assert_eq!(numbers, expected);
            seen = changes.seq;
            reads += 1;
            // A few gather before the next reading.
            sleep(Duration::from_millis(50)).await;
        }
        reads
    });
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let reads = timeout(PATIENCE, reading).await.unwrap().unwrap();
    eprintln!(
        "{} changes by two writers, read in {reads} parts, in {:?}",
        2 * each,
        began.elapsed()
    );
    // The audit trail runs through both.
    let mut before = None;
    let mut rows = Vec::new();
    loop {
        let page = a.audit_page(before, 1_000).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.number);
        rows.extend(page);
    }
    assert_eq!(rows.len() as u64, 2 * each);
    assert_eq!(verify_chain(&rows), Chain::Intact);
}

#[tokio::test]
async fn the_other_controller_hears_of_a_revocation_within_a_second() {
    const TIMES: u64 = 100;
    let database = shared().database().unwrap();
    let (a, b) = (store(shared(), &database), store(shared(), &database));
    for n in 0..TIMES {
        create(&a, n).await;
    }
    let mut watch = b.watch();
    timeout(PATIENCE, watch.wait_for(|seq| *seq == TIMES))
        .await
        .unwrap()
        .unwrap();
    let mut took = Vec::new();
    for n in 0..TIMES {
        let began = Instant::now();
        let id = new_token(n).token.id;
        let revoked = a
            .revoke_token(id.clone(), Actor::program("test"), 1)
            .await
            .unwrap()
            .unwrap();
        let seq = revoked.change_seq;
        timeout(PATIENCE, watch.wait_for(|known| *known >= seq))
            .await
            .unwrap()
            .unwrap();
        let changes = b.changes_since(seq - 1).await.unwrap();
        took.push(began.elapsed());
        assert_eq!(changes.tokens[0].token.id, id);
        assert_eq!(changes.tokens[0].revoked, Some(1));
    }
    took.sort();
    let (median, p99) = (took[49], took[98]);
    eprintln!("a revocation reaches the other controller: median {median:?}, p99 {p99:?}");
    assert!(p99 < Duration::from_secs(1), "p99 {p99:?}");
}

#[tokio::test]
async fn several_controllers_may_start_at_once_on_an_empty_database() {
    let database = shared().database().unwrap();
    let stores: Vec<_> = (0..4).map(|_| store(shared(), &database)).collect();
    for (n, store) in stores.iter().enumerate() {
        assert_eq!(create(store, n as u64).await.change_seq, n as u64 + 1);
    }
    let applied = shared().sql(&database, "SELECT count(*) FROM refinery_schema_history");
    assert_eq!(applied.unwrap(), "2");
}

#[tokio::test]
async fn an_older_schema_is_extended_and_a_newer_one_is_no_fault() {
    let database = shared().database().unwrap();
    let (mut client, wire) = connect::connect(&config(shared(), &database))
        .await
        .unwrap();
    let wire = tokio::spawn(wire);
    migrate::migrate_to(&mut client, 1).await.unwrap();
    // As the release of that schema wrote it.
    let hash = TokenHash::of(b"old");
    let insert =
        "INSERT INTO tokens (id, hash, name, owner, scope, created, output_caps, change_seq)
                  VALUES ('old', $1, 'old', 'ada', 'user', 5, '[]', 1)";
    client.execute(insert, &[&hash.0.as_slice()]).await.unwrap();
    client
        .batch_execute("UPDATE counters SET change_seq = 1")
        .await
        .unwrap();
    let store_2 = store(shared(), &database);
    assert_eq!(store_2.find_token(hash).await.unwrap().unwrap().name, "old");
    assert_eq!(create(&store_2, 1).await.change_seq, 2);
    store_2
        .set_key(stored_key("uid-1", "sk"), Actor::program("test"), 1)
        .await
        .unwrap();
    // As a later release leaves it, while this one is still running or starts again.
    client
        .batch_execute(
            "ALTER TABLE counters ADD COLUMN later TEXT;
             INSERT INTO refinery_schema_history VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')",
        )
        .await
        .unwrap();
    assert_eq!(create(&store_2, 2).await.change_seq, 4);
    assert_eq!(create(&store(shared(), &database), 3).await.change_seq, 5);
    drop(client);
    wire.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_killed_server() {
    let mut server = Postgres::start(Disk::Careful).unwrap();
    let database = server.database().unwrap();
    let (a, b) = (store(&server, &database), store(&server, &database));
    let acknowledged = Arc::new(AtomicU64::new(0));
    for round in 0..3 {
        let mut writers = JoinSet::new();
        for (task, writer) in [
            (0, a.clone()),
            (1, b.clone()),
            (2, a.clone()),
            (3, b.clone()),
        ] {
            let acknowledged = Arc::clone(&acknowledged);
            writers.spawn(async move {
                let mut done = Vec::new();
                let mut n = round * 1_000_000 + task * 100_000;
                loop {
                    let new = new_token(n);
                    match writer.create_token(new, Actor::program("test"), 1).await {
                        Ok(record) => done.push((n, record.change_seq)),
                        Err(StoreError::Unavailable(_)) => return (done, n),
                        Err(other) => panic!("{other:?}"),
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                    n += 1;
                }
            });
        }
        let until = acknowledged.load(Ordering::Relaxed) + 100;
        while acknowledged.load(Ordering::Relaxed) < until {
            sleep(Duration::from_millis(5)).await;
        }
        server.kill();
        let (mut done, mut unanswered) = (Vec::new(), Vec::new());
        while let Some(writer) = timeout(PATIENCE, writers.join_next()).await.unwrap() {
            let (by_it, broken_off) = writer.unwrap();
            done.extend(by_it);
            unanswered.push(broken_off);
        }
        server.restart().unwrap();
        recovered(&a).await;
        let changes = b.changes_since(0).await.unwrap();
        for (n, change_seq) in &done {
            let kept = changes.tokens.iter().find(|t| t.change_seq == *change_seq);
            let kept = kept.unwrap_or_else(|| panic!("token {n}, change {change_seq}, is lost"));
            assert_eq!(kept.token.id, new_token(*n).token.id);
        }
        // Nobody's number was given out twice, and none is missing.
        let numbers: Vec<u64> = changes.tokens.iter().map(|t| t.change_seq).collect();
        assert_eq!(numbers, (1..=changes.seq).collect::<Vec<_>>());
        // Whoever got no answer asks again, and it does not matter whether it was made.
        for n in unanswered {
            let new = new_token(n);
            let record = a
                .create_token(new, Actor::program("test"), 1)
                .await
                .unwrap();
            assert_eq!(record.token.id, new_token(n).token.id);
        }
    }
    let trail = a.audit_page(None, 1_000_000).await.unwrap();
    assert_eq!(verify_chain(&trail), Chain::Intact);
    eprintln!(
        "{} acknowledged changes, three kills",
        acknowledged.load(Ordering::Relaxed)
    );
}

#[tokio::test]
async fn an_outage_is_told_in_time_and_heals_by_itself() {
    let mut server = Postgres::start(Disk::Fast).unwrap();
    let database = server.database().unwrap();
    let (a, b) = (store(&server, &database), store(&server, &database));
    create(&a, 1).await;
    recovered(&b).await;
    for n in 2..4 {
        server.stop().unwrap();
        let why = unavailable_within(OPERATION, a.token(new_token(1).token.id)).await;
        assert!(!why.contains(PASSWORD), "{why}");
        let actor = Actor::program("test");
        unavailable_within(OPERATION, a.create_token(new_token(n), actor, 1)).await;
        unavailable_within(OPERATION, b.changes_since(0)).await;
        server.restart().unwrap();
        recovered(&a).await;
        // The other controller hears again, also of what happened while it could not.
        let mut watch = b.watch();
        let seq = create(&a, n).await.change_seq;
        timeout(PATIENCE, watch.wait_for(|known| *known >= seq))
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_server_that_hangs_is_told_in_time() {
    let database = shared().database().unwrap();
    let store = store(shared(), &database);
    create(&store, 1).await;
    // Somebody holds the lock that every change takes, and reads go on.
    let (holder, wire) = connect::connect(&config(shared(), &database))
        .await
        .unwrap();
    let _wire = Owned(tokio::spawn(async move { drop(wire.await) }));
    holder
        .batch_execute("BEGIN; SELECT one FROM counters FOR UPDATE")
        .await
        .unwrap();
    let actor = Actor::program("test");
    let (refused, read) = tokio::join!(
        unavailable_within(OPERATION + Duration::from_secs(2), {
            store.create_token(new_token(2), actor, 1)
        }),
        store.changes_since(0)
    );
    assert!(refused.contains("timeout"), "{refused}");
    assert_eq!(read.unwrap().seq, 1);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(create(&store, 2).await.change_seq, 2);
}

#[tokio::test]
async fn f11_a_database_that_is_down_at_the_start_is_not_an_empty_one() {
    let mut server = Postgres::start(Disk::Fast).unwrap();
    let database = server.database().unwrap();
    create(&store(&server, &database), 1).await;
    server.stop().unwrap();
    let late = store(&server, &database);
    unavailable_within(OPERATION, late.changes_since(0)).await;
    unavailable_within(OPERATION, late.find_token(new_token(1).token.hash)).await;
    assert_eq!(*late.watch().borrow(), 0);
    server.restart().unwrap();
    recovered(&late).await;
    assert_eq!(late.changes_since(0).await.unwrap().tokens.len(), 1);
    assert_eq!(*late.watch().borrow(), 1);
}

#[tokio::test]
async fn tls_is_verified_against_the_named_authority_and_the_host() {
    let database = shared().database().unwrap();
    let other = tempfile::tempdir().unwrap();
    let other = other.path().join("other.crt");
    let stranger = bodhi_tests::authority::Authority::new("somebody else").unwrap();
    std::fs::write(&other, &stranger.pem).unwrap();
    let right = shared().authority_file();
    let attempt = |host: &str, options: &str, ca: Option<&std::path::Path>| {
        let url = Secret::new(format!("{}{options}", shared().url(host, &database)));
        let password = Password::Text(Secret::new(PASSWORD));
        let config = PostgresConfig::parse(&url, password, ca.map(Into::into)).unwrap();
        async move {
            let (client, wire) = connect::connect(&config).await?;
            let _wire = Owned(tokio::spawn(async move { drop(wire.await) }));
            let ask = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
            Ok::<bool, StoreError>(client.query_one(ask, &[]).await?.get(0))
        }
    };
    // With an authority named and nothing else said, it is verify-full.
    assert!(attempt("localhost", "", Some(&right)).await.unwrap());
    assert!(
        attempt("localhost", "?sslmode=verify-full", Some(&right))
            .await
            .unwrap()
    );
    assert!(
        attempt("127.0.0.1", "?sslmode=verify-ca", Some(&right))
            .await
            .unwrap()
    );
    assert!(
        attempt("127.0.0.1", "?sslmode=require", None)
            .await
            .unwrap()
    );
    assert!(attempt("127.0.0.1", "?sslmode=prefer", None).await.unwrap());
    assert!(
        !attempt("127.0.0.1", "?sslmode=disable", None)
            .await
            .unwrap()
    );
    for (host, options, ca, why) in [
        (
            "127.0.0.1",
            "?sslmode=verify-full",
            Some(&*right),
            "certificate",
        ),
        ("localhost", "", Some(&*other), "certificate"),
        (
            "localhost",
            "?sslmode=verify-ca",
            Some(&*other),
            "certificate",
        ),
        (
            "localhost",
            "?sslmode=require",
            Some(&*other),
            "certificate",
        ),
        ("localhost", "?sslmode=verify-full", None, "certificate"),
        (
            "localhost",
            "",
            Some(std::path::Path::new("/none.crt")),
            "--store-ca '/none.crt'",
        ),
    ] {
        let error = attempt(host, options, ca).await.unwrap_err().to_string();
        assert!(error.contains(why), "{host}{options}: {error}");
        assert!(!error.contains(PASSWORD));
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it_and_a_changed_file_is_read_again() {
    let database = shared().database().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "canary-wrong\n").unwrap();
    let url = Secret::new(shared().url("127.0.0.1", &database));
    let config = PostgresConfig::parse(&url, Password::File(file.clone()), None).unwrap();
    let store = PostgresStore::connect(config, conformance::keys());
    let why = unavailable_within(OPERATION, store.incarnation()).await;
    assert!(why.contains("password authentication failed"), "{why}");
    assert!(!why.contains("canary"), "{why}");
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    assert_eq!(recovered(&store).await, 1);
}

#[tokio::test]
async fn a_key_that_does_not_open_holds_no_revocation_back() {
    let database = shared().database().unwrap();
    let a = store(shared(), &database);
    create(&a, 1).await;
    a.seal_with("new".into(), Actor::program("test"), 1)
        .await
        .unwrap();
    a.set_key(stored_key("uid-1", "sk"), Actor::program("test"), 1)
        .await
        .unwrap();
    a.revoke_token(new_token(1).token.id, Actor::program("test"), 1)
        .await
        .unwrap();
    // A controller that lacks the master key that seals.
    let old = "old AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";
    let keys = Arc::new(Keys::of(KeyRing::parse(old).unwrap()));
    let b = PostgresStore::connect(config(shared(), &database), keys);
    let changes = b.changes_since(0).await.unwrap();
    assert_eq!(changes.tokens[0].revoked, Some(1));
    assert!(
        matches!(changes.keys[0].key, KeyState::Unreadable(_)),
        "{:?}",
        changes.keys
    );
    let set = b
        .set_key(stored_key("uid-2", "sk"), Actor::program("test"), 1)
        .await;
    assert!(matches!(set, Err(StoreError::Seal(_))), "{set:?}");
    let skipped = b.reseal_next(None).await.unwrap().unwrap();
    assert_eq!(skipped.outcome, ResealOutcome::Current);
}

#[tokio::test]
async fn one_controller_prunes_while_others_are_at_it() {
    let database = shared().database().unwrap();
    let (a, b) = (store(shared(), &database), store(shared(), &database));
    let record = |n: i64| ResponseRecord {
        id: format!("resp_{n}"),
        upstream: ObjectRef::api_model("bodhi", "openai"),
        owner: "ada".into(),
        created: n,
    };
    a.record_responses((0..25_000).map(record).collect())
        .await
        .unwrap();
    let (by_a, by_b) = tokio::join!(a.prune_responses(24_000), b.prune_responses(24_000));
    assert_eq!(by_a.unwrap() + by_b.unwrap(), 24_000);
    assert!(
        a.find_response("resp_24000".into())
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_transaction_mode_is_good_enough() {
    let database = shared().database().unwrap();
    let proxy = PgBouncer::start(shared(), &database).unwrap();
    let through = || {
        let url = Secret::new(proxy.url(&database));
        let config = PostgresConfig::parse(&url, Password::Text(Secret::new(PASSWORD)), None);
        PostgresStore::connect(config.unwrap(), conformance::keys())
    };
    let (a, b) = (through(), through());
    recovered(&a).await;
    recovered(&b).await;
    // Statements of two controllers meet on the proxy's few connections.
    let mut writers = JoinSet::new();
    for (first, writer) in [(0, a.clone()), (100, b.clone())] {
        for task in 0..4 {
            let writer = writer.clone();
            writers.spawn(async move {
                for n in (first + task..first + 100).step_by(4) {
                    create(&writer, n).await;
                }
            });
        }
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    assert_eq!(a.changes_since(0).await.unwrap().tokens.len(), 200);
    // Notifications do not come through it; changes are seen all the same, and soon.
    let mut took = Vec::new();
    for n in 0..10 {
        let id = new_token(n).token.id;
        let revoked = a
            .revoke_token(id, Actor::program("test"), 1)
            .await
            .unwrap()
            .unwrap();
        let began = Instant::now();
        let mut watch = b.watch();
        let seq = revoked.change_seq;
        timeout(PATIENCE, watch.wait_for(|known| *known >= seq))
            .await
            .unwrap()
            .unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    eprintln!(
        "without notifications: median {:?}, longest {:?}",
        took[5], took[9]
    );
    assert!(took[9] < Duration::from_secs(1), "{took:?}");
}
