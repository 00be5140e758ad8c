//! Ollama's own API: one JSON document per line, streamed unless told otherwise; the last one has the counts.

use super::dialect::{Dialect, Wire};
use super::facts::Count::{Input, Output};
use super::facts::{Counts, Field, Merge};
use crate::exchange::Usage;

const PATHS: [(&str, Field); 9] = [
    ("/model", Field::Model),
    ("/prompt_eval_count", Field::Count(Input)),
    ("/eval_count", Field::Count(Output)),
    ("/done_reason", Field::Finish),
    ("/error", Field::Error),
    ("/message/tool_calls/*/function/name", Field::Tool),
    ("/message/content", Field::Output),
    ("/message/thinking", Field::Output),
    ("/response", Field::Output),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "ollama",
    paths: &[&PATHS],
    merge: Merge::LastValue,
    terminal: &[],
    usage_on_request: false,
    usage,
    wire: Wire::Text,
};

fn usage(counts: &Counts) -> Usage {
    Usage { input: counts.get(Input), output: counts.get(Output), ..Usage::default() }
}
