//! Programs that die: the data plane needs memory and the provider, nothing else.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bodhi_tests::apart::Apart;
use bodhi_tests::gateway::Gateway;
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::process::eventually;
use bodhi_tests::scripted::Scripted;
use bodhi_tests::wire::End;

const ASK: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}"#;

fn manifest(provider: &Scripted, models: &[&str]) -> String {
    ApiModel::new(
        "openai",
        "openai",
        format!("{}/openai/v1", provider.url()),
        models,
    )
    .yaml()
}

fn answers(programs: &Apart) -> anyhow::Result<()> {
    let answer = programs.post("/v1/chat/completions", ASK)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

fn first_answer(programs: &Apart) -> anyhow::Result<()> {
    eventually("the first answer", || answers(programs).ok()).with_context(|| {
        let last = answers(programs).err();
        let (controller, data_plane) = (&programs.controller, &programs.data_plane);
        format!(
            "{last:?}\n{}\n{}",
            controller.printed(),
            data_plane.printed()
        )
    })
}

#[test]
fn f10_a_killed_controller_stops_nothing() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut programs = Apart::start(&[manifest(&provider, &["gpt-4o"])], &[])?;
    first_answer(&programs)?;
    let (done, requests) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (address, token) = (programs.address, programs.token.clone());
    let load = || -> anyhow::Result<()> {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let request =
            bodhi_tests::wire::request("POST", "/v1/chat/completions", &headers, ASK.as_bytes());
        while !done.load(Ordering::Relaxed) {
            let answer = bodhi_tests::wire::call(address, &request)?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
            requests.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let outcome = thread::scope(|scope| {
        let load = scope.spawn(load);
        let changed = (|| {
            for round in 0..3 {
                programs.controller.kill();
                thread::sleep(Duration::from_millis(300));
                programs.restart_controller()?;
                // Once it is back, changes get through again.
                let model = format!("added-{round}");
                std::fs::write(
                    programs.manifests().join("000.yaml"),
                    manifest(&provider, &["gpt-4o", &model]),
                )?;
                let body = ASK.replace("gpt-4o", &model);
                eventually(&model, || {
                    programs
                        .post("/v1/chat/completions", &body)
                        .ok()
                        .filter(|answer| answer.status == 200)
                })
                .with_context(|| programs.controller.printed())?;
            }
            anyhow::Ok(())
        })();
        done.store(true, Ordering::Relaxed);
        (changed, load.join())
    });
    outcome.0?;
    outcome
        .1
        .map_err(|_| anyhow::anyhow!("the load panicked"))?
        .context("a request failed")?;
    let requests = requests.load(Ordering::Relaxed);
    eprintln!("{requests} requests while the controller came and went");
    ensure!(requests > 20);
    Ok(())
}

#[test]
fn a_data_plane_restarted_without_a_controller_is_ready_from_its_file() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut programs = Apart::start(&[manifest(&provider, &["gpt-4o"])], &[])?;
    first_answer(&programs)?;
    // The file is written at most every 5 s.
    let folder = programs.manifests().with_file_name("data-plane");
    eventually("the last known good configuration to be kept", || {
        folder.join("snapshot.sealed").is_file().then_some(())
    })?;
    programs.controller.kill();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let started = programs.restart_data_plane()?;
        programs.ready()?;
        fastest = fastest.min(started.elapsed());
        answers(&programs)?;
    }
    eprintln!("ready after {} ms", fastest.as_millis());
    // The fastest of five: the machine may be busy with other tests.
    ensure!(
        fastest <= Duration::from_millis(300),
        "ready only after {fastest:?}"
    );
    for file in std::fs::read_dir(&folder)? {
        let path = file?.path();
        let bytes = std::fs::read(&path)?;
        let found = bytes
            .windows(bodhi_tests::scripted::KEY.len())
            .any(|window| window == bodhi_tests::scripted::KEY.as_bytes());
        ensure!(
            !found,
            "{} holds the provider's key in the clear",
            path.display()
        );
    }
    Ok(())
}

#[test]
fn f11_a_data_plane_that_never_had_a_configuration_answers_503_and_not_401() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut programs = Apart::start(&[manifest(&provider, &["gpt-4o"])], &[])?;
    first_answer(&programs)?;
    programs.controller.kill();
    programs.data_plane.kill();
    std::fs::remove_dir_all(programs.manifests().with_file_name("data-plane"))?;
    programs.restart_data_plane()?;
    ensure!(
        programs.readiness()? == 503,
        "ready without a configuration"
    );
    let answer = programs.post("/v1/chat/completions", ASK)?;
    ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
    ensure!(
        answer.json()["error"]["code"] == "not_ready",
        "{}",
        answer.text()
    );
    ensure!(answer.header("retry-after").is_some());
    Ok(())
}

#[test]
fn strict_isolation_answers_503_while_nobody_can_be_asked_whose_a_response_is() -> anyhow::Result<()>
{
    let provider = Scripted::start()?;
    let url = format!("{}/openai/v1", provider.url());
    let manifest = ApiModel::new("openai", "openai_responses", url, &["gpt-4o"]).yaml();
    let mut programs = Apart::with_controller(&[manifest], &["--responses-isolation", "strict"])?;
    let next = r#"{"model":"gpt-4o","input":"on","previous_response_id":"resp_of_somebody"}"#;
    eventually("the record to be looked for", || {
        let answer = programs.post("/v1/responses", next).ok()?;
        (answer.status == 404).then_some(())
    })?;
    programs.controller.kill();
    let answer = programs.post("/v1/responses", next)?;
    ensure!(answer.status == 503, "{} {}", answer.status, answer.text());
    ensure!(
        answer.json()["error"]["code"] == "not_ready",
        "{}",
        answer.text()
    );
    // What needs no record goes on.
    let answer = programs.post("/v1/responses", r#"{"model":"gpt-4o","input":"hi"}"#)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    let asked = provider.requests()?.len();
    ensure!(asked == 1, "the provider was asked {asked} times");
    Ok(())
}

#[test]
fn sigterm_lets_a_stream_run_to_its_end() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut gateway = Gateway::in_front_of(&provider)?;
    let body = r#"{"model":"fault:gap=100ms","stream":true,"messages":[{"role":"user","content":"a b c d e f"}]}"#;
    let mut wire = gateway.connect()?;
    wire.send(&gateway.request("POST", "/v1/chat/completions", body.as_bytes()))?;
    wire.read_until(|bytes| bytes.windows(6).any(|window| window == b"data: "))?;
    gateway.process().terminate()?;
    let answer = wire.response()?;
    ensure!(
        answer.end == End::Complete && answer.text().ends_with("data: [DONE]\n\n"),
        "{}",
        answer.text()
    );
    let status = gateway.process().wait()?;
    ensure!(status.success(), "bodhi up ended with {status}");
    ensure!(gateway.connect().is_err(), "it still listens");
    gateway.finish()
}
