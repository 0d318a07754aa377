//! `bodhi token`: who may call, and for how long.

use clap::{Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::Client;
use crate::connection::Connection;
use crate::lifetime::Lifetime;
use crate::output::{Answer, printable, table};

/// The subcommands of `bodhi token`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a token and print it: it is shown once
    Create(Create),
    /// List tokens, without their text
    List,
    /// Revoke a token for ever
    Revoke {
        /// The token's id, as `bodhi token list` shows it
        id: String,
    },
}

/// Arguments of `bodhi token create`.
#[derive(clap::Args)]
pub(crate) struct Create {
    /// What the token is for; listings and logs show it
    #[arg(long)]
    name: String,

    /// Whose it is: responses belong to an owner, whichever token made them [default: you]
    #[arg(long)]
    owner: Option<String>,

    /// What it may do
    #[arg(long, value_enum, default_value_t = Scope::User)]
    scope: Scope,

    /// When it ends, such as 30d or 12h [default: never]
    #[arg(long, value_name = "TIME")]
    expires: Option<Lifetime>,

    /// Models it may call; `*` stands for any characters [default: all]
    #[arg(long, num_args = 1.., value_name = "GLOB")]
    models: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Scope {
    /// Calls models
    User,
    /// Also changes ApiModels and Aliases
    PowerUser,
    /// Also makes tokens for others
    Admin,
}

/// Runs one of them.
pub(crate) fn run(command: &Command, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    match command {
        Command::Create(create) => {
            let answer = client.call(Method::POST, &["tokens"], &[], Some(&body(create)))?;
            // The token alone, so that a shell can take it: TOKEN=$(bodhi token create …).
            let text = format!(
                "{}\n",
                printable(answer["token"].as_str().unwrap_or_default())
            );
            Ok(Answer::new(answer, text))
        }
        Command::List => {
            let answer = client.get(&["tokens"], &[])?;
            let text = listing(&answer);
            Ok(Answer::new(answer, text))
        }
        Command::Revoke { id } => {
            let answer = client.call(Method::DELETE, &["tokens", id], &[], None)?;
            Ok(Answer::new(answer, format!("revoked {}\n", printable(id))))
        }
    }
}

fn body(create: &Create) -> Value {
    let mut body = json!({"name": create.name, "scope": scope_word(create.scope)});
    if let Some(owner) = &create.owner {
        body["owner"] = owner.as_str().into();
    }
    if let Some(lifetime) = create.expires {
        body["expiresIn"] = lifetime.seconds().into();
    }
    if !create.models.is_empty() {
        body["models"] = create.models.clone().into();
    }
    body
}

fn scope_word(scope: Scope) -> String {
    let word = scope.to_possible_value();
    word.map_or_else(String::new, |w| w.get_name().to_owned())
}

fn listing(answer: &Value) -> String {
    let rows = answer["data"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|token| {
            let text = |key: &str| match &token[key] {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            vec![
                text("id"),
                text("name"),
                text("owner"),
                text("scope"),
                text("expires"),
                text("state"),
            ]
        });
    table(
        &["ID", "NAME", "OWNER", "SCOPE", "EXPIRES", "STATE"],
        &rows.collect::<Vec<_>>(),
    )
}
