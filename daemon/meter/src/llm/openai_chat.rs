//! `/chat/completions` and `/completions`, of OpenAI and everybody who speaks like it.
//!
//! Cached tokens are part of the input. Reasoning is part of the output and what connectors put in part of the input,
//! except where the provider's own total says that they come on top (xAI, Mistral). A stream carries usage in a late chunk, in several (the last counts), or not at all.

use super::dialect::Dialect;
use super::facts::Count::{
    AudioInput, AudioOutput, CacheRead, CacheReadElsewhere, CacheWrite, ImageInput, ImageOutput, Input,
    Output, Reasoning, ReasoningElsewhere, ToolInput, Total, WebSearch,
};
use super::facts::{Counts, Field, MS, TICK, USD};
use super::openai_responses as responses;
use crate::detail::Detail::{
    self, AcceptedPrediction, AudioInputMs, CitationInput, RejectedPrediction, SearchQueries, Sources,
    TextInput, TextOutput, VideoInput,
};
use crate::detail::Details;
use crate::exchange::Usage;

/// Members of a usage object, below `prefix`.
macro_rules! usage {
    ($prefix:literal) => {
        [
            ($prefix, Field::Usage),
            (concat!($prefix, "/prompt_tokens"), Field::Count(Input)),
            (concat!($prefix, "/completion_tokens"), Field::Count(Output)),
            (concat!($prefix, "/total_tokens"), Field::Count(Total)),
            (concat!($prefix, "/prompt_tokens_details/cached_tokens"), Field::Count(CacheRead)),
            (concat!($prefix, "/prompt_tokens_details/cache_write_tokens"), Field::Count(CacheWrite)),
            (concat!($prefix, "/prompt_tokens_details/audio_tokens"), Field::Count(AudioInput)),
            (concat!($prefix, "/prompt_tokens_details/image_tokens"), Field::Count(ImageInput)),
            (concat!($prefix, "/prompt_token_details/cached_tokens"), Field::Count(CacheRead)),
            (concat!($prefix, "/cached_tokens"), Field::Count(CacheReadElsewhere)),
            (concat!($prefix, "/prompt_cache_hit_tokens"), Field::Count(CacheReadElsewhere)),
            (concat!($prefix, "/completion_tokens_details/reasoning_tokens"), Field::Count(Reasoning)),
            (concat!($prefix, "/completion_tokens_details/audio_tokens"), Field::Count(AudioOutput)),
            (concat!($prefix, "/completion_tokens_details/image_tokens"), Field::Count(ImageOutput)),
            (concat!($prefix, "/reasoning_tokens"), Field::Count(ReasoningElsewhere)),
            (concat!($prefix, "/prompt_tokens_details/text_tokens"), Field::Detail(TextInput)),
            (concat!($prefix, "/prompt_tokens_details/video_tokens"), Field::Detail(VideoInput)),
            (concat!($prefix, "/completion_tokens_details/text_tokens"), Field::Detail(TextOutput)),
            (
                concat!($prefix, "/completion_tokens_details/accepted_prediction_tokens"),
                Field::Detail(AcceptedPrediction),
            ),
            (
                concat!($prefix, "/completion_tokens_details/rejected_prediction_tokens"),
                Field::Detail(RejectedPrediction),
            ),
            // Perplexity, xAI, Mistral, OpenRouter.
            (concat!($prefix, "/citation_tokens"), Field::Detail(CitationInput)),
            (concat!($prefix, "/num_search_queries"), Field::Detail(SearchQueries)),
            (concat!($prefix, "/num_sources_used"), Field::Detail(Sources)),
            (concat!($prefix, "/prompt_audio_seconds"), Field::Scaled(AudioInputMs, MS)),
            (concat!($prefix, "/server_tool_use/web_search_requests"), Field::Count(WebSearch)),
            (concat!($prefix, "/server_tool_use_details/web_search_requests"), Field::Count(WebSearch)),
            (concat!($prefix, "/connector_tokens"), Field::Count(ToolInput)),
            (concat!($prefix, "/connectors/web_search"), Field::Count(WebSearch)),
            (concat!($prefix, "/service_tier"), Field::Tier),
            (concat!($prefix, "/cost"), Field::Cost(USD)),
            (concat!($prefix, "/cost/total_cost"), Field::Cost(USD)),
            (concat!($prefix, "/cost_in_usd_ticks"), Field::Cost(TICK)),
        ]
    };
}

// Mistral's `num_cached_tokens` is left out: it counts hits of the server's own prefix cache, which are not a price class.
pub(super) const USAGE: [(&str, Field); 32] = usage!("/usage");
/// Groq repeats the usage here; Moonshot had it in the choice.
const USAGE_GROQ: [(&str, Field); 32] = usage!("/x_groq/usage");
const USAGE_CHOICE: [(&str, Field); 32] = usage!("/choices/*/usage");

/// An error that is not in an object of its own (Mistral), or of which only the text is in one (xAI).
pub(super) const BARE_ERROR: [(&str, Field); 2] = [("/type", Field::BareClass), ("/code", Field::BareCode)];

pub(super) const PATHS: [(&str, Field); 25] = [
    ("/model", Field::Model),
    ("/service_tier", Field::Tier),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
    ("/error_type", Field::ErrorClass),
    ("/x_groq/error", Field::Error),
    ("/choices", Field::Choices),
    ("/choices/*", Field::Choice),
    ("/choices/*/index", Field::ChoiceIndex),
    ("/choices/*/finish_reason", Field::Finish),
    ("/choices/*/message/tool_calls/*/custom/name", Field::Tool),
    ("/choices/*/delta/tool_calls/*/custom/name", Field::Tool),
    ("/choices/*/message/function_call/name", Field::Tool),
    ("/choices/*/delta/function_call/name", Field::Tool),
    ("/choices/*/message/tool_calls/*/function/name", Field::Tool),
    ("/choices/*/messages/*/tool_calls/*/function/name", Field::Tool),
    ("/choices/*/delta/tool_calls/*/function/name", Field::Tool),
    ("/choices/*/delta/tool_calls/*", Field::Output),
    ("/choices/*/delta/content", Field::Output),
    ("/choices/*/delta/refusal", Field::Output),
    ("/choices/*/delta/reasoning", Field::Output),
    ("/choices/*/delta/reasoning_content", Field::Output),
    ("/choices/*/delta/audio", Field::Output),
    ("/choices/*/text", Field::Output),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "openai_chat",
    paths: &[&PATHS, &BARE_ERROR, &USAGE, &USAGE_GROQ, &USAGE_CHOICE],
    usage_on_request: true,
    usage,
    ..Dialect::TEXT
};

const USAGE_RESULT: [(&str, Field); 32] = usage!("/result/usage");
const RESULT: [(&str, Field); 4] = [
    ("/result/tool_calls/*/name", Field::Tool),
    ("/response", Field::Output),
    ("/errors/*", Field::Error),
    ("/errors/*/code", Field::ErrorCode),
];

/// Cloudflare's Workers AI by its own path, `/ai/run/MODEL`: an answer is in an envelope, the events of a stream are not.
pub static WORKERS_AI: Dialect = Dialect {
    name: "workers_ai",
    paths: &[&PATHS, &USAGE, &USAGE_RESULT, &RESULT],
    usage_on_request: false,
    ..DIALECT
};

/// An answer whose request path is not known: chat completions or responses, whichever it turns out to be. Their usage
/// objects share no name.
pub static EITHER: Dialect = Dialect {
    name: "openai",
    paths: &[
        &PATHS,
        &USAGE,
        &USAGE_GROQ,
        &USAGE_CHOICE,
        &responses::WHOLE,
        &responses::EVENT,
        &responses::STREAM,
    ],
    terminal: responses::DIALECT.terminal,
    usage_on_request: true,
    usage,
    ..Dialect::TEXT
};

fn usage(counts: &Counts) -> Usage {
    let (input, output, total) = (counts.get(Input), counts.get(Output), counts.get(Total));
    let reasoning = counts.get(Reasoning).or(counts.get(ReasoningElsewhere));
    let tools = counts.get(ToolInput);
    let mut details = Details::default();
    if let Some(tools) = tools {
        details.set(Detail::ToolInput, tools);
    }
    Usage {
        input: with_part(input, tools, output, total),
        output: with_part(output, reasoning, input, total),
        cache_read: counts.get(CacheRead).or(counts.get(CacheReadElsewhere)),
        cache_creation: counts.get(CacheWrite),
        reasoning,
        audio_input: counts.get(AudioInput),
        audio_output: counts.get(AudioOutput),
        image_input: counts.get(ImageInput),
        image_output: counts.get(ImageOutput),
        web_search_requests: counts.get(WebSearch),
        total,
        details,
        ..Usage::default()
    }
}

/// `whole` with `part`, if the provider's own `total` says that the part comes on top of it and of `other`.
pub(super) fn with_part(
    whole: Option<u64>,
    part: Option<u64>,
    other: Option<u64>,
    total: Option<u64>,
) -> Option<u64> {
    let without = whole?;
    let (Some(part), Some(other), Some(total)) = (part, other, total) else { return whole };
    let with = without.checked_add(part)?;
    let additive = part > 0 && other.checked_add(with) == Some(total);
    Some(if additive { with } else { without })
}
