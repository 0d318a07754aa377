//! `bodhi explain`: a dry run of the question "who serves this name?".

use crate::client::Client;
use crate::connection::Connection;
use crate::output::{Answer, printable_lines};

/// Arguments of `bodhi explain`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model as a client would name it
    model: String,

    /// The endpoint that would be called, such as chat, messages or responses [default: all]
    #[arg(long, value_name = "ENDPOINT")]
    surface: Option<String>,

    /// The token that would call, by its id [default: the one that asks]
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    token: Option<String>,
}

/// Asks the gateway, which answers from what its data planes hold.
pub(crate) fn run(args: &Args, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    let mut query = vec![("model", args.model.as_str())];
    query.extend(args.surface.as_deref().map(|surface| ("surface", surface)));
    query.extend(args.token.as_deref().map(|id| ("token", id)));
    let answer = client.get(&["explain"], &query)?;
    let text = answer["text"].as_str().unwrap_or_default();
    let text = format!("{}\n", printable_lines(text.trim_end()));
    Ok(Answer::new(answer, text))
}
