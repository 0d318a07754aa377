//! `bodhi audit`: the trail of who changed what, and whether it is as it was written.

use anyhow::Context as _;
use bodhi_controller::store::{Actor, AuditRow, Chain, verify_chain};
use bodhi_proto::names::TokenId;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::Client;
use crate::connection::Connection;
use crate::output::Answer;

/// The subcommands of `bodhi audit`.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Read the whole trail and compute its chain of hashes anew
    Verify,
}

/// Runs one of them.
pub(crate) fn run(command: &Command, connection: &Connection) -> anyhow::Result<Answer> {
    let client = Client::open(connection)?;
    match command {
        Command::Verify => {
            let verdict = verify(|before| {
                let before = before.map(|n| n.to_string());
                let mut query = vec![("limit", "1000")];
                query.extend(before.as_deref().map(|n| ("before", n)));
                Ok(client.get(&["audit"], &query)?)
            })?;
            Ok(verdict.answer())
        }
    }
}

/// What the whole trail came to.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    rows: u64,
    /// Number and hash of the latest row: kept elsewhere, they show whether the end was cut off.
    latest: Option<(u64, String)>,
    broken_at: Option<u64>,
}

/// Reads page after page, newest first. A row's `previous` is the hash of the row below it, so the
/// pages are checked with the one row in which they overlap.
fn verify(mut page: impl FnMut(Option<u64>) -> anyhow::Result<Value>) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict {
        rows: 0,
        latest: None,
        broken_at: None,
    };
    let mut carried: Option<Value> = None;
    let mut before = None;
    loop {
        let answer = page(before)?;
        let data = answer["data"].as_array().cloned().unwrap_or_default();
        if verdict.latest.is_none() {
            verdict.latest = data
                .first()
                .and_then(|row| Some((row["number"].as_u64()?, row["hash"].as_str()?.to_owned())));
        }
        verdict.rows += data.len() as u64;
        let rows: Vec<Value> = carried.take().into_iter().chain(data).collect();
        let last_page = answer["next"].is_null();
        if let Chain::BrokenAt(number) = verify_chain(&parsed(&rows, last_page)?) {
            verdict.broken_at = Some(number);
            return Ok(verdict);
        }
        if last_page {
            return Ok(verdict);
        }
        carried = rows.last().cloned();
        before = answer["next"].as_u64();
    }
}

/// The rows of a page. The last one's `previous` is known only where it is the first of all; else
/// it is left to the next page.
fn parsed(rows: &[Value], last_page: bool) -> anyhow::Result<Vec<AuditRow>> {
    let hash = |row: &Value| row["hash"].as_str().and_then(bytes32);
    let complete = match last_page {
        true => rows.len(),
        false => rows.len().saturating_sub(1),
    };
    let row = |i: usize| {
        let row = &rows[i];
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        let previous = match rows.get(i + 1) {
            Some(older) => hash(older)?,
            None => [0; 32],
        };
        Some(AuditRow {
            number: row["number"].as_u64()?,
            at: row["at"].as_i64()?,
            by: Actor {
                token: text("token")
                    .map(|id| TokenId::parse(&id))
                    .transpose()
                    .ok()?,
                owner: text("owner")?.into(),
            },
            action: text("action")?,
            object: text("object")?,
            previous,
            hash: hash(row)?,
        })
    };
    (0..complete)
        .map(|i| {
            row(i).context("the gateway's audit rows are not in a form that this release knows")
        })
        .collect()
}

fn bytes32(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(bytes)
}

impl Verdict {
    fn answer(self) -> Answer {
        let latest = self.latest.as_ref();
        let json = json!({
            "rows": self.rows,
            "chain": if self.broken_at.is_none() { "intact" } else { "broken" },
            "brokenAt": self.broken_at,
            "latest": latest.map(|(number, hash)| json!({"number": number, "hash": hash})),
        });
        let text = match (self.broken_at, latest) {
            (Some(number), _) => format!(
                "the audit trail is broken at row {number}: it or the row before it was changed, \
                 taken out or put in\n"
            ),
            (None, None) => "the audit trail is empty\n".to_owned(),
            (None, Some((number, hash))) => format!(
                "{} rows, intact. The latest is {number}, with hash {hash}: kept elsewhere, it shows \
                 later whether the end was cut off\n",
                self.rows
            ),
        };
        Answer {
            succeeded: self.broken_at.is_none(),
            ..Answer::new(json, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trail as the gateway tells it, newest row first.
    fn trail() -> Vec<Value> {
        let rows = include_str!("audit/trail.json");
        serde_json::from_str(rows).unwrap()
    }

    fn read(trail: &[Value], size: usize) -> Verdict {
        verify(|before| {
            let below = |row: &&Value| before.is_none_or(|n| row["number"].as_u64() < Some(n));
            let page: Vec<Value> = trail.iter().filter(below).take(size).cloned().collect();
            let next = page.last().map(|row| row["number"].clone());
            let next = next.filter(|n| n.as_u64() > Some(1) && page.len() == size);
            Ok(json!({"data": page, "next": next}))
        })
        .unwrap()
    }

    #[test]
    fn a_trail_is_intact_in_pages_of_any_size() {
        let trail = trail();
        for size in 1..=trail.len() + 1 {
            let verdict = read(&trail, size);
            assert_eq!(
                (verdict.rows, verdict.broken_at),
                (trail.len() as u64, None),
                "{size}"
            );
        }
    }

    #[test]
    fn a_changed_or_missing_row_is_named_in_pages_of_any_size() {
        for size in 1..=4 {
            let mut changed = trail();
            changed[1]["owner"] = "eve".into();
            assert_eq!(
                read(&changed, size).broken_at,
                changed[1]["number"].as_u64()
            );
            let mut missing = trail();
            missing.remove(1);
            assert_eq!(
                read(&missing, size).broken_at,
                missing[0]["number"].as_u64()
            );
        }
    }
}
