//! The counts of one usage object, as the provider names them.

use crate::detail::Details;

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
    /// Length of the audio in the request, ms, where no usage tells it.
    AudioMs,
    /// Web searches.
    WebSearch,
}

/// Number of [`Count`]s.
const COUNTS: usize = Count::WebSearch as usize + 1;

/// Counts of one usage object; what it did not name is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    counts: [Option<u64>; COUNTS],
    pub(super) details: Details,
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

    pub(super) fn set(&mut self, count: Count, value: Option<u64>) {
        // A null or nonsense never overwrites a value.
        if let (Some(slot), Some(value)) = (self.counts.get_mut(count as usize), value) {
            *slot = Some(value);
        }
    }
}
