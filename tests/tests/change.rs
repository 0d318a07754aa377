//! Changes of configuration while requests flow: nothing fails, nothing is misrouted, and one bad
//! object harms no other. `BODHI_EDITS` and `BODHI_SEED` set length and seed of the random run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::process::eventually;
use bodhi_tests::scripted::{KEY, Scripted};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const OBJECTS: usize = 12;

fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

/// The model that object `n` serves.
fn served(n: usize) -> String {
    format!("object-{n}/model")
}

fn manifest(n: usize, provider: &Scripted) -> String {
    let (name, model) = (format!("object-{n}"), served(n));
    ApiModel::new(
        &name,
        "openai",
        format!("{}/openai/v1", provider.url()),
        &[&model],
    )
    .yaml()
}

/// Asks for object `n`'s model and tells who answered.
fn who(gateway: &Gateway, n: usize) -> anyhow::Result<String> {
    let body = format!(
        r#"{{"model":"{}","messages":[{{"role":"user","content":"hi"}}]}}"#,
        served(n)
    );
    let answer = gateway.post("/v1/chat/completions", body)?;
    ensure!(
        answer.status == 200,
        "{}: {} {}",
        served(n),
        answer.status,
        answer.text()
    );
    ensure!(
        answer.json()["model"] == served(n),
        "misrouted: {}",
        answer.text()
    );
    Ok(answer
        .header("x-scripted-provider")
        .unwrap_or_default()
        .to_owned())
}

/// Saves object `n`'s file: replaces it, as editors do, or writes into it.
fn save(gateway: &Gateway, n: usize, text: &str, replace: bool) -> anyhow::Result<()> {
    let path = gateway.manifests().join(format!("{n:03}.yaml"));
    if replace {
        let new = gateway.data().join(format!("new-{n}"));
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &path)?;
    } else {
        std::fs::write(&path, text)?;
    }
    Ok(())
}

#[test]
fn random_edits_during_load_fail_and_misroute_nothing() -> anyhow::Result<()> {
    let edits: usize = setting("BODHI_EDITS", 100);
    let seed: u64 = setting("BODHI_SEED", 1);
    eprintln!("{edits} edits with BODHI_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let one = Scripted::with(&["--key", KEY, "--name", "one"])?;
    let two = Scripted::with(&["--key", KEY, "--name", "two"])?;
    let manifests: Vec<String> = (0..OBJECTS).map(|n| manifest(n, &one)).collect();
    let gateway = Gateway::up(&manifests)?;
    for n in 0..OBJECTS {
        gateway.serves(&served(n))?;
    }
    let (done, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    // Object 0 is never touched: it must always lead to `one`. The others lead to either.
    let load = |thread: usize| -> anyhow::Result<()> {
        let mut n = thread;
        while !done.load(Ordering::Relaxed) {
            n = (n + 1) % OBJECTS;
            let answered_by = who(&gateway, n)?;
            ensure!(
                answered_by == "one" || (n > 0 && answered_by == "two"),
                "object {n} answered by '{answered_by}'"
            );
            requests.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let mut leads_to_two = [false; OBJECTS];
    let loaded: Vec<anyhow::Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|at| scope.spawn(move || load(at))).collect();
        let mut failed = Ok(());
        for _ in 0..edits {
            let n = random.random_range(1..OBJECTS);
            let text = match random.random_range(0..10) {
                // A broken file keeps the object that it last produced.
                0 => "apiVersion: bodhi.dev/v1alpha1\nkind: [ApiModel\n".to_owned(),
                1 => manifest(n, &one).replace("format: openai", "format: telepathy"),
                _ => {
                    leads_to_two[n] = random.random();
                    manifest(n, if leads_to_two[n] { &two } else { &one })
                }
            };
            if let Err(why) = save(&gateway, n, &text, random.random()) {
                failed = Err(why);
                break;
            }
            thread::sleep(Duration::from_millis(random.random_range(0..60)));
        }
        // Bring all objects to a known end while the load goes on.
        for (n, two_serves) in leads_to_two.iter().enumerate().skip(1) {
            let text = manifest(n, if *two_serves { &two } else { &one });
            failed = failed.and_then(|()| save(&gateway, n, &text, false));
        }
        thread::sleep(Duration::from_millis(500));
        done.store(true, Ordering::Relaxed);
        let ended = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")))
        });
        ended.chain([failed]).collect()
    });
    for result in loaded {
        result.with_context(|| format!("with BODHI_SEED={seed}"))?;
    }
    for (n, two) in leads_to_two.into_iter().enumerate() {
        let expected = if two { "two" } else { "one" };
        eventually(&format!("object {n} to lead to {expected}"), || {
            who(&gateway, n).ok().filter(|name| name == expected)
        })?;
    }
    eprintln!(
        "{} requests during the edits",
        requests.load(Ordering::Relaxed)
    );
    gateway.finish()
}

#[test]
fn one_bad_object_among_a_thousand_changes_nothing_for_the_others() -> anyhow::Result<()> {
    let objects: usize = setting("BODHI_OBJECTS", 1000);
    let provider = Scripted::start()?;
    let all: Vec<String> = (0..objects).map(|n| manifest(n, &provider)).collect();
    let gateway = Gateway::up(&[all.join("---\n")])?;
    gateway.serves(&served(objects - 1))?;
    let before = gateway.get("/v1/models")?;
    let bad = [
        (
            "schema",
            manifest(objects, &provider).replace("format: openai", "format: telepathy"),
        ),
        (
            "rule",
            manifest(objects, &provider).replace("insecureHttp: true", "insecureHttp: false"),
        ),
        (
            "secret",
            manifest(objects, &provider).replace("kind: Secret", "kind: Ignored"),
        ),
        ("syntax", "kind: [\n".to_owned()),
        ("binary", "\0\u{1}".to_owned()),
    ];
    for (fault, text) in bad {
        let path = gateway.manifests().join("bad.yaml");
        std::fs::write(&path, text)?;
        // The same names stay listed, and a good object beside the bad one still gets through.
        let witness = format!("witness-{fault}");
        let beside = ApiModel::new(
            &witness,
            "openai",
            format!("{}/openai/v1", provider.url()),
            &[&witness],
        )
        .yaml();
        std::fs::write(gateway.manifests().join("witness.yaml"), beside)?;
        gateway
            .serves(&witness)
            .with_context(|| format!("beside a bad {fault}"))?;
        std::fs::remove_file(gateway.manifests().join("witness.yaml"))?;
        std::fs::remove_file(path)?;
        eventually("the witness to go", || {
            gateway
                .get("/v1/models")
                .ok()
                .filter(|list| list.body == before.body)
        })
        .with_context(|| format!("after a bad {fault}"))?;
        for n in [0, objects / 2, objects - 1] {
            who(&gateway, n).with_context(|| format!("beside a bad {fault}"))?;
        }
    }
    gateway.finish()
}

#[test]
fn a_saved_file_is_served_soon_and_a_removed_one_is_not() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let gateway = Gateway::up(&[manifest(0, &provider)])?;
    gateway.serves(&served(0))?;
    let path = gateway.manifests().join("later.yaml");
    for round in 0..3 {
        std::fs::write(&path, manifest(1, &provider))?;
        let saved = Instant::now();
        gateway.serves(&served(1))?;
        eprintln!(
            "round {round}: served after {} ms",
            saved.elapsed().as_millis()
        );
        std::fs::remove_file(&path)?;
        eventually("the object to go", || who(&gateway, 1).err())?;
        ensure!(who(&gateway, 0)? == "scripted");
    }
    gateway.finish()
}

#[test]
fn a_rotated_secret_is_used_and_the_old_one_is_not() -> anyhow::Result<()> {
    let provider = Scripted::with(&["--key", "canary-second-key-000", "--key", KEY])?;
    let gateway = Gateway::up(&[manifest(0, &provider)])?;
    who(&gateway, 0)?;
    let rotated = manifest(0, &provider).replace(KEY, "canary-second-key-000");
    std::fs::write(gateway.manifests().join("000.yaml"), rotated)?;
    eventually("the new key", || {
        provider.clear().ok()?;
        who(&gateway, 0).ok()?;
        let upstream = provider.only_request().ok()?;
        let raw = provider.raw(upstream.n).ok()?;
        String::from_utf8_lossy(&raw)
            .contains("canary-second-key-000")
            .then_some(())
    })?;
    gateway.finish()
}
