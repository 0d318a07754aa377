//! `bodhi explain`: a dry run of the question "who serves this name?".

use crate::client::Client;
use crate::connection::Connection;
use crate::output::{Answer, printable_lines};

/// Arguments of `bodhi explain`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model as a client would name it
    model: String,

    /// The endpoint that would be called, such as chat, messages or responses
    #[arg(long, value_name = "ENDPOINT")]
    surface: Option<String>,
}

/// Asks the gateway with the caller's own token.
pub(crate) fn run(args: &Args, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    let mut query = vec![("model", args.model.as_str())];
    if let Some(surface) = &args.surface {
        query.push(("surface", surface));
    }
    let answer = client.get(&["explain"], &query)?;
    let text = printable_lines(answer["text"].as_str().unwrap_or_default());
    Ok(Answer::new(answer, text))
}
