//! A session over a WebSocket: many answers, each an exchange of its own.
//!
//! What the upgrade's request said (host, key, project, trace) holds for every answer. An answer that was asked for or
//! begun and never ended is told with the reason. A session in which nothing was answered is one exchange that adds
//! nothing, and one whose beginning was not seen says so.
//!
//! Answers follow in the order in which they were asked for, and nothing in them says which request they are for: once
//! something of the session is missing, what a request said of its model is not said of an answer.

use std::collections::VecDeque;

use crate::exchange::{Exchange, Reason, ReportedCost, TOOLS_MAX, Timing, ToolUse, Word};
use crate::flow::{Direction, Piece};
use crate::http::{End, Key, ws};
use crate::limits::{Lease, TURNS_MAX};
use crate::llm::dialect::Dialect;
use crate::llm::facts::Facts;
use crate::llm::live::{Ear, Spoken, Step};
use crate::time::Moment;

/// One session.
#[derive(Debug)]
pub(super) struct Talk {
    pub(super) key: Key,
    /// Its frames, if it is a stream of a connection.
    pub(super) frames: Option<Box<ws::Connection>>,
    /// What every exchange of it has.
    common: Exchange,
    dialect: &'static Dialect,
    sent: Ear,
    received: Ear,
    /// What the server says of the session.
    model: Option<Word>,
    /// Answers that were asked for and have not begun.
    asked: VecDeque<Ask>,
    /// Answers that have not ended.
    open: VecDeque<Turn>,
    last_sent: Option<Moment>,
    /// Payload since the last answer; `None` if some was not seen, framing with it.
    sent_bytes: Option<u64>,
    received_bytes: Option<u64>,
    /// Why its beginning was not seen.
    late: Option<Reason>,
    /// Why something of what the server said since was not seen or could not be read.
    unseen: Option<Reason>,
    /// Something of either side was not seen: which request an answer is for is not known.
    unpaired: bool,
    /// An answer was told.
    answered: bool,
    _lease: Lease,
}

/// A request for an answer.
#[derive(Debug)]
struct Ask {
    at: Moment,
    /// The model it names, if it names one.
    model: Option<Word>,
}

/// An answer that has not ended.
#[derive(Debug)]
struct Turn {
    timing: Timing,
    requested_model: Option<Word>,
    model: Option<Word>,
    tools: Vec<ToolUse>,
}

impl Talk {
    /// A session that begins with the upgrade `common`.
    pub(super) fn new(key: Key, common: Exchange, (dialect, turns): Spoken, lease: Lease) -> Talk {
        Talk {
            key,
            frames: None,
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
            sent_bytes: Some(0),
            received_bytes: Some(0),
            late: None,
            unseen: None,
            unpaired: false,
            answered: false,
            _lease: lease,
        }
    }

    /// A session whose beginning was not seen, for `reason`.
    pub(super) fn overheard(
        key: Key,
        common: Exchange,
        spoken: Spoken,
        reason: Reason,
        lease: Lease,
    ) -> Talk {
        Talk {
            late: Some(reason),
            unpaired: true,
            sent_bytes: None,
            received_bytes: None,
            ..Talk::new(key, common, spoken, lease)
        }
    }

    /// A part of a message.
    pub(super) fn message(&mut self, direction: Direction, part: Piece<'_>) {
        let ear = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        match part {
            Piece::Bytes(part) => ear.push(part),
            Piece::Gap(_) => {
                ear.gap();
                // A whole answer may be missing, whose share they would be.
                (self.sent_bytes, self.received_bytes) = (None, None);
                self.unpaired = true;
                self.asked.iter_mut().for_each(|ask| ask.model = None);
                if direction == Direction::Received {
                    self.unseen.get_or_insert(self.late.unwrap_or(Reason::Gap));
                    // What ends next may be another answer than the one that began first.
                    let forget = |turn: &mut Turn| *turn = Turn::at(turn.timing);
                    self.open.iter_mut().for_each(forget);
                }
            }
        }
    }

    /// So many bytes of payload passed.
    pub(super) fn carried(&mut self, direction: Direction, bytes: u64) {
        let sum = match direction {
            Direction::Sent => &mut self.sent_bytes,
            Direction::Received => &mut self.received_bytes,
        };
        *sum = sum.map(|sum| sum.saturating_add(bytes));
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
            if step != Step::Asks {
                self.common.requested_model = facts.model.or(self.common.requested_model.take());
            } else if self.asked.len() < TURNS_MAX {
                let model = facts.model.filter(|_| !self.unpaired);
                self.asked.push_back(Ask { at: now, model });
            }
            return None;
        }
        let (step, mut facts) = self.received.end()?;
        match step {
            Step::None | Step::Asks => {
                self.model = facts.model.or(self.model.take());
                None
            }
            Step::Begins => {
                self.begin(now, facts.model.filter(|_| !self.unpaired));
                None
            }
            Step::Output => {
                if self.open.is_empty() {
                    self.begin(now, None);
                }
                let turn = self.open.front_mut()?;
                turn.timing.first_token.get_or_insert(now);
                turn.timing.last_token = Some(now);
                join(&mut turn.tools, facts.tools());
                None
            }
            Step::Ends => {
                if self.open.is_empty() {
                    self.begin(now, None);
                }
                let mut turn = self.open.pop_front()?;
                turn.timing.ended = Some(now);
                join(&mut turn.tools, facts.tools());
                Some(self.answer(facts, turn, ordinal))
            }
            Step::Aside if facts.usages > 0 => {
                let timing = Timing { started: now, ended: Some(now), ..Timing::default() };
                Some(Exchange {
                    operation: "transcription",
                    model: None,
                    ..self.answer(facts, Turn::at(timing), ordinal)
                })
            }
            Step::Aside => None,
        }
    }

    /// The session is over: what never ended, or the session itself if nothing was answered.
    pub(super) fn hung_up(&mut self, end: End, now: Moment, ordinal: &mut u32) -> Vec<Exchange> {
        let cut = match end {
            End::Cut(reason) => reason,
            End::Complete | End::WithConnection => self.unseen.unwrap_or(Reason::Interrupted),
        };
        let mut told: Vec<Exchange> = Vec::new();
        for mut turn in std::mem::take(&mut self.open) {
            turn.timing.ended = Some(now);
            let answer = self.answer(Facts::default(), turn, ordinal);
            told.push(Exchange { reason: Some(cut), ..answer });
        }
        let unanswered = self.unseen.unwrap_or(Reason::NoResponse);
        for Ask { at, model } in std::mem::take(&mut self.asked) {
            let timing = Timing { started: at, ..Timing::default() };
            let turn = Turn { requested_model: model, ..Turn::at(timing) };
            let answer = self.answer(Facts::default(), turn, ordinal);
            told.push(Exchange { reason: Some(unanswered), ..answer });
        }
        if !self.answered {
            let timing = Timing { ended: Some(now), ..self.common.timing };
            let session = self.answer(Facts::default(), Turn::at(timing), ordinal);
            let why = self.unseen.or(self.late);
            let (inference, why) = why.map_or((false, Reason::NotInference), |why| (true, why));
            told.push(Exchange { inference, reason: Some(why), ..session });
        }
        told
    }

    /// The session as its upgrade tells it: a parser panicked.
    pub(super) fn given_up(self: Box<Talk>) -> Exchange {
        Exchange { reason: Some(Reason::Panicked), ..self.common }
    }

    /// An answer begins.
    fn begin(&mut self, now: Moment, model: Option<Word>) {
        let ask = self.asked.pop_front();
        let started = ask.as_ref().map(|ask| ask.at).or(self.last_sent).unwrap_or(now);
        if self.open.len() < TURNS_MAX {
            let timing = Timing { started, first_byte: Some(now), ..Timing::default() };
            let requested_model = ask.and_then(|ask| ask.model);
            self.open.push_back(Turn { requested_model, model, ..Turn::at(timing) });
        }
    }

    /// What is recorded of an answer. The first has the place of the upgrade in the session.
    fn answer(&mut self, mut facts: Facts, turn: Turn, ordinal: &mut u32) -> Exchange {
        let Turn { timing, requested_model, model, tools } = turn;
        if std::mem::replace(&mut self.answered, true) {
            self.common.ordinal = *ordinal;
            *ordinal = ordinal.wrapping_add(1);
        }
        let usage = self.dialect.usage_of(&facts);
        let reason = usage.is_unknown().then_some(Reason::NotReported);
        let mut finish_reasons = facts.finish_reasons();
        if finish_reasons.is_empty() {
            finish_reasons.extend(facts.status);
        }
        let mut withheld = self.common.withheld;
        withheld.join(facts.withheld);
        Exchange {
            requested_model: requested_model.or_else(|| self.common.requested_model.clone()),
            model: facts.model.or(model).or_else(|| self.model.clone()),
            usage,
            reported_cost: facts.cost.map(ReportedCost),
            service_tier: facts.tier,
            finish_reasons,
            tools,
            error: facts.error,
            request_bytes: self.sent_bytes.replace(0),
            response_bytes: self.received_bytes.replace(0),
            timing,
            withheld,
            reason,
            ..self.common.clone()
        }
    }
}

impl Turn {
    fn at(timing: Timing) -> Turn {
        Turn { timing, requested_model: None, model: None, tools: Vec::new() }
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
