//! What is kept of an answer while it passes: counts, names and enumerated words.

use super::json::Value;
use super::names;
use crate::exchange::{Place, ProviderError, TOOLS_MAX, ToolUse, Withheld};
use crate::limits::FINISH_REASONS_MAX;
use crate::money::PicoUsd;

/// A count as the provider names it, before its meaning is evened out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Count {
    /// Input tokens.
    Input,
    /// The same, where a dialect has a second place for it.
    InputElsewhere,
    /// The same, as a gateway counted it.
    InputMetered,
    /// Input tokens that tools added, where they are told apart.
    ToolInput,
    /// Output tokens.
    Output,
    /// The same, where a dialect has a second place for it.
    OutputElsewhere,
    /// The same, as a gateway counted it.
    OutputMetered,
    /// Total.
    Total,
    /// Tokens read from a cache.
    CacheRead,
    /// The same, where a dialect has a second place for it.
    CacheReadElsewhere,
    /// The same, as a gateway counted it.
    CacheReadMetered,
    /// Tokens written to a cache.
    CacheWrite,
    /// The same, as a gateway counted it.
    CacheWriteMetered,
    /// Of these, for five minutes.
    CacheWrite5m,
    /// Of these, for an hour.
    CacheWrite1h,
    /// Reasoning tokens.
    Reasoning,
    /// The same, where a dialect has a second place for it.
    ReasoningElsewhere,
    /// Audio input.
    AudioInput,
    /// Audio output.
    AudioOutput,
    /// Image input.
    ImageInput,
    /// Image output.
    ImageOutput,
    /// Web searches.
    WebSearch,
}

/// Number of [`Count`]s.
const COUNTS: usize = Count::WebSearch as usize + 1;

/// Counts of one usage object; what it did not name is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts([Option<u64>; COUNTS]);

impl Counts {
    /// The count, if it was named.
    pub fn get(&self, count: Count) -> Option<u64> {
        self.0.get(count as usize).copied().flatten()
    }

    fn set(&mut self, count: Count, value: Option<u64>) {
        // A null or nonsense never overwrites a value.
        if let (Some(slot), Some(value)) = (self.0.get_mut(count as usize), value) {
            *slot = Some(value);
        }
    }
}

/// What a wanted path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A usage object begins.
    Usage,
    /// A count in it.
    Count(Count),
    /// A part of a count, one of several.
    Sum(Count),
    /// Model.
    Model,
    /// Kind of an event.
    Kind,
    /// Why one choice ended.
    Finish,
    /// The same as a number: its place among these words.
    Code(&'static [&'static str]),
    /// State of the whole answer.
    Status,
    /// Name of a tool that is called.
    Tool,
    /// Service tier.
    Tier,
    /// Speed that the answer was made with: `fast` has prices of its own, above the tier.
    Speed,
    /// An error, as object or text.
    Error,
    /// `true` if a tool failed, which is no error of the protocol.
    Failed,
    /// Its type.
    ErrorClass,
    /// Its code.
    ErrorCode,
    /// Output of the model: that it is not empty is all that is kept.
    Output,
    /// Cost in US dollars times ten to this power.
    Cost(i32),
}

/// How usage objects of one answer relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The last one counts.
    LastObject,
    /// The last value of each count counts.
    LastValue,
}

/// What an answer said.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Counts in force.
    pub counts: Counts,
    /// Usage objects seen.
    pub usages: u32,
    /// Model.
    pub model: Option<Box<str>>,
    /// Finish reasons, in order of appearance.
    pub finish: Vec<Box<str>>,
    /// State of the answer.
    pub status: Option<Box<str>>,
    /// Tools called, each once, with how often.
    pub tools: Vec<ToolUse>,
    /// Service tier.
    pub tier: Option<Box<str>>,
    /// Served in fast mode, which is priced like a tier.
    pub fast: bool,
    /// Error.
    pub error: Option<ProviderError>,
    /// Cost stated.
    pub cost: Option<PicoUsd>,
    /// The stream's terminal event was seen.
    pub terminal: bool,
    /// The event in progress carries output.
    pub output: bool,
    /// Places where something stood that is no name.
    pub withheld: Withheld,
}

impl Facts {
    /// Notes a count that may stand outside of any usage object.
    pub fn note(&mut self, count: Count, value: Option<u64>) {
        if value.is_some() {
            self.usages = self.usages.max(1);
        }
        self.counts.set(count, value);
    }

    /// Takes a value of a wanted path.
    pub fn take(&mut self, merge: Merge, terminal: &[&str], field: Field, value: Value<'_>) {
        match field {
            Field::Usage => {
                if value == Value::Object {
                    self.usages = self.usages.saturating_add(1);
                    if merge == Merge::LastObject {
                        self.counts = Counts::default();
                    }
                }
            }
            Field::Count(count) => self.note(count, value.count()),
            Field::Sum(count) => {
                let sum =
                    value.count().and_then(|part| self.counts.get(count).unwrap_or(0).checked_add(part));
                self.note(count, sum);
            }
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
            Field::Tier => {
                let word = self.word(Place::ServiceTier, value);
                keep(&mut self.tier, word);
            }
            Field::Speed => self.fast |= text(value) == Some("fast"),
            Field::Kind => self.terminal |= text(value).is_some_and(|kind| terminal.contains(&kind)),
            Field::Code(words) => {
                let place = value.count().and_then(|code| usize::try_from(code).ok());
                if let Some(word) = place.and_then(|place| words.get(place))
                    && self.finish.len() < FINISH_REASONS_MAX
                {
                    self.finish.push((*word).into());
                }
            }
            Field::Finish => {
                if let Some(word) = self.word(Place::FinishReasons, value)
                    && self.finish.len() < FINISH_REASONS_MAX
                {
                    self.finish.push(word.into());
                }
            }
            Field::Tool => {
                if let Some(name) = self.word(Place::Tools, value) {
                    called(&mut self.tools, name);
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
                let number = value.count().map(|number| number.to_string());
                let plain = number.as_deref().or(negative(value));
                let word = if plain.is_some() { None } else { self.word(Place::ErrorCode, value) };
                if let Some(code) = plain.or(word) {
                    self.error.get_or_insert_default().code = Some(code.into());
                }
            }
            Field::Output => {
                self.output |= match value {
                    Value::Text { bytes, .. } => !bytes.is_empty(),
                    Value::Object => true,
                    _ => false,
                };
            }
        }
    }

    /// A word of `value`; what is none is noted.
    fn word<'a>(&mut self, place: Place, value: Value<'a>) -> Option<&'a str> {
        names::of(value, names::word).at(place, &mut self.withheld)
    }

    /// An error of this class, as the framing of the answer names it.
    pub fn failed(&mut self, class: &str) {
        let class = names::word(class.as_bytes()).at(Place::ErrorClass, &mut self.withheld);
        self.error.get_or_insert_default().class = class.map(Into::into);
    }
}

fn keep(slot: &mut Option<Box<str>>, text: Option<&str>) {
    if let Some(text) = text
        && slot.as_deref() != Some(text)
    {
        *slot = Some(text.into());
    }
}

/// Counts a call of the tool `name`.
fn called(tools: &mut Vec<ToolUse>, name: &str) {
    if let Some(tool) = tools.iter_mut().find(|tool| &*tool.name == name) {
        tool.calls = tool.calls.map(|calls| calls.saturating_add(1));
    } else if tools.len() < TOOLS_MAX {
        tools.push(ToolUse { name: name.into(), calls: Some(1) });
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
