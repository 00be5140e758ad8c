//! IBM watsonx.ai, `/ml/v1/text/generation`, at once or as events: the first has the input's count, each the output's so
//! far. Its chat speaks like OpenAI's, with `model_id` for the model.
//!
//! Source: "watsonx.ai API reference", TextGenResponse and TextGenResult: `input_token_count` is "the number of input tokens
//! consumed", `generated_token_count` "the number of generated tokens".

use super::dialect::Dialect;
use super::facts::Count::{Input, Output};
use super::facts::{Field, Merge};
use super::openai_chat;

const PATHS: [(&str, Field); 7] = [
    ("/model_id", Field::Model),
    ("/results/*/input_token_count", Field::Most(Input)),
    ("/results/*/generated_token_count", Field::Most(Output)),
    ("/results/*/stop_reason", Field::Status),
    ("/results/*/generated_text", Field::Output),
    ("/errors/*", Field::Error),
    ("/errors/*/code", Field::ErrorClass),
];

/// Text generation.
pub static GENERATION: Dialect =
    Dialect { name: "watsonx", paths: &[&PATHS], merge: Merge::LastValue, ..Dialect::TEXT };

const MODEL: [(&str, Field); 3] =
    [("/model_id", Field::Model), ("/errors/*", Field::Error), ("/errors/*/code", Field::ErrorClass)];

/// Chat.
pub static CHAT: Dialect = Dialect {
    name: "watsonx_chat",
    paths: &[&openai_chat::PATHS, &openai_chat::USAGE, &MODEL],
    usage_on_request: false,
    ..openai_chat::DIALECT
};
