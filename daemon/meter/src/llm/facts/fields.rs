//! What is wanted of an answer: the meanings that a dialect gives to paths.

use super::{Count, TurnCount, Whole};
use crate::detail::Detail;

/// US dollars in pico-dollars, as a power of ten.
pub const USD: i32 = 12;
/// xAI's ticks, which are 1e-10 US dollars, in the same way.
pub const TICK: i32 = 2;
/// Seconds in milliseconds, in the same way.
pub const MS: i32 = 3;

/// What a wanted path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A usage object begins.
    Usage,
    /// The same, of what is known before the answer: another one is to come.
    FirstUsage,
    /// A count in it.
    Count(Count),
    /// The same, times ten to this power.
    ScaledCount(Count, i32),
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
    /// A turn that a model took for one answer begins.
    Turn,
    /// Its type.
    TurnKind,
    /// A count of it.
    TurnCount(TurnCount),
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
    /// What the provider calls the answer.
    Id,
    /// Name of a tool that is called.
    Tool,
    /// Name of a tool that is offered.
    Offered,
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
