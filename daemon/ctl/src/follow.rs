//! Following records across restarts of the daemon: each is shown once, none is skipped.
//!
//! The daemon numbers what it makes durable, and says with every record, and at the beginning of a watch, how to go on
//! behind it. Who asks with that goes on there.

use std::time::Duration;

use jiff::Timestamp;
use proto::v1::{AttributionRecord, WatchAttributionsRequest};

use crate::output::text;

/// First pause before connecting again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause before connecting again: a restarted daemon is found within seconds.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How far we are.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Asked for by the user: nothing that started before it is shown.
    since: Option<Timestamp>,
    /// From the daemon; empty before the first answer.
    behind: String,
}

impl Cursor {
    /// Follows from `since`, or from now on.
    pub(crate) fn new(since: Option<Timestamp>) -> Cursor {
        Cursor { since, behind: String::new() }
    }

    /// What to ask for next.
    pub(crate) fn request(&self, tenant: &str) -> WatchAttributionsRequest {
        WatchAttributionsRequest {
            tenant: tenant.to_owned(),
            since: self.since.map(text::stamp),
            include_flows: false,
            cursor: self.behind.clone(),
        }
    }

    /// A watch has begun at this cursor.
    pub(crate) fn began(&mut self, cursor: &str) {
        self.behind = cursor.to_owned();
    }

    /// A record was received.
    pub(crate) fn passed(&mut self, record: &AttributionRecord) {
        self.behind.clone_from(&record.cursor);
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

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again() {
        let mut back_off = BackOff::new();
        let pauses: Vec<u128> = (0..8).map(|_| back_off.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        back_off.reset();
        assert_eq!(back_off.pause(), PAUSE_MIN);
    }
}
