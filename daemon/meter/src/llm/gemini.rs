//! Gemini API and Vertex AI: `generateContent`, `streamGenerateContent`, embeddings, and the interactions API.
//!
//! `promptTokenCount` includes cached content and excludes what tools put in; `candidatesTokenCount` excludes thoughts.
//! Every chunk of a stream has cumulative usage; a stream is events or one JSON array written piece by piece.

use super::dialect::Dialect;
use super::facts::Count::{
    AudioInput, AudioOutput, CacheRead, ImageInput, ImageOutput, Input, Output, Reasoning, ToolInput, Total,
};
use super::facts::{Counts, Field, Whole};
use super::grpc::GOOGLE_FINISH;
use crate::detail::{Detail, Details};
use crate::exchange::Usage;

/// `TrafficType` of Vertex AI, which its Python SDK asks for by number (`enum-encoding=int`).
const TRAFFIC: &[&str] = &["", "ON_DEMAND", "PROVISIONED_THROUGHPUT"];

/// Members of an answer, below `prefix`.
macro_rules! answer {
    ($prefix:literal) => {
        [
            (concat!($prefix, "/modelVersion"), Field::Model),
            (concat!($prefix, "/usageMetadata"), Field::Usage),
            (concat!($prefix, "/usageMetadata/promptTokenCount"), Field::Count(Input)),
            (concat!($prefix, "/usageMetadata/candidatesTokenCount"), Field::Count(Output)),
            (concat!($prefix, "/usageMetadata/thoughtsTokenCount"), Field::Count(Reasoning)),
            (concat!($prefix, "/usageMetadata/toolUsePromptTokenCount"), Field::Count(ToolInput)),
            (concat!($prefix, "/usageMetadata/cachedContentTokenCount"), Field::Count(CacheRead)),
            (concat!($prefix, "/usageMetadata/totalTokenCount"), Field::Count(Total)),
            (concat!($prefix, "/usageMetadata/promptTokensDetails/*"), Field::Part(Whole::Input)),
            (concat!($prefix, "/usageMetadata/promptTokensDetails/*/modality"), Field::PartKind),
            (concat!($prefix, "/usageMetadata/promptTokensDetails/*/tokenCount"), Field::PartCount),
            (concat!($prefix, "/usageMetadata/promptTokenDetails/*"), Field::Part(Whole::Input)),
            (concat!($prefix, "/usageMetadata/promptTokenDetails/*/modality"), Field::PartKind),
            (concat!($prefix, "/usageMetadata/promptTokenDetails/*/tokenCount"), Field::PartCount),
            (concat!($prefix, "/usageMetadata/toolUsePromptTokensDetails/*"), Field::Part(Whole::Input)),
            (concat!($prefix, "/usageMetadata/toolUsePromptTokensDetails/*/modality"), Field::PartKind),
            (concat!($prefix, "/usageMetadata/toolUsePromptTokensDetails/*/tokenCount"), Field::PartCount),
            (concat!($prefix, "/usageMetadata/candidatesTokensDetails/*"), Field::Part(Whole::Output)),
            (concat!($prefix, "/usageMetadata/candidatesTokensDetails/*/modality"), Field::PartKind),
            (concat!($prefix, "/usageMetadata/candidatesTokensDetails/*/tokenCount"), Field::PartCount),
            (concat!($prefix, "/usageMetadata/cacheTokensDetails/*"), Field::Part(Whole::CacheRead)),
            (concat!($prefix, "/usageMetadata/cacheTokensDetails/*/modality"), Field::PartKind),
            (concat!($prefix, "/usageMetadata/cacheTokensDetails/*/tokenCount"), Field::PartCount),
            (concat!($prefix, "/usageMetadata/serviceTier"), Field::Tier),
            (concat!($prefix, "/usageMetadata/trafficType"), Field::TierCode(TRAFFIC)),
            (concat!($prefix, "/candidates"), Field::Choices),
            (concat!($prefix, "/candidates/*"), Field::Choice),
            (concat!($prefix, "/candidates/*/index"), Field::ChoiceIndex),
            (concat!($prefix, "/candidates/*/finishReason"), Field::FinishCode(GOOGLE_FINISH)),
            (concat!($prefix, "/candidates/*/content/parts/*/functionCall/name"), Field::Tool),
            (concat!($prefix, "/candidates/*/content/parts/*/text"), Field::Output),
            (concat!($prefix, "/error"), Field::Error),
            (concat!($prefix, "/error/status"), Field::ErrorClass),
            (concat!($prefix, "/error/code"), Field::ErrorCode),
        ]
    };
}

const WHOLE: [(&str, Field); 34] = answer!("");
const ELEMENT: [(&str, Field); 34] = answer!("/*");
const PREDICT: [(&str, Field); 3] = [
    ("/predictions/*/embeddings/statistics/token_count", Field::Sum(Input)),
    ("/predictions/*/bytesBase64Encoded", Field::Each(Detail::Images)),
    ("/metadata/billableCharacterCount", Field::Outside(Detail::Characters)),
];

/// Members of an answer of the interactions API, below `prefix`.
macro_rules! interaction {
    ($prefix:literal) => {
        [
            (concat!($prefix, "/model"), Field::Model),
            (concat!($prefix, "/id"), Field::Id),
            (concat!($prefix, "/status"), Field::Status),
            (concat!($prefix, "/usage"), Field::Usage),
            (concat!($prefix, "/usage/total_input_tokens"), Field::Count(Input)),
            (concat!($prefix, "/usage/total_output_tokens"), Field::Count(Output)),
            (concat!($prefix, "/usage/total_thought_tokens"), Field::Count(Reasoning)),
            (concat!($prefix, "/usage/total_tool_use_tokens"), Field::Count(ToolInput)),
            (concat!($prefix, "/usage/total_cached_tokens"), Field::Count(CacheRead)),
            (concat!($prefix, "/usage/total_tokens"), Field::Count(Total)),
            (concat!($prefix, "/usage/input_tokens_by_modality/*"), Field::Part(Whole::Input)),
            (concat!($prefix, "/usage/input_tokens_by_modality/*/modality"), Field::PartKind),
            (concat!($prefix, "/usage/input_tokens_by_modality/*/tokens"), Field::PartCount),
            (concat!($prefix, "/usage/tool_use_tokens_by_modality/*"), Field::Part(Whole::Input)),
            (concat!($prefix, "/usage/tool_use_tokens_by_modality/*/modality"), Field::PartKind),
            (concat!($prefix, "/usage/tool_use_tokens_by_modality/*/tokens"), Field::PartCount),
            (concat!($prefix, "/usage/output_tokens_by_modality/*"), Field::Part(Whole::Output)),
            (concat!($prefix, "/usage/output_tokens_by_modality/*/modality"), Field::PartKind),
            (concat!($prefix, "/usage/output_tokens_by_modality/*/tokens"), Field::PartCount),
            (concat!($prefix, "/usage/cached_tokens_by_modality/*"), Field::Part(Whole::CacheRead)),
            (concat!($prefix, "/usage/cached_tokens_by_modality/*/modality"), Field::PartKind),
            (concat!($prefix, "/usage/cached_tokens_by_modality/*/tokens"), Field::PartCount),
            (concat!($prefix, "/error"), Field::Error),
        ]
    };
}

const INTERACTION: [(&str, Field); 23] = interaction!("");
const INTERACTION_EVENT: [(&str, Field); 23] = interaction!("/interaction");
const INTERACTION_STREAM: [(&str, Field); 2] = [("/event_type", Field::Kind), ("/delta/text", Field::Output)];

/// `generateContent`, streamed or not, and embeddings.
pub static GENERATE: Dialect =
    Dialect { name: "gemini", paths: &[&WHOLE, &ELEMENT, &PREDICT], usage, ..Dialect::TEXT };

/// The interactions API.
pub static INTERACTIONS: Dialect = Dialect {
    name: "gemini_interactions",
    paths: &[&INTERACTION, &INTERACTION_EVENT, &INTERACTION_STREAM],
    terminal: &["interaction.completed", "interaction.complete", "done"],
    usage,
    ..Dialect::TEXT
};

fn usage(counts: &Counts) -> Usage {
    let mut details = Details::default();
    if let Some(tools) = counts.get(ToolInput) {
        details.set(Detail::ToolInput, tools);
    }
    Usage {
        input: sum(counts.get(Input), counts.get(ToolInput)),
        output: sum(counts.get(Output), counts.get(Reasoning)),
        cache_read: counts.get(CacheRead),
        reasoning: counts.get(Reasoning),
        audio_input: counts.get(AudioInput),
        audio_output: counts.get(AudioOutput),
        image_input: counts.get(ImageInput),
        image_output: counts.get(ImageOutput),
        details,
        total: counts.get(Total),
        ..Usage::default()
    }
}

/// Sum of what is known.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (None, None) => None,
        (one, other) => one.unwrap_or(0).checked_add(other.unwrap_or(0)),
    }
}
