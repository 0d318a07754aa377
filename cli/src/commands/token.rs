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
        #[arg(allow_hyphen_values = true)]
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
            let tokens = all_tokens(&client)?;
            let text = listing(&tokens);
            Ok(Answer::new(json!({"data": tokens}), text))
        }
        Command::Revoke { id } => {
            let answer = client.call(Method::DELETE, &["tokens", id], &[], None)?;
            let text = revocation(id, &answer);
            Ok(Answer::new(answer, text))
        }
    }
}

/// Page after page: a gateway may have a hundred thousand.
fn all_tokens(client: &Client) -> anyhow::Result<Vec<Value>> {
    let mut tokens = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut query = vec![("limit", "1000")];
        query.extend(after.as_deref().map(|id| ("after", id)));
        let page = client.get(&["tokens"], &query)?;
        tokens.extend(page["data"].as_array().into_iter().flatten().cloned());
        match page["next"].as_str() {
            Some(next) if after.as_deref() != Some(next) => after = Some(next.to_owned()),
            _ => return Ok(tokens),
        }
    }
}

fn revocation(id: &str, answer: &Value) -> String {
    let names = |key: &str| {
        let list = answer["dataPlanes"][key].as_array().into_iter().flatten();
        list.filter_map(Value::as_str)
            .map(printable)
            .collect::<Vec<_>>()
    };
    let (applied, pending) = (names("applied").len(), names("pending"));
    let id = printable(id);
    match pending.as_slice() {
        [] => format!("revoked {id}; data planes that refuse it: {applied}\n"),
        slow => format!(
            "revoked {id}; data planes that refuse it: {applied}, not heard from yet: {}\n",
            slow.join(", ")
        ),
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

fn listing(tokens: &[Value]) -> String {
    let headings = ["ID", "NAME", "OWNER", "SCOPE", "STATE", "EXPIRES", "MODELS"];
    let rows = tokens.iter().map(|token| {
        let text = |key: &str| token[key].as_str().unwrap_or("-").to_owned();
        let models = token["models"].as_array().map(|globs| {
            let globs: Vec<&str> = globs.iter().filter_map(Value::as_str).collect();
            globs.join(" ")
        });
        vec![
            text("id"),
            text("name"),
            text("owner"),
            text("scope"),
            text("state"),
            date(&token["expires"]).unwrap_or_else(|| "never".to_owned()),
            models.unwrap_or_else(|| "*".to_owned()),
        ]
    });
    table(&headings, &rows.collect::<Vec<_>>())
}

/// Unix seconds as RFC 3339.
fn date(seconds: &Value) -> Option<String> {
    let time = jiff::Timestamp::from_second(seconds.as_i64()?).ok()?;
    Some(time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_shows_when_a_token_ends_and_what_it_may_call() {
        let tokens = [
            json!({"id": "t1", "name": "ci", "owner": "ann", "scope": "user", "state": "active",
                   "expires": 86_400, "models": ["gpt-*", "fast"]}),
            json!({"id": "t2", "name": "ops", "owner": "bob", "scope": "admin", "state": "revoked",
                   "expires": null, "models": null}),
        ];
        let lines: Vec<String> = listing(&tokens).lines().map(str::to_owned).collect();
        assert!(
            lines[1].ends_with("active    1970-01-02T00:00:00Z   gpt-* fast"),
            "{}",
            lines[1]
        );
        assert!(
            lines[2].ends_with("revoked   never                  *"),
            "{}",
            lines[2]
        );
    }

    #[test]
    fn a_revocation_names_the_data_planes_that_are_late() {
        let answer = json!({"dataPlanes": {"applied": ["a", "b"], "pending": ["c"]}});
        let text = revocation("t1", &answer);
        assert_eq!(
            text,
            "revoked t1; data planes that refuse it: 2, not heard from yet: c\n"
        );
    }
}
