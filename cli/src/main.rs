//! `bodhi`: the gateway on one machine, and the command line for any gateway.
//!
//! `bodhi up` runs the controller and a data plane in this process. `validate` and
//! `crds` work on files alone. All other commands are clients of the admin API
//! (`/bodhi/v1`) of a running gateway, here or elsewhere.
//!
//! A command answers a [`Answer`](output::Answer), a value and its text for people;
//! this file prints one of them and chooses the exit status: 0 done, 1 it did not
//! work, 2 the command line was wrong.

mod client;
mod commands;
mod connection;
mod lifetime;
mod object_name;
mod output;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::connection::Connection;
use crate::output::{Answer, Output};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// One address in front of all your language models
///
/// Start a gateway on this machine with `bodhi up`, or manage one that runs:
/// commands speak to BODHI_SERVER with the token in BODHI_TOKEN.
#[derive(Parser)]
#[command(name = "bodhi", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    connection: Connection,

    /// How answers are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table, value_name = "FORM")]
    output: Output,
}

#[derive(Subcommand)]
enum Command {
    /// Start the gateway on this machine
    Up(Box<commands::up::Args>),
    /// Show ApiModels and Aliases and whether they serve
    Get(commands::get::Args),
    /// Say which object would serve a model, and why the others would not
    Explain(commands::explain::Args),
    /// Ask a provider: does its key work, which models does it have
    #[command(subcommand)]
    Models(commands::models::Command),
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(commands::token::Command),
    /// Store or erase the provider key of an ApiModel
    #[command(subcommand)]
    Key(commands::key::Command),
    /// List, rotate and retire the master keys that seal stored provider keys
    #[command(subcommand)]
    MasterKey(commands::master_key::Command),
    /// Verify the trail of who changed what
    #[command(subcommand)]
    Audit(commands::audit::Command),
    /// Repair what a restored database means to data planes
    #[command(subcommand)]
    Store(commands::store::Command),
    /// Ask whether gateways answer; no token is needed
    Ping(commands::ping::Args),
    /// Judge manifests as the gateway would, without one
    Validate(commands::validate::Args),
    /// Print the CustomResourceDefinitions
    Crds(commands::crds::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command, &cli.connection, cli.output) {
        Ok(answer) => print(&answer, cli.output),
        Err(error) => {
            output::report(&error, cli.output);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, connection: &Connection, output: Output) -> anyhow::Result<Answer> {
    match command {
        Command::Up(args) => commands::up::run(*args, connection.data()?, output),
        Command::Get(args) => commands::get::run(&args, connection),
        Command::Explain(args) => commands::explain::run(&args, connection),
        Command::Models(command) => commands::models::run(&command, connection),
        Command::Token(command) => commands::token::run(&command, connection),
        Command::Key(command) => commands::key::run(&command, connection),
        Command::MasterKey(command) => commands::master_key::run(&command, connection),
        Command::Audit(command) => commands::audit::run(&command, connection),
        Command::Store(command) => commands::store::run(&command, connection),
        Command::Ping(args) => commands::ping::run(&args, connection),
        Command::Validate(args) => commands::validate::run(&args),
        Command::Crds(args) => commands::crds::run(&args),
    }
}

/// A reader that has seen enough (`bodhi get | head -1`) closed the pipe: no failure.
fn print(answer: &Answer, form: Output) -> ExitCode {
    let text = answer.render(form);
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ if answer.succeeded => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
