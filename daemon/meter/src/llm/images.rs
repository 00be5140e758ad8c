//! Images made, edited and varied. GPT-Image models report tokens in the shape of responses; of the others the images
//! in the answer are counted. Each image of a stream has an event of its own at its end, with the
//! usage.

use super::dialect::Dialect;
use super::facts::Field;
use super::openai_responses as responses;
use crate::detail::Detail::Images;

const PATHS: [(&str, Field); 4] = [
    ("/type", Field::KindOf(Images)),
    ("/code", Field::ErrorCode),
    ("/data/*", Field::Each(Images)),
    ("/images/*", Field::Each(Images)),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect {
    name: "openai_images",
    paths: &[&responses::WHOLE, &PATHS],
    terminal: &["image_generation.completed", "image_edit.completed", "error"],
    usage: responses::usage,
    ..Dialect::TEXT
};
