//! A session over a WebSocket: many answers, each an exchange of its own.
//!
//! What the upgrade's request said (host, key, project, trace) holds for every answer. An answer that was asked for or
//! begun and never ended is told with the reason. A session in which nothing was answered is one exchange that adds
//! nothing.

use std::collections::VecDeque;

use crate::exchange::{Exchange, Reason, ReportedCost, TOOLS_MAX, Timing, ToolUse};
use crate::flow::{Direction, Piece};
use crate::http::{End, Key};
use crate::limits::{Lease, TURNS_MAX};
use crate::llm::dialect::Dialect;
use crate::llm::facts::Facts;
use crate::llm::live::{Ear, Step, Turns};
use crate::time::Moment;

/// One session.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) key: Key,
    /// What every exchange of it has.
    common: Exchange,
    dialect: &'static Dialect,
    sent: Ear,
    received: Ear,
    model: Option<Box<str>>,
    /// When answers were asked for that have not begun.
    asked: VecDeque<Moment>,
    /// Answers that have not ended.
    open: VecDeque<Turn>,
    last_sent: Option<Moment>,
    sent_bytes: u64,
    received_bytes: u64,
    /// Something of what the server sent was not seen.
    gap: bool,
    /// An answer was told.
    answered: bool,
    _lease: Lease,
}

/// An answer that has not ended.
#[derive(Debug)]
struct Turn {
    timing: Timing,
    tools: Vec<ToolUse>,
}

impl Talk {
    /// A session that begins with the upgrade `common`.
    pub(super) fn new(
        key: Key,
        common: Exchange,
        (dialect, turns): (&'static Dialect, &'static Turns),
        lease: Lease,
    ) -> Talk {
        Talk {
            key,
            common: Exchange {
                inference: true,
                dialect: Some(dialect.name),
                streaming: Some(true),
                ..common
            },
            dialect,
            sent: Ear::for_sent(dialect, turns),
            received: Ear::for_received(dialect, turns),
            model: None,
            asked: VecDeque::new(),
            open: VecDeque::new(),
            last_sent: None,
            sent_bytes: 0,
            received_bytes: 0,
            gap: false,
            answered: false,
            _lease: lease,
        }
    }

    /// A part of a message.
    pub(super) fn message(&mut self, direction: Direction, part: Piece<'_>) {
        let (ear, bytes) = match direction {
            Direction::Sent => (&mut self.sent, &mut self.sent_bytes),
            Direction::Received => (&mut self.received, &mut self.received_bytes),
        };
        *bytes = bytes.saturating_add(part.len());
        match part {
            Piece::Bytes(part) => ear.push(part),
            Piece::Gap(_) => {
                ear.gap();
                self.gap |= direction == Direction::Received;
            }
        }
    }

    /// A message is over: the exchange that ended with it, if one did. `ordinal` is the session's next.
    pub(super) fn message_end(
        &mut self,
        direction: Direction,
        now: Moment,
        ordinal: &mut u32,
    ) -> Option<Exchange> {
        if direction == Direction::Sent {
            self.last_sent = Some(now);
            let (step, facts) = self.sent.end()?;
            if facts.model.is_some() {
                self.common.requested_model = facts.model;
            }
            if step == Step::Asks && self.asked.len() < TURNS_MAX {
                self.asked.push_back(now);
            }
            return None;
        }
        let (step, mut facts) = self.received.end()?;
        if let Some(model) = facts.model.take() {
            self.model = Some(model);
        }
        match step {
            Step::None | Step::Asks => None,
            Step::Begins => {
                self.begin(now);
                None
            }
            Step::Output => {
                if self.open.is_empty() {
                    self.begin(now);
                }
                let turn = self.open.front_mut()?;
                turn.timing.first_token.get_or_insert(now);
                turn.timing.last_token = Some(now);
                join(&mut turn.tools, facts.tools);
                None
            }
            Step::Ends => {
                if self.open.is_empty() {
                    self.begin(now);
                }
                let Turn { mut timing, mut tools } = self.open.pop_front()?;
                timing.ended = Some(now);
                join(&mut tools, std::mem::take(&mut facts.tools));
                Some(self.answer(facts, timing, tools, ordinal))
            }
            Step::Aside if facts.usages > 0 => {
                let timing = Timing { started: now, ended: Some(now), ..Timing::default() };
                Some(Exchange {
                    operation: "transcription",
                    model: None,
                    ..self.answer(facts, timing, Vec::new(), ordinal)
                })
            }
            Step::Aside => None,
        }
    }

    /// The session is over: what never ended, or the session itself if nothing was answered.
    pub(super) fn hung_up(&mut self, end: End, now: Moment, ordinal: &mut u32) -> Vec<Exchange> {
        let cut = match end {
            End::Cut(reason) => reason,
            End::Complete | End::WithConnection if self.gap => Reason::Gap,
            End::Complete | End::WithConnection => Reason::Interrupted,
        };
        let mut told: Vec<Exchange> = Vec::new();
        for turn in std::mem::take(&mut self.open) {
            let timing = Timing { ended: Some(now), ..turn.timing };
            let answer = self.answer(Facts::default(), timing, turn.tools, ordinal);
            told.push(Exchange { reason: Some(cut), ..answer });
        }
        for started in std::mem::take(&mut self.asked) {
            let timing = Timing { started, ..Timing::default() };
            let answer = self.answer(Facts::default(), timing, Vec::new(), ordinal);
            let reason = if self.gap { Reason::Gap } else { Reason::NoResponse };
            told.push(Exchange { reason: Some(reason), ..answer });
        }
        if !self.answered {
            let timing = Timing { ended: Some(now), ..self.common.timing };
            let session = self.answer(Facts::default(), timing, Vec::new(), ordinal);
            let (inference, why) = if self.gap { (true, Reason::Gap) } else { (false, Reason::NotInference) };
            told.push(Exchange { inference, reason: Some(why), ..session });
        }
        told
    }

    /// The session as its upgrade tells it: a parser panicked.
    pub(super) fn given_up(self: Box<Talk>) -> Exchange {
        Exchange { reason: Some(Reason::Panicked), ..self.common }
    }

    /// An answer begins.
    fn begin(&mut self, now: Moment) {
        let started = self.asked.pop_front().or(self.last_sent).unwrap_or(now);
        if self.open.len() < TURNS_MAX {
            let timing = Timing { started, first_byte: Some(now), ..Timing::default() };
            self.open.push_back(Turn { timing, tools: Vec::new() });
        }
    }

    /// What is recorded of an answer. The first has the place of the upgrade in the session.
    fn answer(&mut self, facts: Facts, timing: Timing, tools: Vec<ToolUse>, ordinal: &mut u32) -> Exchange {
        if std::mem::replace(&mut self.answered, true) {
            self.common.ordinal = *ordinal;
            *ordinal = ordinal.wrapping_add(1);
        }
        let usage = (self.dialect.usage)(&facts.counts);
        let reason = usage.is_unknown().then_some(Reason::NotReported);
        let mut finish_reasons = facts.finish;
        if finish_reasons.is_empty() {
            finish_reasons.extend(facts.status);
        }
        let mut withheld = self.common.withheld;
        withheld.join(facts.withheld);
        Exchange {
            model: self.model.clone(),
            usage,
            reported_cost: facts.cost.map(ReportedCost),
            service_tier: facts.tier,
            finish_reasons,
            tools,
            error: facts.error,
            request_bytes: Some(std::mem::take(&mut self.sent_bytes)),
            response_bytes: Some(std::mem::take(&mut self.received_bytes)),
            timing,
            withheld,
            reason,
            ..self.common.clone()
        }
    }
}

/// Adds the calls of `more` to those of `tools`.
fn join(tools: &mut Vec<ToolUse>, more: Vec<ToolUse>) {
    for used in more {
        if let Some(tool) = tools.iter_mut().find(|tool| tool.name == used.name) {
            tool.calls = tool.calls.zip(used.calls).map(|(one, other)| one.saturating_add(other));
        } else if tools.len() < TOOLS_MAX {
            tools.push(used);
        }
    }
}
