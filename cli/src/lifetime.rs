//! How long a token lives, as people write it: `30d`, `12h`, `1w2d`.

use std::fmt;
use std::str::FromStr;

/// A whole number of seconds, more than none and at most ten years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lifetime(u64);

const MAX_SECONDS: u64 = 10 * 366 * 86_400;

/// Why a text is not a [`Lifetime`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LifetimeError {
    /// No number with a unit.
    #[error("write a number and a unit (s, m, h, d or w), such as 30d, 12h or 1w2d")]
    Form,
    /// It would be expired at once.
    #[error("a token must live longer than 0s")]
    Zero,
    /// Longer than [`MAX_SECONDS`].
    #[error("at most ten years; leave --expires out for a token that does not expire")]
    TooLong,
}

impl Lifetime {
    /// The span in seconds.
    pub(crate) fn seconds(self) -> u64 {
        self.0
    }
}

impl FromStr for Lifetime {
    type Err = LifetimeError;

    fn from_str(text: &str) -> Result<Self, LifetimeError> {
        let (mut rest, mut total) = (text, 0u64);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let mut tail = tail.chars();
            let unit = match tail.next() {
                Some('s') => 1,
                Some('m') => 60,
                Some('h') => 3_600,
                Some('d') => 86_400,
                Some('w') => 604_800,
                _ => return Err(LifetimeError::Form),
            };
            if number.is_empty() {
                return Err(LifetimeError::Form);
            }
            // Only digits are left, so the one way to fail is a number too large.
            let number: u64 = number.parse().map_err(|_| LifetimeError::TooLong)?;
            let part = number.checked_mul(unit).ok_or(LifetimeError::TooLong)?;
            total = total.checked_add(part).ok_or(LifetimeError::TooLong)?;
            rest = tail.as_str();
        }
        match total {
            0 if text.is_empty() => Err(LifetimeError::Form),
            0 => Err(LifetimeError::Zero),
            MAX_SECONDS.. => Err(LifetimeError::TooLong),
            seconds => Ok(Self(seconds)),
        }
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, seconds) in [
            ("45s", 45),
            ("90m", 5_400),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("1w2d", 777_600),
        ] {
            assert_eq!(text.parse(), Ok(Lifetime(seconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_lifetime_says_how_to_write_one() {
        for (text, error) in [
            ("", LifetimeError::Form),
            ("30", LifetimeError::Form),
            ("d", LifetimeError::Form),
            ("-1d", LifetimeError::Form),
            ("1.5h", LifetimeError::Form),
            ("30 d", LifetimeError::Form),
            ("3mö", LifetimeError::Form),
            ("1y", LifetimeError::Form),
            ("0d", LifetimeError::Zero),
            ("11w99999d", LifetimeError::TooLong),
            ("99999999999999999999d", LifetimeError::TooLong),
            ("18446744073709551615w", LifetimeError::TooLong),
        ] {
            assert_eq!(text.parse::<Lifetime>(), Err(error), "{text:?}");
        }
    }
}
