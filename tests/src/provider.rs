//! The scripted provider: a stand-in for OpenAI, Anthropic and Gemini that answers by rule,
//! misbehaves on request and keeps every byte it was sent.
//!
//! It speaks HTTP/1.1 by hand ([`conn`]), because the tests ask about bytes that an HTTP library
//! would tidy. A request's model name may carry a [`script`]; what it answers otherwise is decided
//! in [`reply`] and put into a provider's wire format in `openai`, `responses`, `anthropic` and
//! `gemini`. The program around it is `scripted-provider`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use answer::{After, Answer, Body};
use conn::{Conn, Gone, Head, Stream};
use journal::{Connected, Journal, Ticket};
use script::{Partition, Script, Source};
use vendor::{Located, Refusal};

pub use journal::{Active, Entry, Outcome};

mod admin;
mod answer;
mod anthropic;
mod bench;
mod conn;
mod gemini;
mod journal;
mod openai;
mod reply;
mod responses;
mod sample;
mod script;
mod tls;
mod vendor;

/// How a provider is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Keys that are accepted.
    pub keys: Vec<String>,
    /// Told in the header `x-scripted-provider`, so that tests see who answered.
    pub name: String,
    /// Where `replay:` finds its files.
    pub fixtures: PathBuf,
    /// How many requests are kept.
    pub keep: usize,
    /// Fixed answers, no checks, no records.
    pub bench: bool,
}

/// A provider that is set up and can serve.
#[derive(Debug)]
pub struct Provider {
    config: Config,
    journal: Journal,
    responses: Mutex<responses::Responses>,
    bench: bench::Bench,
}

/// What a listener needs besides its socket.
pub struct Tls {
    acceptor: TlsAcceptor,
    /// The authority's certificate, PEM.
    pub authority: String,
}

impl Tls {
    /// Makes an authority and a certificate for `localhost` and `127.0.0.1`.
    pub fn generate() -> anyhow::Result<Self> {
        let (acceptor, authority) = tls::acceptor().context("cannot make a certificate")?;
        Ok(Self {
            acceptor,
            authority,
        })
    }
}

impl Provider {
    /// A provider without requests.
    pub fn new(config: Config) -> Arc<Self> {
        let journal = Journal::new(if config.bench { 0 } else { config.keep });
        Arc::new(Self {
            config,
            journal,
            responses: Mutex::default(),
            bench: bench::Bench::default(),
        })
    }

    /// Serves clients until the process ends.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Option<Tls>) {
        let next = AtomicUsize::new(0);
        loop {
            let Some(tcp) = accept(&listener).await else {
                continue;
            };
            let connection = next.fetch_add(1, Ordering::Relaxed);
            let provider = self.clone();
            let counted = self.journal.connected();
            let acceptor = tls.as_ref().map(|tls| tls.acceptor.clone());
            tokio::spawn(async move {
                let stream = match acceptor {
                    None => Stream::Plain(tcp),
                    Some(acceptor) => match acceptor.accept(tcp).await {
                        Ok(tls) => Stream::Tls(Box::new(tls)),
                        Err(_) => return,
                    },
                };
                provider
                    .connection(connection, Conn::new(stream), counted)
                    .await;
            });
        }
    }

    /// Serves the admin port until the process ends.
    pub async fn serve_admin(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Some(tcp) = accept(&listener).await else {
                continue;
            };
            tokio::spawn(admin::serve(
                Conn::new(Stream::Plain(tcp)),
                self.journal.clone(),
            ));
        }
    }

    async fn connection(&self, connection: usize, mut conn: Conn, _counted: Connected) {
        loop {
            let head = match conn.head().await {
                Ok(Some(head)) => head,
                Ok(None) | Err(Gone::Left) => return,
                Err(Gone::NotHttp(why)) => return refuse(conn, why).await,
            };
            let ticket = self.journal.begin(connection, &head);
            let mut body = Vec::new();
            let read = conn.body(&head, |raw, decoded| {
                ticket.received(raw, decoded);
                body.extend_from_slice(decoded);
            });
            match read.await {
                Ok(()) => ticket.complete(),
                Err(Gone::Left) => return,
                Err(Gone::NotHttp(why)) => return refuse(conn, why).await,
            }
            match self.respond(&mut conn, &head, &body).await {
                Ok(After::KeepAlive) => ticket.ended(Outcome::Answered),
                Ok(After::Close(outcome)) => {
                    ticket.ended(outcome);
                    return conn.close().await;
                }
                Ok(After::Reset(outcome)) => {
                    ticket.ended(outcome);
                    return conn.reset();
                }
                Err(_) => return left(ticket),
            }
            if head.wants_close() {
                return conn.close().await;
            }
        }
    }

    async fn respond(&self, conn: &mut Conn, head: &Head, body: &[u8]) -> Result<After, Gone> {
        if self.config.bench {
            return self
                .bench
                .answer(conn, body)
                .await
                .map(|()| After::KeepAlive);
        }
        let located = Located::new(head);
        let parsed = if body.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(body)
        };
        let model = parsed
            .as_ref()
            .map_or_else(|_| String::new(), |body| located.model(body));
        let script = Script::of(&model);
        if let Ok(Script {
            source: Source::Garbage,
            ..
        }) = script
        {
            conn.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n").await?;
            return Ok(After::Close(Outcome::Cut));
        }
        let answer = located.authorize(head, &self.config.keys).and_then(|()| {
            let body = parsed.map_err(|why| {
                Refusal::new(400, format!("We could not parse the JSON body: {why}"))
            })?;
            let script = script
                .as_ref()
                .map_err(|why| Refusal::new(400, why.clone()))?;
            self.answer(&located, head, &body, script)
        });
        let answer = answer.unwrap_or_else(|refusal| located.vendor.error(&refusal));
        let answer = located.vendor.dress(answer, &self.config.name);
        answer::send(conn, &answer, &script.unwrap_or_default()).await
    }

    fn answer(
        &self,
        located: &Located,
        head: &Head,
        body: &Value,
        script: &Script,
    ) -> Result<Answer, Refusal> {
        let mut answer = match &script.source {
            Source::Fixture { name, partition } => self.replay(name, partition.as_ref())?,
            Source::Redirect(to) => {
                let to = if to.is_empty() { "/elsewhere" } else { to };
                Answer {
                    status: 307,
                    ..Answer::bytes("text/plain", Bytes::new())
                }
                .with("location", to)
            }
            Source::Request | Source::Bench { .. } | Source::Garbage => match script.status {
                Some(status) if status >= 400 => located.vendor.error(&Refusal::new(
                    status,
                    format!("The scripted provider answers {status}."),
                )),
                _ => {
                    let mut responses = self
                        .responses
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    located.answer(&head.method, body, &mut responses)?
                }
            },
        };
        if let Some(status) = script.status {
            answer.status = status;
        }
        Ok(match &script.retry_after {
            Some(after) => answer.with("retry-after", after),
            None => answer,
        })
    }

    fn replay(&self, name: &str, partition: Option<&Partition>) -> Result<Answer, Refusal> {
        let bytes = std::fs::read(self.config.fixtures.join(name))
            .map_err(|why| Refusal::new(404, format!("no fixture '{name}': {why}")))?;
        let bytes = Bytes::from(bytes);
        let kind = if name.ends_with(".sse") {
            "text/event-stream"
        } else {
            "application/json"
        };
        let whole = Answer::bytes(kind, bytes.clone());
        Ok(match partition {
            None => whole,
            Some(partition) => Answer {
                body: Body::Parts(split(&bytes, partition)),
                ..whole
            },
        })
    }
}

fn split(bytes: &Bytes, partition: &Partition) -> Vec<Bytes> {
    let cuts: Vec<usize> = match partition {
        Partition::Whole => Vec::new(),
        Partition::Every(size) => (*size..bytes.len()).step_by(*size).collect(),
        Partition::At(cuts) => cuts
            .iter()
            .copied()
            .filter(|cut| *cut < bytes.len())
            .collect(),
    };
    let starts = [0].into_iter().chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([bytes.len()]);
    starts
        .zip(ends)
        .filter(|(from, to)| from < to)
        .map(|(from, to)| bytes.slice(from..to))
        .collect()
}

async fn accept(listener: &TcpListener) -> Option<TcpStream> {
    match listener.accept().await {
        Ok((tcp, _)) => Some(tcp),
        Err(_) => {
            // Out of descriptors, most likely; accepting again at once would spin.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            None
        }
    }
}

async fn refuse(mut conn: Conn, why: &str) {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{why}",
        why.len()
    );
    let _ = conn.write(answer.as_bytes()).await;
    conn.close().await;
}

fn left(ticket: Ticket) {
    ticket.ended(Outcome::ClientLeft);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_loses_no_byte() {
        let bytes = Bytes::from_static(b"data: {}\r\n\r\n");
        for partition in [
            Partition::Whole,
            Partition::Every(1),
            Partition::Every(5),
            Partition::At(vec![3, 3, 9, 99]),
        ] {
            let parts = split(&bytes, &partition);
            assert!(parts.iter().all(|part| !part.is_empty()), "{partition:?}");
            assert_eq!(parts.concat(), bytes, "{partition:?}");
        }
    }
}
