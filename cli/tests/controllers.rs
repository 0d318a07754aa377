//! Several controllers and their data planes, over mutual TLS: who leads changes, controllers die
//! and lag, and no data plane goes back to what was.

#![expect(clippy::unwrap_used, reason = "what cannot go on fails the test")]

#[path = "controllers/several.rs"]
mod several;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bodhi_controller::sync::{Publication, Tokens};
use bodhi_proto::names::TokenId;
use bodhi_proto::snapshot::Snapshot;
use bodhi_proto::sync::{Revision, Source};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use several::{
    SOON, Several, everything, knows, names, no_demand, plane, served, serves, snapshot,
};

type Snapshots = watch::Receiver<Option<Arc<Snapshot>>>;

fn revoked(token: &str, revision: u64) -> Publication {
    let revision = Revision::number(revision);
    Publication {
        tokens: Tokens::Changed {
            upserts: Vec::new(),
            removals: vec![(TokenId::parse(token).unwrap(), revision)],
        },
        marks: vec![(Source::Store, revision)],
        ..Publication::default()
    }
}

/// An edit that makes these all the names there are.
fn edit(names: &[String], revision: u64) -> Publication {
    Publication {
        served_names: Some(names.iter().map(|name| served(name)).collect()),
        marks: vec![(Source::Objects, Revision::number(revision))],
        ..Publication::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_plane_moves_to_the_leader_and_to_the_next() {
    let several = Several::start(3).await;
    several.publish(&everything(&["fast"]));
    let control = plane("plane-0", several.connect(&[0, 1, 2]));
    snapshot(&control, |s| serves(s, "fast")).await;
    for (epoch, leader) in [(1, 0), (2, 1), (3, 2), (4, 0)] {
        several.lead(leader, epoch);
        several.connected(&control, leader).await;
        several.holds(leader, "plane-0").await;
    }
    // Each controller it left has let go of it.
    several.lets_go(1, "plane-0").await;
    several.lets_go(2, "plane-0").await;
    let status = control.status().borrow().clone();
    assert!(
        status.last_end.is_none(),
        "no stream broke: {:?}",
        status.last_end
    );
    assert_eq!(status.divergences, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_word_of_an_older_epoch_moves_nobody() {
    let several = Several::start(2).await;
    several.publish(&everything(&["fast"]));
    several.lead(1, 7);
    let control = plane("plane-0", several.connect(&[0, 1]));
    several.connected(&control, 1).await;
    // One that lags says what was.
    several.controllers[1].announce(several.leader(0, 6));
    let published = several.controllers[1].server.publish(edit(&names(2), 2));
    assert!(published.changed > 0);
    snapshot(&control, |s| serves(s, "m1")).await;
    let status = control.status().borrow().clone();
    assert_eq!(status.controller.as_deref(), Some("controller-1"));
    assert_eq!(status.leader, Some(several.leader(1, 7)));
}

/// Nothing is lost and nothing goes back while edits are made and leaders change.
#[tokio::test(flavor = "multi_thread")]
async fn leaders_change_under_load() {
    let several = Arc::new(Several::start(3).await);
    several.publish(&everything(&["fast"]));
    several.lead(0, 1);
    let planes: Vec<_> = (0..8)
        .map(|n| plane(&format!("plane-{n}"), several.connect(&[0, 1, 2])))
        .collect();
    let seen = Arc::<AtomicUsize>::default();
    let watching: Vec<_> = planes
        .iter()
        .map(|control| tokio::spawn(only_grows(control.snapshots(), Arc::clone(&seen))))
        .collect();
    let mut revision = 1;
    for (epoch, leader) in [(2, 1), (3, 2), (4, 0), (5, 1)] {
        several.lead(leader, epoch);
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            revision += 1;
            let edit = edit(&names(40 + revision % 10), revision);
            // Replicas see the same edits, one after the other.
            for n in 0..3 {
                several.controllers[(leader + n) % 3]
                    .server
                    .publish(edit.clone());
                sleep(Duration::from_millis(7)).await;
            }
        }
        for control in &planes {
            several.connected(control, leader).await;
        }
    }
    let last = format!("objects={revision};");
    for control in &planes {
        snapshot(control, |s| s.mark.starts_with(&last)).await;
        let status = control.status().borrow().clone();
        assert_eq!(status.divergences, 0);
    }
    for watching in watching {
        still_well(&watching);
    }
    let seen = seen.load(Ordering::Relaxed);
    assert!(seen > planes.len() * 10, "{seen} edits came through");
}

/// Ends a task that would have panicked.
fn still_well(watching: &JoinHandle<()>) {
    assert!(!watching.is_finished(), "see its panic");
    watching.abort();
}

/// Counts snapshots; each mark is at least the one before.
async fn only_grows(mut snapshots: Snapshots, seen: Arc<AtomicUsize>) {
    let revision = |snapshot: &Snapshot| -> u64 {
        let mut marks = snapshot.mark.split(';');
        let objects = marks.find_map(|mark| mark.strip_prefix("objects="));
        objects.map_or(0, |number| number.parse().unwrap())
    };
    let mut highest = 0;
    while snapshots.changed().await.is_ok() {
        if let Some(snapshot) = &*snapshots.borrow_and_update() {
            let now = revision(snapshot);
            assert!(now >= highest, "back from {highest} to {now}");
            highest = now;
            seen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A push of which the leader dies in the middle is applied whole, from another controller, or not
/// at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_in_the_middle_of_a_push_leaves_no_half() {
    let few: Vec<String> = names(100);
    let many: Vec<String> = names(4000);
    for delay in [0, 3, 10, 30, 100] {
        let mut several = Several::start(2).await;
        let few_refs: Vec<&str> = few.iter().map(String::as_str).collect();
        several.publish(&everything(&few_refs));
        several.lead(0, 1);
        let control = plane("plane-0", several.connect(&[0, 1]));
        several.connected(&control, 0).await;
        snapshot(&control, |s| serves(s, "m99")).await;
        let watching = tokio::spawn(whole_sets(control.snapshots(), [100, 4000]));
        several.publish(&edit(&many, 2));
        sleep(Duration::from_millis(100 + delay)).await;
        several.kill(0).await;
        several.lead(1, 2);
        let held = snapshot(&control, |s| serves(s, "m3999")).await;
        assert_eq!(held.table.len(), 4000);
        several.connected(&control, 1).await;
        still_well(&watching);
    }
}

async fn whole_sets(mut snapshots: Snapshots, sizes: [usize; 2]) {
    while snapshots.changed().await.is_ok() {
        if let Some(snapshot) = &*snapshots.borrow_and_update() {
            let size = snapshot.table.len();
            assert!(sizes.contains(&size), "{size} names are neither set");
        }
    }
}

/// A replica that has not read of a revocation withholds tokens until it has; the rest flows.
#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_replica_never_brings_a_revoked_token_back() {
    let mut several = Several::start(2).await;
    several.publish(&everything(&["fast"]));
    several.lead(0, 1);
    let control = plane("plane-0", several.connect(&[0, 1]));
    several.connected(&control, 0).await;
    snapshot(&control, |s| knows(s, "a") && knows(s, "b")).await;
    // The leader alone has heard.
    several.controllers[0].server.publish(revoked("a", 11));
    snapshot(&control, |s| !knows(s, "a") && s.mark.contains("store=11")).await;
    let mut snapshots = control.snapshots();
    let watching = tokio::spawn(async move {
        while snapshots.changed().await.is_ok() {
            if let Some(snapshot) = &*snapshots.borrow_and_update() {
                assert!(!knows(snapshot, "a"), "a revoked token is back");
            }
        }
    });
    several.kill(0).await;
    several.lead(1, 2);
    several.connected(&control, 1).await;
    // Objects flow although tokens do not.
    several.controllers[1].server.publish(edit(&names(3), 2));
    let held = snapshot(&control, |s| serves(s, "m2")).await;
    assert!(!knows(&held, "a") && knows(&held, "b"));
    // It has caught up, and goes on.
    several.controllers[1].server.publish(revoked("a", 11));
    several.controllers[1].server.publish(revoked("b", 12));
    snapshot(&control, |s| !knows(s, "b") && s.mark.contains("store=12")).await;
    still_well(&watching);
}

/// Whichever controller has a data plane, the leader knows what it holds and rejects; and whichever
/// controller revokes a token, the answer is about all data planes.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_knows_all_data_planes_and_is_asked_by_others() {
    let several = Several::start(3).await;
    several.publish(&everything(&["fast"]));
    // The leader takes links and no streams: data planes stay where they are.
    several.controllers[0].server.goodbye("for the test");
    several.lead(0, 1);
    let planes: Vec<_> = [1, 2]
        .into_iter()
        .map(|n| {
            let control = plane(&format!("plane-{n}"), several.connect(&[n]));
            let link = control.report(no_demand());
            (control, link)
        })
        .collect();
    for (n, (control, _)) in (1..).zip(&planes) {
        several.connected(control, n).await;
        several.holds(0, &format!("plane-{n}")).await;
    }
    let acks = several.controllers[0].server.acks();
    assert_eq!(acks.containing(Source::Store, Revision::number(10)), 2);
    // The other controllers know of their own.
    let own = several.controllers[1].server.acks();
    assert_eq!(own.planes.len(), 1);

    // What one does not accept, the leader is told.
    let mut wrong = (*served("wrong")).clone();
    wrong.owner = bodhi_proto::names::ObjectRef::alias("bodhi", "no\nname");
    several.publish(&Publication {
        served_names: Some(vec![served("fast"), Arc::new(wrong)]),
        marks: vec![(Source::Objects, Revision::number(2))],
        ..Publication::default()
    });
    let leader = &several.controllers[0].server;
    let mut changed = leader.acks_changed();
    let rejected = async {
        while leader.acks().rejections().count() < 2 {
            changed.changed().await.unwrap();
        }
    };
    timeout(SOON, rejected)
        .await
        .expect("both rejections arrive");

    // A revocation by a controller that does not lead.
    several.publish(&revoked("a", 11));
    let revision = Revision::number(11);
    for n in [0, 1, 2] {
        let server = &several.controllers[n].server;
        let applied = server.wait_applied(revision, Duration::from_secs(5)).await;
        assert_eq!(applied.applied, ["plane-1", "plane-2"], "controller-{n}");
        assert!(applied.pending.is_empty());
    }
    // What nobody has applied is pending, everywhere.
    let later = Revision::number(99);
    let applied = several.controllers[2]
        .server
        .wait_applied(later, Duration::from_millis(50))
        .await;
    assert_eq!(applied.pending, ["plane-1", "plane-2"]);

    // Another leads: the first one forgets, the other learns.
    several.lead(1, 2);
    several.holds(1, "plane-2").await;
    several.lets_go(0, "plane-1").await;
    several.lets_go(0, "plane-2").await;
}

/// F6: a thousand streams that end at once do not come back at once.
#[tokio::test(flavor = "multi_thread")]
async fn f6_a_herd_comes_back_spread() {
    let mut several = Several::start(2).await;
    several.publish(&everything(&["fast"]));
    several.lead(0, 1);
    let planes: Vec<_> = (0..60)
        .map(|n| plane(&format!("plane-{n}"), several.connect(&[0, 1])))
        .collect();
    for control in &planes {
        several.connected(control, 0).await;
    }
    let begun = Instant::now();
    several.kill(0).await;
    let mut back = Vec::new();
    for control in &planes {
        several.connected(control, 1).await;
        back.push(begun.elapsed());
    }
    back.sort();
    // Of the first wait, at most 200 ms each, and of what handshakes take here.
    assert!(back[59] < SOON, "{back:?}");
    let accepted = several.controllers[1].accepted();
    let first = accepted.first().unwrap();
    let spread = *accepted.last().unwrap() - *first;
    assert!(spread > Duration::from_millis(100), "all within {spread:?}");
}
