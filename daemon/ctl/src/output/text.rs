//! Single values as people read them. What is unknown is `-`, and no name that a workload chose can move the cursor.

use std::time::Duration;

use jiff::Timestamp;
use proto::v1::{Owner, Workload};

/// Shown for what is not known.
pub(crate) const UNKNOWN: &str = "-";

/// The moment in a message; `None` if it is absent or out of range.
pub(crate) fn moment(stamp: Option<&prost_types::Timestamp>) -> Option<Timestamp> {
    stamp.and_then(|stamp| Timestamp::new(stamp.seconds, stamp.nanos).ok())
}

/// A moment for a message.
pub(crate) fn stamp(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// RFC 3339 in UTC with microseconds.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    format!("{at:.6}")
}

/// Date and time in UTC to the second, as tables show it.
pub(crate) fn clock(stamp: Option<&prost_types::Timestamp>) -> String {
    match moment(stamp) {
        Some(at) => at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => UNKNOWN.to_owned(),
    }
}

/// Removes what could move the cursor, change colours or reorder text: control and direction characters.
pub(crate) fn clean(text: &str) -> String {
    let risky = |c: char| {
        c.is_control()
            || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
    };
    text.chars().map(|c| if risky(c) { '\u{FFFD}' } else { c }).collect()
}

/// A name, or `-` where it is empty.
pub(crate) fn name(text: &str) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { clean(text) }
}

/// A name, or `-` where it is absent or empty.
pub(crate) fn name_or(text: Option<&String>) -> String {
    text.map_or(UNKNOWN.to_owned(), |text| name(text))
}

/// A count with its thousands apart.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count, or `-`.
pub(crate) fn count_or(value: Option<u64>) -> String {
    value.map_or(UNKNOWN.to_owned(), count)
}

/// Bytes in the largest unit that keeps three digits.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut unit, mut tenths) = (0, u128::from(value) * 10);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    match unit {
        0 => format!("{value} B"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]),
    }
}

/// Bytes, or `-`.
pub(crate) fn bytes_or(value: Option<u64>) -> String {
    value.map_or(UNKNOWN.to_owned(), bytes)
}

/// Exact US dollars without the zeros at the end, two digits at least.
pub(crate) fn dollars(amount: &str) -> String {
    let Some((whole, fraction)) = amount.split_once('.') else { return format!("${}.00", clean(amount)) };
    let kept = fraction.trim_end_matches('0').len().max(2);
    format!("${}.{:0<2}", clean(whole), clean(fraction.get(..kept).unwrap_or(fraction)))
}

/// Dollars, or `-`.
pub(crate) fn dollars_or(amount: Option<&String>) -> String {
    amount.map_or(UNKNOWN.to_owned(), |amount| dollars(amount))
}

/// Milliseconds as `85 ms` or `2.41 s`.
pub(crate) fn milliseconds(value: f64) -> String {
    if value < 9.95 {
        format!("{value:.1} ms")
    } else if value < 999.5 {
        format!("{value:.0} ms")
    } else {
        format!("{:.2} s", value / 1_000.0)
    }
}

/// Milliseconds, or `-`.
pub(crate) fn milliseconds_or(value: Option<f64>) -> String {
    value.map_or(UNKNOWN.to_owned(), milliseconds)
}

/// A length of time in its two largest units.
pub(crate) fn span(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

/// A length of time in whole days, rounded down.
pub(crate) fn days(seconds: u64) -> String {
    match seconds / 86_400 {
        1 => "1 day".to_owned(),
        days => format!("{} days", count(days)),
    }
}

/// `yes` or `no`.
pub(crate) fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// The best name of who ran it: pod, container, unit, program.
pub(crate) fn workload(workload: Option<&Workload>) -> String {
    let Some(workload) = workload else { return UNKNOWN.to_owned() };
    if let Some(pod) = &workload.pod {
        return match &workload.namespace {
            Some(namespace) => clean(&format!("{namespace}/{pod}")),
            None => clean(pod),
        };
    }
    let container = workload.container_name.clone().or_else(|| workload.container_id.as_deref().map(short));
    if let Some(container) = container {
        return clean(&container);
    }
    let program = workload
        .exe
        .as_deref()
        .map(|exe| exe.rsplit('/').next().unwrap_or(exe).to_owned())
        .or_else(|| workload.comm.clone());
    match (program, workload.pid) {
        (Some(program), Some(pid)) => format!("{}[{pid}]", clean(&program)),
        (Some(program), None) => clean(&program),
        (None, Some(pid)) => format!("pid {pid}"),
        (None, None) => workload.unit.as_deref().map_or(UNKNOWN.to_owned(), name),
    }
}

/// The best short name of who answers for it.
pub(crate) fn owner(owner: Option<&Owner>) -> String {
    let Some(owner) = owner else { return UNKNOWN.to_owned() };
    match (&owner.team, &owner.service) {
        (Some(team), Some(service)) => clean(&format!("{team}/{service}")),
        (Some(one), None) | (None, Some(one)) => clean(one),
        (None, None) => "unknown".to_owned(),
    }
}

/// The last eight digits of an id: enough to tell records apart, and what `explain` takes.
pub(crate) fn short_id(id: &str) -> String {
    let from = id.char_indices().rev().nth(7).map_or(0, |(at, _)| at);
    clean(&id[from..])
}

fn short(container_id: &str) -> String {
    container_id.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_well() {
        fn check(shown: String, expected: &str) {
            assert_eq!(shown, expected);
        }
        check(count(0), "0");
        check(count(999), "999");
        check(count(1_234_567), "1,234,567");
        check(count_or(None), "-");
        check(bytes(0), "0 B");
        check(bytes(1_023), "1023 B");
        check(bytes(1_536), "1.5 KiB");
        check(bytes(3 << 20), "3.0 MiB");
        check(bytes(u64::MAX), "16777215.9 TiB");
        check(dollars("12"), "$12.00");
        check(dollars("0.000012350000"), "$0.00001235");
        check(dollars("0.000000000000"), "$0.00");
        check(dollars("1.5"), "$1.50");
        check(milliseconds(0.43), "0.4 ms");
        check(milliseconds(9.96), "10 ms");
        check(milliseconds(999.4), "999 ms");
        check(milliseconds(2_411.0), "2.41 s");
        check(span(Duration::from_secs(59)), "59 s");
        check(span(Duration::from_secs(3_599)), "59 min 59 s");
        check(span(Duration::from_secs(90_061)), "1 d 1 h");
        check(clean("a\x1b[31mb\u{202e}c"), "a\u{FFFD}[31mb\u{FFFD}c");
        check(short_id("attr_0123456789abcdef0123456789abcdef"), "89abcdef");
        check(short_id("x"), "x");
        check(clock(None), "-");
        check(clock(Some(&prost_types::Timestamp { seconds: 0, nanos: -5 })), "1969-12-31 23:59:59");
        check(rfc3339("2026-01-31T09:30:00.25Z".parse().expect("a moment")), "2026-01-31T09:30:00.250000Z");
    }

    #[test]
    fn a_workload_has_its_most_telling_name() {
        fn check(workload: Workload, expected: &str) {
            assert_eq!(super::workload(Some(&workload)), expected);
        }
        let process = Workload {
            pid: Some(42),
            exe: Some("/usr/bin/python3.11".into()),
            unit: Some("shop.service".into()),
            ..Workload::default()
        };
        check(process.clone(), "python3.11[42]");
        let container = Workload { container_id: Some("0123456789abcdef".into()), ..process.clone() };
        check(container.clone(), "0123456789ab");
        check(Workload { container_name: Some("web".into()), ..container.clone() }, "web");
        check(
            Workload { pod: Some("web-1".into()), namespace: Some("shop".into()), ..container },
            "shop/web-1",
        );
        check(Workload { exe: None, pid: None, ..process }, "shop.service");
        check(
            Workload { comm: Some("evil\x1b]0;x\x07".into()), ..Workload::default() },
            "evil\u{FFFD}]0;x\u{FFFD}",
        );
        check(Workload::default(), "-");
    }
}
