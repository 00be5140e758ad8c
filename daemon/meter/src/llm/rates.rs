//! Rate limits as response fields state them. Sources: the providers' documentation and recorded responses.
//!
//! OpenAI, Azure, Groq, xAI: `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, resets as durations (`1m30s`).
//! Anthropic: `anthropic-ratelimit-{requests,tokens,input-tokens,output-tokens}-{limit,remaining,reset}`, resets in RFC
//! 3339. Mistral, Cerebras, Hugging Face name the window too (`-req-minute`, `-tokens-day`): the shortest is taken.
//! Together, OpenRouter and the IETF draft count requests without saying so (`x-ratelimit-remaining`).
//!
//! `retry-after` is a number of seconds or a date. A date is of the server's clock, which its `date` shows; without that
//! the caller's is taken.

use std::time::UNIX_EPOCH;

use smallvec::SmallVec;

use crate::exchange::{RateLimit, RateLimits, RateUnit, Reset};
use crate::http::{Header, header};
use crate::time::UnixNanos;

/// Which of the three numbers of a limit a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Limit,
    Remaining,
    Reset,
}

/// What a field name says besides its part, and of which window: shorter ones rank first.
const UNITS: [(&str, RateUnit, u8); 20] = [
    ("requests", RateUnit::Requests, 0),
    ("", RateUnit::Requests, 0),
    ("req-10-second", RateUnit::Requests, 1),
    ("req-minute", RateUnit::Requests, 2),
    ("requests-minute", RateUnit::Requests, 2),
    ("minute", RateUnit::Requests, 2),
    ("requests-hour", RateUnit::Requests, 3),
    ("requests-day", RateUnit::Requests, 4),
    ("tokens", RateUnit::Tokens, 0),
    ("tokens-minute", RateUnit::Tokens, 2),
    ("tokens-hour", RateUnit::Tokens, 3),
    ("tokens-day", RateUnit::Tokens, 4),
    ("tokens-month", RateUnit::Tokens, 5),
    ("input-tokens", RateUnit::InputTokens, 0),
    ("tokens-prompt", RateUnit::InputTokens, 0),
    ("tokens-input", RateUnit::InputTokens, 0),
    ("output-tokens", RateUnit::OutputTokens, 0),
    ("tokens-generated", RateUnit::OutputTokens, 0),
    ("tokens-output", RateUnit::OutputTokens, 0),
    ("input-images", RateUnit::InputImages, 0),
];

/// The limits that a response's fields state, of which the caller's clock shows `now`.
pub fn of(headers: &[Header<'_>], now: UnixNanos) -> RateLimits {
    let mut found = RateLimits::default();
    let mut ranks = [u8::MAX; 5];
    let mut milliseconds = false;
    for field in headers {
        let Ok(value) = std::str::from_utf8(field.value) else { continue };
        let value = value.trim();
        if field.name.eq_ignore_ascii_case("retry-after-ms") {
            if let Some(wait) = scaled(value, 0) {
                (found.retry_after_ms, milliseconds) = (Some(wait), true);
            }
        } else if field.name.eq_ignore_ascii_case("retry-after") {
            if !milliseconds {
                let until = || wait(value, header(headers, "date").and_then(date).unwrap_or(now));
                found.retry_after_ms = scaled(value, 3).or_else(until);
            }
        } else if let Some((unit, rank, part)) = meaning(field.name) {
            note(&mut found.limits, &mut ranks, unit, rank, part, value);
        }
    }
    found.limits.retain(|limit| limit.limit.is_some() || limit.remaining.is_some() || limit.reset.is_some());
    found.limits.sort_by_key(|limit| limit.unit);
    found
}

/// Numbers of different windows never mix: a shorter window replaces a longer one.
fn note(
    limits: &mut SmallVec<[RateLimit; 2]>,
    ranks: &mut [u8; 5],
    unit: RateUnit,
    rank: u8,
    part: Part,
    value: &str,
) {
    let Some(known) = ranks.get_mut(unit as usize) else { return };
    if rank > *known {
        return;
    }
    if rank < *known {
        *known = rank;
        limits.retain(|limit| limit.unit != unit);
    }
    let at = limits.iter().position(|limit| limit.unit == unit).unwrap_or_else(|| {
        limits.push(RateLimit { unit, limit: None, remaining: None, reset: None });
        limits.len() - 1
    });
    let Some(limit) = limits.get_mut(at) else { return };
    match part {
        Part::Limit => limit.limit = limit.limit.or(scaled(value, 0)),
        Part::Remaining => limit.remaining = limit.remaining.or(scaled(value, 0)),
        Part::Reset => limit.reset = limit.reset.or_else(|| reset(value)),
    }
}

/// What the field `name` counts, the rank of its window, and which number it is.
fn meaning(name: &str) -> Option<(RateUnit, u8, Part)> {
    /// Longest name that can mean anything.
    const NAME_MAX: usize = 48;
    let mut lower = [0; NAME_MAX];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name.as_bytes());
    lower.make_ascii_lowercase();
    let name = std::str::from_utf8(lower).ok()?;
    let part = |word: &str| match word {
        "limit" => Some(Part::Limit),
        "remaining" => Some(Part::Remaining),
        "reset" => Some(Part::Reset),
        _ => None,
    };
    let unit =
        |words: &str| UNITS.iter().find(|(known, ..)| *known == words).map(|(_, unit, rank)| (*unit, *rank));
    if let Some(rest) = name.strip_prefix("anthropic-ratelimit-") {
        let (words, last) = rest.rsplit_once('-')?;
        let (unit, rank) = unit(words)?;
        return Some((unit, rank, part(last)?));
    }
    if let Some(rest) = name.strip_prefix("x-tokenlimit-") {
        return Some((RateUnit::Tokens, 0, part(rest)?));
    }
    let rest = name.strip_prefix("x-ratelimit-").or_else(|| name.strip_prefix("ratelimit-"))?;
    let (first, words) = rest.split_once('-').unwrap_or((rest, ""));
    let (unit, rank) = unit(words)?;
    Some((unit, rank, part(first)?))
}

/// The wait until a date (RFC 9110, 10.2.3) from `now`, in ms, rounded up; 0 if it is over.
fn wait(text: &str, now: UnixNanos) -> Option<u64> {
    date(text).map(|until| until.0.saturating_sub(now.0).div_ceil(1_000_000))
}

/// A date of HTTP in any of its forms (RFC 9110, 5.6.7).
fn date(text: &str) -> Option<UnixNanos> {
    let since = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_nanos()).ok().map(UnixNanos)
}

/// A number times `10^power`, rounded up; fractions only with a power.
fn scaled(text: &str, power: u32) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut number: u64 = whole.parse().ok()?;
    let mut rest = fraction.bytes();
    for _ in 0..power {
        number = number.checked_mul(10)?.checked_add(u64::from(rest.next().unwrap_or(b'0') - b'0'))?;
    }
    number.checked_add(u64::from(rest.any(|byte| byte != b'0')))
}

/// A duration (`1m30.5s`, `6ms`), a number of seconds, a time in RFC 3339, or a Unix time in seconds or milliseconds.
fn reset(text: &str) -> Option<Reset> {
    /// A number of seconds from here on is a time: 2001 as a Unix time, 31 years as a duration.
    const UNIX_FROM: u64 = 1_000_000_000;
    if let Some(milliseconds) = scaled(text, 3) {
        return match milliseconds / 1000 {
            seconds if seconds < UNIX_FROM => Some(Reset::AfterMs(milliseconds)),
            seconds if seconds < UNIX_FROM * 1000 => {
                Some(Reset::At(UnixNanos(seconds.checked_mul(1_000_000_000)?)))
            }
            seconds => Some(Reset::At(UnixNanos(seconds.checked_mul(1_000_000)?))),
        };
    }
    duration(text).map(Reset::AfterMs).or_else(|| rfc3339(text).map(Reset::At))
}

/// A duration as Go writes it, in ms, rounded up.
fn duration(text: &str) -> Option<u64> {
    let mut nanos = 0u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|byte: char| !byte.is_ascii_digit() && byte != '.')?;
        let (number, tail) = rest.split_at(end);
        let unit = tail.find(|byte: char| byte.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let (power, times) = match unit {
            "ns" => (0, 1),
            "us" | "\u{b5}s" | "\u{3bc}s" => (3, 1),
            "ms" => (6, 1),
            "s" => (9, 1),
            "m" => (9, 60),
            "h" => (9, 3_600),
            "d" => (9, 86_400),
            _ => return None,
        };
        nanos = nanos.checked_add(scaled(number, power)?.checked_mul(times)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(nanos.div_ceil(1_000_000))
}

/// A time as RFC 3339 writes it, since 1970.
fn rfc3339(text: &str) -> Option<UnixNanos> {
    let number = |from: usize, len: usize| -> Option<u64> {
        let digits = text.get(from..from + len)?;
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let marks = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if !marks
        .iter()
        .all(|(at, mark)| text.as_bytes().get(*at).is_some_and(|byte| byte.eq_ignore_ascii_case(mark)))
    {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut zone = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = zone.strip_prefix('.') {
        let len = fraction.bytes().take_while(u8::is_ascii_digit).count();
        let (digits, rest) = fraction.split_at(len);
        if digits.is_empty() {
            return None;
        }
        nanos = scaled(&format!("0.{}", digits.get(..len.min(9))?), 9)?;
        zone = rest;
    }
    let seconds = days_since_1970(year, month, day)? * 86_400 + hour * 3_600 + minute * 60 + second;
    let seconds = match zone.as_bytes() {
        [b'Z' | b'z'] => seconds,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let at = text.len() - 5;
            let offset = number(at, 2)? * 3_600 + number(at + 3, 2)? * 60;
            if *sign == b'+' { seconds.checked_sub(offset)? } else { seconds.checked_add(offset)? }
        }
        _ => return None,
    };
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos).map(UnixNanos)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar: years begin in March, so that the leap day comes last.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year - u64::from(month <= 2);
    let month = (month + 9) % 12;
    let in_year = (153 * month + 2) / 5 + day - 1;
    (year * 365 + year / 4 - year / 100 + year / 400 + in_year).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `unit limit remaining reset`, `-` where unknown, then the wait.
    fn show(limits: &RateLimits) -> String {
        let number = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        let mut text = String::new();
        for RateLimit { unit, limit, remaining, reset } in &limits.limits {
            let reset = match reset {
                None => "-".to_owned(),
                Some(Reset::AfterMs(wait)) => format!("{wait}ms"),
                Some(Reset::At(at)) => format!("@{}", at.0),
            };
            text.push_str(&format!("{} {} {} {reset}; ", unit.as_str(), number(*limit), number(*remaining)));
        }
        text + &number(limits.retry_after_ms)
    }

    #[test]
    fn limits_are_read_as_providers_write_them() {
        fn check(fields: &str, expected: &str) {
            let headers: Vec<Header<'_>> = fields
                .split(", ")
                .map(|field| {
                    let (name, value) = field.split_once(": ").expect("a field");
                    Header { name, value: value.as_bytes() }
                })
                .collect();
            assert_eq!(show(&of(&headers, UnixNanos(0))), expected, "{fields}");
        }
        check(
            "x-ratelimit-limit-requests: 30000, x-ratelimit-limit-tokens: 150000000, \
             x-ratelimit-remaining-requests: 29999, x-ratelimit-remaining-tokens: 149999990, \
             x-ratelimit-reset-requests: 2ms, x-ratelimit-reset-tokens: 1m30.5s",
            "requests 30000 29999 2ms; tokens 150000000 149999990 90500ms; -",
        );
        check(
            "Anthropic-RateLimit-Input-Tokens-Limit: 100000, anthropic-ratelimit-input-tokens-remaining: 99000, \
             anthropic-ratelimit-input-tokens-reset: 2025-10-25T07:45:48Z, \
             anthropic-ratelimit-requests-remaining: 999, retry-after: 25",
            "requests - 999 -; input_tokens 100000 99000 @1761378348000000000; 25000",
        );
        check(
            "x-ratelimit-limit-tokens-month: 200000000000, x-ratelimit-limit-tokens-minute: 100000, \
             x-ratelimit-remaining-tokens-minute: 99447, x-ratelimit-remaining-tokens-month: 199999999445, \
             x-ratelimit-limit-req-minute: 100, x-ratelimit-remaining-req-minute: 94",
            "requests 100 94 -; tokens 100000 99447 -; -",
        );
        check(
            "x-ratelimit-limit: 10, x-ratelimit-remaining: 9, x-ratelimit-reset: 2",
            "requests 10 9 2000ms; -",
        );
        check("ratelimit-remaining: 59999, ratelimit-reset: 1", "requests - 59999 1000ms; -");
        check("x-ratelimit-reset: 1741305600000", "requests - - @1741305600000000000; -");
        check("x-ratelimit-reset: 1741305600", "requests - - @1741305600000000000; -");
        check("x-ratelimit-reset-tokens-minute: 33.0113828", "tokens - - 33012ms; -");
        check("retry-after-ms: 1500, retry-after: 2", "1500");
        check("retry-after: 2, retry-after-ms: 1500", "1500");
        check("retry-after: Wed, x-ratelimit-limit-requests: many", "-");
        check(
            "x-ratelimit-abusepenalty-active: False, x-ratelimit-key: gpt-5, x-ratelimit-renewalperiod-tokens: 60",
            "-",
        );
        check("x-ratelimit-remaining-tokens: 99999999999999999999999999", "-");
        check("x-ratelimit-remaining-tokens: -1", "-");
    }

    #[test]
    fn a_date_is_of_the_servers_clock() {
        const NOW: UnixNanos = UnixNanos(784_111_777_500_000_000);
        fn check(retry_after: &str, date: &str, expected: Option<u64>) {
            let headers = [("Retry-After", retry_after), ("Date", date)]
                .map(|(name, value)| Header { name, value: value.as_bytes() });
            assert_eq!(of(&headers, NOW).retry_after_ms, expected, "{retry_after}, {date}");
        }
        let at = "Sun, 06 Nov 1994 08:49:37 GMT";
        check("Sun, 06 Nov 1994 08:50:07 GMT", at, Some(30_000));
        // Without one, the caller's: half a second later.
        check("Sun, 06 Nov 1994 08:50:07 GMT", "", Some(29_500));
        check("Sun, 06 Nov 1994 08:50:07 GMT", "yesterday", Some(29_500));
        check("Sunday, 06-Nov-94 08:50:07 GMT", at, Some(30_000));
        check("Sun Nov  6 08:50:07 1994", at, Some(30_000));
        check(at, "Sun, 06 Nov 1994 09:49:37 GMT", Some(0));
        check("30", at, Some(30_000));
        check("Sun, 06 Nov 1994", at, None);
        check("Sun, 06 Nov 1964 08:49:37 GMT", at, None);
    }

    #[test]
    fn durations_and_times() {
        fn check(text: &str, expected: Option<Reset>) {
            assert_eq!(reset(text), expected, "{text:?}");
        }
        check("0s", Some(Reset::AfterMs(0)));
        check("6ms", Some(Reset::AfterMs(6)));
        check("1h2m3s", Some(Reset::AfterMs(3_723_000)));
        check("120\u{b5}s", Some(Reset::AfterMs(1)));
        check("7.66s", Some(Reset::AfterMs(7_660)));
        check("1970-01-01T00:00:00Z", Some(Reset::At(UnixNanos(0))));
        check("2024-02-29T23:59:59.25+01:00", Some(Reset::At(UnixNanos(1_709_247_599_250_000_000))));
        check("2000-03-01T00:00:00-00:30", Some(Reset::At(UnixNanos(951_870_600_000_000_000))));
        for nonsense in [
            "",
            "s",
            "1",
            "1x",
            "1..2s",
            "2024-13-01T00:00:00Z",
            "2024-01-01 00:00:00",
            "1m30",
            "soon",
            "-1s",
        ] {
            let expected = (nonsense == "1").then_some(Reset::AfterMs(1_000));
            check(nonsense, expected);
        }
    }
}
