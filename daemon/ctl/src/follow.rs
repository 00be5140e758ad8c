//! Following records across restarts of the daemon: each is shown once, none is skipped.
//!
//! The daemon numbers what it makes durable, and says with every record, and at the beginning of a watch, how to go on
//! behind it. Who asks with that goes on there. Whoever is shown nothing because something is wrong is told so, once.

use std::time::Duration;

use jiff::Timestamp;
use proto::v1::{AttributionRecord, NodeStatus, TenantState, WatchAttributionsRequest};

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

/// Says once that nothing can be shown, and why; and once that it goes on.
pub(crate) struct Waiting<'a> {
    said: bool,
    say: &'a mut dyn FnMut(&str),
}

impl<'a> Waiting<'a> {
    /// Nothing is wrong yet. `say` gets sentences for people, not for the reader of the records.
    pub(crate) fn new(say: &'a mut dyn FnMut(&str)) -> Waiting<'a> {
        Waiting { said: false, say }
    }

    /// Something stands in the way.
    pub(crate) fn begin(&mut self, why: &str) {
        if !self.said {
            (self.say)(&format!("waiting, nothing can be shown for now: {why}"));
        }
        self.said = true;
    }

    /// Nothing stands in the way any more.
    pub(crate) fn end(&mut self) {
        if self.said {
            (self.say)("going on");
        }
        self.said = false;
    }
}

/// What keeps calls of `tenant` (empty: the caller's only one) from becoming durable. A watch is silent then, as it is
/// when nobody calls.
pub(crate) fn trouble(status: &NodeStatus, tenant: &str) -> Option<String> {
    let ours = |one: &&TenantState| tenant.is_empty() || one.tenant == tenant;
    let fails = |one: &&TenantState| matches!(one.state.as_str(), "failed" | "stuck");
    let store = status.tenants.iter().filter(ours).find(fails);
    let disk = || status.degradations.iter().find(|one| one.kind == "disk_full");
    store
        .map(|one| {
            format!("the store of tenant {} is {}: {}", one.tenant, one.state, text::name(&one.detail))
        })
        .or_else(|| disk().map(|one| format!("{}; to do: {}", one.effect, one.remedy)))
        .map(|why| text::clean(&why))
}

#[cfg(test)]
mod tests {
    use proto::v1::Degradation;

    use super::*;

    #[test]
    fn what_stands_in_the_way_is_said_once() {
        let mut said = Vec::new();
        let mut say = |words: &str| said.push(words.to_owned());
        let mut waiting = Waiting::new(&mut say);
        waiting.end();
        waiting.begin("no disk");
        waiting.begin("still no disk");
        waiting.end();
        waiting.end();
        waiting.begin("no disk");
        let wait = "waiting, nothing can be shown for now: no disk";
        assert_eq!(said, [wait, "going on", wait]);
    }

    #[test]
    fn a_store_that_fails_stands_in_the_way_of_its_tenant() {
        fn check(states: &[(&str, &str)], degradation: &str, asked: &str, expected: Option<&str>) {
            let tenant = |(tenant, state): &(&str, &str)| TenantState {
                tenant: (*tenant).into(),
                state: (*state).into(),
                detail: "no database".into(),
                ..TenantState::default()
            };
            let degradation =
                Degradation { kind: degradation.into(), effect: "full".into(), ..Degradation::default() };
            let status = NodeStatus {
                tenants: states.iter().map(tenant).collect(),
                degradations: vec![degradation],
                ..NodeStatus::default()
            };
            assert_eq!(trouble(&status, asked).as_deref(), expected, "{states:?} {asked}");
        }
        let failed = Some("the store of tenant a is failed: no database");
        check(&[("a", "open")], "late", "", None);
        check(&[("a", "quarantined"), ("b", "sealed")], "", "", None);
        check(&[("a", "failed")], "", "", failed);
        check(&[("a", "failed"), ("b", "open")], "", "a", failed);
        check(&[("a", "failed"), ("b", "open")], "", "b", None);
        check(&[("a", "stuck")], "", "a", Some("the store of tenant a is stuck: no database"));
        check(&[("a", "open")], "disk_full", "a", Some("full; to do: "));
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_again() {
        let mut back_off = BackOff::new();
        let pauses: Vec<u128> = (0..8).map(|_| back_off.pause().as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        back_off.reset();
        assert_eq!(back_off.pause(), PAUSE_MIN);
    }
}
