//! What a worker says of itself, for as long as it answers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bodhi_proto::chat::Report;
use bodhi_proto::wire::inference::WatchRequest;
use bodhi_proto::wire::inference::inference_client::InferenceClient;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};

/// How soon a socket that is not there yet is looked for again.
const KNOCK: Duration = Duration::from_millis(20);

/// Sends each report on. Returns when the worker has not answered for `patience`: pings are
/// answered by a worker that computes, and not by one that hangs.
pub(super) async fn watch(socket: PathBuf, patience: Duration, reports: mpsc::Sender<Report>) {
    let mut deadline = Instant::now() + patience;
    while let Ok(heard) = timeout_at(deadline, connect(&socket, patience)).await {
        let Ok(mut client) = heard else {
            sleep(KNOCK).await;
            if Instant::now() >= deadline {
                return;
            }
            continue;
        };
        let Ok(Ok(answer)) = timeout_at(deadline, client.watch(WatchRequest {})).await else {
            sleep(KNOCK).await;
            continue;
        };
        let mut stream = answer.into_inner();
        // The first report is due at once; between others may lie hours.
        let mut first = true;
        loop {
            let next = match first {
                true => timeout_at(deadline, stream.message()).await,
                false => Ok(stream.message().await),
            };
            let Ok(Ok(Some(report))) = next else { break };
            let Ok(report) = Report::decode(report) else {
                break;
            };
            first = false;
            if reports.send(report).await.is_err() {
                return;
            }
        }
        if !first {
            // It was there a moment ago: half of its time is over if it was a ping that failed.
            deadline = Instant::now() + patience / 2;
        }
        sleep(KNOCK).await;
    }
}

async fn connect(
    socket: &Path,
    patience: Duration,
) -> Result<InferenceClient<Channel>, tonic::transport::Error> {
    let socket = socket.to_owned();
    // The address is not used: the connector knows the socket.
    let channel = Endpoint::from_static("http://worker")
        .http2_keep_alive_interval(patience / 4)
        .keep_alive_timeout(patience / 4)
        .keep_alive_while_idle(true)
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        }))
        .await?;
    Ok(InferenceClient::new(channel))
}
