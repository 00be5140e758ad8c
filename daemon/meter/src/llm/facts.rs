//! What is kept of an answer while it passes: counts, names and enumerated words.

use std::ops::Deref;

use smallvec::SmallVec;

use super::json::Value;
use super::names;
use crate::detail::{Detail, Details};
use crate::exchange::{Place, ProviderError, TOOLS_MAX, ToolUse, Withheld, Word, Words};
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
pub struct Counts {
    counts: [Option<u64>; COUNTS],
    details: Details,
}

impl Counts {
    /// The count, if it was named.
    pub fn get(&self, count: Count) -> Option<u64> {
        self.counts.get(count as usize).copied().flatten()
    }

    /// What it named that few do.
    pub fn details(&self) -> &Details {
        &self.details
    }

    fn set(&mut self, count: Count, value: Option<u64>) {
        // A null or nonsense never overwrites a value.
        if let (Some(slot), Some(value)) = (self.counts.get_mut(count as usize), value) {
            *slot = Some(value);
        }
    }
}

/// Which count the parts of a list make up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whole {
    /// Input, also what tools put in.
    Input,
    /// Output.
    Output,
    /// What was read from a cache.
    CacheRead,
    /// What was written to a cache, by lifetime.
    CacheWrite,
}

/// What distinguishes such a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Image,
    Video,
    Audio,
    Document,
    FiveMinutes,
    OneHour,
}

impl Kind {
    /// A modality as Google writes it, also as the number of its enumeration, or a lifetime as Amazon writes it.
    fn of(value: Value<'_>) -> Option<Kind> {
        const NAMES: [(&str, Kind); 7] = [
            ("text", Kind::Text),
            ("image", Kind::Image),
            ("video", Kind::Video),
            ("audio", Kind::Audio),
            ("document", Kind::Document),
            ("5m", Kind::FiveMinutes),
            ("1h", Kind::OneHour),
        ];
        match value {
            Value::Text { bytes, whole: true } => NAMES
                .iter()
                .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(bytes))
                .map(|(_, kind)| *kind),
            value => match value.count()? {
                1 => Some(Kind::Text),
                2 => Some(Kind::Image),
                3 => Some(Kind::Video),
                4 => Some(Kind::Audio),
                5 => Some(Kind::Document),
                _ => None,
            },
        }
    }
}

/// An element of such a list, as far as it was read: its members come in any order.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    of: Option<Whole>,
    kind: Option<Kind>,
    count: Option<u64>,
}

/// What a wanted path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A usage object begins.
    Usage,
    /// A count in it.
    Count(Count),
    /// A count of which later events say 0.
    Most(Count),
    /// A part of a count, one of several.
    Sum(Count),
    /// A count that few report.
    Detail(Detail),
    /// The same, times ten to this power.
    Scaled(Detail, i32),
    /// The same, outside of any usage object.
    Outside(Detail),
    /// One more of these: an object or text outside of any usage object.
    Each(Detail),
    /// An element of a list of parts begins.
    Part(Whole),
    /// What distinguishes it.
    PartKind,
    /// Its count.
    PartCount,
    /// An item of an answer begins.
    Item,
    /// Its type.
    ItemKind,
    /// What the provider's tool did in it.
    ItemAction,
    /// An item of an answer begins that an event tells of.
    ToldItem,
    /// Its type.
    ToldKind,
    /// What the provider's tool did in it.
    ToldAction,
    /// Name of the tool that it calls.
    ToldTool,
    /// A turn that the model took for one answer begins.
    Iteration,
    /// Its type.
    IterationKind,
    /// A count of it, if it is what this says and not in the sums of the answer.
    IterationCount(Detail),
    /// Model.
    Model,
    /// Kind of an event.
    Kind,
    /// The same; one that ends a stream and is no error counts one of these.
    KindOf(Detail),
    /// The choices of an answer, or of one event of it, begin.
    Choices,
    /// A choice begins.
    Choice,
    /// Its place among the choices, which counts for more than the one in the list: an event may tell of one alone.
    ChoiceIndex,
    /// Why it ended. What ends without a list of choices is one.
    Finish,
    /// The same, or as a number: its place among these words.
    FinishCode(&'static [&'static str]),
    /// State of the whole answer.
    Status,
    /// Name of a tool that is called.
    Tool,
    /// Service tier.
    Tier,
    /// The same, or as a number: its place among these words.
    TierCode(&'static [&'static str]),
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
    /// Type of an error, if the answer is one: it has no object of its own.
    BareClass,
    /// Its code.
    BareCode,
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
    outside: Details,
    /// Usage objects seen.
    pub usages: u32,
    /// Model.
    pub model: Option<Box<str>>,
    /// State of the answer.
    pub status: Option<Word>,
    pub(super) tools: Vec<ToolUse>,
    /// Service tier.
    pub tier: Option<Word>,
    /// Served in fast mode, which is priced like a tier.
    pub fast: bool,
    /// Error.
    pub error: Option<ProviderError>,
    /// Cost stated.
    pub cost: Option<PicoUsd>,
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
    iteration: Iteration,
}

/// Why the choices ended.
#[derive(Clone, Debug, Default)]
struct Choices {
    /// Reasons in order of appearance, each with the place of its choice. Only the last may have none yet: the choice in
    /// progress has not said which one it is.
    ended: SmallVec<[(Option<u64>, Word); 1]>,
    /// What the choice in progress says of its place.
    index: Option<u64>,
    /// Its place in the list.
    position: u64,
    /// Choices of the list that began.
    begun: u64,
}

impl Choices {
    fn list(&mut self) {
        self.begun = 0;
    }

    fn begin(&mut self) {
        self.settle();
        self.index = None;
        self.position = self.begun;
        self.begun = self.begun.saturating_add(1);
    }

    fn at(&mut self, index: Option<u64>) {
        self.index = index.or(self.index);
    }

    /// Providers tell the reason of a choice again in later events, and some another one: the last is in force.
    fn end(&mut self, word: Word) {
        self.settle();
        if self.ended.len() < FINISH_REASONS_MAX {
            self.ended.push((None, word));
        }
    }

    /// The choice in progress has said all: its reason takes the place of an earlier one.
    fn settle(&mut self) {
        let place = Some(self.index.unwrap_or(self.position));
        let Some((None, word)) = self.ended.last().cloned() else { return };
        self.ended.pop();
        match self.ended.iter_mut().find(|(other, _)| *other == place) {
            Some((_, earlier)) => *earlier = word,
            None => self.ended.push((place, word)),
        }
    }
}

/// An error without an object of its own. Where the answer is none, its members are something else.
#[derive(Clone, Debug, Default)]
struct Bare {
    error: ProviderError,
    withheld: Withheld,
}

/// Items that events tell of, one by one. They count if the whole answer lists none: it broke off, or its last event is
/// empty (ChatGPT's Codex).
#[derive(Clone, Debug, Default)]
struct Told {
    /// The event in progress says that its item is whole.
    done: bool,
    item: Item,
    tool: Option<Box<str>>,
    tools: Vec<ToolUse>,
    calls: Details,
}

/// An item of an answer, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Item {
    /// What it is a call of.
    call: Option<Detail>,
    /// It only looks at what an earlier one found.
    follows: bool,
}

impl Item {
    /// The call that is billed. Of the web tool's actions only a search is: opening a page and finding something in it
    /// are not.
    fn billed(self) -> Option<Detail> {
        self.call.filter(|call| !(self.follows && *call == Detail::WebSearchCalls))
    }

    fn kind(&mut self, kind: Value<'_>) {
        let call = CALLS.iter().find(|(name, _)| text(kind) == Some(*name));
        self.call = self.call.or(call.map(|(_, call)| *call));
    }

    fn action(&mut self, action: Value<'_>) {
        self.follows |= text(action).is_some_and(|action| action != "search");
    }
}

/// A turn, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Iteration {
    /// Whether its counts are apart from the answer's.
    apart: Option<bool>,
    /// What it counted before that is known, in the order of [`COMPACTION`].
    counts: [Option<u64>; COMPACTION.len()],
    /// What earlier turns of the same usage object counted stands in the details.
    later: bool,
}

/// What is counted of turns that sum the conversation up.
const COMPACTION: [Detail; 4] = [
    Detail::CompactionInput,
    Detail::CompactionCacheRead,
    Detail::CompactionCacheCreation,
    Detail::CompactionOutput,
];

/// Items of an answer in which a tool of the provider is called, each of which it bills.
const CALLS: [(&str, Detail); 3] = [
    ("web_search_call", Detail::WebSearchCalls),
    ("file_search_call", Detail::FileSearchCalls),
    ("code_interpreter_call", Detail::CodeInterpreterCalls),
];

/// The event of the Responses API that tells of a whole item.
const ITEM_DONE: &str = "response.output_item.done";

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

    /// Notes a part once its kind and its count are known; several of a kind add up.
    fn end_part(&mut self) {
        let Part { of: Some(of), kind: Some(kind), count } = self.part else { return };
        if count.is_some() {
            self.part = Part::default();
        }
        // Google leaves zeros out: a part without count is one of 0.
        let count = count.unwrap_or(0);
        let class = match (of, kind) {
            (Whole::Input, Kind::Image) => Ok(Count::ImageInput),
            (Whole::Input, Kind::Audio) => Ok(Count::AudioInput),
            (Whole::Output, Kind::Image) => Ok(Count::ImageOutput),
            (Whole::Output, Kind::Audio) => Ok(Count::AudioOutput),
            (Whole::CacheWrite, Kind::FiveMinutes) => Ok(Count::CacheWrite5m),
            (Whole::CacheWrite, Kind::OneHour) => Ok(Count::CacheWrite1h),
            (Whole::Input, Kind::Text) => Err(Detail::TextInput),
            (Whole::Input, Kind::Video) => Err(Detail::VideoInput),
            (Whole::Input, Kind::Document) => Err(Detail::DocumentInput),
            (Whole::Output, Kind::Text) => Err(Detail::TextOutput),
            (Whole::Output, Kind::Video) => Err(Detail::VideoOutput),
            (Whole::CacheRead, Kind::Text) => Err(Detail::CachedText),
            (Whole::CacheRead, Kind::Audio) => Err(Detail::CachedAudio),
            (Whole::CacheRead, Kind::Image) => Err(Detail::CachedImage),
            (Whole::CacheRead, Kind::Video) => Err(Detail::CachedVideo),
            _ => return,
        };
        match class {
            Ok(class) => {
                let sum = self.counts.get(class).unwrap_or(0).checked_add(count);
                self.counts.set(class, sum);
            }
            Err(detail) => self.counts.details.add(detail, count),
        }
    }

    /// An item is told more of: its call counts as long as it is one that is billed.
    fn item(&mut self, tell: impl FnOnce(&mut Item)) {
        let before = self.item.billed();
        tell(&mut self.item);
        match (before, self.item.billed()) {
            (None, Some(call)) => self.outside.add(call, 1),
            (Some(call), None) => {
                self.outside.set(call, self.outside.get(call).unwrap_or(0).saturating_sub(1));
            }
            _ => {}
        }
    }

    /// A turn began or is told more of: what is apart is added up.
    fn iteration(&mut self) {
        if self.iteration.apart == Some(true) {
            for (detail, count) in COMPACTION.into_iter().zip(std::mem::take(&mut self.iteration.counts)) {
                count.into_iter().for_each(|count| self.counts.details.add(detail, count));
            }
        }
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
                    self.iteration.later = false;
                }
            }
            Field::Count(count) => self.note(count, value.count()),
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
            Field::Scaled(detail, power) => {
                self.detail(detail, value.scaled(power).and_then(|number| u64::try_from(number).ok()));
            }
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
            Field::Part(of) => self.part = Part { of: Some(of), ..Part::default() },
            Field::PartKind => {
                self.part.kind = Kind::of(value);
                self.end_part();
            }
            Field::PartCount => {
                self.part.count = value.count();
                self.end_part();
            }
            Field::Item => self.item = Item::default(),
            Field::ItemKind => self.item(|item| item.kind(value)),
            Field::ItemAction => self.item(|item| item.action(value)),
            Field::ToldItem => (self.told.item, self.told.tool) = (Item::default(), None),
            Field::ToldKind => self.told.item.kind(value),
            Field::ToldAction => self.told.item.action(value),
            Field::ToldTool => self.told.tool = self.word(Place::Tools, value).map(Into::into),
            Field::Iteration => {
                if !self.iteration.later {
                    COMPACTION.iter().for_each(|detail| self.counts.details.unset(*detail));
                }
                self.iteration = Iteration { later: true, ..Iteration::default() };
            }
            Field::IterationKind => {
                self.iteration.apart = Some(text(value) == Some("compaction"));
                self.iteration();
            }
            Field::IterationCount(detail) => {
                let place = COMPACTION.iter().position(|one| *one == detail);
                if let Some(slot) = place.and_then(|place| self.iteration.counts.get_mut(place)) {
                    *slot = value.count();
                    self.iteration();
                }
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
                self.told.done |= text(value) == Some(ITEM_DONE);
            }
            Field::Choices => self.choices.list(),
            Field::Choice => self.choices.begin(),
            Field::ChoiceIndex => self.choices.at(value.count()),
            Field::Finish => self.finish(value, &[]),
            Field::FinishCode(words) => self.finish(value, words),
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
        let (item, tool) = (std::mem::take(&mut self.told.item), self.told.tool.take());
        if std::mem::take(&mut self.told.done) && whole {
            if let Some(call) = item.billed() {
                self.told.calls.add(call, 1);
            }
            if let Some(tool) = tool {
                called(&mut self.told.tools, &tool);
            }
        }
    }

    /// Tools called, each once, with how often.
    pub fn tools(&mut self) -> Vec<ToolUse> {
        let told = std::mem::take(&mut self.told.tools);
        if self.tools.is_empty() { told } else { std::mem::take(&mut self.tools) }
    }

    /// Counts of what stands outside of usage objects.
    pub fn outside(&self) -> Details {
        let mut outside = self.outside;
        if CALLS.iter().all(|(_, call)| outside.get(*call).is_none()) {
            outside.add_all(&self.told.calls);
        }
        outside
    }

    /// Why each choice ended, in order of appearance.
    pub fn finish_reasons(&mut self) -> Words {
        self.choices.settle();
        std::mem::take(&mut self.choices.ended).into_iter().map(|(_, word)| word).collect()
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

    /// An error of this class, as the framing of the answer names it.
    pub fn failed(&mut self, class: &str) {
        let class = names::word(class.as_bytes()).at(Place::ErrorClass, &mut self.withheld);
        self.error.get_or_insert_default().class = class.map(Into::into);
    }
}

/// The code of an error: a whole number or a word.
fn code(value: Value<'_>, withheld: &mut Withheld) -> Option<Box<str>> {
    let number = value.count().map(|number| number.to_string());
    let plain = number.as_deref().or(negative(value));
    plain.or_else(|| names::of(value, names::word).at(Place::ErrorCode, withheld)).map(Into::into)
}

/// The word of an enumeration that a number stands for.
fn coded(value: Value<'_>, words: &[&'static str]) -> Option<&'static str> {
    words.get(usize::try_from(value.count()?).ok()?).copied()
}

fn keep<'a, T: Deref<Target = str> + From<&'a str>>(slot: &mut Option<T>, text: Option<&'a str>) {
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
