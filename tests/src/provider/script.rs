//! What a model name asks the provider to do besides answering.
//!
//! `fault:D,D,…` answers as any model would and misbehaves on the way; `replay:FILE,D,…` sends a
//! file of the fixtures folder; `bench:chunks=N,size=N,gap=Nms` sends a stream of fixed chunks.
//! The directives `D` are listed at the head of `scripted-provider.rs`. One that is unknown is an
//! error, so that a typo in a test cannot pass for good behaviour.

use std::time::Duration;

/// Where the payload ends before its end, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// RST.
    Reset,
    /// FIN.
    Close,
    /// Silence until the client leaves.
    Stall,
}

/// How a body's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    Chunked,
    Length,
    /// By the end of the connection.
    Close,
}

/// Into which writes, and chunks, a replayed body is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Partition {
    Whole,
    /// Pieces of this many bytes.
    Every(usize),
    /// Cuts at these offsets.
    At(Vec<usize>),
}

/// The source of an answer's body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Source {
    /// What the request asks for.
    #[default]
    Request,
    /// A file in the fixtures folder.
    Fixture {
        name: String,
        partition: Option<Partition>,
    },
    /// Fixed chunks.
    Bench { chunks: usize, size: usize },
    /// Bytes that are not HTTP.
    Garbage,
    /// 307 to this address, or to an own path when empty.
    Redirect(String),
}

/// Everything a model name asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Script {
    pub(super) source: Source,
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<String>,
    pub(super) first_byte: Duration,
    pub(super) cut: Option<(usize, Cut)>,
    /// Write this many bytes, then pause.
    pub(super) drip: Option<(usize, Duration)>,
    /// Pause between the parts of a stream.
    pub(super) gap: Duration,
    pub(super) framing: Option<Framing>,
    /// Bytes of padding headers, and into how many headers they are split.
    pub(super) padding: (usize, usize),
}

impl Script {
    /// Reads a model name. `Ok` with the default for an ordinary one.
    pub(super) fn of(model: &str) -> Result<Self, String> {
        let mut script = Self::default();
        let directives = if let Some(rest) = model.strip_prefix("fault:") {
            rest
        } else if let Some(rest) = model.strip_prefix("replay:") {
            let (name, rest) = rest.split_once(',').unwrap_or((rest, ""));
            if name.is_empty() || name.contains('/') || name.contains("..") {
                return Err(format!("'{name}' is not the name of a fixture"));
            }
            script.source = Source::Fixture {
                name: name.to_owned(),
                partition: None,
            };
            rest
        } else if let Some(rest) = model.strip_prefix("bench:") {
            script.source = Source::Bench {
                chunks: 100,
                size: 120,
            };
            rest
        } else {
            return Ok(script);
        };
        for directive in directives
            .split(',')
            .filter(|directive| !directive.is_empty())
        {
            let (key, value) = directive.split_once('=').unwrap_or((directive, ""));
            script
                .apply(key, value)
                .map_err(|why| format!("directive '{directive}' of model '{model}': {why}"))?;
        }
        Ok(script)
    }

    fn apply(&mut self, key: &str, value: &str) -> Result<(), String> {
        match (key, &mut self.source) {
            ("status", _) => {
                self.status = Some(
                    number(value)?
                        .try_into()
                        .map_err(|_| "not a status".to_owned())?,
                )
            }
            ("retry-after", _) => self.retry_after = Some(value.to_owned()),
            ("slow-first-byte", _) => self.first_byte = millis(value)?,
            ("reset-at", _) => self.cut = Some((number(value)?, Cut::Reset)),
            ("early-close", _) => self.cut = Some((number(value)?, Cut::Close)),
            ("stall-after", _) => self.cut = Some((number(value)?, Cut::Stall)),
            ("drip", _) => {
                let (bytes, pause) = value.split_once('/').ok_or("expected BYTES/MILLISECONDS")?;
                let bytes = bytes.trim_end_matches("bytes").trim_end_matches("byte");
                self.drip = Some((number(bytes)?.max(1), millis(pause)?));
            }
            ("gap", _) => self.gap = millis(value)?,
            ("framing", _) => {
                self.framing = Some(match value {
                    "chunked" => Framing::Chunked,
                    "length" => Framing::Length,
                    "close" => Framing::Close,
                    _ => return Err("expected chunked, length or close".to_owned()),
                });
            }
            ("huge-head", _) => {
                self.padding = (
                    if value.is_empty() {
                        1 << 20
                    } else {
                        number(value)?
                    },
                    16,
                )
            }
            ("many-headers", _) => {
                let count = number(value)?;
                self.padding = (count * 8, count);
            }
            ("garbage", source) => *source = Source::Garbage,
            ("redirect", source) => *source = Source::Redirect(value.to_owned()),
            ("chunks", Source::Bench { chunks, .. }) => *chunks = number(value)?,
            ("size", Source::Bench { size, .. }) => *size = number(value)?,
            ("partition", Source::Fixture { partition, .. }) => {
                *partition = Some(parse_partition(value)?)
            }
            _ => return Err("is unknown".to_owned()),
        }
        Ok(())
    }
}

fn parse_partition(value: &str) -> Result<Partition, String> {
    match value {
        "whole" => Ok(Partition::Whole),
        "bytes" => Ok(Partition::Every(1)),
        _ => match value.strip_prefix("every:") {
            Some(size) => Ok(Partition::Every(number(size)?.max(1))),
            None => value
                .strip_prefix("at:")
                .ok_or("expected whole, bytes, every:N or at:N;N".to_owned())?
                .split(';')
                .map(number)
                .collect::<Result<_, _>>()
                .map(Partition::At),
        },
    }
}

fn number(value: &str) -> Result<usize, String> {
    value
        .parse()
        .map_err(|_| format!("'{value}' is not a number"))
}

fn millis(value: &str) -> Result<Duration, String> {
    number(value.strip_suffix("ms").unwrap_or(value)).map(|ms| Duration::from_millis(ms as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_name_asks_for_nothing() {
        assert_eq!(Script::of("gpt-4o,status=500").unwrap(), Script::default());
    }

    #[test]
    fn directives_combine() {
        let script = Script::of("fault:status=429,retry-after=7,drip=1byte/5ms").unwrap();
        assert_eq!(script.status, Some(429));
        assert_eq!(script.retry_after.as_deref(), Some("7"));
        assert_eq!(script.drip, Some((1, Duration::from_millis(5))));
    }

    #[test]
    fn a_replay_names_its_file_and_partition() {
        let script = Script::of("replay:chat.sse,partition=at:3;17,reset-at=9").unwrap();
        let partition = Some(Partition::At(vec![3, 17]));
        assert_eq!(
            script.source,
            Source::Fixture {
                name: "chat.sse".to_owned(),
                partition
            }
        );
        assert_eq!(script.cut, Some((9, Cut::Reset)));
    }

    #[test]
    fn a_misspelled_directive_is_an_error() {
        assert!(
            Script::of("fault:stats=500")
                .unwrap_err()
                .contains("'stats=500'")
        );
        assert!(
            Script::of("fault:chunks=5").is_err(),
            "a bench directive outside bench"
        );
        assert!(Script::of("replay:../Cargo.toml").is_err());
    }
}
