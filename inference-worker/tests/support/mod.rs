//! A worker with the fake engine in this process, and a client of its socket.

use std::path::PathBuf;
use std::time::Duration;

use bodhi_proto::chat::{
    Conversation, Fault, Generation, Message, Part, Phase, Prompt, RawPrompt, ReplyEvent, Report,
    Text,
};
use bodhi_proto::wire::inference as pb;
use bodhi_proto::wire::inference::inference_client::InferenceClient;
use bodhi_worker::app;
use bodhi_worker::config::Flags;
use bodhi_worker::exit::Fatal;
use bodhi_worker::start::Starter;
use bodhi_worker::start::fake::Fake;
use clap::Parser;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

pub(crate) type Client = InferenceClient<Channel>;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
}

/// A worker that runs.
pub(crate) struct Worker {
    folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), Fatal>>,
}

impl Worker {
    /// Starts one with these flags besides `--model` and `--listen`.
    pub(crate) fn start(fake: Fake, flags: &[&str]) -> Self {
        Self::start_with(fake, "fake", flags)
    }

    pub(crate) fn start_with(starter: impl Starter, model: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listen = format!("unix:{}", folder.path().join("worker.sock").display());
        let fixed = ["bodhi-worker", "--model", model, "--listen", &listen];
        let cli = Cli::try_parse_from(fixed.iter().chain(flags)).expect("flags");
        let config = cli.flags.judge().expect("good flags");
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(app::run(config, starter, async {
            let _ = stopped.await;
        }));
        Self {
            folder,
            stop: Some(stop),
            running,
        }
    }

    /// One whose model is ready, and a client of it.
    pub(crate) async fn ready(fake: Fake, flags: &[&str]) -> (Self, Client) {
        Self::ready_with(fake, "fake", flags).await
    }

    pub(crate) async fn ready_with(
        starter: impl Starter,
        model: &str,
        flags: &[&str],
    ) -> (Self, Client) {
        let worker = Self::start_with(starter, model, flags);
        let mut client = worker.client().await;
        ready(&mut client).await;
        (worker, client)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("worker.sock")
    }

    pub(crate) async fn client(&self) -> Client {
        client(self.socket()).await
    }

    /// As SIGTERM does.
    pub(crate) fn stop(&mut self) {
        let stop = self.stop.take().expect("stopped once");
        stop.send(()).expect("it runs");
    }

    /// How it ended.
    pub(crate) async fn ended(self) -> Result<(), Fatal> {
        self.running.await.expect("no panic")
    }
}

/// A client of whoever listens there, once somebody does.
pub(crate) async fn client(path: PathBuf) -> Client {
    let socket = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let listens = tokio::time::timeout(Duration::from_secs(20), socket).await;
    listens.expect("it listens");
    let connect = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://worker")
        .connect_with_connector(connect)
        .await
        .expect("a connection");
    InferenceClient::new(channel).max_decoding_message_size(48 << 20)
}

/// Waits until the model is ready.
pub(crate) async fn ready(client: &mut Client) {
    let mut reports = watch(client).await;
    while next(&mut reports).await.phase != Phase::Ready {}
}

pub(crate) async fn watch(client: &mut Client) -> Streaming<pb::Report> {
    client
        .watch(pb::WatchRequest {})
        .await
        .expect("watching")
        .into_inner()
}

pub(crate) async fn next(reports: &mut Streaming<pb::Report>) -> Report {
    let report = reports
        .message()
        .await
        .expect("no error")
        .expect("a report");
    Report::decode(report).expect("understood")
}

/// A conversation of one message of the user.
pub(crate) fn chat(text: &str) -> Generation {
    Generation::new(Prompt::Conversation(Conversation {
        messages: vec![Message::User {
            name: None,
            content: vec![Part::Text(text.to_owned())],
        }],
        ..Conversation::default()
    }))
}

/// Text as it is.
pub(crate) fn raw(text: &str) -> RawPrompt {
    RawPrompt {
        prompt: Text::Plain(text.to_owned()),
        suffix: None,
        echo: false,
    }
}

/// All events of an answer, or the fault that ended it.
pub(crate) async fn answer(
    client: &mut Client,
    generation: Generation,
) -> Result<Vec<ReplyEvent>, Fault> {
    let reply = client.generate(generation.encode()).await;
    let mut replies = reply.map_err(|status| Fault::from(&status))?.into_inner();
    let mut events = Vec::new();
    while let Some(reply) = replies
        .message()
        .await
        .map_err(|status| Fault::from(&status))?
    {
        events.extend(ReplyEvent::decode_all(reply).expect("understood"));
    }
    Ok(events)
}
