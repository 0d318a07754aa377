//! Small field types that both kinds use; each brings its own schema.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A key of a Secret or ConfigMap in the object's own namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// Name of the object, in the same namespace.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
    )]
    pub name: String,
    /// The key within its data.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A span of time in Go's notation: `300ms`, `5s`, `1h30m`. Never zero, at most a day and
/// never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period(Duration);

/// Why a text is not a [`Period`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 300ms, 5s, 15m or 1h30m")]
pub struct PeriodError(String);

const PERIOD_PATTERN: &str = "^([0-9]{1,8}(ms|s|m|h)){1,4}$";
const PERIOD_MAX_LENGTH: usize = 24;
const PERIOD_RULE: &str = "duration(self) > duration('0s') && duration(self) <= duration('24h')";

impl Period {
    /// A period of whole milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A period of whole seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// Parses the notation that the schema's pattern admits.
    pub fn parse(text: &str) -> Result<Self, PeriodError> {
        let wrong = || PeriodError(text.chars().take(PERIOD_MAX_LENGTH).collect());
        if text.is_empty() || text.len() > PERIOD_MAX_LENGTH {
            return Err(wrong());
        }
        let (mut rest, mut total) = (text, 0u64);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
            let unit = match &rest[..letters] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(wrong()),
            };
            rest = &rest[letters..];
            let part = number.checked_mul(unit).ok_or_else(wrong)?;
            total = total.checked_add(part).ok_or_else(wrong)?;
        }
        Ok(Self::from_millis(total))
    }

    /// The span itself.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl std::fmt::Display for Period {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = self.0.as_millis();
        for (unit, word) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
            if millis >= unit && millis.is_multiple_of(unit) {
                return write!(f, "{}{word}", millis / unit);
            }
        }
        write!(f, "{millis}ms")
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Period {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": PERIOD_MAX_LENGTH,
            "pattern": PERIOD_PATTERN,
            "x-kubernetes-validations": [{
                "rule": PERIOD_RULE,
                "message": "must be more than 0s and at most 24h",
            }],
        })
    }
}

/// A free-form JSON object, forwarded as it is; unknown fields are kept.
pub(super) fn free_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_read_and_print_gos_notation() {
        for (text, millis, printed) in [
            ("300ms", 300, "300ms"),
            ("5s", 5_000, "5s"),
            ("300s", 300_000, "5m"),
            ("1h30m", 5_400_000, "90m"),
            ("1h", 3_600_000, "1h"),
        ] {
            let period = Period::parse(text).unwrap();
            assert_eq!(period.get(), Duration::from_millis(millis));
            assert_eq!(period.to_string(), printed);
            assert_eq!(Period::parse(printed).unwrap(), period);
        }
    }

    #[test]
    fn periods_refuse_what_the_pattern_refuses() {
        for text in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            "5d",
            "1.5s",
            "5sm",
            "99999999999999999999h",
        ] {
            assert!(Period::parse(text).is_err(), "{text:?}");
        }
    }
}
