//! Amazon Bedrock: Converse, and InvokeModel with whatever the model's vendor answers.
//!
//! Converse and Nova exclude cached tokens from the input. InvokeModel tells counts in response fields or in the last
//! event as well; the vendor's own usage is preferred. Legacy twin names carry the same numbers.

use super::dialect::Dialect;
use super::facts::Count::{
    AudioInput, AudioOutput, CacheRead, CacheReadMetered, CacheWrite, CacheWrite1h, CacheWrite5m,
    CacheWriteMetered, Input, InputElsewhere, InputMetered, Output, OutputElsewhere, OutputMetered, Total,
};
use super::facts::{Counts, Field, Merge, Whole};
use crate::detail::Detail;
use crate::exchange::Usage;

/// Members of Converse's usage object, below `prefix`.
macro_rules! usage {
    ($prefix:literal) => {
        [
            ($prefix, Field::Usage),
            (concat!($prefix, "/inputTokens"), Field::Count(Input)),
            (concat!($prefix, "/outputTokens"), Field::Count(Output)),
            (concat!($prefix, "/totalTokens"), Field::Count(Total)),
            (concat!($prefix, "/cacheReadInputTokens"), Field::Count(CacheRead)),
            (concat!($prefix, "/cacheReadInputTokenCount"), Field::Count(CacheRead)),
            (concat!($prefix, "/cacheWriteInputTokens"), Field::Count(CacheWrite)),
            (concat!($prefix, "/cacheWriteInputTokenCount"), Field::Count(CacheWrite)),
            (concat!($prefix, "/cacheDetails/*"), Field::Part(Whole::CacheWrite)),
            (concat!($prefix, "/cacheDetails/*/ttl"), Field::PartKind),
            (concat!($prefix, "/cacheDetails/*/inputTokens"), Field::PartCount),
        ]
    };
}

const USAGE: [(&str, Field); 11] = usage!("/usage");
const USAGE_NOVA: [(&str, Field); 11] = usage!("/metadata/usage");

const CONVERSE_PATHS: [(&str, Field); 6] = [
    ("/stopReason", Field::Finish),
    ("/serviceTier/type", Field::Tier),
    ("/output/message/content/*/toolUse/name", Field::Tool),
    ("/start/toolUse/name", Field::Tool),
    ("/delta/text", Field::Output),
    ("/delta/toolUse/input", Field::Output),
];

/// Counts that the service adds to the last event of a stream.
pub(super) const METRICS: [(&str, Field); 5] = [
    ("/amazon-bedrock-invocationMetrics", Field::Usage),
    ("/amazon-bedrock-invocationMetrics/inputTokenCount", Field::Count(InputMetered)),
    ("/amazon-bedrock-invocationMetrics/outputTokenCount", Field::Count(OutputMetered)),
    ("/amazon-bedrock-invocationMetrics/cacheReadInputTokenCount", Field::Count(CacheReadMetered)),
    ("/amazon-bedrock-invocationMetrics/cacheWriteInputTokenCount", Field::Count(CacheWriteMetered)),
];

/// What a conversation in both directions used so far, as Nova Sonic reports it again and again. Its counts are totals,
/// speech and text together. Source: "Handling output events with the bidirectional API", `usageEvent`.
const USAGE_SONIC: [(&str, Field); 7] = [
    ("/event/usageEvent", Field::Usage),
    ("/event/usageEvent/totalInputTokens", Field::Count(InputElsewhere)),
    ("/event/usageEvent/totalOutputTokens", Field::Count(OutputElsewhere)),
    ("/event/usageEvent/totalTokens", Field::Count(Total)),
    ("/event/usageEvent/details/total/input/speechTokens", Field::Count(AudioInput)),
    ("/event/usageEvent/details/total/output/speechTokens", Field::Count(AudioOutput)),
    ("/event/completionEnd/stopReason", Field::Finish),
];

/// A vendor's answer may name a model of its own; the path names the one that is billed.
const VENDORS: [(&str, Field); 29] = [
    ("/images/*", Field::Each(Detail::Images)),
    ("/usage/prompt_tokens", Field::Count(InputElsewhere)),
    ("/usage/completion_tokens", Field::Count(OutputElsewhere)),
    ("/usage/total_tokens", Field::Count(Total)),
    ("/inputTextTokenCount", Field::Count(InputElsewhere)),
    ("/results/*/tokenCount", Field::Count(OutputElsewhere)),
    ("/results", Field::Choices),
    ("/results/*", Field::Choice),
    ("/results/*/completionReason", Field::Finish),
    ("/completionReason", Field::Finish),
    ("/prompt_token_count", Field::Count(InputElsewhere)),
    ("/generation_token_count", Field::Count(OutputElsewhere)),
    ("/stop_reason", Field::Finish),
    ("/stopReason", Field::Finish),
    ("/messageStop/stopReason", Field::Finish),
    ("/output/message/content/*/toolUse/name", Field::Tool),
    ("/contentBlockStart/start/toolUse/name", Field::Tool),
    ("/generations", Field::Choices),
    ("/generations/*", Field::Choice),
    ("/generations/*/finish_reason", Field::Finish),
    ("/choices/*/finish_reason", Field::Finish),
    ("/choices/*/message/tool_calls/*/function/name", Field::Tool),
    ("/choices/*/delta/content", Field::Output),
    ("/generation", Field::Output),
    ("/outputText", Field::Output),
    ("/text", Field::Output),
    ("/contentBlockDelta/delta/text", Field::Output),
    ("/outputs/*/text", Field::Output),
    ("/outputs/*/stop_reason", Field::Finish),
];

/// Converse.
pub static CONVERSE: Dialect = Dialect {
    name: "bedrock_converse",
    paths: &[&USAGE, &CONVERSE_PATHS],
    terminal: &["metadata"],
    usage: excluding_cache,
    ..Dialect::TEXT
};

/// InvokeModel of a vendor without a dialect of its own.
pub static INVOKE: Dialect = Dialect {
    name: "bedrock_invoke",
    paths: &[&USAGE, &USAGE_NOVA, &USAGE_SONIC, &METRICS, &VENDORS],
    merge: Merge::LastValue,
    usage: invoked,
    ..Dialect::TEXT
};

fn excluding_cache(counts: &Counts) -> Usage {
    let (read, written) = (counts.get(CacheRead), counts.get(CacheWrite));
    let sum = |input: u64| input.checked_add(read.unwrap_or(0))?.checked_add(written.unwrap_or(0));
    Usage {
        input: counts.get(Input).and_then(sum),
        output: counts.get(Output),
        cache_read: read,
        cache_creation: written,
        cache_creation_5m: counts.get(CacheWrite5m),
        cache_creation_1h: counts.get(CacheWrite1h),
        total: counts.get(Total),
        ..Usage::default()
    }
}

fn invoked(counts: &Counts) -> Usage {
    let named = excluding_cache(counts);
    let output = named.output.or(counts.get(OutputElsewhere)).or(counts.get(OutputMetered));
    match named.input.or(counts.get(InputElsewhere)) {
        Some(input) => Usage {
            input: Some(input),
            output,
            audio_input: counts.get(AudioInput),
            audio_output: counts.get(AudioOutput),
            ..named
        },
        None => Usage { output, ..metered(counts) },
    }
}

/// Usage as the service counted it, for answers that say nothing themselves. Excludes cached tokens from the input.
pub(super) fn metered(counts: &Counts) -> Usage {
    let (read, written) = (counts.get(CacheReadMetered), counts.get(CacheWriteMetered));
    let sum = |input: u64| input.checked_add(read.unwrap_or(0))?.checked_add(written.unwrap_or(0));
    Usage {
        input: counts.get(InputMetered).and_then(sum),
        output: counts.get(OutputMetered),
        cache_read: read,
        cache_creation: written,
        ..Usage::default()
    }
}
