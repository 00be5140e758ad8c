//! Ollama's own API: one JSON document per line, streamed unless told otherwise; the last one has the counts.
//!
//! Source: <https://docs.ollama.com/api/usage>.

use super::dialect::Dialect;
use super::facts::Count::{CacheRead, Input, Output};
use super::facts::{Field, Merge};

const PATHS: [(&str, Field); 10] = [
    ("/model", Field::Model),
    ("/prompt_eval_count", Field::Count(Input)),
    ("/prompt_eval_cached_count", Field::Count(CacheRead)),
    ("/eval_count", Field::Count(Output)),
    ("/done_reason", Field::Finish),
    ("/error", Field::Error),
    ("/message/tool_calls/*/function/name", Field::Tool),
    ("/message/content", Field::Output),
    ("/message/thinking", Field::Output),
    ("/response", Field::Output),
];

/// The dialect.
pub static DIALECT: Dialect =
    Dialect { name: "ollama", paths: &[&PATHS], merge: Merge::LastValue, ..Dialect::TEXT };
