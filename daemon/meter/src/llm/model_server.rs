//! What model servers answer on endpoints of their own, beside those that speak like OpenAI: `/completion` and `/infill`
//! of llama.cpp, `/generate` of SGLang and of TGI (Text Generation Inference), whose response fields count too. Events repeat what was counted so far; several answers are a list, each with counts
//! of its own.
//!
//! Sources: `tools/server/README.md` of llama.cpp, "SGLang Native APIs", "Text Generation Inference API" (`x-prompt-tokens`).

use super::dialect::Dialect;
use super::facts::Count::{CacheRead, Input, InputMetered, Output, OutputMetered};
use super::facts::{Counts, Field, Merge};
use crate::exchange::Usage;

const PATHS: [(&str, Field); 21] = [
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
    ("/details/input_length", Field::Count(Input)),
    ("/details/generated_tokens", Field::Count(Output)),
    ("/details/finish_reason", Field::Finish),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
];

/// The dialect.
pub static DIALECT: Dialect =
    Dialect { name: "model_server", paths: &[&PATHS], merge: Merge::LastValue, usage, ..Dialect::TEXT };

fn usage(counts: &Counts) -> Usage {
    Usage {
        input: counts.get(Input).or(counts.get(InputMetered)),
        output: counts.get(Output).or(counts.get(OutputMetered)),
        cache_read: counts.get(CacheRead),
        ..Usage::default()
    }
}
