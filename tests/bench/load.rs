//! The load: a closed loop over kept connections, and streams that are merely held.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, sleep};

use crate::client::{Answer, Conn};

/// When a connection stops calling.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// After the call during which this has passed.
    Elapsed(Duration),
    /// After this many calls.
    Calls(usize),
}

/// Open connections, each of which has been used once.
#[derive(Debug)]
pub(crate) struct Fleet {
    connections: Vec<Conn>,
}

/// What a run of a fleet took.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) calls: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds of each call to its last byte, sorted.
    pub(crate) totals: Vec<f64>,
    /// Microseconds of each call to its first body byte, sorted.
    pub(crate) first_bytes: Vec<f64>,
}

impl Fleet {
    /// Opens `connections` and makes one call over each, all at once, so that a proxy has its own
    /// connections open too.
    pub(crate) async fn open(
        address: SocketAddr,
        connections: usize,
        warm_up: &[u8],
    ) -> anyhow::Result<Self> {
        let open = |_| async {
            let mut connection = Conn::open(address).await?;
            let answer = connection.call(warm_up, |_| {}).await?;
            ensure!(answer.status == 200, "{address} answers {}", answer.status);
            anyhow::Ok(connection)
        };
        Ok(Self {
            connections: try_join_all((0..connections).map(open)).await?,
        })
    }

    /// One call over the first connection, with its body.
    pub(crate) async fn probe(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut body = Vec::new();
        let connection = self.connections.first_mut().context("no connection")?;
        let answer = connection
            .call(request, |piece| body.extend_from_slice(piece))
            .await?;
        ensure!(answer.status == 200, "status {}", answer.status);
        Ok(body)
    }

    /// Calls over all connections at once, one after another on each. Connections begin `stagger`
    /// apart and take turns with the requests. Every answer must be a 200 of `length` bytes.
    pub(crate) async fn run(
        &mut self,
        requests: &[Vec<u8>],
        length: usize,
        until: Until,
        stagger: Duration,
    ) -> anyhow::Result<Outcome> {
        let started = Instant::now();
        let all = self
            .connections
            .iter_mut()
            .enumerate()
            .map(|(index, connection)| async move {
                sleep(stagger * index as u32).await;
                let mut answers = Vec::new();
                for request in requests.iter().cycle().skip(index % requests.len()) {
                    let answer = connection.call(request, |_| {}).await?;
                    ensure!(answer.status == 200, "status {}", answer.status);
                    ensure!(
                        answer.length == length,
                        "an answer of {} bytes instead of {length}",
                        answer.length
                    );
                    answers.push(answer);
                    let enough = match until {
                        Until::Elapsed(most) => started.elapsed() >= most,
                        Until::Calls(most) => answers.len() >= most,
                    };
                    if enough {
                        break;
                    }
                }
                anyhow::Ok(answers)
            });
        let answers: Vec<Answer> = try_join_all(all).await?.into_iter().flatten().collect();
        let sorted = |read: fn(&Answer) -> Duration| {
            let mut micros: Vec<f64> = answers
                .iter()
                .map(|a| read(a).as_secs_f64() * 1e6)
                .collect();
            micros.sort_by(f64::total_cmp);
            micros
        };
        Ok(Outcome {
            calls: answers.len() as u64,
            elapsed: started.elapsed(),
            totals: sorted(|answer| answer.total),
            first_bytes: sorted(|answer| answer.first_byte),
        })
    }
}

/// Opens `count` streams, each on a connection of its own, and returns them once each has sent
/// something.
pub(crate) async fn hold(
    address: SocketAddr,
    count: usize,
    request: &[u8],
) -> anyhow::Result<Vec<Conn>> {
    let begin = |_| async move {
        let mut connection = Conn::open(address).await?;
        connection.begin(request).await?;
        anyhow::Ok(connection)
    };
    // Not all at once: no listener's backlog is that long. Each waits for its first chunk.
    stream::iter((0..count).map(begin))
        .buffer_unordered(500)
        .try_collect()
        .await
}
