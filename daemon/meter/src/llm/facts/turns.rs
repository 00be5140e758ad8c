//! Lists of what happened on the way to an answer, of which a provider bills some beside it: calls of its own tools, and
//! turns that its sums leave out.

use super::super::json::Value;
use super::{Counts, text, tool};
use crate::detail::{Detail, Details};
use crate::exchange::ToolUse;

/// Items of an answer in which a tool of the provider is called, each of which it bills.
const CALLS: [(&str, Detail); 3] = [
    ("web_search_call", Detail::WebSearchCalls),
    ("file_search_call", Detail::FileSearchCalls),
    ("code_interpreter_call", Detail::CodeInterpreterCalls),
];

/// Whether the answer lists none of these.
pub(super) fn lists_no_call(counted: &Details) -> bool {
    CALLS.iter().all(|(_, call)| counted.get(*call).is_none())
}

/// An item of an answer, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Item {
    /// What it is a call of.
    call: Option<Detail>,
    /// It only looks at what an earlier one found.
    follows: bool,
}

impl Item {
    /// Its type.
    pub(super) fn kind(&mut self, kind: Value<'_>) {
        let call = CALLS.iter().find(|(name, _)| text(kind) == Some(*name));
        self.call = self.call.or(call.map(|(_, call)| *call));
    }

    /// What the tool did in it.
    pub(super) fn action(&mut self, action: Value<'_>) {
        self.follows |= text(action).is_some_and(|action| action != "search");
    }

    /// It is told more of: its call counts as long as it is one that is billed.
    pub(super) fn tell(&mut self, counted: &mut Details, more: impl FnOnce(&mut Item)) {
        let before = self.billed();
        more(self);
        match (before, self.billed()) {
            (None, Some(call)) => counted.add(call, 1),
            (Some(call), None) => counted.set(call, counted.get(call).unwrap_or(0).saturating_sub(1)),
            _ => {}
        }
    }

    /// The call that is billed. Of the web tool's actions only a search is: opening a page and finding something in it
    /// are not.
    fn billed(self) -> Option<Detail> {
        self.call.filter(|call| !(self.follows && *call == Detail::WebSearchCalls))
    }
}

/// Items that events tell of, one by one. They count if the whole answer lists none: it broke off, or its last event is
/// empty (ChatGPT's Codex).
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// The event in progress says that its item is whole.
    pub(super) done: bool,
    pub(super) item: Item,
    /// Name of the tool that it calls.
    pub(super) tool: Option<Box<str>>,
    pub(super) tools: Vec<ToolUse>,
    pub(super) calls: Details,
}

impl Told {
    /// The event of the Responses API that tells of a whole item.
    pub(super) const DONE: &'static str = "response.output_item.done";

    /// An item begins.
    pub(super) fn begin(&mut self) {
        (self.item, self.tool) = (Item::default(), None);
    }

    /// The event in progress is over, and whole or not.
    pub(super) fn end(&mut self, whole: bool) {
        let (item, called) = (std::mem::take(&mut self.item), self.tool.take());
        if std::mem::take(&mut self.done) && whole {
            item.billed().into_iter().for_each(|call| self.calls.add(call, 1));
            called.into_iter().for_each(|name| tool(&mut self.tools, &name, 1));
        }
    }
}

/// What a turn counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TurnCount {
    /// Input that was not cached.
    Input,
    /// Input read from a cache.
    CacheRead,
    /// Input written to a cache.
    CacheCreation,
    /// Output.
    Output,
}

/// Number of [`TurnCount`]s.
const TURN_COUNTS: usize = TurnCount::Output as usize + 1;

/// Types of turns that the sums of the answer leave out, and where they are counted, in the order of [`TurnCount`].
/// Sources: "Compaction" and "Advisor tool" of Anthropic's documentation, usage. An adviser is another model.
const APART: [(&str, [Detail; TURN_COUNTS]); 2] = [
    (
        "compaction",
        [
            Detail::CompactionInput,
            Detail::CompactionCacheRead,
            Detail::CompactionCacheCreation,
            Detail::CompactionOutput,
        ],
    ),
    (
        "advisor_message",
        [Detail::AdvisorInput, Detail::AdvisorCacheRead, Detail::AdvisorCacheCreation, Detail::AdvisorOutput],
    ),
];

/// A turn that a model took for one answer, as far as it was read: its members come in any order.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// Where it is counted, if it is apart.
    apart: Option<[Detail; TURN_COUNTS]>,
    /// Its counts before that is known.
    counts: [Option<u64>; TURN_COUNTS],
    /// There was one before it in the same usage object.
    later: bool,
}

impl Turn {
    /// The usage object of the turns to come begins.
    pub(super) fn begin_list(&mut self) {
        self.later = false;
    }

    /// One begins. The first one of a usage object replaces those of the object before.
    pub(super) fn begin(&mut self, counts: &mut Counts) {
        if !self.later {
            APART.iter().flat_map(|(_, details)| details).for_each(|detail| counts.details.unset(*detail));
        }
        *self = Turn { later: true, ..Turn::default() };
    }

    /// Its type.
    pub(super) fn kind(&mut self, value: Value<'_>, counts: &mut Counts) {
        self.apart = APART.iter().find(|(kind, _)| text(value) == Some(*kind)).map(|(_, details)| *details);
        self.add_up(counts);
    }

    /// A count of it.
    pub(super) fn count(&mut self, count: TurnCount, value: Value<'_>, counts: &mut Counts) {
        if let Some(slot) = self.counts.get_mut(count as usize) {
            *slot = value.count();
            self.add_up(counts);
        }
    }

    fn add_up(&mut self, counts: &mut Counts) {
        let Some(details) = self.apart else { return };
        for (detail, count) in details.into_iter().zip(std::mem::take(&mut self.counts)) {
            count.into_iter().for_each(|count| counts.details.add(detail, count));
        }
    }
}
