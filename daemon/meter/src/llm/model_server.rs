//! What model servers answer on endpoints of their own, beside those that speak like OpenAI: `/completion` and `/infill`
//! of llama.cpp, `/generate` of SGLang. Events repeat what was counted so far; several answers are a list, each with counts
//! of its own.
//!
//! Sources: `tools/server/README.md` of llama.cpp, "SGLang Native APIs".

use super::dialect::{Dialect, Wire, as_counted};
use super::facts::Count::{CacheRead, Input, Output};
use super::facts::{Field, Merge};

const PATHS: [(&str, Field); 18] = [
    ("/model", Field::Model),
    ("/tokens_evaluated", Field::Count(Input)),
    ("/tokens_predicted", Field::Count(Output)),
    ("/stop_type", Field::Finish),
    ("/content", Field::Output),
    ("/meta_info/prompt_tokens", Field::Count(Input)),
    ("/meta_info/completion_tokens", Field::Count(Output)),
    ("/meta_info/cached_tokens", Field::Count(CacheRead)),
    ("/meta_info/finish_reason/type", Field::Finish),
    ("/*/meta_info/prompt_tokens", Field::Sum(Input)),
    ("/*/meta_info/completion_tokens", Field::Sum(Output)),
    ("/*/meta_info/cached_tokens", Field::Sum(CacheRead)),
    ("/*/meta_info/finish_reason/type", Field::Finish),
    ("/*/text", Field::Output),
    ("/text", Field::Output),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "model_server",
    paths: &[&PATHS],
    merge: Merge::LastValue,
    terminal: &[],
    usage_on_request: false,
    usage: as_counted,
    wire: Wire::Text,
};
