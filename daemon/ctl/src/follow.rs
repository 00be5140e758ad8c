//! Following records across restarts of the daemon: each is shown once, none is skipped.
//!
//! The daemon sends what is durable, and its `since` speaks of the *start* of a call, while calls are recorded when
//! they end. So after a break we ask from [`OVERLAP`] before the newest record that we saw, and drop what was shown
//! already. Only a call that lasted longer than the overlap *and* ended during the break can be missed.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use proto::v1::AttributionRecord;

use crate::output::text::moment;

/// Longer than providers let a call last (a realtime session ends after an hour).
const OVERLAP: Duration = Duration::from_secs(2 * 3_600);
/// First pause before connecting again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before connecting again: a restarted daemon is found within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What was shown so far.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Asked for by the user: nothing that started before it is shown.
    since: Option<Timestamp>,
    /// Without `since`, nothing that was recorded before it is shown.
    began: Timestamp,
    /// When the newest record seen was made; `None` before the first.
    latest: Option<Timestamp>,
    /// True once a watch has been opened.
    opened: bool,
    /// Start and id of what was shown and could be sent again.
    shown: BTreeSet<(Timestamp, String)>,
}

impl Cursor {
    /// Follows from `since`, or from `now` on.
    pub(crate) fn new(since: Option<Timestamp>, now: Timestamp) -> Cursor {
        Cursor { since, began: now, latest: None, opened: false, shown: BTreeSet::new() }
    }

    /// From where to ask when a watch is opened; `None`: only what is recorded from then on.
    pub(crate) fn open(&mut self) -> Option<Timestamp> {
        let again = std::mem::replace(&mut self.opened, true);
        if again { Some(self.horizon()) } else { self.since }
    }

    /// Whether to show `record`; it counts as shown from here on.
    pub(crate) fn admit(&mut self, record: &AttributionRecord) -> bool {
        let started = moment(record.started_at.as_ref()).unwrap_or(Timestamp::UNIX_EPOCH);
        let recorded = moment(record.recorded_at.as_ref()).unwrap_or(started);
        let wanted = match self.since {
            Some(since) => started >= since,
            None => recorded >= self.began,
        };
        if !wanted || !self.shown.insert((started, record.id.clone())) {
            return false;
        }
        self.latest = self.latest.max(Some(recorded));
        let horizon = self.horizon();
        while self.shown.first().is_some_and(|(started, _)| *started < horizon) {
            self.shown.pop_first();
        }
        true
    }

    fn horizon(&self) -> Timestamp {
        let newest = self.latest.unwrap_or(self.since.unwrap_or(self.began));
        let back = newest.checked_sub(OVERLAP).unwrap_or(Timestamp::MIN);
        self.since.map_or(back, |since| since.max(back))
    }
}

/// Pauses between attempts to connect: doubling, bounded, short again after a success.
#[derive(Debug)]
pub(crate) struct BackOff {
    next: Duration,
}

impl BackOff {
    /// Starts with the shortest pause.
    pub(crate) fn new() -> BackOff {
        BackOff { next: PAUSE_MIN }
    }

    /// The pause to make now.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(PAUSE_MAX);
        pause
    }

    /// Something was received.
    pub(crate) fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-03-01T{text}Z").parse().expect("a moment")
    }

    fn record(id: &str, started: &str, recorded: &str) -> AttributionRecord {
        let stamp = |text| {
            let at = at(text);
            Some(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
        };
        AttributionRecord {
            id: id.to_owned(),
            started_at: stamp(started),
            recorded_at: stamp(recorded),
            ..AttributionRecord::default()
        }
    }

    #[test]
    fn a_record_is_shown_once_and_none_is_skipped() {
        let mut cursor = Cursor::new(None, at("12:00:00"));
        assert_eq!(cursor.open(), None);
        assert!(cursor.admit(&record("long", "11:58:00", "12:00:01")), "it ended after we began");
        assert!(cursor.admit(&record("a", "12:00:02", "12:00:03")));
        assert!(!cursor.admit(&record("a", "12:00:02", "12:00:03")), "shown already");
        assert_eq!(cursor.open(), Some(at("10:00:03")), "reaches back before what is still running");
        assert!(!cursor.admit(&record("before", "11:59:00", "11:59:30")), "recorded before we began");
        assert!(!cursor.admit(&record("long", "11:58:00", "12:00:01")), "sent again, not shown again");
        assert!(!cursor.admit(&record("a", "12:00:02", "12:00:03")));
        assert!(cursor.admit(&record("missed", "11:59:59", "12:00:05")), "ended while we were away");
        assert!(cursor.admit(&record("b", "12:00:02", "12:00:06")), "same start, another call");
    }

    #[test]
    fn since_is_never_passed_backwards() {
        let mut cursor = Cursor::new(Some(at("11:30:00")), at("12:00:00"));
        assert_eq!(cursor.open(), Some(at("11:30:00")));
        assert!(cursor.admit(&record("a", "11:40:00", "11:40:01")));
        assert!(!cursor.admit(&record("older", "11:29:59", "11:40:02")));
        assert_eq!(cursor.open(), Some(at("11:30:00")));
        assert!(!cursor.admit(&record("a", "11:40:00", "11:40:01")));
    }

    #[test]
    fn what_cannot_be_sent_again_is_forgotten() {
        let mut cursor = Cursor::new(None, at("01:00:00"));
        cursor.open();
        for hour in 1..=20 {
            let moment = format!("{hour:02}:30:00");
            assert!(cursor.admit(&record(&format!("r{hour}"), &moment, &moment)));
        }
        assert_eq!(cursor.shown.len(), 3, "the newest and the two hours before it");
        assert_eq!(cursor.open(), Some(at("18:30:00")));
    }

    #[test]
    fn pauses_double_up_to_a_bound() {
        let mut back_off = BackOff::new();
        let pauses: Vec<u128> = (0..8).map(|_| back_off.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        back_off.reset();
        assert_eq!(back_off.pause(), PAUSE_MIN);
    }
}
