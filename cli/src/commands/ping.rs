//! `bodhi ping`: do gateways answer, and are they ready for requests?
//!
//! It shows no token. A gateway with its configuration refuses that in Bodhi's own words; one without
//! says that it is not ready; anything else is not a gateway.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use url::Url;

use crate::client::root_cause;
use crate::connection::{Connection, is_this_machine};
use crate::output::{Answer, printable};

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts.
const PACE: Duration = Duration::from_millis(500);

/// Arguments of `bodhi ping`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Addresses of gateways or controllers [default: the gateway to manage]
    #[arg(value_name = "URL")]
    servers: Vec<Url>,

    /// Seconds for which one that does not answer yet is asked again
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    wait: u32,
}

/// Asks one after the other.
pub(crate) fn run(args: &Args, connection: &Connection) -> anyhow::Result<Answer> {
    let servers = match args.servers.is_empty() {
        true => vec![connection.server()?],
        false => args.servers.clone(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let until = Instant::now() + Duration::from_secs(args.wait.into());
    let (mut all, mut text, mut succeeded) = (Vec::new(), String::new(), true);
    for server in servers {
        let found = loop {
            let found = runtime.block_on(ask(&server))?;
            if found.is_ok() || Instant::now() >= until {
                break found;
            }
            std::thread::sleep(PACE);
        };
        let (ready, words) = match &found {
            Ok(()) => (true, "is ready"),
            Err(why) => (false, why.as_str()),
        };
        succeeded &= ready;
        text.push_str(&format!("{server} {}\n", printable(words)));
        all.push(json!({"server": server.as_str(), "ready": ready, "message": words}));
    }
    Ok(Answer {
        succeeded,
        ..Answer::new(json!({ "data": all }), text)
    })
}

/// Whether it is ready; else what it does instead, as in "cannot be reached".
async fn ask(server: &Url) -> anyhow::Result<Result<(), String>> {
    let mut http = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT);
    if is_this_machine(server) {
        http = http.no_proxy();
    }
    let http = http.build()?;
    let url = format!("{}/v1/models", server.as_str().trim_end_matches('/'));
    let answered = async {
        let response = http.get(url).send().await?;
        let status = response.status();
        Ok::<_, reqwest::Error>((status, response.bytes().await?))
    };
    Ok(match answered.await {
        Ok((status, body)) => judge(status, &body),
        Err(error) => Err(format!("cannot be reached: {}", root_cause(&error))),
    })
}

fn judge(status: StatusCode, body: &[u8]) -> Result<(), String> {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &answer["error"];
    match error["code"].as_str() {
        // With --anonymous it lists its models; a controller knows the path as little as any other.
        None if status == StatusCode::OK && answer["data"].is_array() => Ok(()),
        Some("missing_credentials" | "unknown_path") => Ok(()),
        Some(code) => {
            let message = error["message"].as_str().unwrap_or_default();
            Err(format!("answers {} {code}: {message}", status.as_u16()))
        }
        None => Err(format!(
            "answers {} without Bodhi's JSON: it is no gateway",
            status.as_u16()
        )),
    }
}
