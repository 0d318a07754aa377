//! The controller with its memory in PostgreSQL: the database goes away and comes back, and a
//! second controller shares it.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bodhi_tests::apart::Apart;
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::postgres::{Disk, PASSWORD, Postgres};
use bodhi_tests::process::{Process, binary, eventually};
use bodhi_tests::scripted::Scripted;
use bodhi_tests::wire;
use tempfile::TempDir;

const ASK: &str = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}"#;
const MASTER_KEY: &str = "k1 AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// A database, and what a controller has to be told of it.
struct Database {
    server: Postgres,
    files: TempDir,
    name: String,
}

impl Database {
    fn start() -> anyhow::Result<Self> {
        let server = Postgres::start(Disk::Fast)?;
        let name = server.database()?;
        let files = tempfile::tempdir()?;
        for (file, text) in [("password", PASSWORD), ("master.key", MASTER_KEY)] {
            let path = files.path().join(file);
            std::fs::write(&path, text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(Self {
            server,
            files,
            name,
        })
    }

    /// The flags of a controller that uses it, over TLS that is verified.
    fn flags(&self) -> Vec<String> {
        let file = |name: &str| self.files.path().join(name).display().to_string();
        [
            "--store".to_owned(),
            self.server.url("localhost", &self.name),
            "--store-password-file".to_owned(),
            file("password"),
            "--store-ca".to_owned(),
            self.server.authority_file().display().to_string(),
            "--master-key".to_owned(),
            file("master.key"),
        ]
        .to_vec()
    }

    fn gateway(&self, provider: &Scripted) -> anyhow::Result<Apart> {
        let url = format!("{}/openai/v1", provider.url());
        let manifest = ApiModel::new("openai", "openai", url, &["gpt-4o"]).yaml();
        let flags = self.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let mut programs = Apart::with_controller(&[manifest], &flags)?;
        programs.controller.keep_secret(PASSWORD);
        Ok(programs)
    }
}

fn status(programs: &Apart) -> Option<u16> {
    Some(programs.post("/v1/chat/completions", ASK).ok()?.status)
}

fn serves(programs: &Apart) -> anyhow::Result<()> {
    eventually("an answer", || {
        status(programs).filter(|status| *status == 200)
    })
    .map(drop)
    .with_context(|| programs.controller.printed())
}

#[test]
fn f11_a_database_that_is_down_at_the_start_turns_no_valid_token_into_401() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut database = Database::start()?;
    let mut programs = database.gateway(&provider)?;
    serves(&programs)?;
    programs.controller.kill();
    programs.data_plane.kill();
    std::fs::remove_dir_all(programs.folder().join("data-plane"))?;
    database.server.stop()?;
    programs.restart_controller()?;
    programs.restart_data_plane()?;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        // Not listening yet, or without tokens: never a word about this one.
        if let Some(status) = status(&programs) {
            ensure!(status == 503, "{status} while no token table is there");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    database.server.restart()?;
    serves(&programs)?;
    programs.controller.finish()
}

#[test]
fn an_outage_of_the_database_touches_no_request_and_no_program_has_to_be_restarted()
-> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let mut database = Database::start()?;
    let mut programs = database.gateway(&provider)?;
    serves(&programs)?;
    let admin = Admin::of(&programs)?;
    for _ in 0..2 {
        database.server.kill();
        for _ in 0..20 {
            ensure!(
                status(&programs) == Some(200),
                "a request failed in the outage"
            );
        }
        let began = Instant::now();
        let refused = admin.call("POST", "/bodhi/v1/tokens", r#"{"name":"late"}"#)?;
        ensure!(
            refused.status == 503,
            "{} {}",
            refused.status,
            refused.text()
        );
        ensure!(
            began.elapsed() < Duration::from_secs(12),
            "{:?}",
            began.elapsed()
        );
        database.server.restart()?;
        let minted = eventually("a token to be made", || {
            let answer = admin
                .call("POST", "/bodhi/v1/tokens", r#"{"name":"late"}"#)
                .ok()?;
            (answer.status == 201).then(|| answer.json())
        })?;
        programs.token = minted["token"].as_str().context("no token")?.to_owned();
        serves(&programs)?;
    }
    programs.controller.finish()
}

#[test]
fn a_revocation_at_another_controller_ends_a_token_within_a_second() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let database = Database::start()?;
    let mut programs = database.gateway(&provider)?;
    serves(&programs)?;
    let first = Admin::of(&programs)?;
    // Another controller on the same database, with a token of the first one's.
    let other = programs.folder().join("other");
    let mut command = Command::new(binary("bodhi-controller")?);
    command
        .env_clear()
        .args(["--listen", "127.0.0.1:0", "--data"])
        .arg(&other)
        .args(database.flags());
    let mut controller = Process::start("another bodhi-controller", command)?;
    controller.keep_secret(PASSWORD);
    let second = Admin {
        address: controller.wait_for("its address", listening)?,
        token: first.token.clone(),
    };
    let mut slowest = Duration::ZERO;
    for round in 0..10 {
        let minted = first
            .call("POST", "/bodhi/v1/tokens", r#"{"name":"short"}"#)?
            .json();
        programs.token = minted["token"].as_str().context("no token")?.to_owned();
        serves(&programs)?;
        let id = minted["id"].as_str().context("no id")?;
        let revoked = second.call("DELETE", &format!("/bodhi/v1/tokens/{id}"), "")?;
        ensure!(
            revoked.status == 200,
            "{} {}",
            revoked.status,
            revoked.text()
        );
        let began = Instant::now();
        eventually("the token to end", || {
            status(&programs).filter(|status| *status == 401)
        })?;
        let took = began.elapsed();
        ensure!(took < Duration::from_secs(1), "round {round}: {took:?}");
        slowest = slowest.max(took);
    }
    eprintln!("a revocation elsewhere ends a token within {slowest:?} at most, of 10");
    controller.finish()?;
    programs.controller.finish()
}

/// The admin API of one controller.
struct Admin {
    address: SocketAddr,
    token: String,
}

impl Admin {
    fn of(programs: &Apart) -> anyhow::Result<Self> {
        let path = programs.folder().join("controller/admin-token");
        Ok(Self {
            address: programs.controller.wait_for("its address", listening)?,
            token: std::fs::read_to_string(path)?.trim().to_owned(),
        })
    }

    fn call(&self, method: &str, target: &str, body: &str) -> anyhow::Result<wire::Response> {
        let bearer = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", bearer.as_str())];
        if !body.is_empty() {
            headers.push(("content-type", "application/json"));
        }
        wire::call(
            self.address,
            &wire::request(method, target, &headers, body.as_bytes()),
        )
    }
}

/// The address of the admin API, in the controller's log.
fn listening(log: &str) -> Option<SocketAddr> {
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok());
    let said = lines.filter(|line: &serde_json::Value| line["message"] == "listening");
    said.filter_map(|line| line["address"].as_str()?.parse().ok())
        .next()
}
