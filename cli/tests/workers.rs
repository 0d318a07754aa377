//! Local models under stress: a real data plane and worker processes that are late, full, killed
//! or left by their clients. `BODHI_SOAK` runs the repeated ones at full length.

#![expect(clippy::expect_used, reason = "what cannot go on fails the test")]

mod rig;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use bodhi_net::identity::worker_uri;
use bodhi_proto::names::ModelName;
use bodhi_proto::snapshot::{Globs, ModelCap, Pool, PoolState, Token, WorkerId};
use bodhi_tests::authority::{Authority, Issued};
use bodhi_tests::process::eventually;
use bodhi_tests::scripted::Scripted;
use bodhi_tests::told::Told;
use bodhi_tests::wire::{End, Response};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use rig::{MODEL, Rig, pool, token};

/// The end of a whole stream on the wire.
const LAST: &[u8] = b"data: [DONE]\n\n\r\n0\r\n\r\n";

/// As many as by default, or in a soak.
fn rounds(default: usize, soak: usize) -> usize {
    match std::env::var_os("BODHI_SOAK") {
        None => default,
        Some(_) => soak,
    }
}

/// A refusal in the envelope, with how long to wait where waiting helps.
fn refused(answer: &Response, status: u16, code: &str) -> anyhow::Result<()> {
    let said = answer.json();
    let good = answer.status == status
        && said["error"]["code"] == code
        && answer.header("x-bodhi-error-source") == Some("gateway")
        && (!matches!(status, 429 | 503) || answer.header("retry-after").is_some());
    ensure!(
        good,
        "expected {status} {code}, got {} {:?} {}",
        answer.status,
        answer.headers,
        answer.text()
    );
    Ok(())
}

/// A stream that is whole.
fn whole(answer: &Response, text: &str) -> anyhow::Result<()> {
    let told = Told::read(answer)?;
    let good = answer.end == End::Complete
        && told.done
        && told.finish(0) == Some("stop")
        && told.text(0) == text;
    ensure!(good, "not whole ({:?}): {}", answer.end, answer.text());
    Ok(())
}

/// A stream whose worker was lost: what was said so far, the error, and the connection aborted.
fn lost(answer: &Response, text: &str) -> anyhow::Result<()> {
    let told = Told::read(answer)?;
    let code = told.error.as_ref().map(|error| &error["code"]);
    let good = answer.end != End::Complete
        && code.is_some_and(|code| code == "worker_lost")
        && !told.done
        && told.finish(0).is_none()
        && text.starts_with(&told.text(0));
    ensure!(good, "not cut ({:?}): {}", answer.end, answer.text());
    Ok(())
}

/// What the fake engine says to `<<n>>`.
fn words(n: usize) -> String {
    "word ".chars().cycle().take(n).collect()
}

#[test]
fn requests_that_wait_for_a_worker_are_let_go_as_it_has_slots() -> anyhow::Result<()> {
    let rig = Rig::start(Pool {
        max_held: 6,
        ..pool(PoolState::Starting)
    })?;
    let mut waiting = Vec::new();
    for n in 0..6 {
        waiting.push(rig.send("<<100>>", n % 2 == 0)?);
    }
    rig.demands(0, 6)?;
    refused(&rig.ask("<<1>>", true)?, 429, "queue_full")?;

    // A hundred steps of 2 ms each, so that there is time to look.
    let worker = rig.worker(&["--parallel-slots", "2", "--fake-step", "2000"])?;
    rig.serve([&worker])?;
    rig.demands(2, 4)?;
    let watched = thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let answers = waiting.iter_mut().map(|wire| wire.response());
            answers.collect::<Result<Vec<_>, _>>()
        });
        let mut most = 0;
        while !answers.is_finished() {
            let (running, _) = rig.demand()?;
            let (_, queued) = worker.load()?;
            // An answer ends a moment before its slot is free: the next may wait for that step.
            ensure!(queued <= 2, "{queued} were let go without a slot");
            most = most.max(running);
        }
        let answers = answers.join().expect("no panic")?;
        anyhow::Ok((answers, most))
    });
    let (answers, most) = watched?;
    ensure!(most <= 2, "{most} were let go together");
    for (n, answer) in answers.iter().enumerate() {
        match n % 2 == 0 {
            true => whole(answer, &words(100))?,
            false => ensure!(answer.status == 200, "{}", answer.text()),
        }
    }
    rig.demands(0, 0)
}

#[test]
fn waiting_ends_in_time() -> anyhow::Result<()> {
    let hold = Duration::from_millis(300);
    let rig = Rig::start(Pool {
        hold_timeout: hold,
        ..pool(PoolState::Asleep)
    })?;
    let begun = Instant::now();
    let answer = rig.ask("<<1>>", true)?;
    let waited = begun.elapsed();
    refused(&answer, 503, "model_loading")?;
    ensure!(waited >= hold && waited < hold * 10, "after {waited:?}");
    rig.demands(0, 0)
}

#[test]
fn a_client_that_leaves_waits_no_more() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Starting))?;
    let (left, mut stays) = (rig.send("<<1>>", true)?, rig.send("<<1>>", true)?);
    rig.demands(0, 2)?;
    drop(left);
    rig.demands(0, 1)?;
    let worker = rig.worker(&[])?;
    rig.serve([&worker])?;
    whole(&stays.response()?, &words(1))
}

/// Workers that are to go are hidden before they go, but a request may have chosen one by then.
#[test]
fn what_no_worker_has_touched_goes_where_its_name_leads_now() -> anyhow::Result<()> {
    let rig = Rig::start(Pool {
        hold_timeout: Duration::from_secs(2),
        ..pool(PoolState::Starting)
    })?;
    let mut waiting = [rig.send("<<5>>", true)?, rig.send("<<5>>", false)?];
    rig.demands(0, 2)?;
    let worker = rig.worker(&[])?;
    rig.move_to("elsewhere", &worker)?;
    whole(&waiting[0].response()?, &words(5))?;
    let answer = waiting[1].response()?;
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(())
}

/// The pool would have it wait for five minutes more.
#[test]
fn a_request_that_waits_goes_where_its_name_leads_at_once() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let rig = Rig::start(pool(PoolState::Starting))?;
    let mut waiting = [rig.send("<<5>>", true)?, rig.send("<<5>>", false)?];
    rig.demands(0, 2)?;
    rig.move_to_provider(&provider)?;
    for wire in &mut waiting {
        let answer = wire.response()?;
        ensure!(answer.status == 200, "{}", answer.text());
        let mark = answer.header("x-bodhi-mark").unwrap_or_default();
        ensure!(mark.contains(&rig.mark()), "{mark}, not {}", rig.mark());
    }
    ensure!(provider.requests()?.len() == 2);
    Ok(())
}

#[test]
fn a_token_that_is_revoked_while_its_request_waits_is_refused() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Starting))?;
    let mut waiting = [rig.send("<<5>>", true)?, rig.send("<<5>>", false)?];
    rig.demands(0, 2)?;
    rig.tokens(Vec::new())?;
    for wire in &mut waiting {
        refused(&wire.response()?, 401, "invalid_token")?;
    }
    rig.demands(0, 0)
}

#[test]
fn a_token_that_expires_while_its_request_waits_is_refused() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Starting))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let expires = since.as_secs() as i64 + 2;
    rig.tokens(vec![Token {
        expires: Some(expires),
        ..token()
    }])?;
    let mut waiting = rig.send("<<5>>", true)?;
    rig.demands(0, 1)?;
    let worker = rig.worker(&[])?;
    eventually("the token to expire", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        (now.as_secs() as i64 >= expires).then_some(())
    })?;
    rig.serve([&worker])?;
    refused(&waiting.response()?, 401, "expired_token")
}

#[test]
fn what_a_token_may_do_is_judged_again_after_a_wait() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Starting))?;
    let mut waiting = rig.send("<<5>>", false)?;
    rig.demands(0, 1)?;
    rig.tokens(vec![Token {
        output_caps: vec![ModelCap {
            model: ModelName::parse(MODEL)?,
            limit: NonZeroU32::new(3).expect("not zero"),
        }],
        ..token()
    }])?;
    // It waits on, but for less.
    rig.demands(0, 1)?;
    let worker = rig.worker(&[])?;
    rig.serve([&worker])?;
    let answer = waiting.response()?.json();
    ensure!(answer["usage"]["completion_tokens"] == 3, "{answer}");

    rig.serve([])?;
    let mut waiting = rig.send("<<5>>", true)?;
    rig.demands(0, 1)?;
    rig.tokens(vec![Token {
        models: Some(Globs::new(["another"])),
        ..token()
    }])?;
    refused(&waiting.response()?, 400, "model_not_allowed")
}

#[test]
fn the_largest_request_is_reset_when_memory_is_nearly_exhausted() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Starting))?;
    let mut small = rig.send("<<5>>", true)?;
    let mut large = rig.send(&"x".repeat(1 << 20), false)?;
    rig.demands(0, 2)?;
    // Others are refused from 92 % on; these two are in already.
    rig.uses(95)?;
    eventually("new requests to be refused", || {
        let answer = rig.list().ok()?;
        (answer.status == 503).then_some(())
    })?;
    rig.demands(0, 2)?;
    rig.uses(97)?;
    refused(&large.response()?, 503, "memory_pressure")?;
    rig.demands(0, 1)?;
    rig.uses(50)?;
    let worker = rig.worker(&[])?;
    rig.serve([&worker])?;
    whole(&small.response()?, &words(5))
}

#[test]
fn a_full_worker_refuses_and_another_is_asked() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Ready))?;
    let one = [
        "--parallel-slots",
        "1",
        "--queue",
        "1",
        "--fake-step",
        "2000",
    ];
    let full = rig.worker(&one)?;
    rig.serve([&full])?;
    let mut first = rig.send("<<500>>", true)?;
    full.has(1, 0)?;
    let mut second = rig.send("<<1>>", true)?;
    full.has(1, 1)?;
    refused(&rig.ask("<<1>>", true)?, 429, "queue_full")?;
    refused(&rig.ask("<<1>>", false)?, 429, "queue_full")?;

    let free = rig.worker(&[])?;
    rig.serve([&full, &free])?;
    whole(&rig.ask("<<2>>", true)?, &words(2))?;
    whole(&first.response()?, &words(500))?;
    whole(&second.response()?, &words(1))
}

/// F8: a worker that went away before the data plane heard of it costs no request.
#[test]
fn a_worker_that_is_gone_is_passed_over() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Ready))?;
    let (mut gone, stays) = (rig.worker(&[])?, rig.worker(&[])?);
    rig.serve([&gone, &stays])?;
    for _ in 0..4 {
        whole(&rig.ask("<<3>>", true)?, &words(3))?;
    }
    gone.process.kill();
    for n in 0..20 {
        match n % 2 == 0 {
            true => whole(&rig.ask("<<3>>", true)?, &words(3))?,
            false => {
                let answer = rig.ask("<<3>>", false)?;
                ensure!(answer.status == 200, "{}", answer.text());
            }
        }
    }
    rig.serve([&gone])?;
    refused(&rig.ask("<<3>>", true)?, 502, "worker_lost")?;
    rig.demands(0, 0)
}

#[test]
fn a_killed_worker_cuts_its_own_answers_and_no_others() -> anyhow::Result<()> {
    let rig = Rig::start(pool(PoolState::Ready))?;
    let slow = ["--fake-step", "1000"];
    let mut workers = [rig.worker(&slow)?, rig.worker(&slow)?];
    let long = words(400);
    for _ in 0..rounds(5, 100) {
        rig.serve(&workers)?;
        let mut asked = Vec::new();
        for n in 0..4 {
            let stream = n % 2 == 0;
            asked.push((stream, rig.send("<<400>>", stream)?));
        }
        // They are spread by what data planes know, which may be a moment old.
        let busy = eventually("four answers", || {
            let loads = [workers[0].load().ok()?.0, workers[1].load().ok()?.0];
            (loads[0] + loads[1] == 4).then_some(loads)
        })?;
        for (_, wire) in asked.iter_mut().filter(|(stream, _)| *stream) {
            wire.read_until(|bytes| memchr::memmem::find(bytes, b"\"content\":\"w").is_some())?;
        }
        let victim = usize::from(busy[1] > busy[0]);
        workers[victim].process.kill();
        let killed = Instant::now();
        let mut cut = 0;
        for (stream, wire) in &mut asked {
            let answer = wire.response()?;
            let is_cut = match stream {
                true => Told::read(&answer)?.error.is_some(),
                false => answer.status != 200,
            };
            match (*stream, is_cut) {
                (true, true) => lost(&answer, &long)?,
                (true, false) => whole(&answer, &long)?,
                (false, true) => refused(&answer, 502, "worker_lost")?,
                (false, false) => {
                    let said = answer.json();
                    let content = &said["choices"][0]["message"]["content"];
                    ensure!(*content == long.as_str(), "{said}");
                }
            }
            cut += u64::from(is_cut);
        }
        ensure!(cut == busy[victim], "{cut} cut of {busy:?}");
        rig.demands(0, 0)?;
        ensure!(killed.elapsed() < Duration::from_secs(10));
        workers[victim] = rig.worker(&slow)?;
    }
    Ok(())
}

#[test]
fn clients_that_leave_at_any_moment_leave_every_slot_free() -> anyhow::Result<()> {
    let seed: u64 = std::env::var("BODHI_SEED").map_or(Ok(1), |text| text.parse())?;
    let clients = rounds(200, 1000);
    eprintln!("{clients} clients with BODHI_SEED={seed}");
    let rig = Rig::start(pool(PoolState::Ready))?;
    let arguments = ["--fake-step", "300", "--queue", "256"];
    let workers = [rig.worker(&arguments)?, rig.worker(&arguments)?];
    rig.serve(&workers)?;
    let threads = 16;
    let leave = |thread: usize| {
        let mut random = StdRng::seed_from_u64(seed + thread as u64);
        for _ in 0..clients.div_ceil(threads) {
            let stream = random.random_bool(0.7);
            let request = rig.request("<<200>>", stream);
            let mut wire = rig.connect()?;
            match random.random_range(0..5) {
                // While it sends, at once, after a while, in the middle, never.
                0 => wire.send(&request[..random.random_range(1..request.len())])?,
                1 => wire.send(&request)?,
                2 => {
                    wire.send(&request)?;
                    thread::sleep(Duration::from_millis(random.random_range(0..40)));
                }
                3 if stream => {
                    wire.send(&request)?;
                    let enough = random.random_range(1..20_000);
                    // Pieces join when clients are slow, so the end may come before that.
                    wire.read_until(|bytes| bytes.len() >= enough || bytes.ends_with(LAST))?;
                }
                _ => {
                    wire.send(&request)?;
                    let answer = wire.response()?;
                    match stream {
                        true => whole(&answer, &words(200))?,
                        false => ensure!(answer.status == 200, "{}", answer.text()),
                    }
                }
            }
        }
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|n| scope.spawn(move || leave(n)))
            .collect();
        let ended = threads.into_iter().map(|t| t.join().expect("no panic"));
        ended.collect::<anyhow::Result<()>>()
    })?;
    rig.demands(0, 0)?;
    for worker in &workers {
        worker.has(0, 0)?;
    }
    // Every slot is there for others: as many at once as there are, and none waits.
    // One worker after the other, since what workers last said of their load may tip the balance.
    for worker in &workers {
        rig.serve([worker])?;
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(rig.send("<<200>>", true)?);
        }
        worker.has(4, 0)?;
        for wire in &mut all {
            whole(&wire.response()?, &words(200))?;
        }
    }
    Ok(())
}

/// A certificate for this worker.
fn good(ours: &Authority) -> impl Fn(&WorkerId) -> anyhow::Result<Issued> {
    |id| ours.issue(&[&worker_uri(id)])
}

#[test]
fn workers_on_other_machines_are_asked_over_mutual_tls() -> anyhow::Result<()> {
    let ours = Authority::new("ours")?;
    let rig = Rig::over_tls(pool(PoolState::Ready), &ours)?;
    let workers = [
        rig.tls_worker(good(&ours), &[])?,
        rig.tls_worker(good(&ours), &[])?,
    ];
    rig.serve(&workers)?;
    for n in 0..20 {
        match n % 2 == 0 {
            true => whole(&rig.ask("<<30>>", true)?, &words(30))?,
            false => ensure!(rig.ask("<<3>>", false)?.status == 200),
        }
    }
    rig.demands(0, 0)
}

/// Whoever has the address of a worker that ended has a certificate of ours perhaps, and gets no
/// prompt; another worker is asked.
#[test]
fn only_the_very_pod_is_sent_a_prompt() -> anyhow::Result<()> {
    let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
    let rig = Rig::over_tls(pool(PoolState::Ready), &ours)?;
    let worker = rig.tls_worker(good(&ours), &[])?;
    let wrong = [
        rig.tls_worker(
            |_| ours.issue(&["bodhi:worker/bodhi/local/another-pod"]),
            &[],
        )?,
        rig.tls_worker(|_| ours.issue(&["127.0.0.1", "localhost"]), &[])?,
        rig.tls_worker(|id| ours.issue_until(&[&worker_uri(id)], 2020), &[])?,
        rig.tls_worker(|id| other.issue(&[&worker_uri(id)]), &[])?,
    ];
    for wrong in &wrong {
        rig.serve([wrong])?;
        refused(&rig.ask("<<3>>", true)?, 502, "worker_lost")?;
        rig.serve([wrong, &worker])?;
        for _ in 0..5 {
            whole(&rig.ask("<<3>>", true)?, &words(3))?;
        }
        let said = wrong.process.printed();
        ensure!(said.contains("a connection was refused"), "{said}");
    }
    rig.demands(0, 0)
}

/// Both ends get new certificates again and again, and workers new names, so that connections are
/// made all the time.
#[test]
fn renewal_under_load_costs_no_request() -> anyhow::Result<()> {
    let ours = Authority::new("ours")?;
    let rig = Rig::over_tls(pool(PoolState::Ready), &ours)?;
    // Both names are good while data planes move from one to the other.
    let named = |id: &WorkerId, round: usize| {
        let name = |round| WorkerId {
            worker: format!("{}-{round}", id.worker).into(),
            ..id.clone()
        };
        let (now, next) = (worker_uri(&name(round)), worker_uri(&name(round + 1)));
        ours.issue(&[&now, &next])
    };
    let arguments = ["--fake-step", "500", "--queue", "256"];
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = rig.tls_worker(|id| named(id, 0), &arguments)?;
        workers.push((worker.id().clone(), worker));
    }
    for (id, worker) in &mut workers {
        worker.rename(&format!("{}-0", id.worker));
    }
    rig.serve(workers.iter().map(|(_, worker)| worker))?;
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let ask = || {
        while !stop.load(Ordering::Relaxed) {
            whole(&rig.ask("<<40>>", true)?, &words(40))?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    let mut renew = || {
        for round in 1..rounds(10, 200) {
            // Something goes over each generation of certificates, however busy the machine is.
            eventually("requests", || {
                (answered.load(Ordering::Relaxed) >= 4 * round).then_some(())
            })?;
            ours.issue(&["bodhi:dataplane"])?
                .write(rig.folder(), "plane")?;
            for (id, worker) in &mut workers {
                let file = format!("worker-{}", id.worker);
                named(id, round)?.write(rig.folder(), &file)?;
                worker.rename(&format!("{}-{round}", id.worker));
            }
            rig.serve(workers.iter().map(|(_, worker)| worker))?;
        }
        anyhow::Ok(())
    };
    thread::scope(|scope| {
        let asking: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        let renewed = renew();
        stop.store(true, Ordering::Relaxed);
        let mut asked = asking.into_iter().map(|t| t.join().expect("no panic"));
        asked.try_for_each(|asked| asked).and(renewed)
    })?;
    rig.demands(0, 0)
}
