//! The two programs on an address that anybody reaches: only a data plane gets the configuration,
//! and whatever becomes of certificates, requests are served.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bodhi_tests::apart::Apart;
use bodhi_tests::authority::{Authority, Issued};
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::process::eventually;
use bodhi_tests::scripted::Scripted;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

fn manifest(provider: &Scripted, models: &[&str]) -> String {
    ApiModel::new(
        "openai",
        "openai",
        format!("{}/openai/v1", provider.url()),
        models,
    )
    .yaml()
}

fn answers(programs: &Apart, model: &str) -> anyhow::Result<()> {
    let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"hi"}}]}}"#);
    let answer = programs.post("/v1/chat/completions", &body)?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

/// Waits until a model is served: what was saved just now has come through.
fn served(programs: &Apart, model: &str) -> anyhow::Result<()> {
    eventually(model, || answers(programs, model).ok()).with_context(|| {
        let (controller, data_plane) = (&programs.controller, &programs.data_plane);
        format!("{}\n{}", controller.printed(), data_plane.printed())
    })
}

/// What somebody gets who connects to the sync port with this certificate or none: the
/// controller's certificate, and the outcome of the first read.
fn call(
    programs: &Apart,
    authority: &Authority,
    own: Option<Issued>,
) -> anyhow::Result<(CertificateDer<'static>, std::io::Result<usize>)> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match own {
        Some(own) => config.with_client_auth_cert(vec![own.certificate_der], own.key_der)?,
        None => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = programs.sync_address()?;
    let connection = ClientConnection::new(Arc::new(config), ServerName::from(address.ip()))?;
    let tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut tls = StreamOwned::new(connection, tcp);
    let read = tls.read(&mut [0; 64]);
    let shown = tls.conn.peer_certificates().context("no certificate")?;
    Ok((shown[0].clone().into_owned(), read))
}

#[test]
fn only_data_planes_of_our_authority_get_in() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
    let programs = Apart::over_tls(&ours, &[manifest(&provider, &["gpt-4o"])])?;
    served(&programs, "gpt-4o")?;

    let (_, read) = call(&programs, &ours, Some(ours.issue(&["dataplane"])?))?;
    ensure!(read? > 0, "HTTP/2 settings come first");

    for (own, alert, logged) in [
        (None, "CertificateRequired", "no certificates"),
        (
            Some(other.issue(&["dataplane"])?),
            "UnknownCA",
            "UnknownIssuer",
        ),
        (
            Some(ours.issue(&["worker"])?),
            "AccessDenied",
            "names no data plane",
        ),
    ] {
        let (_, read) = call(&programs, &ours, own)?;
        let why = read.err().context("it was let in")?.to_string();
        ensure!(why.contains(alert), "{why}");
        programs
            .controller
            .wait_for(logged, |text| text.contains(logged).then_some(()))?;
    }
    // Somebody who connects and says nothing holds up nobody.
    let silent = TcpStream::connect(programs.sync_address()?)?;
    let (_, read) = call(&programs, &ours, Some(ours.issue(&["dataplane"])?))?;
    ensure!(read? > 0);
    drop(silent);
    answers(&programs, "gpt-4o")
}

#[test]
fn renewed_certificates_are_used_and_wrong_ones_stop_no_request() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
    let mut programs = Apart::over_tls(&ours, &[manifest(&provider, &["gpt-4o"])])?;
    served(&programs, "gpt-4o")?;
    let folder = programs.folder().to_owned();

    // The controller shows its renewed certificate to the next one who connects.
    let renewed = ours.issue(&["127.0.0.1"])?;
    renewed.write(&folder, "controller")?;
    let (shown, _) = call(&programs, &ours, None)?;
    ensure!(
        shown == renewed.certificate_der,
        "the old certificate was shown"
    );
    answers(&programs, "gpt-4o")?;

    // The data plane has to connect again, with certificates that are refused.
    for (wrong, logged) in [
        (other.issue(&["dataplane"])?, "UnknownIssuer"),
        (ours.issue(&["worker"])?, "names no data plane"),
    ] {
        wrong.write(&folder, "plane")?;
        programs.restart_controller()?;
        programs
            .controller
            .wait_for(logged, |text| text.contains(logged).then_some(()))?;
        answers(&programs, "gpt-4o")?;
    }
    programs.data_plane.wait_for("why", |text| {
        text.contains("refuses our certificate (AccessDenied)")
            .then_some(())
    })?;
    std::fs::write(
        programs.manifests().join("000.yaml"),
        manifest(&provider, &["gpt-4o", "added"]),
    )?;

    // With the next good one it is back, without a restart.
    ours.issue(&["dataplane"])?.write(&folder, "plane")?;
    served(&programs, "added")
}

#[test]
fn files_that_cannot_be_used_are_named_at_the_start() -> anyhow::Result<()> {
    let provider = Scripted::start()?;
    let ours = Authority::new("ours")?;
    let mut programs = Apart::over_tls(&ours, &[manifest(&provider, &["gpt-4o"])])?;
    let folder = programs.folder().to_owned();
    std::fs::write(folder.join("plane.key"), ours.issue(&["dataplane"])?.key)?;
    let why = format!(
        "{:#}",
        programs.restart_data_plane().err().context("it started")?
    );
    ensure!(
        why.contains("--controller-key") && why.contains("plane.key"),
        "{why}"
    );
    std::fs::remove_file(folder.join("controller.ca"))?;
    programs.restart_controller()?;
    let mut ended = programs.controller;
    ensure!(!ended.wait()?.success());
    ended.wait_for("the flag", |text| text.contains("--sync-ca").then_some(()))
}
