//! Transcription, translation and speech. Usage is tokens in the shape of responses, or the audio's duration: then there
//! are no tokens. Mistral's is in the shape of chat completions. Without usage the length of the audio is what an answer
//! tells beside its text (xAI, OpenAI's verbose form).

use super::dialect::Dialect;
use super::facts::Count::{AudioInput, AudioMs, CacheRead, Input, InputElsewhere, Output, OutputElsewhere};
use super::facts::{Counts, Field, MS};
use super::openai_responses as responses;
use crate::detail::Detail::AudioInputMs;
use crate::detail::Details;
use crate::exchange::Usage;

const PATHS: [(&str, Field); 10] = [
    ("/type", Field::Kind),
    ("/code", Field::ErrorCode),
    ("/delta", Field::Output),
    ("/duration", Field::ScaledCount(AudioMs, MS)),
    ("/usage/seconds", Field::Scaled(AudioInputMs, MS)),
    ("/usage/prompt_audio_seconds", Field::Scaled(AudioInputMs, MS)),
    ("/usage/prompt_tokens", Field::Count(InputElsewhere)),
    ("/usage/completion_tokens", Field::Count(OutputElsewhere)),
    ("/usage/prompt_tokens_details/cached_tokens", Field::Count(CacheRead)),
    ("/usage/prompt_tokens_details/audio_tokens", Field::Count(AudioInput)),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "openai_audio",
    paths: &[&responses::WHOLE, &PATHS],
    terminal: &["transcript.text.done", "transcription.done", "speech.audio.done", "error"],
    usage,
    ..Dialect::TEXT
};

fn usage(counts: &Counts) -> Usage {
    let input = counts.get(Input).or(counts.get(InputElsewhere));
    let mut details = Details::default();
    if let (None, None, Some(length)) = (input, counts.details().get(AudioInputMs), counts.get(AudioMs)) {
        details.set(AudioInputMs, length);
    }
    Usage {
        input,
        details,
        output: counts.get(Output).or(counts.get(OutputElsewhere)),
        ..responses::usage(counts)
    }
}
