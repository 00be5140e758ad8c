//! `/responses` of OpenAI and others; [`super::images`] and [`super::audio`] report usage in the same shape.
//!
//! Cached tokens are part of the input, reasoning of the output. A stream ends with an event that holds the whole
//! answer; usage is always there, without being asked for. Of the provider's own tools each call is an item of the answer.

use super::dialect::Dialect;
use super::facts::Count::{
    AudioInput, AudioOutput, CacheRead, CacheWrite, ImageInput, ImageOutput, Input, Output, Reasoning, Total,
};
use super::facts::{Counts, Field, TICK, USD};
use crate::detail::Detail::{
    CacheCreation12h, CacheCreation30m, CachedAudio, CachedImage, CachedText, Sources, TextInput, TextOutput,
};
use crate::exchange::Usage;

/// Members of an answer, below `prefix`.
macro_rules! answer {
    ($prefix:literal) => {
        [
            (concat!($prefix, "/model"), Field::Model),
            (concat!($prefix, "/id"), Field::Id),
            (concat!($prefix, "/status"), Field::Status),
            (concat!($prefix, "/service_tier"), Field::Tier),
            (concat!($prefix, "/error"), Field::Error),
            (concat!($prefix, "/error/type"), Field::ErrorClass),
            (concat!($prefix, "/error/code"), Field::ErrorCode),
            (concat!($prefix, "/incomplete_details/reason"), Field::Finish),
            (concat!($prefix, "/output/*/name"), Field::Tool),
            (concat!($prefix, "/output/*"), Field::Item),
            (concat!($prefix, "/output/*/type"), Field::ItemKind),
            (concat!($prefix, "/output/*/action/type"), Field::ItemAction),
            (concat!($prefix, "/usage"), Field::Usage),
            (concat!($prefix, "/usage/input_tokens"), Field::Count(Input)),
            (concat!($prefix, "/usage/output_tokens"), Field::Count(Output)),
            (concat!($prefix, "/usage/total_tokens"), Field::Count(Total)),
            (concat!($prefix, "/usage/input_tokens_details/cached_tokens"), Field::Count(CacheRead)),
            (concat!($prefix, "/usage/input_tokens_details/cache_write_tokens"), Field::Count(CacheWrite)),
            (concat!($prefix, "/usage/input_tokens_details/audio_tokens"), Field::Count(AudioInput)),
            (concat!($prefix, "/usage/input_tokens_details/image_tokens"), Field::Count(ImageInput)),
            (concat!($prefix, "/usage/input_token_details/cached_tokens"), Field::Count(CacheRead)),
            (
                concat!($prefix, "/usage/input_token_details/cached_tokens_details/text_tokens"),
                Field::Detail(CachedText),
            ),
            (
                concat!($prefix, "/usage/input_token_details/cached_tokens_details/audio_tokens"),
                Field::Detail(CachedAudio),
            ),
            (
                concat!($prefix, "/usage/input_token_details/cached_tokens_details/image_tokens"),
                Field::Detail(CachedImage),
            ),
            // Perplexity's names.
            (
                concat!($prefix, "/usage/input_tokens_details/cache_read_input_tokens"),
                Field::Count(CacheRead),
            ),
            (
                concat!($prefix, "/usage/input_tokens_details/cache_creation_input_tokens"),
                Field::Count(CacheWrite),
            ),
            (concat!($prefix, "/usage/cost/total_cost"), Field::Cost(USD)),
            (concat!($prefix, "/usage/input_token_details/audio_tokens"), Field::Count(AudioInput)),
            (concat!($prefix, "/usage/input_token_details/image_tokens"), Field::Count(ImageInput)),
            (concat!($prefix, "/usage/output_tokens_details/reasoning_tokens"), Field::Count(Reasoning)),
            (concat!($prefix, "/usage/output_tokens_details/audio_tokens"), Field::Count(AudioOutput)),
            (concat!($prefix, "/usage/output_tokens_details/image_tokens"), Field::Count(ImageOutput)),
            (concat!($prefix, "/usage/output_token_details/audio_tokens"), Field::Count(AudioOutput)),
            (concat!($prefix, "/usage/input_tokens_details/text_tokens"), Field::Detail(TextInput)),
            (concat!($prefix, "/usage/input_token_details/text_tokens"), Field::Detail(TextInput)),
            (concat!($prefix, "/usage/output_tokens_details/text_tokens"), Field::Detail(TextOutput)),
            (concat!($prefix, "/usage/output_token_details/text_tokens"), Field::Detail(TextOutput)),
            (
                concat!($prefix, "/usage/input_tokens_details/cache_write_tokens_details/ttl_30m_tokens"),
                Field::Detail(CacheCreation30m),
            ),
            (
                concat!($prefix, "/usage/input_tokens_details/cache_write_tokens_details/ttl_12h_tokens"),
                Field::Detail(CacheCreation12h),
            ),
            (concat!($prefix, "/usage/num_sources_used"), Field::Detail(Sources)),
            (concat!($prefix, "/usage/cost"), Field::Cost(USD)),
            (concat!($prefix, "/usage/cost_in_usd_ticks"), Field::Cost(TICK)),
        ]
    };
}

pub(super) const WHOLE: [(&str, Field); 42] = answer!("");
pub(super) const EVENT: [(&str, Field); 42] = answer!("/response");
/// Of an event that stands in an event of a Live session.
pub(super) const NESTED: [(&str, Field); 42] = answer!("/event/response");
pub(super) const STREAM: [(&str, Field); 7] = [
    ("/type", Field::Kind),
    ("/delta", Field::Output),
    ("/code", Field::ErrorCode),
    ("/item", Field::ToldItem),
    ("/item/type", Field::ToldKind),
    ("/item/action/type", Field::ToldAction),
    ("/item/name", Field::ToldTool),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "openai_responses",
    paths: &[&WHOLE, &EVENT, &STREAM],
    terminal: &["response.completed", "response.incomplete", "response.failed", "error"],
    usage,
    ..Dialect::TEXT
};

pub(super) fn usage(counts: &Counts) -> Usage {
    Usage {
        input: counts.get(Input),
        output: counts.get(Output),
        cache_read: counts.get(CacheRead),
        cache_creation: counts.get(CacheWrite),
        reasoning: counts.get(Reasoning),
        audio_input: counts.get(AudioInput),
        audio_output: counts.get(AudioOutput),
        image_input: counts.get(ImageInput),
        image_output: counts.get(ImageOutput),
        total: counts.get(Total),
        ..Usage::default()
    }
}
