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
        object: ObjectName,
        /// The provider's model to ask [default: the first one that the ApiModel lists]
        #[arg(long, value_name = "ID")]
        model: Option<String>,
    },
    /// List the models that the provider has
    Fetch {
        /// The ApiModel, as NAME or NAMESPACE/NAME
        #[arg(value_name = "APIMODEL")]
        object: ObjectName,
    },
}

/// Runs one of them.
pub(crate) fn run(command: &Command, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    let (object, action, body) = match command {
        Command::Test { object, model } => (object, "test", json!({"model": model})),
        Command::Fetch { object } => (object, "fetch-models", json!({})),
    };
    let path = ["apimodels", object.namespace(), &object.name, action];
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
    let Some(ids) = answer["models"].as_array() else {
        let model = answer["model"].as_str().unwrap_or("the provider");
        return format!("ok: {} answered\n", printable(model));
    };
    let ids = ids.iter().filter_map(Value::as_str);
    let mut text: String = ids.map(|id| format!("{}\n", printable(id))).collect();
    if answer["truncated"] == true {
        text.push_str("… and more than are listed here\n");
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_provider_says_cannot_drive_the_terminal() {
        let answer = json!({
            "ok": false, "reason": "InvalidApiKey", "message": "The provider refuses the key.",
            "upstream": {"status": 401, "body": "no\u{1b}[2J"},
        });
        assert_eq!(
            bad_news(&answer),
            "InvalidApiKey\nThe provider refuses the key.\nthe provider answered 401: no\\u{1b}[2J\n"
        );
        let models = json!({"ok": true, "models": ["a\r", "b"], "truncated": true});
        assert_eq!(
            good_news(&models),
            "a\\r\nb\n… and more than are listed here\n"
        );
    }
}
