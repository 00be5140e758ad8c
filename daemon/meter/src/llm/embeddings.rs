//! Embeddings, re-ranking, moderation and reading of pages of everybody who speaks like OpenAI: input tokens only, or
//! units that are not tokens.

use super::dialect::Dialect;
use super::facts::Count::{CacheRead, Input, InputElsewhere, Total};
use super::facts::{Counts, Field, MS, USD};
use super::openai_chat::BARE_ERROR;
use crate::detail::Detail;
use crate::exchange::Usage;

const PATHS: [(&str, Field); 25] = [
    ("/model", Field::Model),
    ("/usage", Field::Usage),
    ("/usage/prompt_tokens", Field::Count(Input)),
    ("/usage/total_tokens", Field::Count(Total)),
    ("/usage/prompt_tokens_details/cached_tokens", Field::Count(CacheRead)),
    ("/meta/billed_units", Field::Usage),
    ("/meta/billed_units/input_tokens", Field::Count(InputElsewhere)),
    ("/usage/cost", Field::Cost(USD)),
    ("/usage/cost/total_cost", Field::Cost(USD)),
    ("/meta/billed_units/pages", Field::Detail(Detail::Pages)),
    // watsonx.
    ("/model_id", Field::Model),
    ("/input_token_count", Field::Count(Input)),
    ("/usage/text_tokens", Field::Detail(Detail::TextInput)),
    ("/usage/image_pixels", Field::Detail(Detail::ImagePixels)),
    ("/usage/video_pixels", Field::Detail(Detail::VideoPixels)),
    ("/usage/search_units", Field::Detail(Detail::SearchUnits)),
    ("/usage/prompt_audio_seconds", Field::Scaled(Detail::AudioInputMs, MS)),
    ("/usage/service_tier", Field::Tier),
    ("/usage_info", Field::Usage),
    ("/usage_info/pages_processed", Field::Detail(Detail::Pages)),
    ("/meta/billed_units/search_units", Field::Detail(Detail::SearchUnits)),
    ("/meta/billed_units/classifications", Field::Detail(Detail::Classifications)),
    ("/error", Field::Error),
    ("/error/type", Field::ErrorClass),
    ("/error/code", Field::ErrorCode),
];

/// The dialect.
pub static DIALECT: Dialect =
    Dialect { name: "embeddings", paths: &[&PATHS, &BARE_ERROR], usage, ..Dialect::TEXT };

fn usage(counts: &Counts) -> Usage {
    Usage {
        // Voyage tells the total alone, and there is no output.
        input: counts.get(Input).or(counts.get(InputElsewhere)).or(counts.get(Total)),
        cache_read: counts.get(CacheRead),
        total: counts.get(Total),
        ..Usage::default()
    }
}
