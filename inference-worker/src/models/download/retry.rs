//! When to try again: pure arithmetic over what servers say and how often it failed.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// How often and how long a download is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries in a row that brought no byte.
    pub tries: u32,
    /// Wait before the second try; it doubles with each.
    pub first: Duration,
    /// Longest wait of our own choice.
    pub longest: Duration,
    /// Longest wait that a server may ask for.
    pub asked: Duration,
    /// Silence after which a connection counts as lost.
    pub silence: Duration,
}

impl Default for Patience {
    /// Eight tries within some three minutes; a server may ask for a quarter of an hour.
    fn default() -> Self {
        Self {
            tries: 8,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
            asked: Duration::from_secs(900),
            silence: Duration::from_secs(60),
        }
    }
}

impl Patience {
    /// The wait before try number `failed + 1`, or `None` when there have been enough or the server asks
    /// for more than is given. `jitter` is random in 0..1; a server's own number is never undercut.
    pub(super) fn wait(
        &self,
        failed: u32,
        asked: Option<Duration>,
        jitter: f64,
    ) -> Option<Duration> {
        if failed >= self.tries || asked.is_some_and(|asked| asked > self.asked) {
            return None;
        }
        let doubled = self
            .first
            .saturating_mul(1 << failed.saturating_sub(1).min(16));
        // Half of it random: workers that failed together do not come back together.
        let own = doubled
            .min(self.longest)
            .mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        Some(match asked {
            Some(asked) => asked + own.min(self.first).mul_f64(jitter.clamp(0.0, 1.0)),
            None => own,
        })
    }
}

/// How long the server asks to be left alone: `Retry-After` (RFC 9110 §10.2.3), else a spent `RateLimit`.
pub(super) fn asked(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let retry_after = text(RETRY_AFTER.as_str()).and_then(|text| {
        let text = text.trim();
        match text.parse() {
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                let date = httpdate::parse_http_date(text).ok()?;
                Some(date.duration_since(now).unwrap_or_default())
            }
        }
    });
    retry_after.or_else(|| spent(text("ratelimit")?))
}

/// The window's rest if nothing remains: `"policy";r=0;t=30`, of several the longest.
///
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>. Earlier drafts wrote
/// `limit=100, remaining=0, reset=30`, which is understood too.
fn spent(header: &str) -> Option<Duration> {
    let number = |item: &str, names: [&str; 2]| {
        item.split([';', ',']).find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            let known = names.contains(&name.trim());
            value.trim().parse::<u64>().ok().filter(|_| known)
        })
    };
    // In the earlier form the comma separates a limit's own numbers.
    let items: Vec<&str> = match header.contains(';') {
        true => header.split(',').collect(),
        false => vec![header],
    };
    let rests = items.iter().filter_map(|item| {
        let remaining = number(item, ["r", "remaining"])?;
        let rest = number(item, ["t", "reset"])?;
        (remaining == 0).then(|| Duration::from_secs(rest))
    });
    rests.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let patience = Patience::default();
        let waits: Vec<u64> = (1..)
            .map_while(|failed| patience.wait(failed, None, 1.0))
            .map(|wait| wait.as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(patience.wait(3, None, 0.0), Some(2 * SECOND));
    }

    #[test]
    fn a_servers_number_is_kept_and_not_undercut() {
        let patience = Patience::default();
        for jitter in [0.0, 0.5, 1.0] {
            let wait = patience.wait(1, Some(30 * SECOND), jitter).unwrap();
            assert!((30 * SECOND..=31 * SECOND).contains(&wait), "{wait:?}");
        }
        assert_eq!(patience.wait(1, Some(901 * SECOND), 0.0), None);
    }

    #[test]
    fn servers_words_are_understood() {
        let now = SystemTime::UNIX_EPOCH + 784_111_777 * SECOND;
        for (name, value, expected) in [
            ("retry-after", "120", Some(120)),
            ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("retry-after", "soon", None),
            ("ratelimit", "\"default\";r=0;t=30", Some(30)),
            ("ratelimit", "\"api\";r=10;t=30", None),
            (
                "ratelimit",
                "\"burst\";r=0;t=5, \"day\";r=0;t=300, \"x\";r=9;t=999",
                Some(300),
            ),
            ("ratelimit", "limit=100, remaining=0, reset=50", Some(50)),
            ("ratelimit", "limit=100, remaining=1, reset=50", None),
            ("ratelimit", "\"a\";r=;t=, ,;=", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!(
                asked(&headers, now),
                expected.map(Duration::from_secs),
                "{value}"
            );
        }
        let mut both = HeaderMap::new();
        both.insert("retry-after", "7".parse().unwrap());
        both.insert("ratelimit", "\"a\";r=0;t=9".parse().unwrap());
        assert_eq!(asked(&both, now), Some(7 * SECOND));
    }
}
