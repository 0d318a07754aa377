//! The worker as a program: how it starts, what its ports say, how it ends. The engine is the
//! fake one; all else is the real program's.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bodhi_tests::authority::{Authority, Issued};
use bodhi_tests::process::{Process, binary, eventually};
use bodhi_tests::wire;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;
use tempfile::TempDir;

struct Worker {
    process: Process,
    folder: TempDir,
}

fn command(folder: &Path, flags: &[&str]) -> anyhow::Result<Command> {
    let mut command = Command::new(binary("fake-worker")?);
    command
        .env_clear()
        .args(["--model", "fake.gguf", "--listen"])
        .arg(format!("unix:{}", folder.join("worker.sock").display()))
        .args(flags);
    Ok(command)
}

impl Worker {
    fn start(flags: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let process = Process::start("fake-worker", command(folder.path(), flags)?)?;
        Ok(Self { process, folder })
    }

    /// A field of the line in which it tells its addresses.
    fn listening(&self, field: &str) -> anyhow::Result<String> {
        self.process.wait_for("its addresses", |text| {
            let lines = text
                .lines()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let mut told = lines.filter(|line| line["message"] == "listening");
            Some(told.next()?[field].as_str()?.to_owned())
        })
    }

    fn admin(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listening("admin")?.parse()?)
    }

    fn is_ready(&self) -> anyhow::Result<()> {
        let admin = self.admin()?;
        eventually("the worker to be ready", || {
            (get(admin, "/readyz").ok()?.0 == 200).then_some(())
        })
    }
}

fn get(admin: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let answer = wire::call(admin, &wire::request("GET", path, &[], b""))?;
    Ok((answer.status, answer.text()))
}

/// The last line of an output, as JSON.
fn last_word(text: &str) -> anyhow::Result<Value> {
    let line = text.lines().last().context("nothing was said")?;
    Ok(serde_json::from_str(line)?)
}

#[test]
fn probes_follow_the_start() -> anyhow::Result<()> {
    let flags = ["--admin-listen", "127.0.0.1:0", "--fake-load", "2000"];
    let worker = Worker::start(&flags)?;
    let admin = worker.admin()?;
    ensure!(get(admin, "/livez")?.0 == 200);
    let (status, phase) = get(admin, "/readyz")?;
    ensure!(status == 503 && phase.contains("ing"), "{status} {phase}");
    ensure!(get(admin, "/startupz")?.0 == 503);
    worker.is_ready()?;
    ensure!(get(admin, "/startupz")? == (200, "ready\n".to_owned()));
    let (status, metrics) = get(admin, "/metrics")?;
    ensure!(status == 200);
    for line in [
        "bodhi_worker_phase{phase=\"ready\"} 1",
        "bodhi_worker_slots 4",
    ] {
        ensure!(
            metrics.lines().any(|l| l == line),
            "{line} is not in\n{metrics}"
        );
    }
    Ok(())
}

#[test]
fn sigterm_ends_an_idle_worker_at_once_and_without_fault() -> anyhow::Result<()> {
    let mut worker = Worker::start(&["--admin-listen", "127.0.0.1:0"])?;
    worker.is_ready()?;
    ensure!(worker.folder.path().join("worker.sock").exists());
    worker.process.terminate()?;
    let status = worker.process.wait()?;
    ensure!(status.code() == Some(0), "{status}");
    ensure!(!worker.folder.path().join("worker.sock").exists());
    Ok(())
}

#[test]
fn the_reason_of_a_failed_start_is_told_three_times() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let log = folder.path().join("termination-log");
    let log_flag = log.to_str().context("UTF-8")?;
    for (reason, code) in [("InsufficientMemory", 30), ("ChatTemplateInvalid", 24)] {
        let flags = ["--fake-fail", reason, "--termination-log", log_flag];
        let mut worker = Worker::start(&flags)?;
        let status = worker.process.wait()?;
        ensure!(status.code() == Some(code), "{reason}: {status}");
        let said = worker
            .process
            .wait_for("its last word", |text| last_word(text).ok())?;
        let kept = last_word(&std::fs::read_to_string(&log)?)?;
        ensure!(
            said["reason"] == reason && said["exitCode"] == code,
            "{said}"
        );
        ensure!(kept == said, "{kept}");
    }
    Ok(())
}

#[test]
fn a_model_that_is_none_is_refused_before_any_engine_sees_it() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let page = folder.path().join("page.gguf");
    std::fs::write(&page, "<!doctype html><title>Not found</title>")?;
    let none = folder.path().join("none.gguf");
    for (path, reason, code) in [(page, "NotGguf", 21), (none, "NotFound", 10)] {
        let mut command = Command::new(binary("fake-worker")?);
        let socket = folder.path().join("worker.sock");
        command
            .env_clear()
            .arg("--fake-obtain")
            .arg("--model")
            .arg(path)
            .arg("--listen")
            .arg(format!("unix:{}", socket.display()));
        let mut process = Process::start("fake-worker", command)?;
        let status = process.wait()?;
        ensure!(
            status.code() == Some(code),
            "{status}\n{}",
            process.printed()
        );
        let said = process.wait_for("its last word", |text| last_word(text).ok())?;
        ensure!(said["reason"] == reason, "{said}");
    }
    Ok(())
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_by_its_flag() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    for (flags, words) in [
        (vec!["--listen", "0.0.0.0:1139"], "--tls-cert"),
        (vec!["--parallel-slots", "0"], "--parallel-slots"),
    ] {
        let mut command = Command::new(binary("fake-worker")?);
        command.env_clear().args(["--model", "m.gguf"]).args(&flags);
        if !flags.contains(&"--listen") {
            let socket = folder.path().join("worker.sock");
            command.arg(format!("--listen=unix:{}", socket.display()));
        }
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(2), "{}\n{said}", output.status);
        ensure!(said.contains(words), "{said}");
    }
    Ok(())
}

#[test]
fn a_worker_ends_with_its_parent_if_it_is_told_to() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = command(folder.path(), &["--exit-with-parent"])?;
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let socket = folder.path().join("worker.sock");
    eventually("the socket", || socket.exists().then_some(()))?;
    ensure!(child.try_wait()?.is_none(), "it ended before its parent");
    // As the system does when the process that held it is gone.
    drop(child.stdin.take());
    let status = eventually("its end", || child.try_wait().ok().flatten());
    let _ = child.kill();
    ensure!(status?.code() == Some(0));
    Ok(())
}

#[test]
fn two_workers_do_not_share_a_socket_and_a_dead_ones_is_taken_over() -> anyhow::Result<()> {
    let mut first = Worker::start(&[])?;
    first.listening("address")?;
    let flags: [&str; 0] = [];
    let second = Process::start("fake-worker", command(first.folder.path(), &flags)?)?;
    second.wait_for("its last word", |text| {
        (last_word(text).ok()?["reason"] == "CannotListen").then_some(())
    })?;
    first.process.kill();
    let third = Process::start("fake-worker", command(first.folder.path(), &flags)?)?;
    third.wait_for("that it is ready", |text| {
        text.contains("\"ready\"").then_some(())
    })
}

/// The outcome of the first read of somebody who connects with this certificate.
fn call(
    address: SocketAddr,
    authority: &Authority,
    own: Issued,
) -> anyhow::Result<std::io::Result<usize>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own.certificate_der], own.key_der)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connection = ClientConnection::new(Arc::new(config), ServerName::from(address.ip()))?;
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut tls = StreamOwned::new(connection, tcp);
    Ok(std::io::Read::read(&mut tls, &mut [0; 64]))
}

#[test]
fn over_tcp_only_data_planes_and_controllers_get_in() -> anyhow::Result<()> {
    let authority = Authority::new("ours")?;
    let folder = tempfile::tempdir()?;
    authority
        .issue(&["127.0.0.1"])?
        .write(folder.path(), "worker")?;
    let ca = folder.path().join("ca.crt");
    std::fs::write(&ca, &authority.pem)?;
    let mut command = Command::new(binary("fake-worker")?);
    command
        .env_clear()
        .args(["--model", "fake.gguf", "--listen", "127.0.0.1:0"])
        .arg("--tls-cert")
        .arg(folder.path().join("worker.crt"))
        .arg("--tls-key")
        .arg(folder.path().join("worker.key"))
        .arg("--tls-ca")
        .arg(&ca);
    let worker = Worker {
        process: Process::start("fake-worker", command)?,
        folder,
    };
    let address = worker.listening("address")?;
    let address = address.strip_prefix("https://").context("TLS")?.parse()?;
    for role in ["dataplane", "controller"] {
        let read = call(address, &authority, authority.issue(&[role])?)?;
        ensure!(read? > 0, "HTTP/2 settings come first");
    }
    let read = call(address, &authority, authority.issue(&["somebody"])?)?;
    let why = read.err().context("it was let in")?.to_string();
    ensure!(why.contains("AccessDenied"), "{why}");
    Ok(())
}
