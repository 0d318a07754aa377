//! The programs of a control plane, and what each is told.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};

/// The path of a program that `make cluster` built.
pub(super) fn path(name: &str) -> anyhow::Result<PathBuf> {
    let cache = match std::env::var_os("BODHI_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => {
            let home = std::env::var_os("HOME").context("neither BODHI_CACHE nor HOME is set")?;
            PathBuf::from(home).join(".cache/bodhi")
        }
    };
    let path = cache.join("cluster/bin").join(name);
    ensure!(
        path.is_file(),
        "{} does not exist: `make cluster` builds it",
        path.display()
    );
    Ok(path)
}

fn program(name: &str) -> anyhow::Result<Command> {
    let mut command = Command::new(path(name)?);
    // Proxies and kubeconfigs of whoever runs the tests are not for it.
    command.env_clear();
    Ok(command)
}

pub(super) fn etcd(folder: &Path, client: &str, peer: u16) -> anyhow::Result<Command> {
    let mut command = program("etcd")?;
    let peer = format!("http://127.0.0.1:{peer}");
    command
        .arg("--data-dir")
        .arg(folder.join("etcd"))
        .args([
            "--listen-client-urls",
            client,
            "--advertise-client-urls",
            client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args(["--initial-cluster", &format!("default={peer}")])
        // The machine's disk is not what is tested.
        .args(["--unsafe-no-fsync", "--log-level", "warn"]);
    Ok(command)
}

pub(super) fn api_server(
    folder: &Path,
    address: SocketAddr,
    etcd: &str,
) -> anyhow::Result<Command> {
    let mut command = program("kube-apiserver")?;
    command
        .args(["--etcd-servers", etcd])
        .args(["--bind-address", &address.ip().to_string()])
        .args(["--secure-port", &address.port().to_string()])
        // Nobody comes by way of the Service `kubernetes`, and a loopback address
        // may not be written into its endpoints.
        .args([
            "--advertise-address",
            "192.0.2.1",
            "--endpoint-reconciler-type",
            "none",
        ])
        .arg("--tls-cert-file")
        .arg(folder.join("apiserver.crt"))
        .arg("--tls-private-key-file")
        .arg(folder.join("apiserver.key"))
        .arg("--client-ca-file")
        .arg(folder.join("ca.crt"))
        .args(["--service-account-issuer", "https://kubernetes.default.svc"])
        .arg("--service-account-signing-key-file")
        .arg(folder.join("sa.key"))
        // It takes the public half out of a private key.
        .arg("--service-account-key-file")
        .arg(folder.join("sa.key"))
        .args(["--service-cluster-ip-range", "10.201.0.0/16"])
        .args(["--authorization-mode", "Node,RBAC"])
        .args(["--shutdown-delay-duration", "0s", "--v", "1"]);
    Ok(command)
}

pub(super) fn controllers(folder: &Path, kubeconfig: &Path) -> anyhow::Result<Command> {
    let mut command = as_user("kube-controller-manager", kubeconfig)?;
    command
        .arg("--service-account-private-key-file")
        .arg(folder.join("sa.key"))
        .arg("--root-ca-file")
        .arg(folder.join("ca.crt"))
        .args(["--use-service-account-credentials", "--leader-elect=false"])
        .args(["--secure-port", "0"]);
    Ok(command)
}

pub(super) fn scheduler(kubeconfig: &Path) -> anyhow::Result<Command> {
    let mut command = as_user("kube-scheduler", kubeconfig)?;
    command.args(["--leader-elect=false", "--secure-port", "0"]);
    Ok(command)
}

fn as_user(name: &str, kubeconfig: &Path) -> anyhow::Result<Command> {
    let mut command = program(name)?;
    for flag in [
        "--kubeconfig",
        "--authentication-kubeconfig",
        "--authorization-kubeconfig",
    ] {
        command.arg(flag).arg(kubeconfig);
    }
    Ok(command)
}

pub(super) fn kwok(kubeconfig: &Path) -> anyhow::Result<Command> {
    let mut command = program("kwok")?;
    command
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .arg("--config")
        .arg(path("kwok.yaml")?)
        .arg("--manage-all-nodes=false")
        .arg("--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake")
        .args(["--cidr", "10.202.0.0/16", "--node-ip", "192.0.2.2"])
        // Else the controller manager takes a node for gone after 40 s.
        .args(["--node-lease-duration-seconds", "40"])
        // Its own port is of no use; 0 finds a free one.
        .args(["--server-address", "127.0.0.1:0"]);
    Ok(command)
}
