//! `/v1/messages` of Anthropic, also as Vertex AI, Foundry, Bedrock and gateways serve it.
//!
//! Input excludes what is read from and written to the cache. `message_start` has the input, `message_delta` cumulative
//! counts that replace it field by field: before it nothing is certain. A stream is whole with `message_stop`. Turns in which the conversation was
//! summed up or another model was asked for advice are in none of these sums; they are billed nevertheless.

use super::bedrock::{METRICS, metered};
use super::dialect::Dialect;
use super::facts::Count::{
    CacheRead, CacheWrite, CacheWrite1h, CacheWrite5m, Input, Output, Reasoning, WebSearch,
};
use super::facts::{Counts, Field, Merge, TurnCount};
use crate::detail::Detail;
use crate::exchange::Usage;

/// Members of an answer, below `prefix`, with what a usage object in it is.
macro_rules! usage {
    ($prefix:literal, $usage:expr) => {
        [
            (concat!($prefix, "/usage"), $usage),
            (concat!($prefix, "/usage/input_tokens"), Field::Count(Input)),
            (concat!($prefix, "/usage/output_tokens"), Field::Count(Output)),
            (concat!($prefix, "/usage/cache_read_input_tokens"), Field::Count(CacheRead)),
            (concat!($prefix, "/usage/cache_creation_input_tokens"), Field::Count(CacheWrite)),
            (concat!($prefix, "/usage/cache_creation/ephemeral_5m_input_tokens"), Field::Count(CacheWrite5m)),
            (concat!($prefix, "/usage/cache_creation/ephemeral_1h_input_tokens"), Field::Count(CacheWrite1h)),
            (concat!($prefix, "/usage/output_tokens_details/thinking_tokens"), Field::Count(Reasoning)),
            (concat!($prefix, "/usage/server_tool_use/web_search_requests"), Field::Count(WebSearch)),
            (
                concat!($prefix, "/usage/server_tool_use/web_fetch_requests"),
                Field::Detail(Detail::WebFetchRequests),
            ),
            (concat!($prefix, "/usage/iterations/*"), Field::Turn),
            (concat!($prefix, "/usage/iterations/*/type"), Field::TurnKind),
            (concat!($prefix, "/usage/iterations/*/input_tokens"), Field::TurnCount(TurnCount::Input)),
            (
                concat!($prefix, "/usage/iterations/*/cache_read_input_tokens"),
                Field::TurnCount(TurnCount::CacheRead),
            ),
            (
                concat!($prefix, "/usage/iterations/*/cache_creation_input_tokens"),
                Field::TurnCount(TurnCount::CacheCreation),
            ),
            (concat!($prefix, "/usage/iterations/*/output_tokens"), Field::TurnCount(TurnCount::Output)),
            (concat!($prefix, "/usage/service_tier"), Field::Tier),
            (concat!($prefix, "/usage/speed"), Field::Speed),
            (concat!($prefix, "/model"), Field::Model),
            (concat!($prefix, "/stop_reason"), Field::Finish),
            (concat!($prefix, "/content/*/name"), Field::Tool),
        ]
    };
}

const WHOLE: [(&str, Field); 21] = usage!("", Field::Usage);
const START: [(&str, Field); 21] = usage!("/message", Field::FirstUsage);
const STREAM: [(&str, Field); 9] = [
    ("/type", Field::Kind),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/delta/stop_reason", Field::Finish),
    ("/content_block/name", Field::Tool),
    ("/delta/text", Field::Output),
    ("/delta/thinking", Field::Output),
    ("/delta/partial_json", Field::Output),
    ("/completion", Field::Output),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "anthropic_messages",
    paths: &[&WHOLE, &START, &STREAM, &METRICS],
    merge: Merge::LastValue,
    terminal: &["message_stop", "error"],
    usage,
    ..Dialect::TEXT
};

fn usage(counts: &Counts) -> Usage {
    if counts.get(Input).is_none() && counts.get(Output).is_none() {
        return metered(counts);
    }
    let (read, written) = (counts.get(CacheRead), counts.get(CacheWrite));
    let sum = |input: u64| input.checked_add(read.unwrap_or(0))?.checked_add(written.unwrap_or(0));
    Usage {
        input: counts.get(Input).and_then(sum),
        output: counts.get(Output),
        cache_read: read,
        cache_creation: written,
        cache_creation_5m: counts.get(CacheWrite5m),
        cache_creation_1h: counts.get(CacheWrite1h),
        reasoning: counts.get(Reasoning),
        web_search_requests: counts.get(WebSearch),
        ..Usage::default()
    }
}
