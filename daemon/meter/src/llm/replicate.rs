//! Replicate's predictions. One that is waited for (`Prefer: wait`) is answered whole; any other is fetched later, as often
//! as one likes: it counts once. Language models tell tokens, all tell how long they ran.
//!
//! Source: <https://replicate.com/docs/topics/predictions>.

use super::dialect::Dialect;
use super::facts::Count::{Input, Output};
use super::facts::{Field, MS};
use crate::detail::Detail::ComputeMs;

const PATHS: [(&str, Field); 8] = [
    ("/model", Field::Model),
    ("/id", Field::Id),
    ("/status", Field::Status),
    ("/error", Field::Error),
    ("/metrics", Field::Usage),
    ("/metrics/input_token_count", Field::Count(Input)),
    ("/metrics/output_token_count", Field::Count(Output)),
    ("/metrics/predict_time", Field::Scaled(ComputeMs, MS)),
];

/// The dialect.
pub static DIALECT: Dialect = Dialect { name: "replicate", paths: &[&PATHS], ..Dialect::TEXT };
