//! The controller: the sync server as controllers have it, told over its standard input what
//! changes.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::Context as _;
use bodhi_controller::sync::{Config, OwnersFuture, ResponseOwner, ResponseOwners, Server};
use bodhi_net::identity::{self, Role};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::content::Content;
use crate::measure::{cpu_seconds, resident};
use crate::{Args, files};

struct NoOwners;

impl ResponseOwners for NoOwners {
    fn record(&self, _: String, _: ResponseOwner) -> OwnersFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn find(&self, _: String) -> OwnersFuture<'_, Option<ResponseOwner>> {
        Box::pin(async { Ok(None) })
    }
}

/// Serves until standard input closes.
pub(crate) async fn serve(args: &Args, folder: &Path) -> anyhow::Result<()> {
    let server = Server::new(Config {
        name: "controller-0".to_owned(),
        owners: Arc::new(NoOwners),
    });
    let mut content = Content::new(args.objects, args.tokens);
    server.publish(content.all());
    let own = identity::Server::load(files(folder, "controller"), &[Role::DataPlane])?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let serving = server.clone();
    tokio::spawn(async move {
        serving
            .serve_tls(listener, own, std::future::pending())
            .await
    });
    // Nobody else needs this thread.
    for order in std::io::stdin().lines() {
        let order = order?;
        let (revision, publication) = match order.strip_prefix("revoke ") {
            Some(n) => content.revoke(n.parse()?),
            None => content.edit(),
        };
        server.publish(publication);
        println!("{revision}");
    }
    Ok(())
}

/// That process.
pub(crate) struct Controller {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    pub(crate) port: u16,
}

impl Controller {
    pub(crate) async fn start(args: &Args, folder: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--serve")
            .arg(folder)
            .args(["--objects", &args.objects.to_string()])
            .args(["--tokens", &args.tokens.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let orders = child.stdin.take().context("it is piped")?;
        let answers = child.stdout.take().context("it is piped")?;
        let mut controller = Self {
            child,
            orders,
            answers: BufReader::new(answers).lines(),
            port: 0,
        };
        controller.port = controller.answer().await?;
        Ok(controller)
    }

    async fn answer<T: std::str::FromStr<Err = std::num::ParseIntError>>(
        &mut self,
    ) -> anyhow::Result<T> {
        let line = self.answers.next_line().await?;
        Ok(line.context("the controller ended")?.parse()?)
    }

    /// Changes one object; the revision of the objects that contains it.
    pub(crate) async fn edit(&mut self) -> anyhow::Result<u64> {
        self.orders.write_all(b"edit\n").await?;
        self.answer().await
    }

    /// Revokes a token; the revision of the store that did it.
    pub(crate) async fn revoke(&mut self, n: usize) -> anyhow::Result<u64> {
        let order = format!("revoke {n}\n");
        self.orders.write_all(order.as_bytes()).await?;
        self.answer().await
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the controller ended")
    }

    pub(crate) fn memory(&self) -> anyhow::Result<String> {
        Ok(crate::measure::bytes(resident(self.pid()?)?))
    }

    /// Seconds of CPU time so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        cpu_seconds(self.pid()?)
    }
}
