//! `bodhi key`: the provider key of an ApiModel with `auth.type: Stored`.

use std::io::{BufRead as _, IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use bodhi_proto::secret::Secret;
use clap::Subcommand;
use reqwest::Method;
use rustix::termios::{self, LocalModes, OptionalActions};
use serde_json::json;
use zeroize::Zeroizing;

use crate::client::Client;
use crate::connection::Connection;
use crate::object_name::ObjectName;
use crate::output::{Answer, printable};

/// Longest key that the gateway takes, in bytes.
const KEY_MAX: usize = 4096;

/// The subcommands of `bodhi key`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Store a key, read from stdin or typed without echo; never an argument
    Set {
        /// The ApiModel, as NAME or NAMESPACE/NAME
        #[arg(value_name = "APIMODEL")]
        model: ObjectName,
    },
    /// Erase the key
    Rm {
        /// The ApiModel, as NAME or NAMESPACE/NAME
        #[arg(value_name = "APIMODEL")]
        model: ObjectName,
    },
}

/// Runs one of them.
pub(crate) fn run(command: &Command, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    match command {
        Command::Set { model } => {
            let key = read_key(model)?;
            let body = json!({"key": key.expose()});
            let path = ["keys", model.namespace(), &model.name];
            let answer = client.call(Method::PUT, &path, &[], Some(&body))?;
            let origin = printable(answer["origin"].as_str().unwrap_or_default());
            let text = format!("stored the key of {model}; it is sent to {origin} only\n");
            Ok(Answer::new(answer, text))
        }
        Command::Rm { model } => {
            let path = ["keys", model.namespace(), &model.name];
            let answer = client.call(Method::DELETE, &path, &[], None)?;
            let text = match answer["removed"].as_bool() {
                Some(false) => format!("{model} had no key\n"),
                _ => format!("erased the key of {model}\n"),
            };
            Ok(Answer::new(answer, text))
        }
    }
}

fn read_key(model: &ObjectName) -> anyhow::Result<Secret> {
    let mut text = Zeroizing::new(String::new());
    if std::io::stdin().is_terminal() {
        eprint!("Key of {model} (not shown): ");
        let read = without_echo(|| std::io::stdin().lock().read_line(&mut text));
        eprintln!();
        read
    } else {
        let limit = KEY_MAX as u64 + 2;
        std::io::stdin()
            .lock()
            .take(limit)
            .read_to_string(&mut text)
    }
    .context("cannot read the key from stdin")?;
    judge_key(&text)
}

fn judge_key(text: &str) -> anyhow::Result<Secret> {
    let key = text.trim();
    if key.is_empty() {
        bail!("no key was given: type it, or pipe it in, as in `bodhi key set NAME < key.txt`");
    }
    if key.len() > KEY_MAX {
        bail!("what was given is longer than {KEY_MAX} bytes, the most a key may have");
    }
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        bail!("a key is one word of visible ASCII characters: this holds others");
    }
    Ok(Secret::new(key))
}

/// Runs `read` while the terminal does not show what is typed.
fn without_echo<T>(read: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    let stdin = std::io::stdin();
    let usual = termios::tcgetattr(&stdin)?;
    let mut silent = usual.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    termios::tcsetattr(&stdin, OptionalActions::Flush, &silent)?;
    let result = read();
    termios::tcsetattr(&stdin, OptionalActions::Flush, &usual)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_visible_word() {
        assert_eq!(judge_key("sk-abc\n").unwrap().expose(), "sk-abc");
        for text in ["", " \n", "a b", "a\nb", "sk-ä", "a\u{0}b"] {
            assert!(judge_key(text).is_err(), "{text:?}");
        }
        assert!(judge_key(&"k".repeat(KEY_MAX + 1)).is_err());
    }

    #[test]
    fn refusals_do_not_repeat_the_key() {
        let refusal = judge_key("sk canary").unwrap_err().to_string();
        assert!(!refusal.contains("canary"));
    }
}
