//! Points in time and lengths of time as people type them.

use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

/// The start of a range of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Since {
    /// So long before now.
    Ago(Duration),
    /// At this moment.
    At(Timestamp),
}

impl Since {
    /// The moment that is meant; nothing is older than 1970.
    pub(crate) fn resolve(self, now: Timestamp) -> Timestamp {
        let moment = match self {
            Since::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH),
            Since::At(at) => at,
        };
        moment.max(Timestamp::UNIX_EPOCH)
    }
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Since, String> {
        if let Ok(ago) = length(text) {
            return Ok(Since::Ago(ago));
        }
        Timestamp::from_str(text).map(Since::At).map_err(|_| {
            "use a length of time (90s, 15m, 1h, 7d) or a moment (2026-01-31T09:30:00Z)".to_owned()
        })
    }
}

/// A length of time: a whole number and `s`, `m`, `h` or `d`.
pub(crate) fn length(text: &str) -> Result<Duration, String> {
    const ALLOWED: &str = "use a whole number and s, m, h or d: 90s, 15m, 1h, 7d";
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(ALLOWED.to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| ALLOWED.to_owned())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| format!("{text} is too long"))
}

/// The width of a time bucket, in seconds: whole hours, because that is how finely usage is kept.
pub(crate) fn bucket(text: &str) -> Result<u64, String> {
    let seconds = length(text)?.as_secs();
    if seconds == 0 || !seconds.is_multiple_of(3_600) {
        return Err("usage is kept by the hour: use whole hours or days (1h, 6h, 1d)".to_owned());
    }
    Ok(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_length_or_a_moment() {
        fn check(text: &str, expected: Option<&str>) {
            let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a moment");
            let resolved = text.parse::<Since>().ok().map(|since| since.resolve(now).to_string());
            assert_eq!(resolved.as_deref(), expected, "{text}");
        }
        check("90s", Some("2026-03-01T11:58:30Z"));
        check("15m", Some("2026-03-01T11:45:00Z"));
        check("1h", Some("2026-03-01T11:00:00Z"));
        check("7d", Some("2026-02-22T12:00:00Z"));
        check("0s", Some("2026-03-01T12:00:00Z"));
        check("2026-01-31T09:30:00Z", Some("2026-01-31T09:30:00Z"));
        check("2026-01-31T09:30:00.25+02:00", Some("2026-01-31T07:30:00.25Z"));
        check("1960-01-01T00:00:00Z", Some("1970-01-01T00:00:00Z"));
        check("9999999999d", Some("1970-01-01T00:00:00Z"));
        check("999999999999999d", None);
        for wrong in
            ["", "h", "1", "-1h", "1.5h", "1 h", "1w", "yesterday", "2026-01-31", "18446744073709551616s"]
        {
            check(wrong, None);
        }
    }

    #[test]
    fn buckets_are_whole_hours() {
        fn check(text: &str, expected: Option<u64>) {
            assert_eq!(bucket(text).ok(), expected, "{text}");
        }
        check("1h", Some(3_600));
        check("120m", Some(7_200));
        check("1d", Some(86_400));
        for wrong in ["0h", "90m", "1s", "h"] {
            check(wrong, None);
        }
    }
}
