//! `bodhi models`: asks a provider, with the ApiModel's own key and settings.

use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::Client;
use crate::connection::Connection;
use crate::object_name::ObjectName;
use crate::output::{Answer, printable, printable_lines};

/// The subcommands of `bodhi models`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Ask for one token: do address, key and model work?
    Test {
        /// The ApiModel, as NAME or NAMESPACE/NAME
        #[arg(value_name = "APIMODEL")]
        model: ObjectName,
        /// The provider's model to ask [default: the first one listed]
        #[arg(long, value_name = "ID")]
        id: Option<String>,
    },
    /// List the models that the provider has
    Fetch {
        /// The ApiModel, as NAME or NAMESPACE/NAME
        #[arg(value_name = "APIMODEL")]
        model: ObjectName,
    },
}

/// Runs one of them.
pub(crate) fn run(command: &Command, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    let (model, action, body) = match command {
        Command::Test { model, id } => (model, "test", json!({"model": id})),
        Command::Fetch { model } => (model, "fetch-models", json!({})),
    };
    let path = ["apimodels", model.namespace(), &model.name, action];
    let answer = client.call(Method::POST, &path, &[], Some(&body))?;
    let succeeded = answer["ok"] == true;
    let text = match succeeded {
        true => good_news(&answer),
        false => bad_news(&answer),
    };
    Ok(Answer {
        json: answer,
        text,
        succeeded,
    })
}

fn good_news(answer: &Value) -> String {
    match answer["models"].as_array() {
        None => "ok\n".to_owned(),
        Some(ids) => ids
            .iter()
            .filter_map(Value::as_str)
            .map(|id| format!("{}\n", printable(id)))
            .collect(),
    }
}

fn bad_news(answer: &Value) -> String {
    let reason = answer["reason"].as_str().unwrap_or("failed");
    let mut text = format!("{}\n", printable(reason));
    if let Some(message) = answer["message"].as_str() {
        text.push_str(&format!("{}\n", printable_lines(message)));
    }
    if let Some(status) = answer["upstream"]["status"].as_u64() {
        let body = answer["upstream"]["body"].as_str().unwrap_or_default();
        text.push_str(&format!(
            "the provider answered {status}: {}\n",
            printable_lines(body)
        ));
    }
    text
}
