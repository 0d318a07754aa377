//! `bodhi master-key`: what seals stored provider keys.

use std::time::{Duration, Instant};

use clap::Subcommand;
use reqwest::Method;
use serde_json::Value;

use crate::client::Client;
use crate::connection::Connection;
use crate::output::{Answer, printable, table};

/// How long the command watches stored keys being sealed anew; it goes on without.
const WATCH: Duration = Duration::from_secs(600);
const PACE: Duration = Duration::from_millis(200);

/// The subcommands of `bodhi master-key`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// List master keys and how many stored keys each seals
    List,
    /// Let a new master key seal, and seal all stored keys anew
    Rotate,
    /// Give up a master key that seals nothing any more
    Retire {
        /// Its id, as `bodhi master-key list` shows it
        id: String,
    },
}

/// Runs one of them.
pub(crate) fn run(command: &Command, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    match command {
        Command::List => {
            let keys = client.get(&["master-keys"], &[])?;
            let text = listing(&keys);
            Ok(Answer::new(keys, text))
        }
        Command::Rotate => {
            let path = ["master-keys", "rotate"];
            let mut answer = client.call(Method::POST, &path, &[], None)?;
            if answer["step"] == "needs_key" {
                let text = first_step(&answer);
                let answer = Answer::new(answer, text);
                return Ok(Answer {
                    succeeded: false,
                    ..answer
                });
            }
            let began = Instant::now();
            while outdated(&answer) > 0 && began.elapsed() < WATCH {
                std::thread::sleep(PACE);
                let keys = client.get(&["master-keys"], &[])?;
                merge(&mut answer, keys);
            }
            let text = rotation(&answer);
            Ok(Answer::new(answer, text))
        }
        Command::Retire { id } => {
            let answer = client.call(Method::DELETE, &["master-keys", id], &[], None)?;
            let id = printable(id);
            let text = match answer["removed"].as_bool() {
                Some(true) => format!("retired {id}; older copies of the store need it still\n"),
                _ => format!(
                    "nothing needs {id} any more: take its line out of the master keys that every \
                     controller reads. Older copies of the store need it still\n"
                ),
            };
            Ok(Answer::new(answer, text))
        }
    }
}

fn outdated(answer: &Value) -> u64 {
    answer["outdated"].as_u64().unwrap_or(0)
}

fn merge(answer: &mut Value, keys: Value) {
    if let (Some(answer), Value::Object(keys)) = (answer.as_object_mut(), keys) {
        answer.extend(keys);
    }
}

fn listing(keys: &Value) -> String {
    let rows = keys["data"].as_array().into_iter().flatten().map(|key| {
        let seals = key["id"] == keys["seals"];
        let held = key["held"].as_bool() == Some(true);
        vec![
            key["id"].as_str().unwrap_or("-").to_owned(),
            if seals { "yes" } else { "no" }.to_owned(),
            key["sealedKeys"].to_string(),
            if held { "yes" } else { "MISSING" }.to_owned(),
        ]
    });
    table(
        &["ID", "SEALS", "STORED-KEYS", "IN-FILE"],
        &rows.collect::<Vec<_>>(),
    )
}

fn rotation(answer: &Value) -> String {
    let seals = printable(answer["seals"].as_str().unwrap_or_default());
    if outdated(answer) > 0 {
        return format!(
            "{seals} seals from now on; {} stored keys are still being sealed anew, see 'bodhi \
             master-key list'\n",
            outdated(answer)
        );
    }
    let mut text = format!("{seals} seals all stored keys\n");
    for key in answer["data"].as_array().into_iter().flatten() {
        let id = printable(key["id"].as_str().unwrap_or_default());
        if id != seals && key["sealedKeys"].as_u64() == Some(0) {
            text.push_str(&format!("{id} seals none: bodhi master-key retire {id}\n"));
        }
    }
    text
}

/// The new key is made where this is pasted: it never travels through the admin API.
fn first_step(answer: &Value) -> String {
    let file = printable(answer["file"].as_str().unwrap_or_default());
    let id = printable(answer["nextId"].as_str().unwrap_or_default());
    format!(
        r#"First every controller must hold a new master key ({file}).

In Kubernetes, with the namespace and the Secret's name as they were installed:

  NAMESPACE=bodhi SECRET=bodhi-master
  {{ kubectl -n $NAMESPACE get secret $SECRET -o jsonpath='{{.data.master\.key}}' | base64 -d; echo; \
    echo "{id} $(head -c 32 /dev/urandom | base64)"; }} | base64 -w0 | \
    sed 's|.*|{{"data":{{"master.key":"&"}}}}|' | \
    kubectl -n $NAMESPACE patch secret $SECRET --patch-file /dev/stdin
  kubectl -n $NAMESPACE rollout restart deployment -l app.kubernetes.io/component=controller
  kubectl -n $NAMESPACE rollout status deployment -l app.kubernetes.io/component=controller

Elsewhere append one line, the same for every controller, to the file, and restart them:

  echo "{id} $(head -c 32 /dev/urandom | base64)"

Then run 'bodhi master-key rotate' again.
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_listing_tells_which_key_seals_and_which_is_missing() {
        let keys = json!({"seals": "k2", "data": [
            {"id": "k1", "held": false, "sealedKeys": 3},
            {"id": "k2", "held": true, "sealedKeys": 1},
        ]});
        let lines: Vec<String> = listing(&keys).lines().map(str::to_owned).collect();
        assert_eq!(lines[1], "k1   no      3             MISSING");
        assert_eq!(lines[2], "k2   yes     1             yes");
    }

    #[test]
    fn a_finished_rotation_names_what_may_go() {
        let answer = json!({"seals": "k2", "outdated": 0, "data": [
            {"id": "k1", "sealedKeys": 0}, {"id": "k2", "sealedKeys": 4},
        ]});
        assert_eq!(
            rotation(&answer),
            "k2 seals all stored keys\nk1 seals none: bodhi master-key retire k1\n"
        );
    }

    /// What is printed is run: as `bodhi master-key rotate` says it, with a kubectl that plays the
    /// API server's part.
    #[test]
    fn the_printed_step_adds_a_line_to_the_secret() {
        let folder = tempfile::tempdir().unwrap();
        let kubectl = folder.path().join("kubectl");
        let secret = folder.path().join("patch");
        std::fs::write(
            &kubectl,
            format!(
                "#!/bin/sh\ncase \"$*\" in\n*get*) printf 'k1 AAAA' | base64 -w0 ;;\n\
                 *patch*) cat > {} ;;\nesac\n",
                secret.display()
            ),
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&kubectl, mode).unwrap();
        let text = first_step(&json!({"file": "/f", "nextId": "k2"}));
        let commands: Vec<&str> = text.lines().filter(|l| l.starts_with("  ")).collect();
        let script = commands[..commands.len() - 1].join("\n");
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        let status = std::process::Command::new("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .env("PATH", path)
            .status()
            .unwrap();
        assert!(status.success(), "{script}");
        let patch: Value = serde_json::from_slice(&std::fs::read(&secret).unwrap()).unwrap();
        use base64::Engine as _;
        let ring = patch["data"]["master.key"].as_str().unwrap();
        let ring = base64::engine::general_purpose::STANDARD
            .decode(ring)
            .unwrap();
        let ring = String::from_utf8(ring).unwrap();
        let lines: Vec<&str> = ring.lines().collect();
        assert_eq!((lines[0], lines.len()), ("k1 AAAA", 2), "{ring}");
        assert!(
            lines[1].starts_with("k2 ") && lines[1].len() == 47,
            "{ring}"
        );
    }
}
