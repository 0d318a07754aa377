//! `bodhi store`: the database itself.

use clap::Subcommand;
use reqwest::Method;

use crate::client::Client;
use crate::connection::Connection;
use crate::output::Answer;

/// The subcommands of `bodhi store`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// After a restore or a failover that lost changes: make data planes take the store's word
    /// again. What it lost is lost, revocations too
    RaiseIncarnation,
}

/// Runs one of them.
pub(crate) fn run(command: &Command, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    match command {
        Command::RaiseIncarnation => {
            let answer = client.call(Method::POST, &["store", "incarnation"], &[], None)?;
            let text = format!("the store's incarnation is {} now\n", answer["incarnation"]);
            Ok(Answer::new(answer, text))
        }
    }
}
