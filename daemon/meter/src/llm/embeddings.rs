//! Embeddings, re-ranking and moderation of everybody who speaks like OpenAI: input tokens only.

use super::dialect::{Dialect, Wire};
use super::facts::Count::{CacheRead, Input, InputElsewhere, Total};
use super::facts::{Counts, Field, Merge};
use crate::exchange::Usage;

const PATHS: [(&str, Field); 10] = [
    ("/model", Field::Model),
    ("/usage", Field::Usage),
    ("/usage/prompt_tokens", Field::Count(Input)),
    ("/usage/total_tokens", Field::Count(Total)),
    ("/usage/prompt_tokens_details/cached_tokens", Field::Count(CacheRead)),
    ("/meta/billed_units", Field::Usage),
    ("/meta/billed_units/input_tokens", Field::Count(InputElsewhere)),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "embeddings",
    paths: &[&PATHS],
    merge: Merge::LastObject,
    terminal: &[],
    usage_on_request: false,
    usage,
    wire: Wire::Text,
};

fn usage(counts: &Counts) -> Usage {
    Usage {
        // Voyage tells the total alone, and there is no output.
        input: counts.get(Input).or(counts.get(InputElsewhere)).or(counts.get(Total)),
        cache_read: counts.get(CacheRead),
        total: counts.get(Total),
        ..Usage::default()
    }
}
