//! Cohere's own API, version 1 and 2.
//!
//! `tokens` counts what the model saw, with Cohere's own preamble; money follows `billed_units`, which are there alone
//! for some operations.

use super::dialect::Dialect;
use super::facts::Count::{CacheRead, ImageInput, Input, InputElsewhere, Output, OutputElsewhere};
use super::facts::{Counts, Field};
use crate::detail::{Detail, Details};
use crate::exchange::Usage;

/// Members of a usage object, below `prefix`.
macro_rules! usage {
    ($prefix:literal) => {
        [
            ($prefix, Field::Usage),
            (concat!($prefix, "/tokens/input_tokens"), Field::Count(Input)),
            (concat!($prefix, "/tokens/output_tokens"), Field::Count(Output)),
            (concat!($prefix, "/billed_units/input_tokens"), Field::Count(InputElsewhere)),
            (concat!($prefix, "/billed_units/output_tokens"), Field::Count(OutputElsewhere)),
            (concat!($prefix, "/billed_units/search_units"), Field::Detail(Detail::SearchUnits)),
            (concat!($prefix, "/billed_units/classifications"), Field::Detail(Detail::Classifications)),
            (concat!($prefix, "/billed_units/images"), Field::Detail(Detail::InputImages)),
            (concat!($prefix, "/billed_units/pages"), Field::Detail(Detail::Pages)),
            (concat!($prefix, "/billed_units/text_tokens"), Field::Detail(Detail::TextInput)),
            (concat!($prefix, "/billed_units/image_tokens"), Field::Count(ImageInput)),
            (concat!($prefix, "/tokens/image_tokens"), Field::Count(ImageInput)),
            (concat!($prefix, "/cached_tokens"), Field::Count(CacheRead)),
        ]
    };
}

const USAGE: [(&str, Field); 13] = usage!("/usage");
const USAGE_END: [(&str, Field); 13] = usage!("/delta/usage");
const META: [(&str, Field); 13] = usage!("/meta");
const META_END: [(&str, Field); 13] = usage!("/response/meta");

const PATHS: [(&str, Field); 12] = [
    ("/finish_reason", Field::Finish),
    ("/delta/finish_reason", Field::Finish),
    ("/generations", Field::Choices),
    ("/generations/*", Field::Choice),
    ("/generations/*/finish_reason", Field::Finish),
    ("/message/tool_calls/*/function/name", Field::Tool),
    ("/delta/message/tool_calls/function/name", Field::Tool),
    ("/tool_calls/*/name", Field::Tool),
    ("/type", Field::Kind),
    ("/event_type", Field::Kind),
    ("/delta/message/content/text", Field::Output),
    ("/text", Field::Output),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "cohere",
    paths: &[&USAGE, &USAGE_END, &META, &META_END, &PATHS],
    terminal: &["message-end", "stream-end"],
    usage,
    ..Dialect::TEXT
};

fn usage(counts: &Counts) -> Usage {
    let mut details = Details::default();
    for (used, billed, detail) in
        [(Input, InputElsewhere, Detail::BilledInput), (Output, OutputElsewhere, Detail::BilledOutput)]
    {
        if let (Some(_), Some(billed)) = (counts.get(used), counts.get(billed)) {
            details.set(detail, billed);
        }
    }
    Usage {
        input: counts.get(Input).or(counts.get(InputElsewhere)),
        output: counts.get(Output).or(counts.get(OutputElsewhere)),
        cache_read: counts.get(CacheRead),
        image_input: counts.get(ImageInput),
        details,
        ..Usage::default()
    }
}
