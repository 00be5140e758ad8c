//! What is kept of an answer while it passes: counts, names and enumerated words.

mod choices;
mod counts;
mod fields;
mod parts;
mod turns;

use std::hash::Hasher as _;
use std::ops::Deref;

use siphasher::sip128::{Hasher128, SipHasher13};

use super::json::Value;
use super::names;
use crate::detail::{Detail, Details};
use crate::exchange::{Place, ProviderError, TOOLS_MAX, ToolUse, Withheld, Word, Words};
use crate::money::PicoUsd;
use choices::Choices;
pub use counts::{Count, Counts};
pub use fields::{Field, MS, Merge, TICK, USD};
use parts::Part;
pub use parts::Whole;
pub use turns::TurnCount;
use turns::{Item, Told, Turn};

/// What an answer said.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Counts in force.
    pub counts: Counts,
    outside: Details,
    /// Usage objects seen.
    pub usages: u32,
    /// Model.
    pub model: Option<Word>,
    /// State of the answer.
    pub status: Option<Word>,
    /// Hash of what the provider calls the answer, to know it again when it is fetched.
    pub id: Option<u128>,
    pub(super) tools: Vec<ToolUse>,
    /// Service tier.
    pub tier: Option<Word>,
    /// Served in fast mode, which is priced like a tier.
    pub fast: bool,
    /// Error.
    pub error: Option<ProviderError>,
    /// Cost stated.
    pub cost: Option<PicoUsd>,
    /// The usage so far is what was known before the answer.
    pub begun: bool,
    /// The stream's terminal event was seen.
    pub terminal: bool,
    /// The event in progress says that it is the terminal one. It counts once it is whole: the usage comes after.
    pub closing: bool,
    /// The event in progress carries output.
    pub output: bool,
    /// Places where something stood that is no name.
    pub withheld: Withheld,
    choices: Choices,
    bare: Bare,
    told: Told,
    part: Part,
    item: Item,
    turn: Turn,
}

/// An error without an object of its own. Where the answer is none, its members are something else.
#[derive(Clone, Debug, Default)]
struct Bare {
    error: ProviderError,
    withheld: Withheld,
}

impl Facts {
    /// Notes a count that may stand outside of any usage object.
    pub fn note(&mut self, count: Count, value: Option<u64>) {
        if value.is_some() {
            self.usages = self.usages.max(1);
        }
        self.counts.set(count, value);
    }

    fn detail(&mut self, detail: Detail, count: Option<u64>) {
        if let Some(count) = count {
            self.usages = self.usages.max(1);
            self.counts.details.set(detail, count);
        }
    }

    /// Takes a value of a wanted path.
    pub fn take(&mut self, merge: Merge, terminal: &[&str], field: Field, value: Value<'_>) {
        match field {
            Field::Usage | Field::FirstUsage => {
                if value == Value::Object {
                    self.begun = field == Field::FirstUsage;
                    self.usages = self.usages.saturating_add(1);
                    if merge == Merge::LastObject {
                        self.counts = Counts::default();
                    }
                    self.turn.begin_list();
                }
            }
            Field::Count(count) => self.note(count, value.count()),
            Field::ScaledCount(count, power) => self.note(count, scaled(value, power)),
            Field::Most(count) => {
                let most = value.count().map(|value| value.max(self.counts.get(count).unwrap_or(0)));
                self.note(count, most);
            }
            Field::Sum(count) => {
                let sum =
                    value.count().and_then(|part| self.counts.get(count).unwrap_or(0).checked_add(part));
                self.note(count, sum);
            }
            Field::Detail(detail) => self.detail(detail, value.count()),
            Field::Scaled(detail, power) => self.detail(detail, scaled(value, power)),
            Field::Outside(detail) => {
                if let Some(count) = value.count() {
                    self.usages = self.usages.max(1);
                    self.outside.set(detail, count);
                }
            }
            Field::Each(detail) => {
                let there = match value {
                    Value::Text { bytes, .. } => !bytes.is_empty(),
                    value => value == Value::Object,
                };
                if there {
                    self.usages = self.usages.max(1);
                    self.outside.add(detail, 1);
                }
            }
            Field::Part(of) => self.part.begin(of),
            Field::PartKind => self.part.kind(value, &mut self.counts),
            Field::PartCount => self.part.count(value, &mut self.counts),
            Field::Item => self.item = Item::default(),
            Field::ItemKind => self.item.tell(&mut self.outside, |item| item.kind(value)),
            Field::ItemAction => self.item.tell(&mut self.outside, |item| item.action(value)),
            Field::ToldItem => self.told.begin(),
            Field::ToldKind => self.told.item.kind(value),
            Field::ToldAction => self.told.item.action(value),
            Field::ToldTool => self.told.tool = self.word(Place::Tools, value).map(Into::into),
            Field::Turn => self.turn.begin(&mut self.counts),
            Field::TurnKind => self.turn.kind(value, &mut self.counts),
            Field::TurnCount(count) => self.turn.count(count, value, &mut self.counts),
            Field::Cost(power) => {
                // Interim chunks state 0.
                if let Some(cost) = value.scaled(power)
                    && cost > 0
                {
                    self.cost = Some(PicoUsd(cost));
                }
            }
            Field::Model => {
                let name = names::of(value, names::model).at(Place::Model, &mut self.withheld);
                keep(&mut self.model, name);
            }
            Field::Status => {
                let word = self.word(Place::FinishReasons, value);
                keep(&mut self.status, word);
            }
            Field::Id => {
                if let Some(id) = text(value) {
                    let mut hasher = SipHasher13::new();
                    hasher.write(id.as_bytes());
                    self.id = Some(hasher.finish128().as_u128());
                }
            }
            Field::Tier => self.tier(value, &[]),
            Field::TierCode(words) => self.tier(value, words),
            Field::Speed => self.fast |= text(value) == Some("fast"),
            Field::KindOf(detail) => {
                let kind = text(value).filter(|kind| terminal.contains(kind));
                self.closing |= kind.is_some();
                if kind.is_some_and(|kind| kind != "error") {
                    self.outside.add(detail, 1);
                }
            }
            Field::Kind => {
                self.closing |= text(value).is_some_and(|kind| terminal.contains(&kind));
                self.told.done |= text(value) == Some(Told::DONE);
            }
            Field::Choices => self.choices.list(),
            Field::Choice => self.choices.begin(),
            Field::ChoiceIndex => self.choices.at(value.count()),
            Field::Finish => self.finish(value, &[]),
            Field::FinishCode(words) => self.finish(value, words),
            Field::Tool => {
                if let Some(name) = self.word(Place::Tools, value) {
                    tool(&mut self.tools, name, 1);
                }
            }
            Field::Offered => {
                if let Some(name) = self.word(Place::Tools, value) {
                    tool(&mut self.tools, name, 0);
                }
            }
            Field::Error => {
                if matches!(value, Value::Object | Value::Text { .. }) {
                    self.error.get_or_insert_default();
                }
            }
            Field::ErrorClass => {
                if let Some(word) = self.word(Place::ErrorClass, value) {
                    self.error.get_or_insert_default().class = Some(word.into());
                }
            }
            Field::Failed => {
                if value == Value::Bool(true) {
                    self.error.get_or_insert_default().class = Some("tool_error".into());
                }
            }
            Field::ErrorCode => {
                if let Some(code) = code(value, &mut self.withheld) {
                    self.error.get_or_insert_default().code = Some(code);
                }
            }
            Field::BareClass => {
                let class = names::of(value, names::word).at(Place::ErrorClass, &mut self.bare.withheld);
                self.bare.error.class = class.map(Into::into);
            }
            Field::BareCode => self.bare.error.code = code(value, &mut self.bare.withheld),
            Field::Output => {
                self.output |= match value {
                    Value::Text { bytes, .. } => !bytes.is_empty(),
                    Value::Object => true,
                    _ => false,
                };
            }
        }
    }

    /// A message of a stream is over, in which lists have no beginning of their own.
    pub fn next_message(&mut self) {
        self.choices.list();
    }

    /// The event in progress is over, and whole or not.
    pub fn next_event(&mut self, whole: bool) {
        self.told.end(whole);
    }

    /// Tools called, each once, with how often.
    pub fn tools(&mut self) -> Vec<ToolUse> {
        let told = std::mem::take(&mut self.told.tools);
        if self.tools.is_empty() { told } else { std::mem::take(&mut self.tools) }
    }

    /// Counts of what stands outside of usage objects.
    pub fn outside(&self) -> Details {
        let mut outside = self.outside;
        if turns::lists_no_call(&outside) {
            outside.add_all(&self.told.calls);
        }
        outside
    }

    /// Why each choice ended, in order of appearance.
    pub fn finish_reasons(&mut self) -> Words {
        std::mem::take(&mut self.choices).reasons()
    }

    /// The error of an answer that is one by its status.
    pub fn refused(&mut self) -> ProviderError {
        let ProviderError { class, code } = self.error.take().unwrap_or_default();
        let Bare { error: bare, withheld } = std::mem::take(&mut self.bare);
        self.withheld.join(withheld);
        ProviderError { class: class.or(bare.class), code: code.or(bare.code) }
    }

    fn finish(&mut self, value: Value<'_>, words: &[&'static str]) {
        if let Some(word) = coded(value, words).or_else(|| self.word(Place::FinishReasons, value)) {
            self.choices.end(word.into());
        }
    }

    fn tier(&mut self, value: Value<'_>, words: &[&'static str]) {
        let word = coded(value, words).or_else(|| self.word(Place::ServiceTier, value));
        keep(&mut self.tier, word);
    }

    /// A word of `value`; what is none is noted.
    fn word<'a>(&mut self, place: Place, value: Value<'a>) -> Option<&'a str> {
        names::of(value, names::word).at(place, &mut self.withheld)
    }

    /// Whether the provider says that it only accepted the request: the answer is to be fetched later.
    pub fn is_pending(&self) -> bool {
        const PENDING: [&str; 4] = ["queued", "in_progress", "starting", "processing"];
        self.status.as_deref().is_some_and(|status| PENDING.contains(&status))
    }

    /// An error of this class, as the framing of the answer names it.
    pub fn failed(&mut self, class: &str) {
        let class = names::word(class.as_bytes()).at(Place::ErrorClass, &mut self.withheld);
        self.error.get_or_insert_default().class = class.map(Into::into);
    }
}

/// The code of an error: a whole number or a word.
fn code(value: Value<'_>, withheld: &mut Withheld) -> Option<Word> {
    let number = value.count().map(|number| number.to_string());
    let plain = number.as_deref().or(negative(value));
    plain.or_else(|| names::of(value, names::word).at(Place::ErrorCode, withheld)).map(Into::into)
}

/// The word of an enumeration that a number stands for.
fn coded(value: Value<'_>, words: &[&'static str]) -> Option<&'static str> {
    words.get(usize::try_from(value.count()?).ok()?).copied()
}

/// The number times ten to this power, cut to a whole one.
fn scaled(value: Value<'_>, power: i32) -> Option<u64> {
    u64::try_from(value.scaled(power)?).ok()
}

fn keep<'a, T: Deref<Target = str> + From<&'a str>>(slot: &mut Option<T>, text: Option<&'a str>) {
    if let Some(text) = text
        && slot.as_deref() != Some(text)
    {
        *slot = Some(text.into());
    }
}

/// Counts calls of the tool `name`.
pub fn tool(tools: &mut Vec<ToolUse>, name: &str, more: u32) {
    if let Some(tool) = tools.iter_mut().find(|tool| &*tool.name == name) {
        tool.calls = tool.calls.map(|calls| calls.saturating_add(more));
    } else if tools.len() < TOOLS_MAX {
        tools.push(ToolUse { name: name.into(), calls: Some(more) });
    }
}

/// A negative whole number, as JSON-RPC has them for errors.
fn negative(value: Value<'_>) -> Option<&str> {
    let Value::Number([b'-', digits @ ..]) = value else { return None };
    let whole = digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit);
    match value {
        Value::Number(text) if whole => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

/// The whole text of a value, if it is not empty.
pub fn text(value: Value<'_>) -> Option<&str> {
    match value {
        Value::Text { bytes, whole: true } if !bytes.is_empty() => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}
